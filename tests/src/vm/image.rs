//! The guest's file system: our programs and installed ones, with their shared libraries.
//!
//! Invariant: a library has the same path in the guest as on the host, so that the guest's loader finds the
//! libraries that `ldd` listed on the host.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::archive::Archive;
use super::kernel::Kernel;
use crate::actors::built_program;
use crate::{process, tools};

/// Installed programs that are copied to the guest.
pub(super) const PROGRAMS: &[&str] = &[
    "ip", "ethtool", "sysctl", "setpriv", "ss", "curl", "wrk", "nginx", "modprobe",
];

/// The guest's directory of our programs.
const OURS: &str = "/waxwing";

/// The path of this program in the guest, where it is the init process.
pub(super) const INIT: &str = "/waxwing/init";

/// Files of the guest: users and groups, because nginx looks up root's; and the name of port 80, because
/// wrk looks it up.
const FILES: &[(&str, &str)] = &[
    ("/etc/passwd", "root:x:0:0:root:/:/bin/false\n"),
    ("/etc/group", "root:x:0:\n"),
    (
        "/etc/nsswitch.conf",
        "passwd: files\ngroup: files\nservices: files\n",
    ),
    ("/etc/services", "http 80/tcp\n"),
];

/// Directories of the guest that are created empty.
const DIRECTORIES: &[&str] = &["/dev", "/proc", "/sys", "/run", "/tmp", "/var/log/nginx"];

/// The contents of the guest's file system.
#[derive(Debug, Default)]
pub struct Image {
    more_programs: Vec<&'static str>,
}

impl Image {
    /// Adds another installed program.
    pub fn with(mut self, program: &'static str) -> Self {
        self.more_programs.push(program);
        self
    }

    /// Writes the archive that the guest's kernel unpacks.
    pub fn write(&self, kernel: &Kernel, to: &Path) -> Result<()> {
        let file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
        let mut archive = Archive::new(BufWriter::new(file));
        for directory in DIRECTORIES {
            archive.directory(Path::new(directory))?;
        }
        for (path, text) in FILES {
            archive.file(Path::new(path), text.as_bytes())?;
        }
        let mut programs = vec![(std::env::current_exe()?, PathBuf::from(INIT))];
        for name in ["waxwing", "waxwing-testbed"] {
            programs.push((built_program(name)?, Path::new(OURS).join(name)));
        }
        for name in PROGRAMS.iter().chain(&self.more_programs) {
            let here = tools::find(name)?;
            // The kernel looks for `modprobe` only in `/sbin`.
            programs.push((here, Path::new("/sbin").join(name)));
        }
        let mut libraries = BTreeSet::new();
        for (here, there) in &programs {
            archive.file(there, &read(here)?)?;
            libraries.extend(libraries_of(here)?);
        }
        for library in libraries {
            archive.file(&library, &read(&library)?)?;
        }
        for (here, there) in kernel.modules()? {
            archive.file(&there, &read(&here)?)?;
        }
        archive.finish()?;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Returns the paths of a program's shared libraries and of its loader, as `ldd` lists them.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = process::run(Command::new("ldd").arg(program))?;
    let words = listed.split_whitespace();
    Ok(words
        .filter(|word| word.starts_with('/'))
        .map(|word| PathBuf::from(word.trim_end_matches(':')))
        .collect())
}
