//! Finds the Wasm compiler of this machine.
//!
//! Invariant: a toolchain that is found can compile: its compiler ran, and its standard library,
//! compiled or as source, exists.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, TARGET};

/// The environment variable that selects a toolchain if there are both: `rustup` or `debian`.
pub const TOOLCHAIN_VARIABLE: &str = "WAXWING_WASM_TOOLCHAIN";

/// The folder of the programs of Debian's packages.
const DEBIAN_BIN: &str = "/usr/bin";

/// A Wasm compiler.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Toolchain {
    /// The compiler in use, with a standard library for Wasm, which `rustup target add` installs.
    Installed {
        /// The program `cargo`.
        cargo: PathBuf,
        /// The program `rustc`.
        rustc: PathBuf,
    },
    /// Debian's packages, whose standard library is compiled from source on the first build.
    Debian {
        /// The program `cargo` of the package `cargo-web`.
        cargo: PathBuf,
        /// The program `rustc` of the package `rustc-web`.
        rustc: PathBuf,
        /// The linker `wasm-ld` of the package `lld`.
        linker: PathBuf,
    },
}

impl Toolchain {
    /// Returns the toolchain's name, for messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Installed { .. } => "the installed Rust's wasm32-unknown-unknown target",
            Self::Debian { .. } => "Debian's rustc-web, which compiles the standard library first",
        }
    }

    /// Returns its program `cargo`.
    #[must_use]
    pub fn cargo(&self) -> &Path {
        match self {
            Self::Installed { cargo, .. } | Self::Debian { cargo, .. } => cargo,
        }
    }
}

/// Returns the installed Rust's Wasm target, else Debian's packages.
///
/// # Errors
/// [`Error::NoToolchain`], which says how to install either.
pub fn find_toolchain() -> Result<Toolchain, Error> {
    let selected = std::env::var(TOOLCHAIN_VARIABLE).unwrap_or_default();
    let mut missing = Vec::new();
    if !matches!(selected.as_str(), "" | "rustup" | "debian") {
        missing.push(format!(
            "{TOOLCHAIN_VARIABLE}={selected}: expected `rustup` or `debian`"
        ));
        return Err(Error::NoToolchain { missing });
    }
    if selected != "debian" {
        match installed() {
            Ok(toolchain) => return Ok(toolchain),
            Err(why) => missing.push(why),
        }
    }
    if selected != "rustup" {
        match debian() {
            Ok(toolchain) => return Ok(toolchain),
            Err(why) => missing.push(why),
        }
    }
    Err(Error::NoToolchain { missing })
}

fn installed() -> Result<Toolchain, String> {
    // An outer cargo sets these variables.
    let program = |variable, name: &str| {
        PathBuf::from(std::env::var_os(variable).unwrap_or_else(|| OsString::from(name)))
    };
    let (cargo, rustc) = (program("CARGO", "cargo"), program("RUSTC", "rustc"));
    let library = PathBuf::from(query(
        &rustc,
        &["--print", "target-libdir", "--target", TARGET],
    )?);
    let has_std = library.read_dir().is_ok_and(|mut files| {
        files.any(|file| {
            file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
        })
    });
    if !has_std {
        return Err(format!(
            "a standard library for {TARGET} in {}",
            library.display()
        ));
    }
    Ok(Toolchain::Installed { cargo, rustc })
}

fn debian() -> Result<Toolchain, String> {
    let program = |name: &str, package: &str| {
        let path = Path::new(DEBIAN_BIN).join(name);
        if path.is_file() {
            Ok(path)
        } else {
            Err(format!("{} (package {package})", path.display()))
        }
    };
    let cargo = program("cargo", "cargo-web")?;
    let rustc = program("rustc", "rustc-web")?;
    let linker = program("wasm-ld", "lld")?;
    let sysroot = query(&rustc, &["--print", "sysroot"])?;
    let source = Path::new(&sysroot).join("lib/rustlib/src/rust/library/std/Cargo.toml");
    if !source.is_file() {
        return Err(format!("{} (package rust-web-src)", source.display()));
    }
    Ok(Toolchain::Debian {
        cargo,
        rustc,
        linker,
    })
}

/// Runs a compiler. Returns its output, trimmed.
fn query(rustc: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(rustc)
        .args(arguments)
        .output()
        .map_err(|error| format!("the program {}: {error}", rustc.display()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{} {}: {stderr}",
            rustc.display(),
            arguments.join(" ")
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}
