//! Keeps the services of newly installed packages stopped. Debian starts a package's service when it is
//! installed and at every boot; tests start their own servers in network namespaces.
//!
//! Invariant: services that were installed before, and another's policy-rc.d, are left alone.

use std::path::Path;
use std::process::Command;

use crate::{packages, run};

/// Debian's maintainer scripts ask this program before they start a service (Debian Policy, section 9.3.3).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Refuses every start: 101 is "forbidden by policy".
const REFUSAL: &str =
    "#!/bin/sh\n# Written by `cargo xtask setup`, which removes it at its end.\nexit 101\n";

/// Installs missing packages, and leaves their services stopped and disabled.
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
    // A refusal with our text is left from an interrupted set-up.
    let theirs = std::fs::read_to_string(POLICY).is_ok_and(|text| text != REFUSAL);
    if !theirs {
        let write = format!("printf %s '{REFUSAL}' > {POLICY} && chmod 755 {POLICY}");
        run::command(as_root("sh").args(["-c", &write]))?;
    }
    let installed = install();
    if !theirs {
        run::command(as_root("rm").arg(POLICY))?;
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

/// A command with root's rights, or with sudo; without either, the installation failed before.
fn as_root(program: &str) -> Command {
    if run::is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["--non-interactive", program]);
    sudo
}
