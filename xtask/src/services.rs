//! Packages bring services, and Debian starts each at its installation and at every boot. Tests start
//! their servers themselves, in namespaces of their own; the host is to run none for them.
//!
//! Invariant: a service that was there before is not touched, and a refusal of services that somebody
//! else has put in place stays.

use std::path::Path;
use std::process::Command;

use crate::{packages, run};

/// Whom Debian's maintainer scripts ask before they start a service (Debian Policy, section 9.3.3).
const ASKED: &str = "/usr/sbin/policy-rc.d";

/// The refusal: 101 is "forbidden by policy".
const REFUSAL: &str =
    "#!/bin/sh\n# Put here by `cargo xtask setup`, for its own time only.\nexit 101\n";

/// Installs packages that were missing, and leaves the services that they bring stopped and
/// disabled.
pub(crate) fn kept_down(
    missing: &[&str],
    install: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let brought: Vec<&str> = packages::SERVICES
        .iter()
        .filter(|(package, _)| missing.contains(package))
        .map(|(_, service)| *service)
        .collect();
    if brought.is_empty() {
        return install();
    }
    // An interrupted set-up leaves a refusal behind; that one is ours as well.
    let theirs = std::fs::read_to_string(ASKED).is_ok_and(|text| text != REFUSAL);
    if !theirs {
        let write = format!("printf %s '{REFUSAL}' > {ASKED} && chmod 755 {ASKED}");
        run::command(as_root("sh").args(["-c", &write]))?;
    }
    let installed = install();
    if !theirs {
        run::command(as_root("rm").arg(ASKED))?;
    }
    installed?;
    if Path::new("/run/systemd/system").is_dir() {
        run::command(
            as_root("systemctl")
                .args(["disable", "--quiet"])
                .args(&brought),
        )?;
    }
    println!("   their services stay stopped: {}", brought.join(" "));
    Ok(())
}

/// Where this process has no right to, the installation has said so before.
fn as_root(program: &str) -> Command {
    if run::is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["--non-interactive", program]);
    sudo
}
