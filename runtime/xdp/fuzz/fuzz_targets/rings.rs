//! Any order of the worker's and the kernel's steps at their rings.

#![no_main]

#[path = "../../tests/fuzz/kernel.rs"]
mod kernel;
#[path = "../../tests/fuzz/rings.rs"]
mod rings;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rings::rings(bytes));
