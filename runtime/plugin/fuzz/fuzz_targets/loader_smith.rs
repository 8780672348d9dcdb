//! Valid modules with the ABI's exports and section, and random code by wasm-smith.

#![no_main]

#[path = "../../tests/plugin/common.rs"]
mod common;
#[path = "../../tests/plugin/loader.rs"]
mod loader;

use std::cell::LazyCell;

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use loader::Loader;
use wasm_smith::{Config, Module};

/// The exports that validation requires.
const EXPORTS: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "waxwing_reserve") (param i32) (result i32) (local.get 0))
    (func (export "waxwing_init") (param i32 i32) (result i32) (local.get 0))
    (func (export "waxwing_pick") (param i32 i32) (result i32) (local.get 1))
    (func (export "waxwing_backends_changed") (param i32) (result i32) (local.get 0))
    (func (export "waxwing_closed") (param i32 i32))
    (func (export "waxwing_tick") (param i32))
    (func (export "waxwing_error") (result i64) (i64.const 0)))"#;

/// The bytes of the custom section.
const SECTION: &[u8] =
    b"\x00\x36\x0ewaxwing.modulekind=policy\nabi=1.0\nname=smith\ntick=10\n";

/// How many steps a module may run before it traps; other tests cover endless loops.
const STEPS_MAX: u32 = 100_000;

thread_local! {
    static LOADER: LazyCell<Loader> = LazyCell::new(Loader::new);
    static EXPORTED: LazyCell<Vec<u8>> =
        LazyCell::new(|| wat::parse_str(EXPORTS).expect("valid text"));
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Some(module) = module(bytes) else {
        return Corpus::Reject;
    };
    LOADER.with(|loader| loader.take(&module));
    Corpus::Keep
});

fn module(bytes: &[u8]) -> Option<Vec<u8>> {
    let config = Config {
        exports: Some(EXPORTED.with(|exports| exports.to_vec())),
        allow_start_export: true,
        max_imports: 0,
        // The memory of EXPORTS is added.
        max_memories: 0,
        max_memory32_bytes: 4 << 20,
        max_tables: 1,
        max_table_elements: 10_000,
        bulk_memory_enabled: true,
        // This would allow `externref` too, which no policy uses.
        reference_types_enabled: false,
        exceptions_enabled: false,
        extended_const_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        relaxed_simd_enabled: false,
        simd_enabled: false,
        tail_call_enabled: false,
        threads_enabled: false,
        ..Config::default()
    };
    let mut module = Module::new(config, &mut Unstructured::new(bytes)).ok()?;
    module.ensure_termination(STEPS_MAX).ok()?;
    Some([&*module.to_bytes(), SECTION].concat())
}
