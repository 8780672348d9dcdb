//! Hostile health checks. Each fails alone and delays no other check.
//!
//! Invariant: each is valid except for its `waxwing_check`.

use crate::check_wat::CheckWat;

/// A hostile check.
#[derive(Clone, Debug)]
pub struct HostileCheck {
    /// The module's name, in the folder and in a config.
    pub name: &'static str,
    /// The module's bytes.
    pub bytes: Vec<u8>,
}

/// An import that the host does not provide: a check must not choose an address.
const ELSEWHERE: &str = r#"
  (import "waxwing" "connect_to" (func $connect_to (param i32 i32 i32) (result i32)))"#;

/// Bodies of `waxwing_check`, by name.
const BODIES: &[(&str, &str)] = &[
    ("computes_for_ever", "(loop $on (br $on)) (unreachable)"),
    ("traps", "(unreachable)"),
    (
        "connects_for_ever",
        "(loop $on (drop (call $connect (i32.const 6))) (br $on)) (unreachable)",
    ),
    (
        "reads_for_ever",
        "(local $connection i32)
         (local.set $connection (call $connect (i32.const 6)))
         (loop $on
           (drop (call $recv (local.get $connection) (i32.const 0) (i32.const 65536)))
           (br $on))
         (unreachable)",
    ),
    (
        "logs_for_ever",
        "(loop $on (call $log (i32.const 0) (i32.const 65536)) (br $on)) (unreachable)",
    ),
    (
        "sleeps_for_ever",
        "(loop $on (call $sleep_ms (i32.const 0x7fffffff)) (br $on)) (unreachable)",
    ),
    (
        "grows_for_ever",
        "(loop $on (drop (memory.grow (i32.const 1))) (br $on)) (unreachable)",
    ),
    ("has_a_verdict_nowhere", "(i32.const 0x7ffffff8)"),
];

/// Returns all checks that are accepted and fail when they run.
pub fn at_work() -> Vec<HostileCheck> {
    let module = |(name, check): &(&'static str, &'static str)| HostileCheck {
        name,
        bytes: CheckWat::checking(check).bytes(),
    };
    BODIES.iter().map(module).collect()
}

/// Returns a check that imports a function to connect to any address. It is refused for the import.
pub fn connecting_elsewhere() -> Vec<u8> {
    CheckWat {
        imports: ELSEWHERE,
        check: "(i32.const 0)",
        more: "",
        ..CheckWat::GOOD
    }
    .bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_modules_and_no_two_the_same() {
        let mut files: Vec<Vec<u8>> = at_work().into_iter().map(|check| check.bytes).collect();
        files.extend([connecting_elsewhere(), CheckWat::GOOD.bytes()]);
        let count = files.len();
        files.sort();
        files.dedup();
        assert_eq!(files.len(), count);
    }
}
