//! What the service may do, read from `/proc` and asked of systemd.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::container::Container;

use crate::walk::UNIT;

/// `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_IPC_LOCK`, `CAP_PERFMON` and `CAP_BPF`, as the kernel prints them.
const KEPT: &str = "000000c000007000";
const NONE: &str = "0000000000000000";

/// The most exposure by `systemd-analyze security`, in tenths; below 2.5 it calls a service OK or better.
const EXPOSURE_MAX: &str = "25";

/// Asserts that no thread of the service has more rights than it uses, and that it sees no more files.
pub(crate) fn assert_least(container: &Container) -> Result<()> {
    let user = container.run(&["id", "--user", "waxwing"])?;
    let main = container.main_process(UNIT)?;
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{main}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        threads += 1;
        for (key, expected) in [
            ("CapEff", KEPT),
            ("CapPrm", KEPT),
            ("CapBnd", KEPT),
            ("CapInh", NONE),
            ("CapAmb", NONE),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("Uid", user.trim()),
        ] {
            let found = value(&status, key)?;
            ensure!(
                found == expected,
                "{key} is {found}, not {expected}:\n{status}"
            );
        }
    }
    ensure!(threads >= 6, "only {threads} threads");
    let compiler = fs::read_to_string(format!("/proc/{main}/task/{main}/children"))?;
    let compiler = compiler.split_whitespace().next();
    let compiler = compiler.context("no process that compiles modules")?;
    let status = fs::read_to_string(format!("/proc/{compiler}/status"))?;
    for key in ["CapEff", "CapPrm", "CapAmb"] {
        ensure!(
            value(&status, key)? == NONE,
            "the compiler has rights:\n{status}"
        );
    }

    let mounts = fs::read_to_string(format!("/proc/{main}/mountinfo"))?;
    let is_writable = |place: &str| {
        // The last mount on a place is the one that is seen.
        let mounts = mounts.lines().rev();
        let mut fields = mounts.map(|line| line.split_whitespace().collect::<Vec<_>>());
        let fields = fields.find(|fields| fields.get(4) == Some(&place));
        fields.is_some_and(|fields| fields[5].split(',').any(|option| option == "rw"))
    };
    ensure!(!is_writable("/"), "the file system is writable:\n{mounts}");
    for place in ["/var/lib/waxwing", "/var/cache/waxwing", "/run/waxwing"] {
        ensure!(is_writable(place), "{place} is not writable:\n{mounts}");
    }
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let analyze = [
        "systemd-analyze",
        "security",
        "--no-pager",
        &threshold,
        UNIT,
    ];
    container.run(&analyze).map(drop)
}

/// The first word behind a key of a `status` in `/proc`.
fn value<'a>(status: &'a str, key: &str) -> Result<&'a str> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next())
        .context(key.to_owned())
}
