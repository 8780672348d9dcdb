//! Which compiler for Wasm this machine has.
//!
//! Invariant: a toolchain that is found can compile: its compiler ran and its standard library,
//! compiled or as source, is where it says.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, TARGET};

/// The environment variable that chooses a toolchain where there are both: `rustup` or `debian`.
pub const TOOLCHAIN_VARIABLE: &str = "WAXWING_WASM_TOOLCHAIN";

/// Where Debian's packages put their programs.
const DEBIAN_BIN: &str = "/usr/bin";

/// A compiler for Wasm.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Toolchain {
    /// The compiler in use has a standard library for Wasm: what `rustup target add` installs.
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
    /// For people.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Installed { .. } => "the installed Rust's wasm32-unknown-unknown target",
            Self::Debian { .. } => "Debian's rustc-web, which compiles the standard library first",
        }
    }

    /// Its program `cargo`.
    #[must_use]
    pub fn cargo(&self) -> &Path {
        match self {
            Self::Installed { cargo, .. } | Self::Debian { cargo, .. } => cargo,
        }
    }
}

/// The installed Rust's Wasm target, else Debian's packages.
///
/// # Errors
/// [`Error::NoToolchain`], which says how to install either.
pub fn find_toolchain() -> Result<Toolchain, Error> {
    let wanted = std::env::var(TOOLCHAIN_VARIABLE).unwrap_or_default();
    let mut missing = Vec::new();
    if !matches!(wanted.as_str(), "" | "rustup" | "debian") {
        missing.push(format!(
            "{TOOLCHAIN_VARIABLE}={wanted}: expected `rustup` or `debian`"
        ));
        return Err(Error::NoToolchain { missing });
    }
    if wanted != "debian" {
        match installed() {
            Ok(toolchain) => return Ok(toolchain),
            Err(why) => missing.push(why),
        }
    }
    if wanted != "rustup" {
        match debian() {
            Ok(toolchain) => return Ok(toolchain),
            Err(why) => missing.push(why),
        }
    }
    Err(Error::NoToolchain { missing })
}

fn installed() -> Result<Toolchain, String> {
    // An outer cargo says which programs it is and uses.
    let program = |variable, name: &str| {
        PathBuf::from(std::env::var_os(variable).unwrap_or_else(|| OsString::from(name)))
    };
    let (cargo, rustc) = (program("CARGO", "cargo"), program("RUSTC", "rustc"));
    let library = PathBuf::from(ask(
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
    let sysroot = ask(&rustc, &["--print", "sysroot"])?;
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

/// What a compiler answers, in one line.
fn ask(rustc: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(rustc)
        .args(arguments)
        .output()
        .map_err(|error| format!("the program {}: {error}", rustc.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{} {}: {said}",
            rustc.display(),
            arguments.join(" ")
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}
