//! Why a module is refused, and why the host does not start.
//!
//! Invariant: the text of a refusal names the module and its source, what is wrong, and what would
//! be right.

use std::path::PathBuf;

use waxwing_sdk::abi::{Kind, SectionError};

use crate::build::abi::health_import_names;

/// The plugin host could not be started.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The Wasm engine cannot work on this machine.
    #[error("Wasm engine: {0}; this processor or kernel may lack a required feature")]
    Engine(String),
    /// The thread of the epoch clock or of the watcher could not be started.
    #[error("plugin host: cannot start a thread: {0}; raise the limit of processes (ulimit -u)")]
    Thread(std::io::Error),
}

/// A refused module.
#[derive(Debug, thiserror::Error)]
#[error("module {module}: {refusal}")]
pub struct ModuleError {
    /// Its name and source: `maglev (shipped)`, `maglev (modules/maglev.wasm)`.
    pub module: String,
    /// Why.
    pub refusal: Refusal,
}

/// Why a module was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The name cannot be a file's stem.
    #[error("not a module name; use 1 to 64 of a-z, A-Z, 0-9, `_` and `-`")]
    Name,
    /// No shipped module and no file of the folder has this name.
    #[error(
        "there is no such module; write one of {}{}", known.join(", "), in_folder(folder.as_ref())
    )]
    Unknown {
        /// The watched folder, if there is one.
        folder: Option<PathBuf>,
        /// The names of the shipped modules and of those in the folder.
        known: Vec<String>,
    },
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It is a directory, socket or device.
    #[error("not a regular file; copy the module itself there")]
    NotAFile,
    /// The file is larger than the limit.
    #[error("{bytes} bytes long, over the limit of {max}; build it in release mode and strip it")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The first bytes are not those of a WebAssembly module.
    #[error(
        "not a WebAssembly module; build it as a `cdylib` for wasm32-unknown-unknown (components \
         and text files are not accepted)"
    )]
    NotWasm,
    /// It is truncated, invalid, or uses a WebAssembly feature that modules may not use.
    #[error(
        "not valid at byte {offset}: {why}; the file may be truncated, or use WebAssembly features that \
         modules may not use; build it again for wasm32-unknown-unknown"
    )]
    Malformed {
        /// The offset in the file, in bytes.
        offset: usize,
        /// The parser's message.
        why: String,
    },
    /// It has no `waxwing.module` section.
    #[error(
        "no custom section `waxwing.module`; write `waxwing_sdk::export_policy!(YourPolicy)`, or \
         `export_health_check!(YourCheck)` (stripping must keep that section)"
    )]
    SectionMissing,
    /// It has more than one `waxwing.module` section.
    #[error("more than one custom section `waxwing.module`; a module exports one policy or check")]
    SectionTwice,
    /// The section is invalid, or for an ABI that this host does not serve.
    #[error("{0}")]
    Section(#[from] SectionError),
    /// Its kind does not fit the place in the config that names it.
    #[error("is {found}, not {}; {}", other(*found), place(*found))]
    Kind {
        /// The module's kind.
        found: Kind,
    },
    /// A policy imports something.
    #[error(
        "imports `{first}`{}; a policy has no imports: build for wasm32-unknown-unknown, without \
         crates that need an operating system", and_more(*count)
    )]
    Imports {
        /// The first import, `module.name`.
        first: String,
        /// The number of imports.
        count: u32,
    },
    /// A health check imports a function that it may not import.
    #[error(
        "imports `{name}`; a health check may import only functions of `waxwing` ({}): build \
         for wasm32-unknown-unknown, without crates that need an operating system",
        health_import_names()
    )]
    Import {
        /// The import, `module.name`.
        name: String,
    },
    /// An import's type differs from the ABI's.
    #[error("import `{name}` is {found}; it must be {expected}")]
    ImportType {
        /// The import.
        name: &'static str,
        /// Its actual type.
        found: String,
        /// The type that the ABI demands.
        expected: String,
    },
    /// A required export is missing.
    #[error("exports no `{name}` {expected}; the SDK's `export_{}!` makes it", macro_of(*kind))]
    ExportMissing {
        /// The module's kind.
        kind: Kind,
        /// The export.
        name: &'static str,
        /// Its type.
        expected: String,
    },
    /// An export's type differs from the ABI's.
    #[error("export `{name}` is {found}; it must be {expected}")]
    ExportType {
        /// The export.
        name: &'static str,
        /// Its actual type.
        found: String,
        /// The type that the ABI demands.
        expected: String,
    },
    /// It has more of something than the limit.
    #[error("has {count} {what}, over the limit of {max}; make it smaller")]
    TooMuch {
        /// What is limited, with its unit.
        what: &'static str,
        /// How much it has.
        count: u64,
        /// The limit.
        max: u64,
    },
    /// Its file changed while it was read.
    #[error("changed while it was read; it is read again once it has settled")]
    Changing,
    /// The compiler refused it or reached its limits.
    #[error("cannot be compiled: {0}")]
    Compile(String),
    /// It takes long to compile, which the start does not wait for.
    #[error(
        "is compiled after the start, which does not wait for it; another build serves until then"
    )]
    Later,
    /// The compiler's process could not be run.
    #[error(
        "the compiler's process failed: {0}; check the limits of processes, memory and open files, then \
         `waxwing reload`"
    )]
    Compiler(String),
    /// It is quarantined: it faulted too often while serving.
    #[error("quarantined: {0}; replace it with a corrected build")]
    Quarantined(String),
    /// Its start function trapped, or memory ran out.
    #[error("cannot be instantiated: {0}")]
    Instantiate(String),
    /// It refused a service's config or backends.
    #[error("refuses service {service}: {why}; see its `{setting}`")]
    Refused {
        /// The service.
        service: String,
        /// The module's own reason.
        why: String,
        /// The setting to change.
        setting: &'static str,
    },
    /// It trapped or ran too long during a service's set-up.
    #[error("failed while service {service} was set up: {why}")]
    SetUp {
        /// The service.
        service: String,
        /// The call, and how it ended.
        why: String,
    },
    /// A service's header, or a region that it points to, breaks the ABI.
    #[error("breaks the ABI for service {service}: {why}; see sdk/ABI.md")]
    Abi {
        /// The service.
        service: String,
        /// The field, and what is wrong with it.
        why: String,
    },
    /// It failed with what an earlier instance saved.
    #[error("fails with the state of an earlier instance of service {service}: {why}")]
    Restore {
        /// The service.
        service: String,
        /// What failed.
        why: String,
    },
    /// It failed on test flows during vetting.
    #[error("fails on test flows for service {service}: {why}")]
    Vetting {
        /// The service.
        service: String,
        /// What failed.
        why: String,
    },
}

fn in_folder(folder: Option<&PathBuf>) -> String {
    folder.map_or_else(
        || ", or name a folder of modules (`modules = \"…\"`)".into(),
        |folder| format!(", or copy a module of that name into {}", folder.display()),
    )
}

fn other(kind: Kind) -> Kind {
    match kind {
        Kind::Policy => Kind::Health,
        Kind::Health => Kind::Policy,
    }
}

/// Returns where the config names modules of a kind.
fn place(kind: Kind) -> &'static str {
    match kind {
        Kind::Policy => "name it as a service's `policy`",
        Kind::Health => "name it under [[service.health]]",
    }
}

fn macro_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Policy => "policy",
        Kind::Health => "health_check",
    }
}

fn and_more(count: u32) -> String {
    if count > 1 {
        format!(" and {} more", count - 1)
    } else {
        String::new()
    }
}

impl Refusal {
    /// Turns the refusal into an error of this module.
    pub(crate) fn of(self, module: impl Into<String>) -> ModuleError {
        ModuleError {
            module: module.into(),
            refusal: self,
        }
    }
}
