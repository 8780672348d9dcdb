//! `waxwing run` and `waxwing check`.
//!
//! Invariant: rights are given up before the first thread starts. Shutdown follows one order, even after a
//! worker's panic: first the workers, which give their frames back, then the XDP program on the interfaces,
//! then the process. The kernel always gets its interfaces back.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write as _};
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit};
use tokio::runtime::Runtime;
use waxwing_control::admin::metrics_listener::MetricsListener;
use waxwing_control::admin::ports::GivenPorts;
use waxwing_control::config::{Config, Poll, ZeroCopy};
use waxwing_control::publish::modules::{ModuleOptions, Shipped};
use waxwing_control::publish::preflight;
use waxwing_control::restart::KeptState;
use waxwing_control::restart::upgrade::{Predecessor, UpgradeError};
use waxwing_control::run::{Control, ControlSetup, Signals};
use waxwing_dataplane::HopTable;
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::path::SharedState;
use waxwing_dataplane::session::SessionTable;
use waxwing_dataplane::{DirectFlows, FragmentLimits, FragmentTable, Gauges, SourceRates};
use waxwing_plugin::{CodeCache, CompileLimits, CompileService, Compiler};
use waxwing_xdp::{Attached, Options, PollMode, PortOptions, WorkerSockets};

use crate::attached::{SharedAttached, log_port};
use crate::folders::{cache_folder, state_folder};
use crate::kept_ports::Unusable;
use crate::log::Log;
use crate::priority::lower_priority;
use crate::query::print;
use crate::service_manager::{Kept, ServiceManager};
use crate::workers::{Launch, WorkerThreads};
use crate::{calls, kept_ports, privileges, service_manager, shipped, upgrade};

/// The threads for work that blocks: a change of the control loop, a compilation, the sessions of a gateway
/// that moved, and one to spare.
const BLOCKING_THREADS: usize = 4;

/// The hidden command with which the program runs itself to compile modules.
pub(crate) const COMPILE: &str = "compile-modules";

/// How long after a stop the kernel gets no frame of the sessions, unless the next start is faster.
/// Connections that are silent for longer are often given up.
const RESTART_MAX: Duration = Duration::from_secs(10);

/// How long the start waits for modules to be compiled for whose names other builds can serve.
const COMPILE_AT_START_MAX: Duration = Duration::from_secs(2);

/// The modules built into the program.
const SHIPPED: Shipped = Shipped {
    policies: shipped::MODULES,
    checks: shipped::HEALTH_CHECKS,
};

/// Starts this program as the process that compiles modules. `/proc/self/exe` works even if the program's
/// file was replaced meanwhile.
fn compile_service() -> Result<CompileService> {
    let mut program = Command::new("/proc/self/exe");
    program.arg(COMPILE);
    CompileService::start(program).context(
        "cannot start the process that compiles modules; check the limit of processes and threads \
         (`ulimit -u`, systemd: TasksMax=)",
    )
}

fn modules(compiling: CompileService) -> ModuleOptions {
    ModuleOptions {
        shipped: SHIPPED,
        compiler: Compiler::Service(Arc::new(compiling), CompileLimits::default()),
        cache: CodeCache::open(&cache_folder()).map(Arc::new),
        state: None,
        start_within: None,
    }
}

/// `waxwing check`.
pub(crate) fn check(path: &Path) -> Result<()> {
    let modules = modules(compile_service()?);
    let checked = runtime()?.block_on(preflight::load(path, modules))?;
    for warning in &checked.warnings {
        print(&format!("{warning}\n"))?;
    }
    if !checked.refused.is_empty() {
        let texts: Vec<String> = checked.refused.iter().map(ToString::to_string).collect();
        bail!("{}", texts.join("\n\n"));
    }
    let (services, ports) = (checked.config.services.len(), checked.config.ports.len());
    print(&format!(
        "{}: OK ({services} services, {ports} ports)\n",
        path.display()
    ))
}

/// How the balancer starts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// On ports that no one has attached.
    Fresh,
    /// On those of a running balancer.
    Upgrade,
}

/// `waxwing run` and `waxwing upgrade`. Calls `ready` once when traffic flows.
pub(crate) fn run(path: &Path, user: Option<&str>, start: Start, ready: impl FnOnce()) -> ExitCode {
    // First of all: they must be neither a child's nor another's by their numbers.
    let kept = service_manager::kept();
    let (log, compiling, metrics) = match prepare(path, user, start) {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = serve((path, kept), &log, compiling, (metrics, start), ready);
    if let Err(error) = &outcome {
        log.put(&format!("{error:#}\n"));
    }
    log.finish();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Starts the process that compiles, listens for metrics, gives up rights, and starts the log, in this order:
/// the first two need rights, the last starts a thread.
fn prepare(
    path: &Path,
    user: Option<&str>,
    start: Start,
) -> Result<(Log, CompileService, Option<MetricsListener>)> {
    let compiling = compile_service()?;
    // The config's errors are reported when it is checked.
    let reading = Config::read_file(path).ok();
    let listen = reading.and_then(|reading| reading.config().metrics);
    let metrics = match start {
        Start::Fresh => listen.map(MetricsListener::bind).transpose()?,
        // The running process listens there until it ends.
        Start::Upgrade => listen.map(MetricsListener::later),
    };
    privileges::give_up(path, user)?;
    let log = Log::init().context("cannot start the thread of the log")?;
    Ok((log, compiling, metrics))
}

/// Balances until a signal, or until something that the program needs has failed.
fn serve(
    (path, mut kept): (&Path, Vec<Kept>),
    log: &Log,
    compiling: CompileService,
    (mut metrics, start): (Option<MetricsListener>, Start),
    ready: impl FnOnce(),
) -> Result<()> {
    raise_open_files();
    let started = Instant::now();
    let runtime = runtime()?;
    // First of all: a signal that arrives now must not end the process without a trace.
    let mut signals = runtime
        .block_on(async { Signals::install() })
        .context("cannot handle signals")?;
    tracing::info!("waxwing {} starts", crate::VERSION);
    let manager = Arc::new(ServiceManager::from_environment()?);
    let modules = ModuleOptions {
        state: Some(state_folder()),
        start_within: Some(COMPILE_AT_START_MAX),
        ..modules(compiling)
    };
    let parts = Parts {
        modules: &modules,
        metrics: &mut metrics,
        manager: &manager,
        held_before: !kept.is_empty(),
        kept: &mut kept,
    };
    let begun = runtime.block_on(async {
        tokio::select! {
            begun = begin_or_follow(path, log, parts, (start, started)) => begun.map(Some),
            () = signals.end() => Ok(None),
        }
    });
    let Some((control, workers, attached)) = begun? else {
        tracing::info!("ended by a signal before it served");
        // Does not wait for a compilation in progress.
        runtime.shutdown_background();
        return Ok(());
    };
    let outcome = runtime.block_on(async {
        let serving = || {
            attached.release();
            tracing::info!("serving after {} ms", started.elapsed().as_millis());
            manager.serving();
            ready();
        };
        tokio::select! {
            outcome = control.run(signals, serving) => outcome.map_err(anyhow::Error::from),
            () = workers.any_ended() => bail!("a worker has panicked; see its message above"),
            never = manager.watch(|| workers.turns()) => match never {},
        }
    });
    let successor = (outcome.as_ref().ok()).and_then(|stopped| stopped.successor.as_ref());
    match successor {
        Some(successor) => manager.succeeded_by(successor.pid),
        None => {
            manager.stopping();
            // After a worker's panic its ports are not whole.
            if outcome.is_ok()
                && let Err(error) = kept_ports::keep(&attached, &manager)
            {
                tracing::warn!("the service manager does not keep the ports: {error}");
            }
        }
    }
    let ended = workers.join();
    if let Ok(stopped) = &outcome
        && stopped.keep(state_folder())
    {
        attached.hold(RESTART_MAX);
    }
    runtime.shutdown_background();
    ended.and(outcome.map(drop))
}

/// What a start works with.
struct Parts<'a> {
    modules: &'a ModuleOptions,
    metrics: &'a mut Option<MetricsListener>,
    manager: &'a Arc<ServiceManager>,
    /// What the service manager has kept of an earlier process of the service.
    kept: &'a mut Vec<Kept>,
    /// Whether the ports were another process's a moment ago.
    held_before: bool,
}

/// Like [`begin`]. If the process that was to be taken over ends meanwhile, this one starts in its place;
/// likewise if what the service manager has kept cannot be used.
async fn begin_or_follow(
    path: &Path,
    log: &Log,
    mut parts: Parts<'_>,
    (start, started): (Start, Instant),
) -> Result<(Control, WorkerThreads, SharedAttached)> {
    match begin(path, log, &mut parts, (start, started)).await {
        Err(error) if error.is::<Unusable>() || is_broken_off(&error) => {
            tracing::warn!("{error:#}; starts in its place");
            // The kernel may take a moment to detach what the other process had.
            parts.held_before = true;
            begin(path, log, &mut parts, (Start::Fresh, started)).await
        }
        begun => begun,
    }
}

fn is_broken_off(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(UpgradeError::Io(_)))
}

/// Checks the config, attaches to its ports or takes them over, and starts the workers.
async fn begin(
    path: &Path,
    log: &Log,
    parts: &mut Parts<'_>,
    (start, started): (Start, Instant),
) -> Result<(Control, WorkerThreads, SharedAttached)> {
    let manager = parts.manager;
    let checked = preflight::load(path, parts.modules.clone()).await?;
    for warning in &checked.warnings {
        tracing::warn!("{warning}");
    }

    let config = &checked.config;
    let (ports, options) = (ports(config), options(config));
    let (attached, sockets, kept) = attach(start, config, (&ports, &options), parts)?;
    let (workers, frame_len_max) = (attached.workers(), attached.frame_len_max());
    let attached = SharedAttached::new(attached, manager);

    let shared = shared(config, workers, frame_len_max)?;
    let counters: Vec<_> = (0..workers)
        .map(|_| {
            Arc::new(WorkerCounters::new(config.backends_max).with_services(config.services_max))
        })
        .collect();
    let zero = kept
        .as_ref()
        .map_or(started, |kept| kept.clock_zero(started));
    let launch = Launch::new(config, &shared, &counters, zero);
    let reloads = Arc::clone(manager);
    let setup = ControlSetup {
        checked,
        shared,
        counters,
        steering: Box::new(attached.clone()),
        ports: Box::new(attached.clone()),
        log: log.state(),
        on_reload: Box::new(move |step| reloads.reload(step)),
        metrics: parts.metrics.take(),
        started,
        clock_zero: zero,
        kept,
        is_upgrade: start == Start::Upgrade,
    };
    let (mut control, channels) = Control::prepare(setup).await?;
    calls::filter_control()?;
    let workers = launch.start(channels)?;
    attached.set_workers(workers.gate());
    match sockets {
        Sockets::Own(sockets) => workers.gate().open(Some(sockets)),
        Sockets::Kept(given) => {
            control.steer().await?;
            let ports = (&attached, &options);
            let taken = upgrade::take_kept(given, ports, &workers.gate());
            taken.context(Unusable)?;
        }
        Sockets::Of(running) => {
            control.steer().await?;
            let ports = (&attached, &options);
            upgrade::take_over(&running, &control, ports, (&workers.gate(), manager))?;
        }
    }
    lower_priority();
    Ok((control, workers, attached))
}

/// Attaches to the ports, or loads the program to take them over. Returns the state to start with, too.
fn attach(
    start: Start,
    config: &Config,
    (ports, options): (&[PortOptions], &Options),
    parts: &mut Parts<'_>,
) -> Result<(Attached, Sockets, Option<KeptState>)> {
    if start == Start::Upgrade {
        let attached = waxwing_xdp::prepare(ports, options)?;
        let (admin, layout) = (&config.admin.socket.value, attached.layout());
        let (running, kept) = Predecessor::greet(admin, layout, config.sessions_max)?;
        return Ok((attached, Sockets::Of(running), Some(kept)));
    }
    let kept_ports = mem::take(parts.kept);
    let (attached, sockets) = match kept_ports::take(kept_ports, (ports, options), parts.manager)? {
        Some((attached, given)) => (attached, Sockets::Kept(given)),
        None => {
            let (attached, sockets) = kept_ports::attach(parts.held_before, ports, options)?;
            attached.reports().iter().for_each(log_port);
            (attached, Sockets::Own(sockets))
        }
    };
    Ok((attached, sockets, KeptState::read(config, state_folder())))
}

/// Where the workers' sockets come from.
enum Sockets {
    Own(Vec<WorkerSockets>),
    /// With the service manager, since the stop.
    Kept(GivenPorts),
    Of(Predecessor),
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

/// Starts the control threads. None is started later, when the kernel may have no thread left to give.
fn runtime() -> Result<Runtime> {
    let started = without_panic(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_keep_alive(Duration::MAX)
            .thread_name("control")
            .on_thread_start(lower_priority)
            .enable_all()
            .build()?;
        start_blocking_threads(&runtime)?;
        Ok(runtime)
    });
    started.context(
        "cannot start the control threads; check the limit of processes (`ulimit -u`, systemd: TasksMax=)",
    )
}

/// Has the runtime start all threads for blocking work: a task gets a new thread while all are occupied.
fn start_blocking_threads(runtime: &Runtime) -> io::Result<()> {
    let threads = || Ok::<_, io::Error>(std::fs::read_dir("/proc/self/task")?.count());
    let occupied = Arc::new(Mutex::new(()));
    let hold = occupied.lock();
    let expected = threads()? + BLOCKING_THREADS;
    for _ in 0..BLOCKING_THREADS {
        let occupied = Arc::clone(&occupied);
        runtime.spawn_blocking(move || drop(occupied.lock()));
    }
    let found = threads()?;
    drop(hold);
    match found < expected {
        true => Err(io::Error::other(format!(
            "the kernel gave {found} of {expected} threads"
        ))),
        false => Ok(()),
    }
}

/// Turns a panic into an error: tokio panics if the kernel refuses it a thread.
fn without_panic<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let started = panic::catch_unwind(AssertUnwindSafe(start));
    panic::set_hook(hook);
    started.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>();
        Err(io::Error::other(text.cloned().unwrap_or_default()))
    })
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
    sessions.set_sampling(config.sample_sessions);
    let gauges = Gauges::new(config.backends_max, workers).with_services(config.services_max);
    Ok(SharedState {
        sessions: Arc::new(sessions),
        next_hops: Arc::new(HopTable::new(config.backends_max)),
        gauges: Arc::new(gauges),
        fragments: Arc::new(FragmentTable::new(fragment_limits(frame_len_max), seed())),
        direct: Arc::new(DirectFlows::new(
            config.sessions_max / SESSIONS_PER_DIRECT_FLOW,
        )),
        source_rates: Arc::new(SourceRates::new(seed())),
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
