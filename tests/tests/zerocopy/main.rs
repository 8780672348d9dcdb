//! The balancer in zero-copy mode, in a virtual machine whose network cards' driver has it: real
//! servers and clients, as in the end-to-end tests, but frames that are shared with a driver.
//!
//! Invariant: host and guest are this one program and have one table of scenarios; the machine is
//! booted for the first scenario that is run, and all together end within [`LIMIT`].

mod deaths;
mod pings;
mod swaps;
mod traffic;
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

/// All that can be run in the machine, in this order.
const SCENARIOS: &[&[Scenario]] = &[
    traffic::SCENARIOS,
    pings::SCENARIOS,
    swaps::SCENARIOS,
    deaths::SCENARIOS,
    vlans::SCENARIOS,
];

/// The longest that all scenarios together may take.
const LIMIT: Duration = Duration::from_secs(290);

/// The longest that a scenario may take. None is begun where less is left: that the processor is slow
/// is no failure.
const SCENARIO_LIMIT: Duration = Duration::from_secs(100);

/// A small policy in whose picks the backends take turns.
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
    // There is one machine; and it is tied to the thread that starts it.
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
    // Leaving a process drops nothing.
    drop(host);
    conclusion.exit();
}

/// The machine, from its first scenario on.
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

    /// Runs a scenario, where there is the time for it; what booting takes is not its own.
    fn run(&mut self, name: &str) -> Result<Completion> {
        if self.has_time() {
            self.boot()?;
        }
        if !self.has_time() {
            let reason = format!("of {LIMIT:?} for all, less than {SCENARIO_LIMIT:?} are left");
            eprintln!("ignored: {name}: {reason}");
            return Ok(Completion::ignored_with(reason));
        }
        let machine = self.machine.as_mut().context("it was booted")?;
        machine.run(name, SCENARIO_LIMIT, |text| eprintln!("{name}: {text}"))?;
        Ok(Completion::Completed)
    }

    fn has_time(&self) -> bool {
        self.left() >= SCENARIO_LIMIT
    }

    /// Boots the machine, where none runs.
    fn boot(&mut self) -> Result<()> {
        if !self.machine.as_mut().is_some_and(Machine::is_alive) {
            // The one before is gone before its memory is taken again.
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

/// A client, the balancer between two cards, and two servers.
pub(crate) fn topology() -> Result<Topology> {
    Topology::new(Layout {
        servers: 2,
        wires: Wires::Cards,
        ..Layout::default()
    })
}

/// The web service on both families, by the shipped policy; copying is no option.
pub(crate) fn config(topology: &Topology) -> Config {
    let mut config = Config::new(topology)
        .with(Service::v4("web", "tcp", (80, 8080), 2))
        .with(Service::v6("web6", "tcp", (80, 8080), 2));
    config.zero_copy = Some("require");
    config
}

/// The same by [`TURNS`], which saves the seconds that an emulated processor compiles the shipped
/// policy for.
pub(crate) fn config_of_turns(topology: &Topology) -> Result<Config> {
    let config = config(topology);
    fs::create_dir_all(&config.modules)?;
    fs::write(config.modules.join("round_robin.wasm"), TURNS.bytes())?;
    Ok(config)
}

/// Asserts that every socket is in zero-copy mode, by its own option and by what the kernel tells
/// others of it, and that no ring named a frame that is none. Says what the kernel counted.
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
    let told = topology
        .balancer
        .run("ss", &["--xdp", "--all", "--extended", "--no-header"])?;
    let zero_copy = told.matches("zc:1").count();
    ensure!(
        zero_copy > 0 && !told.contains("zc:0"),
        "ss tells otherwise:\n{told}"
    );
    Ok(())
}
