//! Why a module is not taken, said so that the operator knows what to do.
//!
//! Invariant: the text names the module and where it came from, what is wrong with it, and what
//! would be right.

use std::path::PathBuf;

use waxwing_sdk::abi::{Kind, SectionError};

use crate::functions::importable_names;

/// The plugin host could not be started.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The compiler or runtime cannot work on this machine.
    #[error("Wasm engine: {0}; this processor or kernel may lack what it needs")]
    Engine(String),
    /// No thread for the epoch clock or the watcher.
    #[error("plugin host: cannot start a thread: {0}; raise the limit of processes (ulimit -u)")]
    Thread(std::io::Error),
}

/// A module was refused.
#[derive(Debug, thiserror::Error)]
#[error("module {module}: {refusal}")]
pub struct ModuleError {
    /// Its name and where it came from: `maglev (shipped)`, `maglev (modules/maglev.wasm)`.
    pub module: String,
    /// Why.
    pub refusal: Refusal,
}

/// Why a module was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The name could not be a file's stem.
    #[error("not a module name; use 1 to 64 of a-z, A-Z, 0-9, `_` and `-`")]
    Name,
    /// Neither shipped nor in the folder.
    #[error("there is no such module; write one of {shipped}{}", in_folder(folder.as_ref()))]
    Unknown {
        /// The watched folder, if there is one.
        folder: Option<PathBuf>,
        /// The shipped modules' names.
        shipped: String,
    },
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// A directory, socket or device.
    #[error("not a regular file; put the module itself there")]
    NotAFile,
    /// The file is larger than the limit.
    #[error("{bytes} bytes long, over the limit of {max}; build it in release mode and strip it")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Not a WebAssembly module by its first bytes.
    #[error(
        "not a WebAssembly module; build it as a `cdylib` for wasm32-unknown-unknown (components \
         and text files are not taken)"
    )]
    NotWasm,
    /// Truncated, not valid, or with a WebAssembly feature that modules may not have.
    #[error("not valid at byte {offset}: {why}; the file may be cut short, or need rebuilding")]
    Malformed {
        /// Where in the file.
        offset: usize,
        /// What the parser says.
        why: String,
    },
    /// No `waxwing.module` section.
    #[error(
        "no custom section `waxwing.module`; write `waxwing_sdk::export_policy!(YourPolicy)`, or \
         `export_health_check!(YourCheck)` (stripping must keep that section)"
    )]
    SectionMissing,
    /// More than one `waxwing.module` section.
    #[error("more than one custom section `waxwing.module`; a module exports one policy or check")]
    SectionTwice,
    /// The section is not one that this host serves.
    #[error("{0}")]
    Section(#[from] SectionError),
    /// It is a module of another kind than the place where it is named.
    #[error("is {found}, not {}; {}", other(*found), place(*found))]
    Kind {
        /// What it is.
        found: Kind,
    },
    /// A policy imports something.
    #[error(
        "imports `{first}`{}; a policy has no imports: build for wasm32-unknown-unknown, without \
         crates that want an operating system", and_more(*count)
    )]
    Imports {
        /// The first import, `module.name`.
        first: String,
        /// How many in all.
        count: u32,
    },
    /// A health check imports something else than it may.
    #[error(
        "imports `{name}`; a health check may import only functions of `waxwing` ({}): build \
         for wasm32-unknown-unknown, without crates that want an operating system",
        importable_names()
    )]
    Import {
        /// The import, `module.name`.
        name: String,
    },
    /// An import has another type than the ABI says.
    #[error("import `{name}` is {found}; it must be {expected}")]
    ImportType {
        /// The import.
        name: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// A required export is missing.
    #[error("exports no `{name}` {expected}; the SDK's `export_{}!` makes it", macro_of(*kind))]
    ExportMissing {
        /// What it is to be.
        kind: Kind,
        /// The export.
        name: &'static str,
        /// Its type.
        expected: String,
    },
    /// An export has another type than the ABI says.
    #[error("export `{name}` is {found}; it must be {expected}")]
    ExportType {
        /// The export.
        name: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// More of something than the limit.
    #[error("has {count} {what}, over the limit of {max}; make it smaller")]
    TooMuch {
        /// Of what, with its unit.
        what: &'static str,
        /// How much.
        count: u64,
        /// The limit.
        max: u64,
    },
    /// It is being written to.
    #[error("changed while it was read; it is read again once it stays the same")]
    Changing,
    /// The compiler gave up on it.
    #[error("cannot be compiled: {0}")]
    Compile(String),
    /// The process that compiles could not be run.
    #[error(
        "the compiler's process failed: {0}; see the limits of processes, memory and open files"
    )]
    Compiler(String),
    /// It faulted too often while serving.
    #[error("quarantined: {0}; copy a mended build over it")]
    Quarantined(String),
    /// It cannot be set up: its start code trapped, or memory ran out.
    #[error("cannot be instantiated: {0}")]
    Instantiate(String),
    /// It refused a service's config.
    #[error("refuses service {service}: {why}; see its `{setting}`")]
    Refused {
        /// The service.
        service: String,
        /// The module's own words.
        why: String,
        /// What it refuses.
        setting: &'static str,
    },
    /// It trapped or ran too long while a service was set up.
    #[error("failed while service {service} was set up: {why}")]
    SetUp {
        /// The service.
        service: String,
        /// Which call, and how it ended.
        why: String,
    },
    /// A service's header, or what an address points to, breaks the ABI.
    #[error("breaks the ABI for service {service}: {why}; see sdk/ABI.md")]
    Abi {
        /// The service.
        service: String,
        /// Which field, and what is wrong with it.
        why: String,
    },
    /// It failed on test flows.
    #[error("fails on test flows for service {service}: {why}")]
    Vetting {
        /// The service.
        service: String,
        /// How.
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

/// Where the config names modules of a kind.
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
    /// The error for a module.
    pub(crate) fn of(self, module: impl Into<String>) -> ModuleError {
        ModuleError {
            module: module.into(),
            refusal: self,
        }
    }
}
