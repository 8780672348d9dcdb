//! The balancer in a network, end to end: real programs talk through it, over real interfaces.
//!
//! Invariant: a scenario builds a network of its own and takes it down; they run one after
//! another, each within a bound of time. One that cannot run here shows as ignored, and why.

mod attack;
mod checks;
mod citizenship;
mod consequences;
mod crafted;
mod crowd;
mod failure;
mod figure;
mod forged;
mod gateways;
mod hairpin;
mod health;
mod hostile;
mod icmp;
mod jumbo;
mod modules;
mod pool;
mod recovery;
mod refused;
mod reload;
mod servers;
mod swaps;
mod traffic;
mod transparent;

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use waxwing_tests::netns;

/// The longest that a scenario may take.
const SCENARIO_TIMEOUT: Duration = Duration::from_secs(120);

/// What every scenario needs.
const TOOLS: &[&str] = &["ip", "ethtool", "sysctl", "setpriv", "ss"];

/// Stands among a scenario's programs for what not every kernel has.
pub(crate) const VLAN_DEVICES: &str = "VLAN devices";

/// A scenario, and the programs that it needs beside [`TOOLS`].
pub(crate) struct Scenario {
    name: &'static str,
    tools: &'static [&'static str],
    run: fn() -> Result<()>,
}

/// Names a function's scenario after the function.
macro_rules! scenario {
    ($run:ident $(, $tool:expr)*) => {
        $crate::Scenario {
            name: concat!(module_path!(), "::", stringify!($run)),
            tools: &[$($tool),*],
            run: $run,
        }
    };
}
pub(crate) use scenario;

fn main() {
    let mut arguments = Arguments::from_args();
    // The machine's processors are the network's: two networks at once would starve each other.
    // And children are tied to the thread that starts them; with one, that is the main thread.
    arguments.test_threads = Some(1);
    if !arguments.list
        && let Err(error) = prepare()
    {
        eprintln!("cannot prepare: {error:#}");
    }
    let trials = [
        traffic::SCENARIOS,
        citizenship::SCENARIOS,
        recovery::SCENARIOS,
        gateways::SCENARIOS,
        icmp::SCENARIOS,
        jumbo::SCENARIOS,
        crafted::SCENARIOS,
        forged::SCENARIOS,
        hairpin::SCENARIOS,
        modules::SCENARIOS,
        hostile::SCENARIOS,
        reload::SCENARIOS,
        swaps::SCENARIOS,
        figure::SCENARIOS,
        transparent::SCENARIOS,
        failure::SCENARIOS,
        refused::SCENARIOS,
        servers::SCENARIOS,
        health::SCENARIOS,
        checks::SCENARIOS,
        consequences::SCENARIOS,
        pool::SCENARIOS,
        crowd::SCENARIOS,
    ];
    let trials = trials.into_iter().flatten().map(trial).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn prepare() -> Result<()> {
    if is_root() {
        netns::remove_leftovers()?;
    }
    netns::remove_own_on_signal(|| {})
}

fn trial(scenario: &'static Scenario) -> Trial {
    let name = scenario.name.strip_prefix("e2e::").unwrap_or(scenario.name);
    Trial::ignorable_test(name, move || {
        if let Some(reason) = missing(scenario) {
            eprintln!("ignored: {name}: {reason}");
            return Ok(Completion::ignored_with(reason));
        }
        let _watchdog = Watchdog::new(name);
        (scenario.run)().map_err(|error| Failed::from(format!("{error:#}")))?;
        Ok(Completion::Completed)
    })
}

/// Why a scenario cannot run here.
fn missing(scenario: &Scenario) -> Option<String> {
    if !is_root() {
        return Some("it needs root, to make network namespaces".to_owned());
    }
    if scenario.tools.contains(&VLAN_DEVICES) && !can_make_vlan() {
        return Some("this kernel makes no VLAN devices (CONFIG_VLAN_8021Q)".to_owned());
    }
    let tools = TOOLS.iter().chain(scenario.tools);
    let tools = tools.filter(|tool| **tool != VLAN_DEVICES);
    let missing: Vec<&str> = tools.copied().filter(|tool| !is_installed(tool)).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "not installed: {}; `cargo xtask setup` does it",
            missing.join(", ")
        )
    })
}

/// Whether the kernel makes VLAN devices.
fn can_make_vlan() -> bool {
    let veth = "link add under type veth\nlink add link under name over type vlan id 1\n";
    netns::Namespace::new("vlan").is_ok_and(|namespace| namespace.ip(veth).is_ok())
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| Path::new(&directory).join(tool).is_file())
}

/// Ends the whole run where a scenario hangs: after it nothing could be trusted.
struct Watchdog(#[expect(dead_code, reason = "dropping it is the message")] mpsc::Sender<()>);

impl Watchdog {
    fn new(name: &str) -> Self {
        let (sender, receiver) = mpsc::channel();
        let name = name.to_owned();
        thread::spawn(move || {
            if receiver.recv_timeout(SCENARIO_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{name} did not end within {SCENARIO_TIMEOUT:?}; giving up");
                netns::remove_own();
                std::process::exit(1);
            }
        });
        Self(sender)
    }
}
