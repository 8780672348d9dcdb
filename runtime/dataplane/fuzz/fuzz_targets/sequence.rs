//! Any sequence of frames and of the time between them.

#![no_main]

#[path = "../../tests/fuzz/balancer.rs"]
#[expect(dead_code, reason = "the other targets use the rest")]
mod balancer;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| balancer::sequence(bytes));
