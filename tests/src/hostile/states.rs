//! Modules that save and restore states, and do harm in it.

use super::Fault::{Overrun, Trap};
use super::Verdict::{Cut, Refused, Serves};
use super::work::AT_WORK;
use super::{Hostile, TIME, made, rows};
use crate::wat::Wat;

/// Returns a policy with a state of four bytes that does this first when it saves, and when it restores.
fn saving(save: &str, restore: &str) -> Wat {
    Wat {
        section: "kind=policy\\0aabi=1.1\\0aname=test\\0asaves=1\\0a",
        more: made(format!(
            "(func (export \"waxwing_save\") (param i32) (result i64)
               {save} (i64.const 0x600000000004))
             (func (export \"waxwing_restore\") (param i32 i32) (result i32)
               {restore} (i32.const 1))"
        )),
        ..Wat::GOOD
    }
}

/// Returns modules that fail with a state before they serve.
pub(super) fn on_test_flows() -> Vec<Hostile> {
    const FLOWS: &str = "fails on test flows";
    const SPOIL: &str =
        "(memory.fill (i32.const 0) (i32.const 27) (i32.const 0xffff)) (return (i32.const 0))";
    const STATE: &str = "fails with the state of an earlier instance";
    rows! {
        "traps as soon as it saves": saving("unreachable", "") => FLOWS, "waxwing_save: trapped";
        "loops as soon as it saves": saving("(loop $l (br $l))", "") => FLOWS, TIME;
        "saves a byte too much": saving("(return (i64.const 0x100001))", "") => FLOWS, "at most 1048576";
        "saves what is not there":
            saving("(return (i64.const 0xffff00000010))", "") => FLOWS, "outside of memory";
        "traps as soon as it restores": saving("", "unreachable") => STATE, "trapped";
        "spoils its memory with its state, and refuses it":
            saving("", SPOIL) => STATE, "counters_count";
        "loops as soon as it restores": saving("", "(loop $l (br $l))") => STATE, TIME;
    }
    .map(|(what, wat, stage, why)| Hostile::of(what, &wat, Refused(stage, why)))
    .into_iter()
    .chain([without_functions()])
    .collect()
}

fn without_functions() -> Hostile {
    let wat = Wat {
        more: "",
        ..saving("", "")
    };
    let what = "saves without functions";
    Hostile::of(what, &wat, Refused("exports no", "waxwing_save"))
}

/// Returns a policy that does this first when it saves while it serves.
fn saving_at_work(body: &str) -> Wat {
    saving(&format!("(if {AT_WORK} (then {body}))"), "")
}

/// Returns modules that fail when they are asked for their state while they serve.
pub(super) fn when_asked() -> Vec<Hostile> {
    let save = saving_at_work;
    rows! {
        "loops when it saves": save("(loop $l (br $l))") => Overrun, TIME;
        "traps when it saves": save("unreachable") => Trap, "in waxwing_save; its state is lost";
    }
    .map(|(what, wat, fault, why)| Hostile::of(what, &wat, Cut(fault, why)))
    .into()
}

/// Returns modules whose states are odd, and that serve on.
pub(super) fn at_work() -> Vec<Hostile> {
    let save = saving_at_work;
    let saves = |packed: &str| save(&format!("(return (i64.const {packed}))"));
    [
        ("saves a byte over a megabyte", saves("0x100001")),
        ("saves four gigabytes", saves("0xffffffff")),
        ("saves beyond its memory", saves("0xfff000002000")),
        ("refuses every state", saving("", "(return (i32.const 0))")),
    ]
    .map(|(what, wat)| Hostile::of(what, &wat, Serves))
    .into()
}
