//! Hostile and broken modules, each with its expected verdict.
//!
//! The plugin host's tests load each of them alone. The end-to-end test copies all of them to the watched
//! folder of a balancer under load.
//!
//! Invariant: no two files are equal, so that a verdict always concerns the latest file.

pub mod checks;
mod file;
mod set_up;
mod size;
mod states;
mod violations;
mod work;

use crate::wat::Wat;

pub use size::compile_bomb;

/// The reason when a call takes too long.
const TIME: &str = "ran past its time budget";

/// A memory that grows.
const GROWING: &str = "(memory (export \"memory\") 1)";

/// A module's file and its expected verdict.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// A description of the violation.
    pub what: String,
    /// The file.
    pub bytes: Vec<u8>,
    /// The expected verdict.
    pub verdict: Verdict,
}

/// The verdict on a module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Refused before it serves: the stage, and a part of the reason.
    Refused(&'static str, &'static str),
    /// Accepted, and quarantined at work: the failure, and a part of the reason.
    Cut(Fault, &'static str),
    /// Accepted: the module harms only itself.
    Serves,
}

/// How a call failed, by the name of the core's `PolicyFault`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The call trapped.
    Trap,
    /// The call exceeded its time budget.
    Overrun,
    /// The call returned an invalid answer.
    BadAnswer,
}

/// Returns all hostile modules.
pub fn all() -> Vec<Hostile> {
    [at_the_file(), at_set_up(), on_test_flows(), at_work()].concat()
}

/// Returns modules that are refused for the file's contents.
pub fn at_the_file() -> Vec<Hostile> {
    [file::all(), size::all()].concat()
}

/// Returns modules that are refused while they are set up for a service.
pub fn at_set_up() -> Vec<Hostile> {
    set_up::all()
}

/// Returns modules that fail in the first call, on the test flows.
pub fn on_test_flows() -> Vec<Hostile> {
    [work::on_test_flows(), states::on_test_flows()].concat()
}

/// Returns modules that pass the trial and fail at work, and modules that only look dangerous.
pub fn at_work() -> Vec<Hostile> {
    [work::at_work(), states::at_work()].concat()
}

/// Returns modules that pass the trial and fail when they are asked for their state. Not among [`all`]: only
/// a swap asks.
pub fn when_asked() -> Vec<Hostile> {
    states::when_asked()
}

impl Hostile {
    fn new(what: impl Into<String>, bytes: Vec<u8>, verdict: Verdict) -> Self {
        Self {
            what: what.into(),
            bytes,
            verdict,
        }
    }

    fn of(what: &str, wat: &Wat, verdict: Verdict) -> Self {
        Self::new(what, wat.bytes(), verdict)
    }
}

/// A table of cases: `"what": part, … => expectation, …;`.
macro_rules! rows {
    ($($what:literal: $($part:expr),+ => $($expected:expr),+;)*) => {
        [$(($what, $($part),+, $($expected),+)),*]
    };
}
pub(crate) use rows;

/// Returns text with a static lifetime, for a [`Wat`].
fn made(text: String) -> &'static str {
    text.leak()
}

/// Returns functions `$bomb0` to `$bomb40`. Each calls the previous one twice, so `$bomb40` makes 2^40 calls.
fn call_bomb() -> &'static str {
    let next = |at: u32| {
        let before = at - 1;
        format!("(func $bomb{at} (call $bomb{before}) (call $bomb{before}))\n")
    };
    let functions: String = (1..=40).map(next).collect();
    made(format!("(func $bomb0)\n{functions}"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::all;

    #[test]
    fn no_two_are_the_same_file() {
        let mut seen = HashMap::new();
        for module in all() {
            if let Some(other) = seen.insert(module.bytes, module.what.clone()) {
                panic!("{:?} and {other:?} are one file", module.what);
            }
        }
    }
}
