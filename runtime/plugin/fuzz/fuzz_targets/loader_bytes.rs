//! Any bytes as the file of a module.

#![no_main]

#[path = "../../tests/plugin/common.rs"]
mod common;
#[path = "../../tests/plugin/loader.rs"]
mod loader;

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use loader::Loader;

thread_local! {
    static LOADER: LazyCell<Loader> = LazyCell::new(Loader::new);
}

fuzz_target!(|bytes: &[u8]| {
    LOADER.with(|loader| loader.take(bytes));
});
