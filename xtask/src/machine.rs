//! What the virtual machine needs that shows zero-copy: QEMU, and a kernel of Debian's that is newer than
//! most hosts' own.
//!
//! Invariant: the host's sources and kernel stay as they are; a kernel is unpacked only after apt has
//! verified it by Debian's keys, and put in place by one rename, so that one that is there is whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{packages, run, setup};

/// Always names the newest kernel for virtual machines.
const NEWEST: &str = "linux-image-cloud-amd64";

/// Where it comes from: virtio's zero-copy began with Linux 6.13.
const SOURCE: &str = "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
                      http://deb.debian.org/debian trixie-backports main\n";

/// Installs and fetches what is missing. What cannot be had is said, and its tests show as ignored.
pub(crate) fn prepare() {
    if std::env::consts::ARCH != "x86_64" {
        return;
    }
    let outcome = setup::debian(packages::MACHINE).and_then(|()| kernel());
    if let Err(error) = outcome {
        println!("   the tests in a virtual machine (`zerocopy`) will be skipped: {error}");
    }
}

/// Fetches the kernel, once.
fn kernel() -> Result<(), String> {
    let place = run::target().join("vm/kernel");
    if place.is_dir() {
        return Ok(());
    }
    run::step("fetching the kernel of the virtual machine from Debian (some 30 MB, once)");
    // One that was cut off has left its own behind.
    let work = run::target().join("vm/fetch");
    remove(&work)?;
    let apt = Apt::new(&work.join("apt"))?;
    apt.run("apt-get", &["update", "--error-on=any"])?;
    let package = apt.newest()?;
    apt.run("apt-get", &["download", &package])?;
    let unpacked = unpack(&apt.directory, &work)?;
    rename(&unpacked, &place)?;
    remove(&work)
}

/// Unpacks the one package that is in a directory. Returns where the kernel and its modules are.
fn unpack(packages: &Path, work: &Path) -> Result<PathBuf, String> {
    let package = only(packages, |name| name.ends_with(".deb"))?;
    let root = work.join("root");
    let mut dpkg = Command::new("dpkg-deb");
    run::command(dpkg.arg("--extract").arg(&package).arg(&root))?;
    let image = only(&root.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    rename(&image, &root.join("vmlinuz"))?;
    // Newer packages have no `/lib` of their own.
    let modules = root.join("usr/lib/modules");
    if modules.is_dir() {
        make(&root.join("lib"))?;
        rename(&modules, &root.join("lib/modules"))?;
    }
    remove(&root.join("usr"))?;
    remove(&root.join("boot"))?;
    let release = only(&root.join("lib/modules"), |_| true)?;
    let release = release.file_name().unwrap_or_default();
    // The index that a package's installation would have written.
    run::command(
        Command::new("/sbin/depmod")
            .arg("--basedir")
            .arg(&root)
            .arg(release),
    )?;
    Ok(root)
}

/// apt with a source and state of its own.
struct Apt {
    directory: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(directory: &Path) -> Result<Self, String> {
        for name in ["lists/partial", "cache/archives/partial"] {
            make(&directory.join(name))?;
        }
        let sources = directory.join("sources.list");
        fs::write(&sources, SOURCE)
            .map_err(|error| format!("cannot write {}: {error}", sources.display()))?;
        let at = |name: &str| directory.join(name).display().to_string();
        let settings = [
            format!("Dir::Etc::SourceList={}", at("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            // What is installed here says nothing of what is wanted there.
            "Dir::State::Status=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            "APT::Architecture=amd64".to_owned(),
            // The user that apt fetches as may not write here.
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::http::Timeout=20".to_owned(),
        ];
        Ok(Self {
            directory: directory.to_owned(),
            options: settings.map(|setting| format!("--option={setting}")).into(),
        })
    }

    /// The package of the newest kernel.
    fn newest(&self) -> Result<String, String> {
        let mut arguments: Vec<&str> = self.options.iter().map(String::as_str).collect();
        arguments.extend(["depends", NEWEST]);
        let depends = run::output("apt-cache", &arguments).unwrap_or_default();
        depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_owned)
            .ok_or_else(|| format!("Debian's archive names no kernel for {NEWEST}"))
    }

    /// Runs a command of apt's in its directory.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        println!("   {program} {} (Debian backports)", arguments.join(" "));
        let status = Command::new(program)
            .args(&self.options)
            .args(["--quiet", "--quiet"])
            .args(arguments)
            .current_dir(&self.directory)
            .status();
        match status {
            Ok(status) if status.success() => Ok(()),
            _ => Err(format!("`{program} {}` failed", arguments.join(" "))),
        }
    }
}

/// The one entry of a directory whose name is wanted.
fn only(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf, String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found = entries.filter(|entry| wanted(&entry.file_name().to_string_lossy()));
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry.path()),
        _ => Err(format!(
            "{} is not as a kernel's package has it",
            directory.display()
        )),
    }
}

fn make(directory: &Path) -> Result<(), String> {
    fs::create_dir_all(directory)
        .map_err(|error| format!("cannot make {}: {error}", directory.display()))
}

fn rename(from: &Path, to: &Path) -> Result<(), String> {
    fs::rename(from, to).map_err(|error| {
        format!(
            "cannot rename {} to {}: {error}",
            from.display(),
            to.display()
        )
    })
}

/// Removes a directory, where there is one.
fn remove(directory: &Path) -> Result<(), String> {
    if !directory.exists() {
        return Ok(());
    }
    fs::remove_dir_all(directory)
        .map_err(|error| format!("cannot remove {}: {error}", directory.display()))
}
