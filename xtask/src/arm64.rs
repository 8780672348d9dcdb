//! A build for ARM64 on another processor: with Debian's cross compiler and, in a folder, Debian's ARM64
//! libraries.
//!
//! Invariant: the machine gets no package of a foreign architecture, and dpkg is told of none.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{packages, run, setup};

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Where Debian's cross compiler has its headers and C library.
const COMPILER: &str = "/usr/aarch64-linux-gnu";

/// Debian's ARM64 packages that the program is built and run with.
const LIBRARIES: &[&str] = &[
    "libc6",
    "libelf-dev",
    "libelf1",
    "libgcc-s1",
    "zlib1g",
    "zlib1g-dev",
];

/// Debian's ARM64 libraries, each package in a folder, and all in one.
pub(crate) struct Libraries {
    folder: PathBuf,
}

impl Libraries {
    /// Fetches them, unless they are there.
    pub(crate) fn fetch() -> Result<Self, String> {
        let folder = run::target().join("arm64");
        let libraries = Self {
            folder: folder.clone(),
        };
        if libraries.root().is_dir() {
            return Ok(libraries);
        }
        run::step("fetching Debian's ARM64 libraries");
        let fetched = folder.join("fetched");
        for part in [
            "lists/partial",
            "cache/archives/partial",
            "fetched",
            "packages",
        ] {
            make(&folder.join(part))?;
        }
        let apt = || {
            let mut apt = Command::new("apt-get");
            let option = |name: &str, part: &str| format!("{name}={}", folder.join(part).display());
            apt.args(["--quiet", "--option", "APT::Architectures::=arm64"])
                .args(["--option", &option("Dir::State::Lists", "lists")])
                .args(["--option", &option("Dir::Cache", "cache")])
                .current_dir(&fetched);
            apt
        };
        run::command(apt().arg("update"))?;
        let names = LIBRARIES.iter().map(|name| format!("{name}:arm64"));
        run::command(apt().arg("download").args(names))?;
        let partial = folder.join("root.part");
        for package in run::entries(&fetched)? {
            // `NAME_VERSION_arm64.deb`
            let name = package.file_name().unwrap_or_default().to_string_lossy();
            let name = name.split('_').next().unwrap_or_default().to_owned();
            let unpack = |how: &str, to: &Path| {
                run::command(Command::new("dpkg-deb").arg(how).arg(&package).arg(to))
            };
            unpack("--raw-extract", &folder.join("packages").join(name))?;
            unpack("--extract", &partial)?;
        }
        std::fs::rename(&partial, libraries.root())
            .map_err(|error| format!("{}: {error}", partial.display()))?;
        Ok(libraries)
    }

    /// The folder that a program finds them in.
    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// Returns the folders of the packages.
    pub(crate) fn packages(&self) -> Result<Vec<PathBuf>, String> {
        run::entries(&self.folder.join("packages"))
    }

    /// Returns a command that runs a program by emulation.
    pub(crate) fn emulate(&self, program: &Path) -> Command {
        let mut emulator = Command::new("qemu-aarch64-static");
        emulator.arg("-L").arg(self.root()).arg(program);
        emulator
    }
}

/// Builds the balancer in release mode, and returns the program.
pub(crate) fn build(libraries: &Libraries) -> Result<PathBuf, String> {
    setup::debian(packages::ARM64)?;
    run::command(Command::new("rustup").args(["target", "add", TARGET]))?;
    run::step("building the balancer for ARM64 in release mode");
    let root = libraries.root();
    let inside = |path: &str| root.join(path).display().to_string();
    let include = [
        inside("usr/include"),
        inside("usr/include/aarch64-linux-gnu"),
    ];
    let native = ["usr/lib/aarch64-linux-gnu", "lib/aarch64-linux-gnu"]
        .map(|path| format!("-L native={}", inside(path)));
    let compiler = format!("{COMPILER}/include");
    // Cargo's and the `cc` crate's names of the target.
    let (upper, lower) = ("AARCH64_UNKNOWN_LINUX_GNU", "aarch64_unknown_linux_gnu");
    run::command(
        Command::new(run::cargo_path())
            .args(["build", "--release", "--locked", "--package", "waxwing"])
            .args(["--target", TARGET])
            .current_dir(run::root())
            .env(
                format!("CARGO_TARGET_{upper}_LINKER"),
                "aarch64-linux-gnu-gcc",
            )
            .env(format!("CARGO_TARGET_{upper}_RUSTFLAGS"), native.join(" "))
            .env(format!("CC_{lower}"), "aarch64-linux-gnu-gcc")
            .env(format!("AR_{lower}"), "aarch64-linux-gnu-ar")
            // libxdp's build puts its XDP programs into objects by these.
            .env("LD", "aarch64-linux-gnu-ld")
            .env("OBJCOPY", "aarch64-linux-gnu-objcopy")
            // Of the C libraries, of the XDP programs, which clang compiles, and of their bindings.
            .env("CPATH", [&[compiler], &include[..]].concat().join(":"))
            .env("PKG_CONFIG_ALLOW_CROSS", "1")
            .env("PKG_CONFIG_SYSROOT_DIR", &root)
            .env(
                "PKG_CONFIG_LIBDIR",
                inside("usr/lib/aarch64-linux-gnu/pkgconfig"),
            ),
    )?;
    Ok(run::target().join(TARGET).join("release/waxwing"))
}

fn make(folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}
