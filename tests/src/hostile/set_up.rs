//! Modules that fail, refuse or lie while they are set up for a service.

use super::Verdict::{Refused, Serves};
use super::{GROWING, Hostile, TIME, call_bomb, made, rows};
use crate::wat::Wat;

const FAILED: &str = "failed while service";
const REFUSES: &str = "refuses service";
const BREAKS: &str = "breaks the ABI";
const START: &str = "cannot be instantiated";
/// Asks for 64 shared cells, which take 1024 bytes.
const SHARED: &str = "kind=policy\\0aabi=1.1\\0aname=test\\0ashared=64\\0a";
const NO_REASON: &str = "it gives no reason";

pub(super) fn all() -> Vec<Hostile> {
    [calls(), starts(), headers(), words(), greedy()].concat()
}

fn with(more: impl Into<String>) -> Wat {
    let more = made(more.into());
    Wat { more, ..Wat::GOOD }
}

fn reserve(reserve: &'static str) -> Wat {
    Wat {
        reserve,
        ..Wat::GOOD
    }
}

fn init(init: &'static str) -> Wat {
    Wat { init, ..Wat::GOOD }
}

fn changed(body: &str) -> Wat {
    with(format!(
        "(func (export \"waxwing_backends_changed\") (param i32) (result i32) {body})"
    ))
}

fn calls() -> Vec<Hostile> {
    let bomb = Wat {
        init: "(call $bomb40) (i32.const 0x1000)",
        more: call_bomb(),
        ..Wat::GOOD
    };
    // Valid in the trial, whose generation is 0; traps in the serving instance.
    let later = changed(
        "(if (i64.ne (i64.load (i32.const 0x1008)) (i64.const 0)) (then unreachable)) (i32.const 1)",
    );
    rows! {
        "loops in reserve": reserve("(loop $l (br $l)) (i32.const 0)") => FAILED, "waxwing_reserve ran past";
        "loops in init": init("(loop $l (br $l)) (i32.const 0)") => FAILED, "waxwing_init ran past";
        "loops in backends_changed": changed("(loop $l (br $l)) (i32.const 1)")
            => FAILED, "waxwing_backends_changed ran past";
        "calls 2^40 functions in init": bomb => FAILED, TIME;
        "traps in reserve": reserve("unreachable") => FAILED, "waxwing_reserve: trapped";
        "traps in init": init("unreachable") => FAILED, "waxwing_init: trapped";
        "traps in backends_changed": changed("unreachable") => FAILED, "waxwing_backends_changed: trapped";
        "traps in backends_changed, once it is to work": later => FAILED, "waxwing_backends_changed: trapped";
        "gives no buffer": reserve("(i32.const 0)") => REFUSES, NO_REASON;
        "gives a buffer at the end": reserve("(i32.const 0xffff)")
            => BREAKS, "waxwing_reserve returned 0xffff";
        "gives a buffer behind the end": reserve("(i32.const 0x10000)")
            => BREAKS, "waxwing_reserve returned 0x10000";
        "gives a buffer at 2^32 - 1": reserve("(i32.const -1)") => BREAKS, "outside of memory";
        "refuses": init("(i32.const 0)") => REFUSES, NO_REASON;
        "refuses its backends": changed("(i32.const 0)") => REFUSES, NO_REASON;
    }
    .map(|(what, wat, stage, why)| Hostile::of(what, &wat, Refused(stage, why)))
    .into()
}

fn starts() -> Vec<Hostile> {
    let start = |body: &str| with(format!("(func $start {body}) (start $start)"));
    let bomb = format!("{} (start $bomb40)", call_bomb());
    rows! {
        "loops at its start": start("(loop $l (br $l))") => TIME;
        "calls 2^40 functions at its start": with(bomb) => TIME;
        "traps at its start": start("unreachable") => "trapped";
        "calls itself at its start": start("(call $start)") => "call stack exhausted";
        "data behind the end of memory": with("(data (i32.const 0xfffe) \"four\")") => "out of bounds memory";
        "elements behind the end of the table": with("(table 1 funcref) (func $f) (elem (i32.const 1) $f)")
            => "out of bounds table";
    }
    .map(|(what, wat, why)| Hostile::of(what, &wat, Refused(START, why)))
    .into()
}

fn headers() -> Vec<Hostile> {
    let closed = |address| {
        let mut wat = Wat::field(68, address);
        wat.set(72, u32::MAX);
        wat
    };
    let live = |address| Wat {
        section: "kind=policy\\0aabi=1.1\\0aname=test\\0a",
        ..Wat::field(84, address)
    };
    let shared = |address| {
        let mut wat = Wat::field(88, address);
        wat.section = SHARED;
        wat
    };
    let counters = Wat {
        section: "kind=policy\\0aabi=1.0\\0aname=test\\0acounters=a\\0a",
        ..Wat::GOOD
    };
    rows! {
        "a header that is not aligned": init("(i32.const 0x1004)") => "not a multiple of 8";
        "a header at the end": init("(i32.const 0xffa8)") => "the header at 0xffa8 lies outside";
        "a header behind the end": init("(i32.const 0xfffff0)") => "the header at 0xfffff0 lies outside";
        "a header at 2^32 - 8": init("(i32.const -8)") => "the header at 0xfffffff8 lies outside";
        "a header of zeros": init("(i32.const 0x8000)") => "abi_major is 0";
        "a header of ABI 2": Wat::field(0, 2) => "abi_major is 2";
        "a small header": Wat::field(4, 95) => "size is 95";
        "backends that are not aligned": Wat::field(40, 0x2004) => "backends at 0x2004 is not a multiple";
        "backends that wrap around": Wat::field(40, 0xffff_fff8) => "backends at 0xfffffff8";
        "room for one backend": Wat::field(44, 1) => "backends_capacity is 1";
        "room for 2^32 - 1 backends": Wat::field(44, u32::MAX) => "backends at 0x2000";
        "flows over the end": Wat::field(48, 0xfff8) => "flows at 0xfff8 to 0x10ff8 lies outside";
        "flows in the header": Wat::field(48, 0x0fc0) => "the header and flows overlap";
        "flows over the picks": Wat::field(48, 0x3fc0) => "flows and picks overlap";
        "room for 63 flows": Wat::field(52, 63) => "flows_capacity is 63";
        "picks that wrap around": Wat::field(56, 0xffff_ff80) => "picks at 0xffffff80";
        "payload that nobody asked for": Wat::field(64, 8) => "payload_stride is 8";
        "payload without end": Wat::field(64, u32::MAX) => "payload_stride is 4294967295";
        "room for 63 ends": Wat::field(72, 63) => "closed_capacity is 63";
        "room for 2^32 - 1 ends": closed(0x4800) => "closed at 0x4800";
        "ends that wrap around": closed(0xffff_fff8) => "closed at 0xfffffff8";
        "live records that are not aligned": live(0x6004) => "live records at 0x6004 is not a multiple";
        "live records over the end": live(0xf008) => "live records at 0xf008 to 0x10008 lies outside";
        "live records that wrap around": live(0xffff_fff8) => "live records at 0xfffffff8";
        "live records in the header": live(0x1008) => "the header and live records overlap";
        "live records over the backends": live(0x2040) => "backends and live records overlap";
        "live records over the flows": live(0x3008) => "live records and flows overlap";
        "counters in its section only": counters => "counters_count is 0";
        "shared cells in its section only": shared(0) => "requests 64 cells";
        "shared cells that are not aligned": shared(0x7004) => "shared cells at 0x7004 is not a multiple";
        "shared cells over the end": shared(0xfc08) => "shared cells at 0xfc08 to 0x10008 lies outside";
        "shared cells that wrap around": shared(0xffff_fff8) => "shared cells at 0xfffffff8";
        "shared cells in the header": shared(0x0c08) => "the header and shared cells overlap";
        "shared cells over the picks": shared(0x40f8) => "picks and shared cells overlap";
    }
    .map(|(what, wat, why)| Hostile::of(what, &wat, Refused(BREAKS, why)))
    .into()
}

/// Returns modules whose refusal texts are hostile: the text reaches the operator's terminal.
fn words() -> Vec<Hostile> {
    let saying = |body: &str, data: &str| Wat {
        init: "(i32.const 0)",
        more: made(format!(
            "(data (i32.const 0x6000) \"{data}\")
             (func (export \"waxwing_error\") (result i64) {body})"
        )),
        ..Wat::GOOD
    };
    let long = "all work and no play ".repeat(1000);
    rows! {
        "refuses in words": saying("(i64.const 0x600000000009)", "no `zone`") => "no `zone`";
        "refuses in a terminal's commands": saying("(i64.const 0x60000000000b)", "\\1b[2J\\0d\\0aa\\c2\\9bbc")
            => "[2J";
        "refuses in what is no text": saying("(i64.const 0x600000000006)", "no \\ff\\feb")
            => "no \u{fffd}\u{fffd}b";
        "refuses in 4 GiB": saying("(i64.const 0x6000ffffffff)", &long) => "all work and no play";
        "refuses in zeros": saying("(i64.const 0x700000000100)", "") => NO_REASON;
        "refuses from the end of memory": saying("(i64.const 0xfff800000100)", "") => NO_REASON;
        "refuses from behind the end": saying("(i64.const -1)", "") => NO_REASON;
        "traps for its words": saying("unreachable", "") => NO_REASON;
        "loops for its words": saying("(loop $l (br $l)) (i64.const 0)", "") => NO_REASON;
    }
    .map(|(what, wat, why)| Hostile::of(what, &wat, Refused(REFUSES, why)))
    .into()
}

/// Returns modules that request more memory or table than the maximum. They get the maximum and serve.
fn greedy() -> Vec<Hostile> {
    let all = "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
               (i32.const 0x1000)";
    let refused = "(if (i32.ne (memory.grow (i32.const 20000)) (i32.const -1)) (then unreachable))
                   (i32.const 0x1000)";
    let table = "(if (i32.ne (table.grow $t (ref.null func) (i32.const 100000)) (i32.const -1))
                   (then unreachable))
                 (i32.const 0x1000)";
    let memory = |init| Wat {
        init,
        memory: GROWING,
        ..Wat::GOOD
    };
    let table = Wat {
        init: table,
        more: "(table $t 1 funcref)",
        ..Wat::GOOD
    };
    [
        ("takes all the memory that it gets", memory(all)),
        ("asks for more memory than it gets", memory(refused)),
        ("asks for more table than it gets", table),
    ]
    .map(|(what, wat)| Hostile::of(what, &wat, Serves))
    .into()
}
