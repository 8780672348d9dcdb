//! Makes what the test of the package needs: an archive of a small system like this host's, and the package.

use std::fs;
use std::path::Path;

use crate::{package, packages, run, setup};

/// Beside the essential packages: systemd as the first process, and what the balancer is linked against.
const INSIDE: &str = "--include=systemd,systemd-sysv,libelf1";

/// Installs and makes what is missing, and packs the program that was built for the tests. If that fails,
/// prints why; the test then shows as ignored.
pub(crate) fn prepare() -> Result<(), String> {
    if let Err(error) = setup::debian(packages::CONTAINER).and_then(|()| system()) {
        println!("   the test of the package will be skipped: {error}");
        return Ok(());
    }
    package::build(&run::built("waxwing")?, package::Speed::Fast).map(drop)
}

/// Makes the archive if it is not there.
fn system() -> Result<(), String> {
    let archive = run::target().join("container/root.tar");
    if archive.is_file() {
        return Ok(());
    }
    let (suite, mirror) = distribution()?;
    run::step("fetching a small system for the test of the package (some 80 MB, once)");
    // An interrupted run leaves its folder behind.
    let work = run::target().join("container/fetch");
    let unfinished = archive.with_extension("part");
    remove(&work)?;
    fs::create_dir_all(&work)
        .map_err(|error| format!("cannot make {}: {error}", work.display()))?;
    let root = work.join("root").display().to_string();
    let fetch = ["--variant=minbase", INSIDE, &suite, &root, mirror];
    run::as_root(Path::new("debootstrap"), &fetch)?;
    let packed = unfinished.display().to_string();
    let pack = [
        "--create",
        "--numeric-owner",
        "--exclude=./var/cache/apt/archives/*.deb",
    ];
    let pack = [&pack[..], &["--file", &packed, "--directory", &root, "."]].concat();
    run::as_root(Path::new("tar"), &pack)?;
    remove(&work)?;
    fs::rename(&unfinished, &archive).map_err(|error| format!("{}: {error}", archive.display()))
}

/// Removes a folder that root has written, if it exists.
fn remove(folder: &Path) -> Result<(), String> {
    let folder = folder.display().to_string();
    run::as_root(Path::new("rm"), &["--recursive", "--force", &folder])
}

/// Returns this host's release and where its packages come from: the balancer is linked against them.
fn distribution() -> Result<(String, &'static str), String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let suite = value("VERSION_CODENAME=").ok_or("this system's release has no name")?;
    match value("ID=").as_deref() {
        Some("debian") => Ok((suite, "http://deb.debian.org/debian")),
        Some("ubuntu") => Ok((suite, "http://archive.ubuntu.com/ubuntu")),
        _ => Err("this is neither Debian nor Ubuntu".to_owned()),
    }
}
