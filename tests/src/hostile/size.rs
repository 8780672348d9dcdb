//! Files that exceed a limit of size or count.

use super::Verdict::{Refused, Serves};
use super::file::{OVER, and_custom, memory, push_custom, with};
use super::{Hostile, rows};
use crate::wat::Wat;

pub(super) fn all() -> Vec<Hostile> {
    [sizes(), bombs(), only_odd()].concat()
}

fn sizes() -> Vec<Hostile> {
    let many = |count: usize, one: &str| with(one.repeat(count));
    let types: String = (0..10_001)
        .map(|_| "(type (func (param i64 i64)))")
        .collect();
    let exports: String = (0..10_001)
        .map(|at| format!("(export \"e{at}\" (func $same))"))
        .collect();
    rows! {
        "65 pages of memory": memory("(memory (export \"memory\") 65)") => "4259840 bytes of memory";
        "4 GiB of memory": memory("(memory (export \"memory\") 65536)") => "bytes of memory";
        "10,001 table entries": with("(table 10001 funcref)") => "10001 table entries";
        "2^32 - 1 table entries": with("(table 0xffffffff funcref)") => "table entries";
        "10,001 functions": many(10_001, "(func)") => "functions";
        "10,001 types": with(types) => "types";
        "10,001 globals": many(10_001, "(global i32 (i32.const 0))") => "globals";
        "10,001 exports": with(format!("(func $same){exports}")) => "exports";
        "10,001 data segments": many(10_001, "(data \"\")") => "data segments";
        "10,001 element segments": many(10_001, "(elem func)") => "element segments";
        "2,001 variables": with(format!("(func (local {}))", "i64 ".repeat(2001))) => "local variables";
        "a function of 140 kB": many(1, &format!("(func {})", "nop ".repeat(140_000)))
            => "bytes in one function";
        "a jump to 140,000 places": with(jump(140_000)) => "bytes in one function";
    }
    .map(|(what, bytes, why)| Hostile::new(what, bytes, Refused(OVER, why)))
    .into()
}

/// Returns a valid module that the compiler takes minutes for. Modules with other names are other builds.
pub fn compile_bomb(name: &str) -> Vec<u8> {
    let loops = format!(
        "(func {} {})",
        "loop ".repeat(40_000),
        "end ".repeat(40_000)
    );
    with(format!(
        "{} (func (export \"bomb{name}\"))",
        loops.repeat(5)
    ))
}

/// Returns modules that the compiler rejects or does not compile in time.
fn bombs() -> Vec<Hostile> {
    const STAGE: &str = "cannot be compiled";
    rows! {
        "five times 40,000 loops, one in the other": compile_bomb("")
            => "make the module's functions smaller";
        "a jump to 100,000 places": with(jump(100_000)) => "`br_table` has";
    }
    .map(|(what, bytes, why)| Hostile::new(what, bytes, Refused(STAGE, why)))
    .into()
}

fn jump(places: usize) -> String {
    format!("(func (br_table {} (i32.const 0)))", "0 ".repeat(places))
}

/// Returns modules that look like attacks on the parser or compiler but are within the limits.
fn only_odd() -> Vec<Hostile> {
    let nested = format!(
        "(func {} {})",
        "block ".repeat(40_000),
        "end ".repeat(40_000)
    );
    let mut sections = Wat::GOOD.bytes();
    (0..100_000).for_each(|_| push_custom(&mut sections, "x", b""));
    let parameters = format!("(func (param {}))", "i64 ".repeat(1000));
    [
        ("40,000 blocks, one in the other", with(nested)),
        ("a jump to 60,000 places", with(jump(60_000))),
        ("9,990 functions", with("(func)".repeat(9_990))),
        ("1,000 parameters", with(parameters)),
        ("100,000 sections", sections),
        ("names that are none", and_custom("name", &[0xff; 100])),
    ]
    .map(|(what, bytes)| Hostile::new(what, bytes, Serves))
    .into()
}
