//! Installs what is missing. Without the rights to do so, it prints the exact command instead.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{packages, run, services};

/// Installs what `demo`, `test`, `ci` and `bench` need.
pub(crate) fn everything() -> Result<(), String> {
    debian(&[packages::BUILD, packages::PEERS].concat())?;
    wasm_target()
}

/// As [`everything`], and what only tests need.
pub(crate) fn for_tests() -> Result<(), String> {
    everything()?;
    python_programs();
    Ok(())
}

/// Installs the programs of the Python Package Index, in a folder of their own. Without them the tests that
/// need them are skipped.
fn python_programs() {
    let folder = run::target().join("tools");
    let wanted = packages::PYTHON.join("\n");
    let list = folder.join("installed");
    if fs::read_to_string(&list).is_ok_and(|installed| installed == wanted) {
        return;
    }
    run::step(&format!(
        "installing with pip: {}",
        packages::PYTHON.join(" ")
    ));
    let installed = run::command(Command::new("python3").args(["-m", "venv"]).arg(&folder))
        .and_then(|()| {
            run::command(
                Command::new(folder.join("bin/pip"))
                    .args(["install", "--quiet", "--disable-pip-version-check"])
                    .args(packages::PYTHON),
            )
        })
        .and_then(|()| fs::write(&list, wanted).map_err(|error| error.to_string()));
    if let Err(error) = installed {
        println!("   {error}; tests that need them are skipped");
    }
}

/// Installs the packages that are missing.
pub(crate) fn debian(wanted: &[&str]) -> Result<(), String> {
    if run::output("dpkg-query", &["--version"]).is_none() {
        println!(
            "   this is not Debian or Ubuntu; on those, Waxwing needs these packages: {}",
            wanted.join(" ")
        );
        return Ok(());
    }
    let missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|name| !is_installed(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    run::step(&format!("installing with apt: {}", missing.join(" ")));
    apt(&["update"])?;
    services::kept_down(&missing, || {
        apt(&[
            &["install", "--yes", "--no-install-recommends"],
            missing.as_slice(),
        ]
        .concat())
    })
}

fn is_installed(package: &str) -> bool {
    run::output(
        "dpkg-query",
        &["--show", "--showformat=${db:Status-Status}", package],
    )
    .is_some_and(|status| status == "installed")
}

fn apt(arguments: &[&str]) -> Result<(), String> {
    let mut call = if run::is_root() {
        Command::new("apt-get")
    } else if run::sudo_works() {
        let mut sudo = Command::new("sudo");
        sudo.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    } else {
        return Err(format!(
            "packages are missing, and installing them needs root; run this, then try again:\n\n    \
             sudo apt-get {}\n",
            arguments.join(" ")
        ));
    };
    run::command(
        call.args(arguments)
            .args(["--quiet"])
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// Installs a compiler for Wasm: rustup's target, otherwise Debian's packages.
fn wasm_target() -> Result<(), String> {
    if waxwing_module_build::find_toolchain().is_ok() {
        return Ok(());
    }
    run::step("adding the Wasm target, to compile policy modules");
    let rustup = Command::new("rustup")
        .args(["target", "add", waxwing_module_build::TARGET])
        .status()
        .is_ok_and(|status| status.success());
    if !rustup {
        println!("   rustup did not add it; installing Debian's compiler instead");
        debian(packages::WASM)?;
    }
    waxwing_module_build::find_toolchain()
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Whether the standard library's source is installed, or rustup can install it.
pub(crate) fn has_library_source() -> bool {
    let is_there = || {
        run::output("rustc", &["--print", "sysroot"]).is_some_and(|sysroot| {
            let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std");
            library.is_dir()
        })
    };
    is_there() || (run::output("rustup", &["component", "add", "rust-src"]).is_some() && is_there())
}
