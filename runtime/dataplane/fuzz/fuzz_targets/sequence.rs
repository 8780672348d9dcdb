//! An arbitrary sequence of frames with delays.

#![no_main]

#[path = "../../tests/fuzz/balancer.rs"]
#[expect(dead_code, reason = "other targets use the other functions")]
mod balancer;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| balancer::sequence(bytes));
