//! From a file's bytes to a [`CompiledModule`](module::CompiledModule).
//!
//! Invariant: no code of a module runs here.

pub(crate) mod abi;
pub(crate) mod cache;
pub(crate) mod compile;
pub(crate) mod compile_service;
mod confine;
pub(crate) mod engine;
pub(crate) mod module;
pub(crate) mod private_folder;
pub(crate) mod read;
pub(crate) mod validate;
