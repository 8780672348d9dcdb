//! Modules that commit a violation in a call: in the first call, where the test flows reveal it, or only when
//! they serve.

use super::Fault::{BadAnswer, Overrun, Trap};
use super::Verdict::{Cut, Refused, Serves};
use super::violations::{Violation, violations};
use super::{GROWING, Hostile, TIME, call_bomb, made, rows};
use crate::wat::Wat;

/// Whether the instance serves: a trial's header has generation 0. A hostile module can always distinguish a
/// trial from service.
pub(super) const AT_WORK: &str = "(i64.ne (i64.load (i32.const 0x1008)) (i64.const 0))";

impl Violation {
    /// Returns a policy that commits the violation in `waxwing_pick` if `when` holds, and otherwise picks the
    /// first backend.
    fn picking(self, when: &str) -> Wat {
        let body = self.body;
        Wat {
            pick: made(format!("(if {when} (then {body})) (local.get 1)")),
            memory: self.memory,
            more: self.more,
            ..Wat::GOOD
        }
    }
}

pub(super) fn on_test_flows() -> Vec<Hostile> {
    let at_once = |violation: Violation| {
        let what = format!("{} in its first call", violation.what);
        let verdict = Refused("fails on test flows", violation.why);
        Hostile::of(&what, &violation.picking("(i32.const 1)"), verdict)
    };
    violations().into_iter().map(at_once).collect()
}

pub(super) fn at_work() -> Vec<Hostile> {
    let later = |violation: Violation| {
        let what = format!("{} at work", violation.what);
        let verdict = Cut(violation.fault, violation.why);
        Hostile::of(&what, &violation.picking(AT_WORK), verdict)
    };
    let violations = violations().into_iter().map(later);
    violations
        .chain(triggered())
        .chain(in_other_calls())
        .chain(in_words())
        .chain(harmless())
        .collect()
}

/// Returns modules whose violation is triggered by a count of calls or by a client's packet.
fn triggered() -> Vec<Hostile> {
    let counted = "(i32.store (i32.const 16) (i32.add (i32.load (i32.const 16)) (i32.const 1)))
                   (if (i32.ge_u (i32.load (i32.const 16)) (i32.const 40)) (then unreachable))
                   (local.get 1)";
    let port = "(if (i32.ge_u (i32.load16_u (i32.const 0x3028)) (i32.const 4000))
                  (then (loop $l (br $l))))
                (local.get 1)";
    [
        ("traps in its 40th call", counted, (Trap, "`unreachable`")),
        ("loops for clients from port 4000 on", port, (Overrun, TIME)),
    ]
    .map(|(what, pick, (fault, why))| Hostile::of(what, &Wat::picking(pick), Cut(fault, why)))
    .into()
}

fn in_other_calls() -> Vec<Hostile> {
    const TICKING: &str = "kind=policy\\0aabi=1.0\\0aname=test\\0atick=10\\0a";
    let tick = |body: &str, more: &str| Wat {
        section: TICKING,
        more: made(format!(
            "(func (export \"waxwing_tick\") (param i32) {body}) {more}"
        )),
        ..Wat::GOOD
    };
    let closed = |body: &str, more: &str| {
        let mut wat = Wat {
            more: made(format!(
                "(func (export \"waxwing_closed\") (param i32 i32) {body}) {more}"
            )),
            ..Wat::GOOD
        };
        wat.set(72, 64);
        wat
    };
    let log = |body: &str| Wat {
        more: made(format!(
            "(func (export \"waxwing_log\") (result i64)
               (if (i32.eqz {AT_WORK}) (then (return (i64.const 0)))) {body})"
        )),
        ..Wat::GOOD
    };
    let bomb = ("(call $bomb40)", call_bomb());
    rows! {
        "loops in tick": tick("(loop $l (br $l))", "") => Overrun, TIME;
        "calls 2^40 functions in tick": tick(bomb.0, bomb.1) => Overrun, TIME;
        "traps in tick": tick("unreachable", "") => Trap, "`unreachable`";
        "loops in closed": closed("(loop $l (br $l))", "") => Overrun, TIME;
        "calls 2^40 functions in closed": closed(bomb.0, bomb.1) => Overrun, TIME;
        "traps in closed": closed("unreachable", "") => Trap, "`unreachable`";
        "loops in log": log("(loop $l (br $l)) (i64.const 0)") => Overrun, TIME;
        "traps in log": log("unreachable") => Trap, "`unreachable`";
        "logs 4 KiB beyond its memory":
            log("(i64.const 0xfff000002000)") => BadAnswer, "outside of memory";
    }
    .map(|(what, wat, fault, why)| Hostile::of(what, &wat, Cut(fault, why)))
    .into()
}

/// Returns modules that trap and have a hostile error message.
fn in_words() -> Vec<Hostile> {
    let saying = |words: &str| Wat {
        pick: made(format!("(if {AT_WORK} (then unreachable)) (local.get 1)")),
        more: made(format!(
            "(data (i32.const 0x6000) \"on\\npurpose\\1b[2J\")
             (func (export \"waxwing_error\") (result i64) {words})"
        )),
        ..Wat::GOOD
    };
    rows! {
        "traps in words": saying("(i64.const 0x60000000000a)") => "executed: on purpose";
        "traps for its words on a trap": saying("unreachable") => "executed";
        "loops for its words on a trap": saying("(loop $l (br $l)) (i64.const 0)") => "executed";
        "says 4 GiB on a trap": saying("(i64.const 0x6000ffffffff)") => "executed: on purpose";
    }
    .map(|(what, wat, why)| Hostile::of(what, &wat, Cut(Trap, why)))
    .into()
}

/// Returns modules that look dangerous but harm only themselves.
fn harmless() -> Vec<Hostile> {
    let picking = |body: &str| Wat {
        pick: made(format!("{body} (local.get 1)")),
        ..Wat::GOOD
    };
    let zeros = "(memory.fill (i32.const 0) (i32.const 0) (i32.const 0x10000))";
    let header = "(memory.fill (i32.const 0x1000) (i32.const 0xff) (i32.const 96))";
    let records = "(memory.fill (i32.const 0x2000) (i32.const 0xff) (i32.const 0x2000))
                   (memory.fill (i32.const 0x4800) (i32.const 0xff) (i32.const 0x800))";
    let grows = Wat {
        memory: GROWING,
        ..picking("(drop (memory.grow (i32.const 1)))")
    };
    let counters = Wat {
        section: "kind=policy\\0aabi=1.0\\0aname=test\\0acounters=one,two\\0a",
        init: "(i32.store offset=76 (i32.const 0x1000) (i32.const 0x5800))
               (i32.store offset=80 (i32.const 0x1000) (i32.const 2))
               (i32.const 0x1000)",
        ..picking(
            "(i64.store (i32.const 0x5800) (i64.load (i32.const 0x3020)))
             (i64.store (i32.const 0x5808) (i64.xor (i64.const -1) (i64.load (i32.const 0x5808))))",
        )
    };
    let mut shared = picking("(memory.fill (i32.const 0x7000) (i32.const -1) (i32.const 1024))");
    shared.section = "kind=policy\\0aabi=1.1\\0aname=test\\0ashared=64\\0a";
    shared.set(88, 0x7000);
    let logs = Wat {
        more: "(func (export \"waxwing_log\") (result i64) (i64.const 0xffffffff))",
        ..Wat::GOOD
    };
    let jumps = "(local i32)
                 (if (i32.const 0) (then (loop $l (br $l))))
                 (block $b (br_table $b $b $b (i32.load (i32.const 0x3020))))";
    [
        ("fills itself with zeros", picking(zeros)),
        ("fills its header", picking(header)),
        ("fills its records", picking(records)),
        ("grows with every call", grows),
        ("counts at random", counters),
        ("overwrites totals and additions", shared),
        ("jumps by the flow's hash", picking(jumps)),
        ("logs 4 KiB of anything, always", logs),
    ]
    .map(|(what, wat)| Hostile::of(what, &wat, Serves))
    .into()
}
