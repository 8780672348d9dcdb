//! A valid conversation, one of whose frames was changed.

#![no_main]

#[path = "../../tests/fuzz/balancer.rs"]
#[expect(dead_code, reason = "the other targets use the rest")]
mod balancer;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| balancer::mutated(bytes));
