//! `waxwing run` and `waxwing check`: the adapters attached to the core.
//!
//! Invariant: things end in the order in which they may: the workers first, which give their
//! frames back, then the program on the interfaces, then the process. A worker that panics ends
//! the process in the same order, so that the kernel has its interfaces again.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit};
use waxwing_control::config::{Config, Poll, ZeroCopy};
use waxwing_control::report::PortFacts;
use waxwing_control::run::{Control, Parts, WorkerEnds};
use waxwing_control::status::{PortStatus, QueueStatus};
use waxwing_control::{check, modules};
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::forward::Shared;
use waxwing_dataplane::session::SessionTable;
use waxwing_dataplane::snapshot::NextHops;
use waxwing_dataplane::steering::{Rules, Steering};
use waxwing_dataplane::worker::{Worker, WorkerSetup};
use waxwing_dataplane::{FragmentLimits, FragmentTable, Gauges, Now};
use waxwing_plugin::{CompileLimits, Compiler};
use waxwing_xdp::{
    Attached, Options, PollMode, PortOptions, PortReport, Statistics, WorkerSockets,
};

use crate::shipped;

/// What is logged unless `RUST_LOG` says otherwise. A kernel newer than the netlink library has longer
/// records, which that library warns of, for every interface each time.
const LOG_FILTER: &str = "info,netlink_packet_route=error";

/// A worker goes first: what shares its processor gets about a tenth of it. (Over a thousand module
/// swaps on two busy processors the 99.9th percentile of batch times was 4 times that of a quiet run
/// without, and is 1.4 times with it.)
const WORKER_NICE: i32 = -10;

/// How much a control thread stands back.
const CONTROL_NICE: i32 = 5;

/// The command that the program calls itself with to compile a module.
pub(crate) const COMPILE: &str = "compile-module";

/// What comes with the program.
const SHIPPED: modules::Shipped = modules::Shipped {
    policies: shipped::MODULES,
    checks: shipped::HEALTH_CHECKS,
};

/// Has modules of the folder compiled by this same program, also once its file was replaced.
fn compiler() -> Compiler {
    Compiler::Child {
        program: "/proc/self/exe".into(),
        arguments: vec![COMPILE.to_owned()],
        limits: CompileLimits::default(),
    }
}

/// `waxwing check`.
pub(crate) fn check(path: &Path) -> Result<()> {
    let checked = runtime()?.block_on(check::load(path, SHIPPED, compiler()))?;
    for warning in &checked.warnings {
        println!("{warning}");
    }
    let (services, ports) = (checked.config.services.len(), checked.config.ports.len());
    println!(
        "{}: good ({services} services, {ports} ports)",
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
    let checked = runtime.block_on(check::load(path, SHIPPED, compiler()))?;
    for warning in &checked.warnings {
        tracing::warn!("{warning}");
    }

    let config = &checked.config;
    let (attached, worker_parts) = waxwing_xdp::attach(&ports(config), &options(config))?;
    attached.reports().iter().for_each(log_port);
    let frame_len_max = attached.frame_len_max();
    let attached = Arc::new(Mutex::new(attached));

    let shared = shared(config, worker_parts.len(), frame_len_max)?;
    let counters: Vec<_> = worker_parts
        .iter()
        .map(|_| Arc::new(WorkerCounters::new(config.backends_max)))
        .collect();
    let launch = Launch::new(config, &shared, &counters, started);
    let parts = Parts {
        checked,
        shared,
        counters,
        steering: Box::new(Shelf(Arc::clone(&attached))),
        ports: Box::new(Shelf(Arc::clone(&attached))),
        started,
    };
    let (control, ends) = runtime.block_on(Control::prepare(parts))?;
    let workers = launch.start(worker_parts, ends)?;
    give_way();
    let outcome = runtime.block_on(async {
        let ready = || tracing::info!("serving after {} ms", started.elapsed().as_millis());
        tokio::select! {
            outcome = control.run(ready) => outcome.map_err(Into::into),
            () = workers.any_ended() => bail!("a worker has ended; its panic is above"),
        }
    });
    // A module that is being compiled is not waited for.
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

/// Each health check that runs has a connection, so as many files may be open as the system allows.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(
            "the limit of open files stays at {:?}: {error}",
            limit.current
        );
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .on_thread_start(give_way)
        .enable_all()
        .build()
        .context("cannot start the control threads")
}

/// Lets the workers go first where a thread wants the same processor: compiling, binding and answering
/// can wait for a batch, and a batch not for them.
fn give_way() {
    // What the system does not allow costs latency only.
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

/// What all workers share, for frames of so many bytes.
fn shared(config: &Config, workers: usize, frame_len_max: u32) -> Result<Shared> {
    let sessions_max = u32::try_from(config.sessions_max).unwrap_or(u32::MAX);
    // Each RandomState has keys of its own, drawn by the operating system.
    let seed = || std::array::from_fn(|word| RandomState::new().hash_one(word));
    let sessions = SessionTable::new(sessions_max, seed()).context("the session table")?;
    Ok(Shared {
        sessions: Arc::new(sessions),
        next_hops: Arc::new(NextHops::new(config.backends_max)),
        gauges: Arc::new(Gauges::new(config.backends_max, workers)),
        fragments: Arc::new(FragmentTable::new(fragment_limits(frame_len_max), seed())),
    })
}

/// The default's, with room for longer frames where there are.
fn fragment_limits(frame_len_max: u32) -> FragmentLimits {
    let limits = FragmentLimits::default();
    FragmentLimits {
        held_len_max: limits.held_len_max.max(frame_len_max as usize),
        ..limits
    }
}

fn log_port(report: &PortReport) {
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

/// What starts the workers, one thread each.
struct Launch {
    shared: Shared,
    counters: Vec<Arc<WorkerCounters>>,
    cluster_key: [u64; 4],
    /// The CPU of each worker in turn; none to pin to where it is empty.
    cpus: Vec<usize>,
    started: Instant,
}

impl Launch {
    fn new(
        config: &Config,
        shared: &Shared,
        counters: &[Arc<WorkerCounters>],
        started: Instant,
    ) -> Self {
        let chosen: Vec<usize> = config.workers.cpus.iter().map(|cpu| cpu.value).collect();
        let cpus = match (config.workers.pin, chosen.is_empty()) {
            (false, _) => Vec::new(),
            (true, false) => chosen,
            (true, true) => waxwing_xdp::allowed_cpus().unwrap_or_default(),
        };
        Self {
            shared: shared.clone(),
            counters: counters.to_vec(),
            cluster_key: modules::cluster_seed(config.cluster_key),
            cpus,
            started,
        }
    }

    fn start(self, parts: Vec<WorkerSockets>, ends: Vec<WorkerEnds>) -> Result<Workers> {
        let mut workers = Workers {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let count = parts.len();
        for ((number, parts), ends) in parts.into_iter().enumerate().zip(ends) {
            let WorkerEnds {
                epoch,
                mailbox,
                returned,
            } = ends;
            let setup = WorkerSetup {
                number,
                workers: count,
                shared: self.shared.clone(),
                counters: Arc::clone(&self.counters[number]),
                cluster_key: self.cluster_key,
                mailbox,
                returned,
            };
            let cpu = self.cpus.get(number % self.cpus.len().max(1)).copied();
            let (started, stop) = (self.started, Arc::clone(&workers.stop));
            let work = move || {
                if let Some(cpu) = cpu
                    && let Err(error) = waxwing_xdp::pin_current_thread(cpu)
                {
                    tracing::warn!("worker {number} cannot be pinned to CPU {cpu}: {error}");
                }
                if let Err(error) = rustix::process::setpriority_process(None, WORKER_NICE) {
                    tracing::warn!("worker {number} has no priority over others: {error}");
                }
                waxwing_plugin::prepare_thread();
                let mut worker = Worker::new(parts.into_io(), setup, epoch);
                worker.run(|| Now::from_start(started.elapsed()), &stop);
                let account = worker.into_io().account();
                let verdict = if account.is_balanced() {
                    "all there"
                } else {
                    "NOT ALL THERE"
                };
                tracing::info!(?account, "worker {number} ends, frames: {verdict}");
                account.is_balanced()
            };
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(work)
                .context("cannot start a worker's thread")?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }
}

/// The running workers; dropped, it stops them and waits for their end.
struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<bool>>,
}

impl Workers {
    /// Waits until one has ended, which none does by itself but by a panic.
    async fn any_ended(&self) {
        while !self.threads.iter().any(JoinHandle::is_finished) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    fn join(mut self) -> Result<()> {
        match self.end() {
            true => Ok(()),
            false => bail!("frames were lost, or a worker panicked: a bug in waxwing"),
        }
    }

    fn end(&mut self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        // All of them, whatever the first says.
        let ends: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        ends.into_iter().all(|end| matches!(end, Ok(true)))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end();
    }
}

/// The attached ports, as control asks for them.
struct Shelf(Arc<Mutex<Attached>>);

impl Steering for Shelf {
    fn apply(&mut self, rules: &Rules) -> Result<(), String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .apply(rules)
    }
}

impl PortFacts for Shelf {
    fn ports(&self) -> Vec<PortStatus> {
        let attached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let statistics = attached.statistics();
        let port_status = |(id, report): (u8, &PortReport)| PortStatus {
            interface: report.interface.name.clone(),
            mode: report.attach_mode.label().to_owned(),
            queues: report
                .queues
                .iter()
                .map(|queue| QueueStatus {
                    queue: queue.queue,
                    zero_copy: queue.zero_copy,
                    reason: queue.why.clone(),
                    statistics: statistics
                        .iter()
                        .find(|s| s.port.0 == id && s.queue == queue.queue)
                        .and_then(|s| s.counts)
                        .map_or_else(BTreeMap::new, by_name),
                })
                .collect(),
            ..PortStatus::default()
        };
        (0..).zip(attached.reports()).map(port_status).collect()
    }

    fn mtu_max(&self) -> u32 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .mtu_max()
    }
}

fn by_name(statistics: Statistics) -> BTreeMap<String, u64> {
    let Statistics {
        rx_dropped,
        rx_invalid,
        tx_invalid,
        rx_ring_full,
        fill_ring_empty,
        tx_ring_empty,
    } = statistics;
    [
        ("rx_dropped", rx_dropped),
        ("rx_invalid_descs", rx_invalid),
        ("tx_invalid_descs", tx_invalid),
        ("rx_ring_full", rx_ring_full),
        ("rx_fill_ring_empty_descs", fill_ring_empty),
        ("tx_ring_empty_descs", tx_ring_empty),
    ]
    .into_iter()
    .map(|(name, count)| (name.to_owned(), count))
    .collect()
}
