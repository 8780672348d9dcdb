//! `waxwing run` and `waxwing check`.
//!
//! Invariant: shutdown follows one order, even after a worker's panic: first the workers, which give their
//! frames back, then the XDP program on the interfaces, then the process. The kernel always gets its
//! interfaces back.

use std::hash::{BuildHasher as _, RandomState};
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit};
use waxwing_control::config::{Config, Poll, ZeroCopy};
use waxwing_control::publish::{modules, preflight};
use waxwing_control::run::{Control, ControlSetup};
use waxwing_dataplane::HopTable;
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::path::SharedState;
use waxwing_dataplane::session::SessionTable;
use waxwing_dataplane::{DirectFlows, FragmentLimits, FragmentTable, Gauges};
use waxwing_plugin::{CompileLimits, Compiler};
use waxwing_xdp::{Options, PollMode, PortOptions, PortReport};

use crate::attached::SharedAttached;
use crate::shipped;
use crate::workers::Launch;

/// The log filter unless `RUST_LOG` is set. The netlink library warns of each record of a newer kernel that
/// is longer than it knows, so only its errors are logged.
const LOG_FILTER: &str = "info,netlink_packet_route=error";

/// The scheduling priority of control threads, below the workers'.
const CONTROL_NICE: i32 = 5;

/// The hidden command with which the program runs itself to compile a module.
pub(crate) const COMPILE: &str = "compile-module";

/// The modules built into the program.
const SHIPPED: modules::Shipped = modules::Shipped {
    policies: shipped::MODULES,
    checks: shipped::HEALTH_CHECKS,
};

/// Returns a compiler that runs this program as a child process. `/proc/self/exe` still works after the
/// program's file was replaced.
fn compiler() -> Compiler {
    Compiler::Child {
        program: "/proc/self/exe".into(),
        arguments: vec![COMPILE.to_owned()],
        limits: CompileLimits::default(),
    }
}

/// `waxwing check`.
pub(crate) fn check(path: &Path) -> Result<()> {
    let checked = runtime()?.block_on(preflight::load(path, SHIPPED, compiler()))?;
    for warning in &checked.warnings {
        println!("{warning}");
    }
    let (services, ports) = (checked.config.services.len(), checked.config.ports.len());
    println!(
        "{}: OK ({services} services, {ports} ports)",
        path.display()
    );
    Ok(())
}

/// `waxwing run`.
pub(crate) fn run(path: &Path) -> Result<()> {
    start_log();
    raise_open_files();
    let started = Instant::now();
    let runtime = runtime()?;
    let checked = runtime.block_on(preflight::load(path, SHIPPED, compiler()))?;
    for warning in &checked.warnings {
        tracing::warn!("{warning}");
    }

    let config = &checked.config;
    let (attached, worker_parts) = waxwing_xdp::attach(&ports(config), &options(config))?;
    attached.reports().iter().for_each(log_port);
    let frame_len_max = attached.frame_len_max();
    let attached = SharedAttached::new(attached);

    let shared = shared(config, worker_parts.len(), frame_len_max)?;
    let counters: Vec<_> = worker_parts
        .iter()
        .map(|_| Arc::new(WorkerCounters::new(config.backends_max)))
        .collect();
    let launch = Launch::new(config, &shared, &counters, started);
    let setup = ControlSetup {
        checked,
        shared,
        counters,
        steering: Box::new(attached.clone()),
        ports: Box::new(attached.clone()),
        started,
    };
    let (control, channels) = runtime.block_on(Control::prepare(setup))?;
    let workers = launch.start(worker_parts, channels)?;
    attached.set_workers(workers.gate());
    lower_priority();
    let outcome = runtime.block_on(async {
        let ready = || tracing::info!("serving after {} ms", started.elapsed().as_millis());
        tokio::select! {
            outcome = control.run(ready) => outcome.map_err(Into::into),
            () = workers.any_ended() => bail!("a worker has panicked; see its message above"),
        }
    });
    // Does not wait for a compilation in progress.
    runtime.shutdown_background();
    workers.join().and(outcome)
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOG_FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// Raises the limit of open files to its maximum: each running health check has a connection.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(
            "cannot raise the limit of open files from {:?}: {error}",
            limit.current
        );
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .on_thread_start(lower_priority)
        .enable_all()
        .build()
        .context("cannot start the control thread")
}

/// Lowers the current thread's priority below the workers': compiling and answering requests can wait for
/// a batch, but a batch must not wait for them.
fn lower_priority() {
    // A failure costs only latency.
    let _ = rustix::process::setpriority_process(None, CONTROL_NICE);
}

fn ports(config: &Config) -> Vec<PortOptions> {
    let name = |port: &waxwing_control::config::Port| port.interface.value.to_string();
    config
        .ports
        .iter()
        .map(|port| PortOptions {
            interface: name(port),
        })
        .collect()
}

fn options(config: &Config) -> Options {
    let bound = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Options {
        zero_copy: match config.zero_copy {
            ZeroCopy::Auto => waxwing_xdp::ZeroCopy::Auto,
            ZeroCopy::Require => waxwing_xdp::ZeroCopy::Require,
            ZeroCopy::Off => waxwing_xdp::ZeroCopy::Off,
        },
        poll: match config.poll {
            Poll::Adaptive => PollMode::Adaptive,
            Poll::Busy => PollMode::Busy,
        },
        ring_size: config.rings.size,
        frames_per_queue: config.rings.frames,
        services_max: bound(config.services_max),
        backends_max: bound(config.backends_max),
        ..Options::default()
    }
}

/// Direct connections are few beside those of the services.
const SESSIONS_PER_DIRECT_FLOW: usize = 16;

/// Creates the state that all workers share, for frames of up to `frame_len_max` bytes.
fn shared(config: &Config, workers: usize, frame_len_max: u32) -> Result<SharedState> {
    let sessions_max = u32::try_from(config.sessions_max).unwrap_or(u32::MAX);
    // Each RandomState has its own keys, from the operating system.
    let seed = || std::array::from_fn(|word| RandomState::new().hash_one(word));
    let sessions =
        SessionTable::new(sessions_max, seed()).context("cannot create the session table")?;
    Ok(SharedState {
        sessions: Arc::new(sessions),
        next_hops: Arc::new(HopTable::new(config.backends_max)),
        gauges: Arc::new(Gauges::new(config.backends_max, workers)),
        fragments: Arc::new(FragmentTable::new(fragment_limits(frame_len_max), seed())),
        direct: Arc::new(DirectFlows::new(
            config.sessions_max / SESSIONS_PER_DIRECT_FLOW,
        )),
    })
}

/// Returns the default limits, adapted to frames longer than the default.
fn fragment_limits(frame_len_max: u32) -> FragmentLimits {
    let limits = FragmentLimits::default();
    FragmentLimits {
        held_len_max: limits.held_len_max.max(frame_len_max as usize),
        ..limits
    }
}

pub(crate) fn log_port(report: &PortReport) {
    let mode = report.attach_mode.label();
    let why = report
        .attach_why
        .as_ref()
        .map_or(String::new(), |why| format!(" ({why})"));
    tracing::info!("{}: {mode} XDP{why}", report.interface.name);
    for queue in &report.queues {
        let mode = if queue.zero_copy {
            "zero-copy"
        } else {
            "copy mode"
        };
        let why = queue
            .why
            .as_ref()
            .map_or(String::new(), |why| format!(" ({why})"));
        tracing::info!(
            "{} queue {}: {mode}{why}",
            report.interface.name,
            queue.queue
        );
    }
}
