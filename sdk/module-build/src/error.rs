//! Errors of compiling modules, with their remedies.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::TARGET;

/// Why no module was built.
#[derive(Debug)]
pub enum Error {
    /// This machine has no Wasm compiler.
    NoToolchain {
        /// What is missing, one line each.
        missing: Vec<String>,
    },
    /// Cargo failed.
    Compile {
        /// The requested crates.
        packages: String,
        /// [`crate::Toolchain::name`].
        toolchain: &'static str,
        /// The output of cargo and the compiler.
        stderr: String,
    },
    /// Cargo succeeded, but a crate is not a module.
    NotModules {
        /// The requested crates.
        packages: String,
    },
    /// A file or program could not be used.
    Io {
        /// The file or program.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoToolchain { missing } => {
                writeln!(f, "no compiler for {TARGET} on this machine. Install one:")?;
                writeln!(f, "  with rustup:      rustup target add {TARGET}")?;
                writeln!(
                    f,
                    "  on Debian/Ubuntu: apt-get install rustc-web cargo-web libstd-rust-web-dev \
                     rust-web-src lld"
                )?;
                write!(f, "Missing:")?;
                missing.iter().try_for_each(|line| write!(f, "\n  {line}"))
            }
            Self::Compile {
                packages,
                toolchain,
                stderr,
            } => {
                write!(
                    f,
                    "compiling {packages} to Wasm ({toolchain}) failed:\n{stderr}"
                )
            }
            Self::NotModules { packages } => write!(
                f,
                "not every crate of {packages} built a .wasm file: set `crate-type = [\"cdylib\", \
                 \"rlib\"]` under [lib] in its Cargo.toml"
            ),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
