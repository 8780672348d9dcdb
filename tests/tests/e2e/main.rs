//! The balancer end to end: real clients and servers in network namespaces.
//!
//! Invariant: each scenario builds its own network and removes it, within [`SCENARIO_TIMEOUT`]. Scenarios
//! that mostly wait run in parallel, those under load two at a time ([`Scenario::heavy`]); a scenario that
//! measures time runs alone ([`Scenario::alone`]).
//! A scenario that cannot run on this machine is reported as ignored, with the reason.

mod adoption;
mod api;
mod attack;
mod availability;
mod balance;
mod capture;
mod checks;
mod consequences;
mod crafted;
mod crowd;
mod direct;
mod failure;
mod figure;
mod floods;
mod forged;
mod gateways;
mod hairpin;
mod health;
mod host;
mod hostile;
mod icmp;
mod incidents;
mod jumbo;
mod metrics;
mod modules;
mod page;
mod pool;
mod process;
mod recovery;
mod refused;
mod reload;
mod removal;
mod restart;
mod rights;
mod servers;
mod service_manager;
mod start;
mod states;
mod steer;
mod swaps;
mod traffic;
mod transfers;
mod transparent;
mod unserved;
mod upgrade;
mod versions;
mod vip_responder;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use waxwing_tests::netns;
use waxwing_tests::pids_limit::PidsLimit;
use waxwing_tests::tools;

/// Longest run time of a scenario.
const SCENARIO_TIMEOUT: Duration = Duration::from_secs(180);

/// Modules that scenarios copy to the module folder. They are compiled before the first scenario starts.
const MODULES: &[&str] = &[
    "favourite",
    "queue-check",
    "waxwing-policy-maglev",
    "waxwing-policy-round-robin",
];

/// Places for scenarios that run in parallel. Each mostly waits, and uses less than half a processor on
/// average.
const PLACES: usize = 4;

/// Number of slow scenarios listed at the end.
const SLOWEST: usize = 15;

/// Programs that every scenario needs.
const TOOLS: &[&str] = &["ip", "ethtool", "setpriv", "ss"];

/// A pseudo-program in a scenario's tools: the scenario needs a control group that limits processes.
pub(crate) const PIDS_CONTROLLER: &str = "pids controller";

/// A pseudo-program in a scenario's tools: the scenario needs VLAN devices, which some kernels lack.
pub(crate) const VLAN_DEVICES: &str = "VLAN devices";

/// A scenario, and the programs that it needs in addition to [`TOOLS`].
pub(crate) struct Scenario {
    name: &'static str,
    tools: &'static [&'static str],
    run: fn() -> Result<()>,
    /// Of [`PLACES`], those that it takes.
    places: usize,
}

impl Scenario {
    /// Marks a scenario under load: only one other such scenario runs at the same time.
    pub(crate) const fn heavy(self) -> Self {
        Self {
            places: PLACES / 2,
            ..self
        }
    }

    /// Marks a scenario that measures time: no other scenario runs at the same time.
    pub(crate) const fn alone(self) -> Self {
        Self {
            places: PLACES,
            ..self
        }
    }
}

/// Makes a [`Scenario`] from a function, named after the function.
macro_rules! scenario {
    ($run:ident $(, $tool:expr)*) => {
        $crate::Scenario {
            name: concat!(module_path!(), "::", stringify!($run)),
            tools: &[$($tool),*],
            run: $run,
            places: 1,
        }
    };
}
pub(crate) use scenario;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(PLACES);
    if !arguments.list
        && let Err(error) = prepare()
    {
        eprintln!("cannot prepare: {error:#}");
    }
    let trials = [
        traffic::SCENARIOS,
        transfers::SCENARIOS,
        adoption::SCENARIOS,
        balance::SCENARIOS,
        versions::SCENARIOS,
        vip_responder::SCENARIOS,
        recovery::SCENARIOS,
        host::SCENARIOS,
        gateways::SCENARIOS,
        icmp::SCENARIOS,
        unserved::SCENARIOS,
        jumbo::SCENARIOS,
        crafted::SCENARIOS,
        forged::SCENARIOS,
        floods::SCENARIOS,
        hairpin::SCENARIOS,
        direct::SCENARIOS,
        modules::SCENARIOS,
        hostile::SCENARIOS,
        reload::SCENARIOS,
        removal::SCENARIOS,
        restart::SCENARIOS,
        upgrade::SCENARIOS,
        start::SCENARIOS,
        states::SCENARIOS,
        swaps::SCENARIOS,
        figure::SCENARIOS,
        transparent::SCENARIOS,
        failure::SCENARIOS,
        refused::SCENARIOS,
        servers::SCENARIOS,
        health::SCENARIOS,
        checks::SCENARIOS,
        consequences::SCENARIOS,
        availability::SCENARIOS,
        steer::SCENARIOS,
        api::SCENARIOS,
        page::SCENARIOS,
        capture::SCENARIOS,
        incidents::SCENARIOS,
        metrics::SCENARIOS,
        pool::SCENARIOS,
        process::SCENARIOS,
        rights::SCENARIOS,
        service_manager::SCENARIOS,
        crowd::SCENARIOS,
    ];
    let mut scenarios: Vec<&Scenario> = trials.into_iter().flatten().collect();
    // Scenarios that run alone come last, because each waits until all others have ended.
    scenarios.sort_by_key(|scenario| scenario.places);
    let trials = scenarios.into_iter().map(trial).collect();
    let begun = Instant::now();
    let conclusion = libtest_mimic::run(&arguments, trials);
    print_times(begun.elapsed());
    conclusion.exit();
}

/// Run time of each scenario.
static TIMES: Mutex<Vec<(&str, Duration)>> = Mutex::new(Vec::new());

/// Prints the slowest scenarios, and the time saved by running in parallel.
fn print_times(elapsed: Duration) {
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    times.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    let sum: Duration = times.iter().map(|(_, time)| *time).sum();
    println!(
        "{} scenarios took {:.0} s in sum, {:.0} s in parallel; the slowest:",
        times.len(),
        sum.as_secs_f64(),
        elapsed.as_secs_f64()
    );
    for (name, time) in times.iter().take(SLOWEST) {
        println!("{:7.1} s  {name}", time.as_secs_f64());
    }
}

fn prepare() -> Result<()> {
    netns::remove_own_on_signal(|| {})?;
    if is_root() {
        netns::remove_leftovers()?;
        waxwing_tests::modules::compile_all(MODULES)?;
    }
    Ok(())
}

fn trial(scenario: &'static Scenario) -> Trial {
    let name = scenario.name.strip_prefix("e2e::").unwrap_or(scenario.name);
    Trial::ignorable_test(name, move || {
        if let Some(reason) = missing(scenario) {
            eprintln!("ignored: {name}: {reason}");
            return Ok(Completion::ignored_with(reason));
        }
        let outcome = {
            let _places = Places::take(scenario.places);
            run(scenario, name)
        };
        outcome.map_err(|error| Failed::from(format!("{error:#}")))?;
        Ok(Completion::Completed)
    })
}

/// The machine's places that a scenario occupies, until it is dropped.
struct Places(usize);

static FREE_PLACES: Mutex<usize> = Mutex::new(PLACES);
static PLACES_FREED: Condvar = Condvar::new();

impl Places {
    /// Waits until so many places are free.
    fn take(places: usize) -> Self {
        let free = FREE_PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        let free = PLACES_FREED.wait_while(free, |free| *free < places);
        *free.unwrap_or_else(PoisonError::into_inner) -= places;
        Self(places)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        *FREE_PLACES.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        PLACES_FREED.notify_all();
    }
}

fn run(scenario: &Scenario, name: &'static str) -> Result<()> {
    let begun = Instant::now();
    let _watchdog = Watchdog::new(name);
    let outcome = (scenario.run)();
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    times.push((name, begun.elapsed()));
    outcome
}

/// Returns why a scenario cannot run on this machine, or `None` if it can.
fn missing(scenario: &Scenario) -> Option<String> {
    if !is_root() {
        return Some("needs root to create network namespaces".to_owned());
    }
    if scenario.tools.contains(&VLAN_DEVICES) && !can_make_vlan() {
        return Some("this kernel has no VLAN devices (CONFIG_VLAN_8021Q)".to_owned());
    }
    if scenario.tools.contains(&PIDS_CONTROLLER) && PidsLimit::new("probe").is_err() {
        return Some("no control group for a limit of processes can be made here".to_owned());
    }
    let tools = TOOLS.iter().chain(scenario.tools);
    let tools = tools.filter(|tool| ![VLAN_DEVICES, PIDS_CONTROLLER].contains(*tool));
    let missing: Vec<&str> = tools
        .copied()
        .filter(|tool| tools::find(tool).is_err())
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "not installed: {}; `cargo xtask setup` installs it",
            missing.join(", ")
        )
    })
}

/// Returns whether the kernel has VLAN devices.
fn can_make_vlan() -> bool {
    let veth = "link add under type veth\nlink add link under name over type vlan id 1\n";
    netns::Namespace::new("vlan").is_ok_and(|namespace| namespace.ip(veth).is_ok())
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Ends the whole run if a scenario hangs, because later results would be unreliable.
struct Watchdog(
    #[expect(dead_code, reason = "dropping the sender stops the watchdog")] mpsc::Sender<()>,
);

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
