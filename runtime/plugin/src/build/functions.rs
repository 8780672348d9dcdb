//! The functions of the ABI: what a module of each kind exports, and what it may import.
//!
//! Invariant: names are the ABI's, and types are those that it documents.

use wasmparser::ValType::{self, I32, I64};
use waxwing_sdk::abi::{Kind, exports, health};

/// A function of the ABI: its name, parameters, results, and whether it may be missing.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) parameters: &'static [ValType],
    pub(crate) results: &'static [ValType],
    pub(crate) optional: bool,
}

const fn function(
    name: &'static str,
    parameters: &'static [ValType],
    results: &'static [ValType],
) -> Function {
    Function {
        name,
        parameters,
        results,
        optional: false,
    }
}

const fn optional(
    name: &'static str,
    parameters: &'static [ValType],
    results: &'static [ValType],
) -> Function {
    Function {
        optional: true,
        ..function(name, parameters, results)
    }
}

const POLICY: &[Function] = &[
    function(exports::RESERVE, &[I32], &[I32]),
    function(exports::INIT, &[I32, I32], &[I32]),
    function(exports::PICK, &[I32, I32], &[I32]),
    optional(exports::BACKENDS_CHANGED, &[I32], &[I32]),
    optional(exports::CLOSED, &[I32, I32], &[]),
    optional(exports::TICK, &[I32], &[]),
    optional(exports::ERROR, &[], &[I64]),
];

const HEALTH: &[Function] = &[
    function(exports::RESERVE, &[I32], &[I32]),
    function(health::exports::CONFIGURE, &[I32], &[I32]),
    function(health::exports::CHECK, &[I32], &[I32]),
    optional(exports::ERROR, &[], &[I64]),
];

const HEALTH_IMPORTS: &[Function] = {
    use health::imports::{CLOSE, CONNECT, ERROR_TEXT, LOG, NOW_MS, RECV, SEND, SLEEP_MS, TLS};
    &[
        function(CONNECT, &[I32], &[I32]),
        function(TLS, &[I32, I32, I32], &[I32]),
        function(SEND, &[I32, I32, I32], &[I32]),
        function(RECV, &[I32, I32, I32], &[I32]),
        function(CLOSE, &[I32], &[]),
        function(NOW_MS, &[], &[I64]),
        function(SLEEP_MS, &[I32], &[]),
        function(LOG, &[I32, I32], &[]),
        function(ERROR_TEXT, &[I32, I32], &[I32]),
    ]
};

/// What a module of a kind exports.
pub(crate) fn exported(kind: Kind) -> &'static [Function] {
    match kind {
        Kind::Policy => POLICY,
        Kind::Health => HEALTH,
    }
}

/// What a health check may import.
pub(crate) fn importable(module: &str, name: &str) -> Option<&'static Function> {
    let known = HEALTH_IMPORTS.iter().find(|function| function.name == name);
    known.filter(|_| module == health::imports::MODULE)
}

/// The names of what a health check may import, for people.
pub(crate) fn importable_names() -> String {
    let names: Vec<_> = HEALTH_IMPORTS
        .iter()
        .map(|function| function.name)
        .collect();
    names.join(", ")
}
