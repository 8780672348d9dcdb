//! Compiles the shipped policies and health checks to Wasm and embeds them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// The policies that a config may name without a folder of modules.
const POLICIES: &[&str] = &[
    "waxwing-policy-client-limit",
    "waxwing-policy-destination-hash",
    "waxwing-policy-dns-name",
    "waxwing-policy-failover",
    "waxwing-policy-least-connections",
    "waxwing-policy-least-latency",
    "waxwing-policy-least-signal",
    "waxwing-policy-maglev",
    "waxwing-policy-never-queue",
    "waxwing-policy-overflow",
    "waxwing-policy-percent-split",
    "waxwing-policy-power-of-two",
    "waxwing-policy-quic-connection-id",
    "waxwing-policy-random",
    "waxwing-policy-rendezvous",
    "waxwing-policy-ring-hash",
    "waxwing-policy-round-robin",
    "waxwing-policy-shortest-expected-delay",
    "waxwing-policy-source-hash",
    "waxwing-policy-sticky-source",
    "waxwing-policy-subnet",
];

/// The health checks that it may name so.
const HEALTH_CHECKS: &[&str] = &[
    "waxwing-health-agent",
    "waxwing-health-dns",
    "waxwing-health-http",
    "waxwing-health-metrics",
    "waxwing-health-mysql",
    "waxwing-health-postgres",
    "waxwing-health-redis",
    "waxwing-health-tcp",
    "waxwing-health-udp",
];

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let workspace = here.ancestors().nth(2).unwrap_or(Path::new("."));
    let manifest = workspace.join("Cargo.toml");
    name_version(&here);
    let lists = [("MODULES", POLICIES), ("HEALTH_CHECKS", HEALTH_CHECKS)];
    if let Err(error) = waxwing_module_build::embed(&manifest, &lists, &out_dir) {
        eprintln!("the shipped modules could not be compiled to Wasm: {error}");
        exit(1);
    }
}

/// Sets `WAXWING_VERSION`: the package's version, and the commit if it is known. `WAXWING_COMMIT` names it
/// where the sources are not in their repository.
fn name_version(here: &Path) {
    println!("cargo::rerun-if-env-changed=WAXWING_COMMIT");
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(here)
            .output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    // Not the repository of a project that has these sources in a folder.
    let is_own = git(&["rev-parse", "--show-prefix"]).is_some_and(|path| path == "runtime/cli/");
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|_| is_own) {
        println!("cargo::rerun-if-changed={}", here.join(log).display());
    }
    let given = env::var("WAXWING_COMMIT").ok();
    let commit = given.or_else(|| git(&["rev-parse", "--short=12", "HEAD"]).filter(|_| is_own));
    let commit = commit.map_or(String::new(), |commit| format!(" ({commit})"));
    println!(
        "cargo::rustc-env=WAXWING_VERSION={}{commit}",
        env!("CARGO_PKG_VERSION")
    );
}
