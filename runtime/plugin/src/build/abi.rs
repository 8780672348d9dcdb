//! The functions of the ABI: the exports of each kind of module, and the imports of a health check.
//!
//! Invariant: names are the ABI's, and types are those that it documents (sdk/ABI.md).

use wasmparser::ValType::{self, I32, I64};
use waxwing_sdk::abi::{Kind, exports, health};

pub(crate) struct AbiFunction {
    pub(crate) name: &'static str,
    pub(crate) parameters: &'static [ValType],
    pub(crate) results: &'static [ValType],
    pub(crate) optional: bool,
}

const fn function(
    name: &'static str,
    parameters: &'static [ValType],
    results: &'static [ValType],
) -> AbiFunction {
    AbiFunction {
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
) -> AbiFunction {
    AbiFunction {
        optional: true,
        ..function(name, parameters, results)
    }
}

const POLICY: &[AbiFunction] = &[
    function(exports::RESERVE, &[I32], &[I32]),
    function(exports::INIT, &[I32, I32], &[I32]),
    function(exports::PICK, &[I32, I32], &[I32]),
    optional(exports::BACKENDS_CHANGED, &[I32], &[I32]),
    optional(exports::CLOSED, &[I32, I32], &[]),
    optional(exports::TICK, &[I32], &[]),
    optional(exports::ERROR, &[], &[I64]),
    optional(exports::LOG, &[], &[I64]),
    optional(exports::SAVE, &[I32], &[I64]),
    optional(exports::RESTORE, &[I32, I32], &[I32]),
];

const HEALTH: &[AbiFunction] = &[
    function(exports::RESERVE, &[I32], &[I32]),
    function(health::exports::CONFIGURE, &[I32], &[I32]),
    function(health::exports::CHECK, &[I32], &[I32]),
    optional(exports::ERROR, &[], &[I64]),
];

const HEALTH_IMPORTS: &[AbiFunction] = {
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

/// Returns the exports of a kind of module.
pub(crate) fn exports_of(kind: Kind) -> &'static [AbiFunction] {
    match kind {
        Kind::Policy => POLICY,
        Kind::Health => HEALTH,
    }
}

/// Returns the function that a health check imports by this name; `None` if there is none.
pub(crate) fn import_of_health_check(module: &str, name: &str) -> Option<&'static AbiFunction> {
    let known = HEALTH_IMPORTS.iter().find(|function| function.name == name);
    known.filter(|_| module == health::imports::MODULE)
}

/// Returns the names that a health check may import, for messages.
pub(crate) fn health_import_names() -> String {
    let names: Vec<_> = HEALTH_IMPORTS
        .iter()
        .map(|function| function.name)
        .collect();
    names.join(", ")
}
