//! Installs what the virtual machine for zero-copy needs: QEMU, and a Debian kernel that is newer than most
//! hosts' kernels.
//!
//! Invariant: the host's apt sources and kernel do not change. A kernel is unpacked only after apt verified
//! it by Debian's keys, and renamed into place, so that an existing one is complete.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{packages, run, setup};

/// The tested series. Each of its kernels is one package.
const SERIES: &str = "6.18.";

/// The packages that make up one kernel of a newer series.
const SPLIT: [&str; 2] = ["linux-binary-", "linux-modules-"];

/// The suffix of Debian's kernels for virtual machines.
const FLAVOUR: &str = "-cloud-amd64";

/// The source of kernels: virtio has zero-copy since Linux 6.13.
const SOURCE: &str = "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
                      http://deb.debian.org/debian trixie-backports main\n";

/// Installs and fetches what is missing. If that fails, prints why; the tests then show as ignored.
pub(crate) fn prepare() {
    if std::env::consts::ARCH != "x86_64" {
        return;
    }
    if let Err(error) = fetch() {
        println!("   the tests in a virtual machine (`zerocopy`) will be skipped: {error}");
    }
}

fn fetch() -> Result<(), String> {
    setup::debian(packages::MACHINE)?;
    kernel()
}

/// Runs the bench of Waxwing beside the kernel's balancers.
pub(crate) fn bench(arguments: &[&str]) -> Result<(), String> {
    setup::everything()?;
    fetch()?;
    setup::debian(packages::MACHINE_PEERS)?;
    run::step("building the balancer and the bench in release mode");
    run::cargo(&["build", "--release", "--workspace", "--bins"])?;
    let target = run::target();
    let mut call = Command::new(target.join("release/waxwing-peers-bench"));
    call.args(["vm", "--target"]).arg(&target).args(arguments);
    run::step("measuring in a virtual machine");
    run::command(call.current_dir(run::root()))
}

/// Fetches the kernel if it is not there.
fn kernel() -> Result<(), String> {
    let place = run::target().join("vm/kernel");
    if place.is_dir() {
        return Ok(());
    }
    run::step("fetching the kernel of the virtual machine from Debian (some 30 MB, once)");
    // An interrupted run leaves its folder behind.
    let work = run::target().join("vm/fetch");
    remove(&work)?;
    let apt = Apt::new(&work.join("apt"))?;
    apt.run("apt-get", &["update", "--error-on=any"])?;
    let packages = newest(&apt.names()?).ok_or("Debian's archive has no kernel for it")?;
    for package in packages {
        apt.run("apt-get", &["download", &package])?;
    }
    let unpacked = unpack(&apt.directory, &work)?;
    rename(&unpacked, &place)?;
    remove(&work)
}

/// Returns the packages of the newest kernel of [`SERIES`], otherwise of the newest kernel. `names` has one
/// package per line.
fn newest(names: &str) -> Option<Vec<String>> {
    let versions = |prefix: &str| {
        let of = |name: &str| Some(name.strip_prefix(prefix)?.strip_suffix(FLAVOUR)?.to_owned());
        let mut versions: Vec<String> = names.lines().filter_map(of).collect();
        versions.sort_by_key(|version| numbers(version));
        versions
    };
    let image = "linux-image-";
    let mut ours = versions(image);
    ours.retain(|version| version.starts_with(SERIES));
    if let Some(version) = ours.pop() {
        return Some(vec![format!("{image}{version}{FLAVOUR}")]);
    }
    let [binary, modules] = SPLIT;
    let with_modules = versions(modules);
    let mut whole = versions(binary);
    whole.retain(|version| with_modules.contains(version));
    let version = whole.pop()?;
    Some(
        SPLIT
            .map(|prefix| format!("{prefix}{version}{FLAVOUR}"))
            .into(),
    )
}

/// Returns the numbers in a version, in order.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Unpacks all packages of a directory. Returns the directory of the kernel and its modules.
fn unpack(packages: &Path, work: &Path) -> Result<PathBuf, String> {
    let root = work.join("root");
    let files = fs::read_dir(packages).into_iter().flatten().flatten();
    let is_package = |path: &PathBuf| path.extension().is_some_and(|end| end == "deb");
    for package in files.map(|file| file.path()).filter(is_package) {
        let mut dpkg = Command::new("dpkg-deb");
        run::command(dpkg.arg("--extract").arg(package).arg(&root))?;
    }
    let image = only(&root.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    rename(&image, &root.join("vmlinuz"))?;
    // Newer packages put modules below `/usr`.
    let modules = root.join("usr/lib/modules");
    if modules.is_dir() {
        make(&root.join("lib"))?;
        rename(&modules, &root.join("lib/modules"))?;
    }
    remove(&root.join("usr"))?;
    remove(&root.join("boot"))?;
    let release = only(&root.join("lib/modules"), |_| true)?;
    let release = release.file_name().unwrap_or_default();
    // Installing the package would write this index.
    run::command(
        Command::new("/sbin/depmod")
            .arg("--basedir")
            .arg(&root)
            .arg(release),
    )?;
    Ok(root)
}

/// apt with its own sources and state.
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
            // Packages installed on the host do not matter.
            "Dir::State::Status=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            "APT::Architecture=amd64".to_owned(),
            // apt's own user may not write here.
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::http::Timeout=20".to_owned(),
        ];
        Ok(Self {
            directory: directory.to_owned(),
            options: settings.map(|setting| format!("--option={setting}")).into(),
        })
    }

    /// Returns the names of all kernel packages, one per line.
    fn names(&self) -> Result<String, String> {
        let mut arguments: Vec<&str> = self.options.iter().map(String::as_str).collect();
        arguments.extend(["pkgnames", "linux-"]);
        run::output("apt-cache", &arguments).ok_or("`apt-cache pkgnames` failed".to_owned())
    }

    /// Runs one of apt's programs in its directory.
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

/// Returns the only entry of a directory that matches.
fn only(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf, String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found = entries.filter(|entry| wanted(&entry.file_name().to_string_lossy()));
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry.path()),
        _ => Err(format!(
            "{} does not have the layout of a kernel package",
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

/// Removes a directory if it exists.
fn remove(directory: &Path) -> Result<(), String> {
    if !directory.exists() {
        return Ok(());
    }
    fs::remove_dir_all(directory)
        .map_err(|error| format!("cannot remove {}: {error}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_tested_series_is_preferred_to_the_newest_complete_kernel() {
        let ours = "linux-image-6.18.9+deb13-cloud-amd64\n\
                    linux-image-6.18.15+deb13-cloud-amd64\n\
                    linux-image-6.18.15+deb13-amd64\n";
        let newer = "linux-image-7.3.4+deb13-cloud-amd64\n\
                     linux-image-7.3.4+deb13-cloud-amd64-dbg\n\
                     linux-binary-7.3.4+deb13-cloud-amd64\n\
                     linux-binary-7.2.12+deb13-cloud-amd64\n\
                     linux-modules-7.2.12+deb13-cloud-amd64\n\
                     linux-binary-7.2.9+deb13-cloud-amd64\n\
                     linux-modules-7.2.9+deb13-cloud-amd64\n";
        let found = |names: &str| newest(names).unwrap_or_default();
        assert_eq!(
            found(&format!("{newer}{ours}")),
            ["linux-image-6.18.15+deb13-cloud-amd64"]
        );
        assert_eq!(
            found(newer),
            [
                "linux-binary-7.2.12+deb13-cloud-amd64",
                "linux-modules-7.2.12+deb13-cloud-amd64"
            ]
        );
        assert_eq!(newest("linux-base\n"), None);
    }
}
