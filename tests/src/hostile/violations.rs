//! Violations that a call into a module can commit. `work.rs` makes two modules of each: one commits it in
//! the first call, one only when it serves.

use super::Fault::{BadAnswer, Overrun, Trap};
use super::{Fault, GROWING, TIME, call_bomb, made, rows};
use crate::wat::Wat;

const MEMORY: &str = "out of bounds memory access";
const TABLE: &str = "out of bounds table access";

/// The largest memory that a module may declare.
const LARGE: &str = "(memory (export \"memory\") 64)";
/// Fills all pages except the first.
const FILL: &str = "(memory.fill (i32.const 0x10000) (i32.const 7) (i32.const 0x3f0000))";

/// A table of three entries: null, a function of another type, and a function of the right type.
const CALLS: &str = "(type $void (func))
                     (table $t 3 funcref)
                     (func $number (result i32) (i32.const 1))
                     (func $nothing)
                     (elem (i32.const 1) $number $nothing)";

/// A violation.
#[derive(Clone, Copy)]
pub(super) struct Violation {
    pub(super) what: &'static str,
    pub(super) body: &'static str,
    pub(super) memory: &'static str,
    pub(super) more: &'static str,
    pub(super) fault: Fault,
    pub(super) why: &'static str,
}

/// Description, code, further fields of the module, and outcome.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    Fault,
    &'static str,
);

pub(super) fn violations() -> Vec<Violation> {
    let violation = |memory| {
        move |(what, body, more, fault, why): Row| Violation {
            what,
            body,
            memory,
            more,
            fault,
            why,
        }
    };
    let small = endless().into_iter().chain(traps()).chain(answers());
    let small = small.map(violation(Wat::GOOD.memory));
    let growing = growing().into_iter().map(violation(GROWING));
    let large = large().into_iter().map(violation(LARGE));
    small.chain(growing).chain(large).collect()
}

/// Loops and recursions without end.
fn endless() -> [Row; 4] {
    rows! {
        "loops": "(loop $l (br $l))", "" => Overrun, TIME;
        "calls 2^40 functions": "(call $bomb40)", call_bomb() => Overrun, TIME;
        "calls itself": "(call $deep)", "(func $deep (call $deep))" => Trap, "call stack exhausted";
        "calls itself with 500 arguments": "(call $wide)", wide() => Trap, "call stack exhausted";
    }
}

/// Returns a function that keeps 500 values on the stack while it calls itself.
fn wide() -> &'static str {
    let values: String = (0..500)
        .map(|at| format!("(i64.load (i32.const {}))", at * 8))
        .collect();
    let sums = "i64.add ".repeat(499);
    made(format!("(func $wide {values} (call $wide) {sums} drop)"))
}

fn traps() -> [Row; 20] {
    rows! {
        "gives up": "unreachable", "" => "`unreachable` instruction executed";
        "loads from behind the end": "(drop (i32.load (i32.const 0xfffd)))", "" => MEMORY;
        "loads from 4 GiB on": "(drop (i32.load offset=0xffffffff (i32.const -1)))", "" => MEMORY;
        "stores behind the end": "(i64.store (i32.const 0xfff9) (i64.const 1))", "" => MEMORY;
        "fills over the end": "(memory.fill (i32.const 0xffff) (i32.const 1) (i32.const 2))", "" => MEMORY;
        "fills 4 GiB": "(memory.fill (i32.const 0) (i32.const 1) (i32.const -1))", "" => MEMORY;
        "copies from behind the end": "(memory.copy (i32.const 0) (i32.const 0xffff) (i32.const 2))", ""
            => MEMORY;
        "copies data that is gone":
            "(data.drop $d) (memory.init $d (i32.const 0) (i32.const 0) (i32.const 1))", "(data $d \"x\")"
            => MEMORY;
        "fills the table over its end": "(table.fill $t (i32.const 2) (ref.null func) (i32.const 2))", CALLS
            => TABLE;
        "copies the table over its end": "(table.copy (i32.const 0) (i32.const 2) (i32.const 2))", CALLS
            => TABLE;
        "takes from behind the table": "(drop (table.get $t (i32.const 3)))", CALLS => TABLE;
        "divides by zero": "(drop (i32.div_u (i32.const 1) (i32.load (i32.const 0x7000))))", ""
            => "integer divide by zero";
        "divides by zero for the rest": "(drop (i64.rem_s (i64.const 1) (i64.load (i32.const 0x7000))))", ""
            => "integer divide by zero";
        "divides the least by -1": "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))", ""
            => "integer overflow";
        "makes an integer of what is no number": "(drop (i32.trunc_f32_s (f32.const nan)))", ""
            => "invalid conversion to integer";
        "makes an integer of 1e30": "(drop (i64.trunc_f64_u (f64.const 1e30)))", "" => "integer overflow";
        "calls nothing": "(call_indirect (type $void) (i32.const 0))", CALLS => "uninitialized element";
        "calls a function of another type": "(call_indirect (type $void) (i32.const 1))", CALLS
            => "indirect call type mismatch";
        "calls from behind the table": "(call_indirect (type $void) (i32.const -1))", CALLS
            => "undefined element";
        "calls what it has just taken away":
            "(table.fill $t (i32.const 0) (ref.null func) (i32.const 3)) \
             (call_indirect (type $void) (i32.const 2))", CALLS
            => "uninitialized element";
    }
    .map(|(what, body, more, why)| (what, body, more, Trap, why))
}

fn answers() -> [Row; 10] {
    const COUNT: &str = "waxwing_pick returned";
    const PICK: &str = "waxwing_pick chose backend";
    rows! {
        "answers 0": "(return (i32.const 0))" => "waxwing_pick returned 0 for";
        "answers one too many": "(return (i32.add (local.get 1) (i32.const 1)))" => COUNT;
        "answers -1": "(return (i32.const -1))" => "waxwing_pick returned -1 for";
        "answers the least": "(return (i32.const 0x80000000))" => "returned -2147483648";
        "answers the most": "(return (i32.const 0x7fffffff))" => "returned 2147483647";
        "picks backend 9": "(i32.store (i32.const 0x4000) (i32.const 9))" => "chose backend 9 of";
        "picks the backend behind the last": "(i32.store (i32.const 0x4000) (i32.load (i32.const 0x1020)))"
            => PICK;
        "picks backend 2^30": "(i32.store (i32.const 0x4000) (i32.const 0x40000000))"
            => "chose backend 1073741824";
        "picks just below `fallback`": "(i32.store (i32.const 0x4000) (i32.const 0xfffffffd))"
            => "chose backend 2147483645";
        "fills itself with rubbish": "(memory.fill (i32.const 0) (i32.const 0x41) (i32.const 0x10000))"
            => "chose backend 1094795585";
    }
    .map(|(what, body, why)| (what, body, "", BadAnswer, why))
}

fn growing() -> [Row; 2] {
    rows! {
        "asks for no memory for ever": "(loop $l (drop (memory.grow (i32.const 0))) (br $l))", ""
            => Overrun, TIME;
        "asks for table for ever":
            "(loop $l (drop (table.grow $t (ref.null func) (i32.const 1))) (br $l))", "(table $t 1 funcref)"
            => Overrun, TIME;
    }
}

/// Long-running instructions: the time budget is checked only between instructions.
fn large() -> [Row; 5] {
    let fills = made(format!("(func $fills {})", FILL.repeat(2_000)));
    let fill_loop = made(format!("(loop $l {FILL} (br $l))"));
    let copy = "(loop $l
                  (memory.copy (i32.const 0x10000) (i32.const 0x10001) (i32.const 0x3effff))
                  (br $l))";
    let table = "(table $t 10000 funcref)";
    rows! {
        "fills its memory for ever": fill_loop, "" => Overrun, TIME;
        "fills its memory 2,000 times, without a loop": "(call $fills)", fills => Overrun, TIME;
        "copies its memory for ever": copy, "" => Overrun, TIME;
        "fills its table for ever":
            "(loop $l (table.fill $t (i32.const 0) (ref.null func) (i32.const 10000)) (br $l))", table
            => Overrun, TIME;
        "copies its table for ever":
            "(loop $l (table.copy (i32.const 0) (i32.const 1) (i32.const 9999)) (br $l))", table
            => Overrun, TIME;
    }
}
