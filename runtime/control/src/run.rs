//! The control side's loop, and how the program starts it.
//!
//! Invariant: changes come one after the other. Signals, the admin socket, the module folder and
//! timers all end up in this one loop, so no two of them ever change anything at once.
//!
//! The program's way:
//! 1. [`check::load`](crate::check::load) the config;
//! 2. attach to the ports, make what all workers share;
//! 3. [`Control::prepare`]: gives each worker its first epoch and its mailbox;
//! 4. start the workers;
//! 5. [`Control::run`], until a signal ends it; then stop the workers and detach.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::epoch::Release;
use waxwing_dataplane::forward::Shared;
use waxwing_dataplane::snapshot::Port;
use waxwing_dataplane::steering::{Rules, Steering};
use waxwing_dataplane::{Epoch, PortId};
use waxwing_plugin::{FaultReport, HostEvent};

use crate::admin::{AdminError, AdminSocket, Request};
use crate::bridge;
use crate::catalog::{Catalog, CatalogError};
use crate::check::Checked;
use crate::config::Config;
use crate::controller::{Controller, Draft, WorkerLink};
use crate::facts::HostFacts;
use crate::failover::followed_by;
use crate::health::{BoundChecks, Fault, Health};
use crate::kernel::Kernel;
use crate::modules::{self, Builds, Wanted};
use crate::neighbours::{PortLink, Resolver};
use crate::rates;
use crate::report::{PortFacts, Reporter, View};
use crate::vlans::with_vlans;

/// How often late acknowledgements, steering rules and states are looked at.
const TICK: Duration = Duration::from_secs(1);

/// How often removed backends are looked at.
const RETIRED_EVERY: Duration = Duration::from_secs(10);

/// Requests that wait for their turn.
const REQUESTS_WAITING: usize = 16;

/// How long results of checks are gathered before they make a change: one that comes with others
/// costs no more than alone.
const HEALTH_GATHERED: Duration = Duration::from_millis(10);

/// The least time from one such change to the next.
const HEALTH_APART: Duration = Duration::from_millis(50);

/// What the program hands over.
pub struct Parts {
    /// The checked config, its warnings logged.
    pub checked: Checked,
    /// What all workers share, with room for the config's `backends_max`.
    pub shared: Shared,
    /// The counters of each worker.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Sets the rules of the attached ports.
    pub steering: Box<dyn Steering>,
    /// How the ports are attached, for `status`.
    pub ports: Box<dyn PortFacts>,
    /// Zero of the workers' clock.
    pub started: Instant,
}

/// A worker's ends: what it starts with, and how it is told of changes.
pub struct WorkerEnds {
    /// The first epoch, released already.
    pub epoch: Epoch,
    /// Later epochs come here.
    pub mailbox: Receiver<Epoch>,
    /// Old ones go back here.
    pub returned: Sender<Epoch>,
}

/// Why the control side did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The admin socket.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The kernel's network tables, or signals.
    #[error("cannot watch the kernel's network tables or signals: {0}")]
    System(#[from] io::Error),
    /// An interface went away since it was checked.
    #[error("interface {0} is gone")]
    PortGone(String),
    /// No ids left.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A module cannot serve any more since it was checked.
    #[error(transparent)]
    Module(#[from] waxwing_plugin::ModuleError),
    /// The steering rules could not be set.
    #[error("steering: {0}")]
    Steering(String),
}

/// The control side, ready to run.
pub struct Control {
    controller: Controller,
    events: mpsc::UnboundedReceiver<HostEvent>,
    facts: watch::Receiver<Arc<HostFacts>>,
    socket: AdminSocket,
}

impl Control {
    /// Makes everything that may fail, and each worker's first epoch, in the order of
    /// [`Parts::counters`].
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn prepare(parts: Parts) -> Result<(Self, Vec<WorkerEnds>), StartError> {
        let Parts {
            checked,
            shared,
            counters,
            steering,
            ports: port_facts,
            started,
        } = parts;
        let socket = AdminSocket::bind(&checked.config.admin.socket.value).await?;
        let config = Arc::new(checked.config);
        let kernel = Kernel::connect()?;
        let (attached, links) = ports(&config, &HostFacts::read(&kernel).await?)?;
        let next_hops = Arc::clone(&shared.next_hops);
        let resolver =
            Resolver::start(links.clone(), next_hops, followed_by(&shared.sessions)).await?;
        resolver.follow(config.return_plan());
        let resolver = Arc::new(resolver);
        let ports = with_vlans(&attached, &[], &resolver.facts().borrow());

        let mut catalog = Catalog::new(config.services_max, config.backends_max);
        let health = Arc::new(Health::new());
        health.adopt(&config);
        let effects = health.effects(&config);
        let snapshot = catalog.apply(&config, &ports, &shared.gauges, &effects)?;
        let seed = RandomState::new().build_hasher().finish();
        let host = checked.modules.host;
        let check_host = checked.modules.checks;
        let wanted = Wanted {
            workers: counters.len(),
            seed,
            before: Vec::new(),
            builds: Builds::Newest,
        };
        let draft = Draft::make(&host, &config, (snapshot, effects), wanted).await?;
        let (snapshot, modules) = (Arc::clone(&draft.snapshot), draft.in_use());
        modules::tell(&host, &modules);
        let effects = draft.effects.clone();
        let (workers, ends) = mailboxes(draft, counters.len());
        let view = View {
            config: Arc::clone(&config),
            loaded_at: SystemTime::now(),
            snapshot: Arc::clone(&snapshot),
            modules: modules.clone(),
            last_reload: None,
            problems: Vec::new(),
        };
        let facts = resolver.facts();
        let reporter = Arc::new(Reporter {
            started,
            view: Mutex::new(Arc::new(view)),
            sessions: Arc::clone(&shared.sessions),
            gauges: Arc::clone(&shared.gauges),
            counters,
            ports: port_facts,
            facts: facts.clone(),
            resolver: Arc::clone(&resolver),
            host: Arc::clone(&host),
            check_host: Arc::clone(&check_host),
            health: Arc::clone(&health),
            earlier: Mutex::default(),
        });
        let controller = Controller {
            config,
            loaded_at: SystemTime::now(),
            catalog,
            attached,
            ports,
            links,
            shared,
            kernel,
            resolver,
            host,
            seed,
            snapshot,
            modules,
            check_host,
            checks: BoundChecks::default(),
            jobs: watch::Sender::default(),
            health,
            effects,
            faulted: BTreeSet::new(),
            workers,
            sent_at: started,
            steering,
            in_effect: Rules::default(),
            steering_problem: None,
            worker_problem: None,
            modules_due: false,
            last_reload: None,
            reporter,
        };
        Ok((
            Self {
                controller,
                events: checked.modules.events,
                facts,
                socket,
            },
            ends,
        ))
    }

    /// Brings traffic to the workers, which have started, and then makes changes as they are asked
    /// for: until SIGTERM or SIGINT. `ready` is called once when traffic flows.
    ///
    /// # Errors
    /// The steering rules could not be set at the start; nothing that comes later ends it.
    pub async fn run(self, ready: impl FnOnce()) -> Result<(), StartError> {
        let Self {
            mut controller,
            events,
            facts,
            socket,
        } = self;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        let (ask, requests) = mpsc::channel::<Request>(REQUESTS_WAITING);

        let snapshot = Arc::clone(&controller.snapshot);
        controller.resolve(&snapshot).await;
        controller
            .steer_replies(&snapshot)
            .map_err(StartError::Steering)?;
        controller.steer();
        if let Some(why) = controller.steering_problem.take() {
            return Err(StartError::Steering(why));
        }
        controller.show();
        let admin = tokio::spawn(socket.serve(Arc::clone(&controller.reporter), ask));
        // From here on: the first results may come before anybody waits for them.
        let health = controller.health.watch();
        let faults = controller.start_checks().await?;
        ready();

        let asked = Asked {
            events,
            facts,
            requests,
            hangup,
            faults,
            health,
        };
        let rates = rates::keep(Arc::clone(&controller.reporter));
        // A change that is being made when a signal comes is given up between two of its steps.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = make_changes(&mut controller, asked) => {}
            _ = rates => {}
        }
        tracing::info!("ending on a signal");
        admin.abort();
        // Its end removes the socket.
        let _ = admin.await;
        Ok(())
    }
}

/// What asks for changes.
struct Asked {
    events: mpsc::UnboundedReceiver<HostEvent>,
    facts: watch::Receiver<Arc<HostFacts>>,
    requests: mpsc::Receiver<Request>,
    hangup: Signal,
    faults: mpsc::Receiver<Fault>,
    health: watch::Receiver<()>,
}

/// Makes changes, one after the other, for ever.
async fn make_changes(controller: &mut Controller, asked: Asked) -> Infallible {
    let Asked {
        mut events,
        mut facts,
        mut requests,
        mut hangup,
        mut faults,
        mut health,
    } = asked;
    let mut tick = interval(TICK);
    let mut retired = interval(RETIRED_EVERY);
    let mut compiling: JoinSet<BTreeSet<String>> = JoinSet::new();
    let mut health_due = None;
    let mut not_before = Instant::now();
    let mut checks_run = true;
    loop {
        tokio::select! {
            // In this order: a canary that has failed is not promoted because its time is up as well.
            // What may be asked for all the time comes last.
            biased;
            Some(event) = events.recv() => {
                let names = take_events(controller, event, &mut events).await;
                if !names.is_empty() {
                    compiling.spawn_blocking(controller.compile(names));
                }
            }
            // What came of it is in the log and in `status`.
            _ = hangup.recv() => drop(controller.reload().await),
            Some(request) = requests.recv() => answer(controller, request).await,
            () = sleep_until(controller.canary_ends()) => controller.canary_ended().await,
            Ok(()) = facts.changed() => controller.network_changed().await,
            _ = tick.tick() => controller.tick().await,
            _ = retired.tick() => controller.drop_retired().await,
            Some(Ok(names)) = compiling.join_next() => {
                controller.modules_changed(&names).await;
                controller.show();
            }
            () = sleep_until(health_due) => {
                controller.health_changed().await;
                health_due = None;
                not_before = Instant::now() + HEALTH_APART;
            }
            Ok(()) = health.changed(), if health_due.is_none() => {
                health_due = Some(not_before.max(Instant::now() + HEALTH_GATHERED));
            }
            fault = faults.recv(), if checks_run => match fault {
                Some(fault) => {
                    let mut all = vec![fault];
                    all.extend(std::iter::from_fn(|| faults.try_recv().ok()));
                    controller.checks_faulted(all).await;
                }
                None => {
                    tracing::error!("health checks have ended, a bug in waxwing: restart it");
                    checks_run = false;
                }
            },
        }
    }
}

/// Does what was asked for at the admin socket. Who asked may have gone away meanwhile.
async fn answer(controller: &mut Controller, request: Request) {
    match request {
        Request::Reload(answer) => {
            let _ = answer.send(controller.reload().await);
        }
        Request::SetBackend(request, answer) => {
            let _ = answer.send(controller.set_backend(&request).await);
        }
    }
}

/// Takes in an event and all that wait behind it, so that a burst costs one change. Gives the names of
/// modules whose files changed.
async fn take_events(
    controller: &mut Controller,
    first: HostEvent,
    events: &mut mpsc::UnboundedReceiver<HostEvent>,
) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut reports: Vec<FaultReport> = Vec::new();
    let mut next = Some(first);
    while let Some(event) = next {
        match event {
            HostEvent::Changed { name } => {
                names.insert(name);
            }
            HostEvent::Fault(report) => reports.push(report),
        }
        next = events.try_recv().ok();
    }
    if !reports.is_empty() {
        controller.faulted(reports).await;
        controller.show();
    }
    names
}

/// Until then, or for ever.
async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// A timer that does not catch up on what it missed.
fn interval(every: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The config's ports as the data plane and as the resolver know them.
fn ports(config: &Config, facts: &HostFacts) -> Result<(Vec<Port>, Vec<PortLink>), StartError> {
    let mut ports = Vec::new();
    let mut links = Vec::new();
    for (id, port) in (0_u8..).zip(&config.ports) {
        let name = &port.interface.value;
        let gone = || StartError::PortGone(name.to_string());
        let link = facts.link(name).ok_or_else(gone)?;
        let mac = link.mac.ok_or_else(gone)?;
        let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        ports.push(Port::attached(PortId(id), Arc::clone(name), mac, mtu));
        links.push(PortLink {
            id: PortId(id),
            name: Arc::clone(name),
            link: link.index,
        });
    }
    if config.bridged().is_some() {
        bridge::join(&mut ports, &links, facts);
    }
    Ok((ports, links))
}

/// Each worker's two ends of its mail, its first epoch released.
fn mailboxes(draft: Draft, workers: usize) -> (Vec<WorkerLink>, Vec<WorkerEnds>) {
    let release = Release::held();
    let epochs = draft.epochs(workers, &[], &release);
    release.give();
    let pair = |epoch| {
        let (mailbox, new) = crossbeam_channel::unbounded();
        let (old, returned) = crossbeam_channel::unbounded();
        let link = WorkerLink {
            mailbox,
            returned,
            unacknowledged: 0,
        };
        (
            link,
            WorkerEnds {
                epoch,
                mailbox: new,
                returned: old,
            },
        )
    };
    epochs.into_iter().map(pair).unzip()
}
