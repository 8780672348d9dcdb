//! Tests the balancer in zero-copy mode, with real servers and clients, in a virtual machine whose driver
//! supports it.
//!
//! Invariant: host and guest are this program, with one table of scenarios. The machine boots once, for the
//! first scenario, and all scenarios end within [`LIMIT`].

mod deaths;
mod pings;
mod swaps;
mod traffic;
mod upgrades;
mod vlans;

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use waxwing_tests::topology::Wires;
use waxwing_tests::vm::guest::{self, Report, Scenario};
use waxwing_tests::vm::{self, Image, Kernel, Machine};
use waxwing_tests::wat::Wat;
use waxwing_tests::{Config, Layout, Service, Topology, Waxwing, netns};

/// All scenarios, in the order in which they run.
const SCENARIOS: &[&[Scenario]] = &[
    traffic::SCENARIOS,
    pings::SCENARIOS,
    swaps::SCENARIOS,
    upgrades::SCENARIOS,
    deaths::SCENARIOS,
    vlans::SCENARIOS,
];

/// The longest time for all scenarios together.
const LIMIT: Duration = Duration::from_secs(290);

/// The longest time for a scenario. None starts with less time left: a slow processor is not a failure.
const SCENARIO_LIMIT: Duration = Duration::from_secs(100);

/// A small round-robin policy.
const TURNS: Wat = Wat {
    more: "(global $turn (mut i32) (i32.const 0))",
    pick: "
      (local $i i32)
      (block $done (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get 1)))
        (global.set $turn (i32.add (global.get $turn) (i32.const 1)))
        (i32.store
          (i32.add (i32.const 0x4000) (i32.shl (local.get $i) (i32.const 2)))
          (i32.rem_u (global.get $turn) (i32.load offset=0x1020 (i32.const 0))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
      (local.get 1)",
    ..Wat::GOOD
};

/// Names a scenario after its function.
macro_rules! scenario {
    ($run:ident) => {
        waxwing_tests::vm::guest::Scenario {
            name: concat!(module_path!(), "::", stringify!($run)),
            run: $run,
        }
    };
}
pub(crate) use scenario;

fn main() {
    let scenarios: Vec<Scenario> = SCENARIOS.concat();
    if guest::is_guest() {
        guest::serve(&scenarios);
    }
    let mut arguments = Arguments::from_args();
    // All scenarios share one machine, which ends with the thread that started it.
    arguments.test_threads = Some(1);
    if !arguments.list
        && let Err(error) = netns::remove_own_on_signal(|| {})
    {
        eprintln!("cannot prepare: {error:#}");
    }
    let host = Arc::new(Mutex::new(Host::new()));
    let trial = |scenario: &Scenario| {
        let (name, host) = (scenario.name, Arc::clone(&host));
        Trial::ignorable_test(name, move || {
            if let Some(reason) = vm::missing() {
                eprintln!("ignored: {name}: {reason}");
                return Ok(Completion::ignored_with(reason));
            }
            let mut host = host.lock().unwrap_or_else(PoisonError::into_inner);
            host.run(name)
                .map_err(|error| Failed::from(format!("{error:#}")))
        })
    };
    let conclusion = libtest_mimic::run(&arguments, scenarios.iter().map(trial).collect());
    // `exit` runs no destructors.
    drop(host);
    conclusion.exit();
}

/// The machine, booted for the first scenario.
struct Host {
    machine: Option<Machine>,
    deadline: Instant,
}

impl Host {
    fn new() -> Self {
        Self {
            machine: None,
            deadline: Instant::now() + LIMIT,
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Runs a scenario if there is time left. Booting does not count as its time.
    fn run(&mut self, name: &str) -> Result<Completion> {
        if self.has_time() {
            self.boot()?;
        }
        if !self.has_time() {
            let reason =
                format!("less than {SCENARIO_LIMIT:?} of {LIMIT:?} for all scenarios is left");
            eprintln!("ignored: {name}: {reason}");
            return Ok(Completion::ignored_with(reason));
        }
        let machine = self.machine.as_mut().context("the machine is not booted")?;
        machine.run(name, SCENARIO_LIMIT, |text| eprintln!("{name}: {text}"))?;
        Ok(Completion::Completed)
    }

    fn has_time(&self) -> bool {
        self.left() >= SCENARIO_LIMIT
    }

    /// Boots the machine unless it is running.
    fn boot(&mut self) -> Result<()> {
        if !self.machine.as_mut().is_some_and(Machine::is_alive) {
            // Free the memory of the previous machine first.
            self.machine = None;
            self.machine = Some(boot(self.left())?);
        }
        Ok(())
    }
}

fn boot(limit: Duration) -> Result<Machine> {
    let kernel = Kernel::find()?;
    Machine::boot(&kernel, &Image::default(), limit, |text| {
        eprintln!("machine: {text}");
    })
}

/// Returns a topology on the machine's cards, with two servers.
pub(crate) fn topology() -> Result<Topology> {
    Topology::new(Layout {
        servers: 2,
        wires: Wires::Cards,
        ..Layout::default()
    })
}

/// Returns the web service on both families, with the shipped policy; zero-copy is required.
pub(crate) fn config(topology: &Topology) -> Config {
    let mut config = Config::new(topology)
        .with(Service::v4("web", "tcp", (80, 8080), 2))
        .with(Service::v6("web6", "tcp", (80, 8080), 2));
    config.zero_copy = Some("require");
    config
}

/// Returns the web service with the policy [`TURNS`], because an emulated processor needs seconds to compile
/// the shipped one.
pub(crate) fn config_of_turns(topology: &Topology) -> Result<Config> {
    let config = config(topology);
    fs::create_dir_all(&config.modules)?;
    fs::write(config.modules.join("round_robin.wasm"), TURNS.bytes())?;
    Ok(config)
}

/// Asserts that every socket is in zero-copy mode, by its own option and by `ss`, and that no ring had an
/// invalid descriptor. Prints the kernel's counters.
pub(crate) fn assert_zero_copy(
    topology: &Topology,
    waxwing: &Waxwing<'_>,
    report: &Report,
) -> Result<()> {
    let sockets = waxwing.status()?.sockets();
    ensure!(sockets.len() == 2, "not two sockets: {sockets:?}");
    for socket in &sockets {
        ensure!(
            socket.zero_copy,
            "{} is in copy mode by its own option",
            socket.interface
        );
        for name in ["rx_invalid_descs", "tx_invalid_descs"] {
            let count = socket.statistics.get(name);
            ensure!(
                count == Some(&0),
                "{}: {name} is {count:?}",
                socket.interface
            );
        }
        report.say(format!("{}: {:?}", socket.interface, socket.statistics));
    }
    let sockets = topology
        .balancer
        .run("ss", &["--xdp", "--all", "--extended", "--no-header"])?;
    let zero_copy = sockets.matches("zc:1").count();
    ensure!(
        zero_copy > 0 && !sockets.contains("zc:0"),
        "ss reports copy mode:\n{sockets}"
    );
    Ok(())
}
