//! What can go wrong, told to the one who can mend it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::TARGET;

/// Why there is no module.
#[derive(Debug)]
pub enum Error {
    /// No compiler for Wasm on this machine.
    NoToolchain {
        /// What was looked for and not found, a line each.
        missing: Vec<String>,
    },
    /// Cargo failed.
    Compile {
        /// The crates asked for.
        packages: String,
        /// [`crate::Toolchain::name`].
        toolchain: &'static str,
        /// What cargo and the compiler said.
        stderr: String,
    },
    /// Cargo succeeded, but some crate is not a module.
    NotModules {
        /// The crates asked for.
        packages: String,
    },
    /// A file or program could not be used.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoToolchain { missing } => {
                writeln!(
                    f,
                    "no compiler for {TARGET} on this machine. Install one, either way:"
                )?;
                writeln!(f, "  with rustup:      rustup target add {TARGET}")?;
                writeln!(
                    f,
                    "  on Debian/Ubuntu: apt-get install rustc-web cargo-web libstd-rust-web-dev \
                     rust-web-src lld"
                )?;
                write!(f, "Looked for:")?;
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
                "not every one of {packages} gave a .wasm file: set `crate-type = [\"cdylib\", \
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
