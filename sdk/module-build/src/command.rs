//! The cargo command and its environment.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{TARGET, Toolchain};

/// A module's stack, in bytes. It is at the start of memory, so an overflow goes below address 0
/// and traps instead of overwriting data. Policies need little, and the services of an instance
/// share one stack.
const STACK_BYTES: usize = 64 * 1024;

/// The release profile of modules, independent of the workspace's: fast, small, and a panic traps.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
];

/// The variables that cargo and rustup may keep: their folders, network settings, the toolchain in
/// use, and the job tokens of an outer cargo.
const KEPT: [&str; 11] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
    "RUSTUP_DIST_",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
];

pub(crate) fn cargo_build(
    toolchain: &Toolchain,
    manifest: &Path,
    packages: &[&str],
    target_dir: &Path,
) -> Command {
    let mut command = Command::new(toolchain.cargo());
    for (name, _) in std::env::vars_os() {
        if is_foreign(&name) {
            command.env_remove(name);
        }
    }
    command.args([
        "build",
        "--release",
        "--message-format=json-render-diagnostics",
    ]);
    command.args(["--target", TARGET]);
    command.arg("--manifest-path").arg(manifest);
    command.arg("--target-dir").arg(target_dir);
    for package in packages {
        command.args(["--package", package]);
    }
    command.envs(PROFILE);
    command.env("CARGO_ENCODED_RUSTFLAGS", rustflags(manifest));
    match toolchain {
        Toolchain::Installed { rustc, .. } => {
            command.env("RUSTC", rustc);
        }
        Toolchain::Debian { rustc, linker, .. } => {
            command.args(["-Z", "build-std=std,panic_abort"]);
            command.env("RUSTC", rustc);
            command.env("RUSTC_BOOTSTRAP", "1");
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
    }
    command
}

/// Returns whether a variable would change the compiled code.
fn is_foreign(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let of_rust = ["CARGO", "RUST", "CLIPPY_"]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    of_rust && !KEPT.iter().any(|kept| name.starts_with(kept))
}

/// Returns the flags in cargo's encoding, in which a flag may contain spaces.
fn rustflags(manifest: &Path) -> String {
    let mut flags = vec![
        "-Clink-arg=-z".to_string(),
        format!("-Clink-arg=stack-size={STACK_BYTES}"),
    ];
    // Panic texts contain source paths: make them the same on every machine.
    let workspace = manifest.parent().map(Path::to_path_buf);
    for (path, name) in [(workspace, "."), (cargo_home(), "cargo")] {
        if let Some(path) = path {
            flags.push(format!("--remap-path-prefix={}={name}", path.display()));
        }
    }
    flags.join("\x1f")
}

fn cargo_home() -> Option<PathBuf> {
    let home = || std::env::home_dir().map(|home| home.join(".cargo"));
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_an_outer_cargo_are_removed() {
        let foreign = [
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
            "CARGO_PROFILE_RELEASE_DEBUG",
            "CARGO",
            "RUSTFLAGS",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_BOOTSTRAP",
            "CLIPPY_ARGS",
        ];
        for name in foreign {
            assert!(is_foreign(OsStr::new(name)), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(!is_foreign(OsStr::new(name)), "{name}");
        }
    }
}
