//! The loader with random input, for some seconds. `fuzz/` does the same without a time limit,
//! guided by coverage.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::loader::{Loader, Progress};
use waxwing_testkit::random::{Random, SEED, seeds};
use waxwing_tests::wat::Wat;

const TIME: Duration = Duration::from_secs(4);

/// Loads what `make` returns for one seed after the other. Counts how far each got.
fn fuzz(make: impl Fn(&mut Random) -> Vec<u8>) -> BTreeMap<String, u32> {
    let loader = Loader::new();
    let mut progress = BTreeMap::new();
    for seed in seeds(TIME) {
        let take = AssertUnwindSafe(|| loader.take(&make(&mut Random::new(seed))));
        let how = catch_unwind(take).unwrap_or_else(|_| panic!("again with {SEED}={seed}"));
        *progress.entry(format!("{how:?}")).or_default() += 1;
    }
    progress
}

fn has(progress: &BTreeMap<String, u32>, how: Progress) -> bool {
    progress.contains_key(&format!("{how:?}"))
}

/// Replaces, inserts, removes and duplicates bytes.
fn mutated(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(4) {
        let at = random.index(bytes.len());
        match random.below(8) {
            0 => bytes.insert(at, random.byte()),
            1 => drop(bytes.remove(at)),
            2 => {
                let end = (at + random.index(32)).min(bytes.len());
                bytes.extend_from_within(at..end);
            }
            3 => bytes[at] = random.one(&[0, 1, 0x7f, 0x80, 0xff]),
            _ => bytes[at] = random.byte(),
        }
    }
    bytes
}

#[test]
fn mutated_bytes_are_refused_or_serve() {
    let valid: Vec<Vec<u8>> = [
        Wat::GOOD,
        Wat::field(52, 65),
        Wat {
            more: "(table $t 3 funcref) (elem (i32.const 1) $f) (func $f)
                   (data (i32.const 0x6000) \"words\")
                   (func (export \"waxwing_error\") (result i64) (i64.const 0x600000000005))",
            ..Wat::GOOD
        },
    ]
    .iter()
    .map(Wat::bytes)
    .collect();
    let progress = fuzz(|random| {
        if random.below(8) > 0 {
            let module = random.index(valid.len());
            return mutated(valid[module].clone(), random);
        }
        let len = random.index(200);
        [&b"\0asm\x01\0\0\0"[..], &random.bytes(len)].concat()
    });
    println!("{progress:?}");
    assert!(
        has(&progress, Progress::Refused) && has(&progress, Progress::Served),
        "{progress:?}"
    );
}

#[test]
fn random_programs_are_refused_or_serve() {
    let progress = fuzz(|random| program(random).bytes());
    println!("{progress:?}");
    assert!(
        has(&progress, Progress::Unbound) && has(&progress, Progress::Served),
        "{progress:?}"
    );
}

/// Returns a policy with random, well-typed functions. Its set-up functions are mostly valid,
/// because otherwise few would get to serve.
fn program(random: &mut Random) -> Wat {
    let set_up = |random: &mut Random, good: &'static str| {
        if random.below(8) > 0 {
            return good;
        }
        let value = value(random, 3);
        value.leak()
    };
    let mut wat = Wat {
        section: "kind=policy\\0aabi=1.0\\0aname=random\\0atick=10\\0a",
        memory: random.one(&["(memory (export \"memory\") 1)", Wat::GOOD.memory]),
        reserve: set_up(random, Wat::GOOD.reserve),
        init: set_up(random, Wat::GOOD.init),
        ..Wat::GOOD
    };
    wat.set(72, 64);
    if random.below(16) == 0 {
        let (offset, _) = wat.header[random.index(wat.header.len())];
        wat.set(offset, interesting(random));
    }
    // Half of them behave during vetting, and act only while serving.
    let when = random.one(&["(i64.load (i32.const 0x1008))", "(i64.const 1)"]);
    let body = statements(random);
    wat.pick = format!(
        "(local $n i32)
         (local.set $n (local.get 1))
         (if (i64.ne {when} (i64.const 0)) (then {body}))
         (local.get $n)"
    )
    .leak();
    wat.more = more(random).leak();
    wat
}

fn more(random: &mut Random) -> String {
    let mut more = String::from(
        "(type $binary (func (param i32 i32) (result i32)))
         (table $t 4 funcref) (elem (i32.const 1) $f $f)",
    );
    let mut function = |head: &str, random: &mut Random, result: &str| {
        // Few would serve if all of these did something.
        let body = match random.below(4) {
            0 => statements(random),
            _ => String::new(),
        };
        write!(more, "(func {head} {body} {result})").expect("writing to a string cannot fail");
    };
    function("$f (param i32 i32) (result i32)", random, "(local.get 0)");
    function("(export \"waxwing_closed\") (param i32 i32)", random, "");
    // One more local, so that every body may use two.
    function(
        "(export \"waxwing_tick\") (param i32) (local i32)",
        random,
        "",
    );
    function(
        "(export \"waxwing_error\") (result i64) (local i32 i32)",
        random,
        "(i64.shl (i64.extend_i32_u (local.get 0)) (i64.extend_i32_u (local.get 1)))",
    );
    more
}

fn statements(random: &mut Random) -> String {
    let count = 1 + random.below(4);
    (0..count).map(|_| statement(random, 3)).collect()
}

fn statement(random: &mut Random, depth: u32) -> String {
    let mut value = || value(random, depth);
    let (a, b, c) = (value(), value(), value());
    if depth == 0 {
        return format!("(local.set 0 {a})");
    }
    match random.below(11) {
        0 => format!("(i32.store {a} {b})"),
        1 => format!("(i32.store8 offset=0x4000 (i32.and {a} (i32.const 0xff)) {b})"),
        2 => format!("(local.set 1 {a})"),
        3 => format!("(memory.fill {a} {b} {c})"),
        4 => format!("(memory.copy {a} {b} {c})"),
        5 => format!("(table.fill $t {a} (ref.null func) {b})"),
        6 => format!("(drop (memory.grow {a}))"),
        7 => format!("(loop {} (br_if 0 {a}))", statement(random, depth - 1)),
        8 => format!(
            "(block {} (br_table 0 0 {a}))",
            statement(random, depth - 1)
        ),
        9 => format!("(if {a} (then {}))", statement(random, depth - 1)),
        _ => format!("(if {a} (then unreachable))"),
    }
}

fn value(random: &mut Random, depth: u32) -> String {
    if depth == 0 || random.below(3) == 0 {
        return match random.below(3) {
            0 => "(local.get 0)".into(),
            _ => format!("(i32.const {})", interesting(random)),
        };
    }
    let (a, b) = (value(random, depth - 1), value(random, depth - 1));
    let operator = random.one(&["add", "sub", "mul", "div_s", "rem_u", "and", "shl", "lt_u"]);
    match random.below(9) {
        0 => format!("(i32.load {a})"),
        1 | 2 => format!("(i32.load16_u offset=0x1000 (i32.and {a} (i32.const 0xfff)))"),
        3 => format!("(i32.trunc_f32_s (f32.reinterpret_i32 {a}))"),
        4 => format!("(call $f {a} {b})"),
        5 => format!("(call_indirect (type $binary) {a} {b} (i32.and {b} (i32.const 3)))"),
        _ => format!("(i32.{operator} {a} {b})"),
    }
}

/// Returns a number near an edge.
fn interesting(random: &mut Random) -> u32 {
    let edge: u32 = random.one(&[
        0,
        1,
        2,
        8,
        64,
        0x1000,
        0x2000,
        0x3000,
        0x4000,
        0xffa0,
        0xffff,
        0x1_0000,
        0x80_0000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fffe,
        0xffff_ffff,
    ]);
    match random.below(4) {
        0 => edge.wrapping_sub(u32::from(random.byte())),
        1 => u32::from(random.byte()),
        _ => edge,
    }
}
