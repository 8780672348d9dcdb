//! Arbitrary bytes as a frame.

#![no_main]

#[path = "../../tests/fuzz/balancer.rs"]
#[expect(dead_code, reason = "other targets use the other functions")]
mod balancer;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| balancer::any_bytes(bytes));
