//! Start-up and the control loop.
//!
//! Invariant: changes happen one after the other. Signals, admin requests, module files and timers all
//! end up in one loop, so no two of them change anything at once.
//!
//! The program starts in this order:
//! 1. [`preflight::load`](crate::publish::preflight::load) the config;
//! 2. attach to the ports and create what all workers share;
//! 3. [`Control::prepare`]: returns each worker's first epoch and its mailbox;
//! 4. start the workers;
//! 5. [`Control::run`] until a signal ends it; then stop the workers and detach.

mod doors;
mod ports;
mod signals;
mod triggers;

pub use signals::Signals;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::{mpsc, watch};
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::model::Release;
use waxwing_dataplane::path::SharedState;
use waxwing_dataplane::steering::{Rules, Steering, SteeringError};
use waxwing_dataplane::{Epoch, Now, Snapshot};
use waxwing_plugin::{BuildsInUse, HostEvent, ModuleError};

use crate::admin::flood::FloodWatch;
use crate::admin::log::LogState;
use crate::admin::metrics_listener::MetricsListener;
use crate::admin::ports::AttachedPorts;
use crate::admin::rates;
use crate::admin::report::Reporter;
use crate::admin::server::Request;
use crate::admin::socket::AdminError;
use crate::admin::symptoms::Symptoms;
use crate::config::Config;
use crate::health::{BoundChecks, HealthMonitor};
use crate::publish::catalog::{Catalog, CatalogError};
use crate::publish::controller::{
    Controller, Draft, PublishError, RESOLVE_AT_START_MAX, WorkerLink,
};
use crate::publish::counter_totals::CounterTotals;
use crate::publish::modules::{self, BindOptions};
use crate::publish::preflight::Checked;
use crate::publish::reloads::OnReload;
use crate::publish::view::{CurrentView, ReloadCounts, View};
use crate::restart::upgrade::Changes;
use crate::restart::{KeptState, Stopped};
use doors::Doors;
use ports::Network;
use triggers::Triggers;

/// The capacity of the queue of admin requests.
const REQUESTS_QUEUED: usize = 16;

/// What the program hands to the control plane.
pub struct ControlSetup {
    /// The checked config. Its warnings have been logged.
    pub checked: Checked,
    /// The state that all workers share, sized for the config's `backends_max`.
    pub shared: SharedState,
    /// The counters of each worker.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Sets the steering rules of the attached ports.
    pub steering: Box<dyn Steering>,
    /// Reports the attached ports for the status.
    pub ports: Box<dyn AttachedPorts>,
    /// The state of the log for the status.
    pub log: Arc<LogState>,
    /// Called before and after each reload.
    pub on_reload: OnReload,
    /// Where metrics are served; `None` if the config says nothing of it.
    pub metrics: Option<MetricsListener>,
    pub started: Instant,
    /// The zero of the workers' clock.
    pub clock_zero: Instant,
    /// What an earlier process left.
    pub kept: Option<KeptState>,
    /// Whether this process takes over from one that runs.
    pub is_upgrade: bool,
}

/// A worker's end of the channels to the control plane.
pub struct WorkerChannels {
    /// The first epoch, already released.
    pub epoch: Epoch,
    /// Receives later epochs.
    pub mailbox: Receiver<Epoch>,
    /// Takes replaced epochs back.
    pub returned: Sender<Epoch>,
}

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The admin socket could not be created.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The kernel's network tables or signals are not available.
    #[error("cannot watch the kernel's network tables or signals: {0}")]
    System(#[from] io::Error),
    /// An interface disappeared after the check.
    #[error("interface {0} is gone")]
    PortGone(String),
    /// The config could not be put into effect.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl From<CatalogError> for StartError {
    fn from(error: CatalogError) -> Self {
        Self::Publish(error.into())
    }
}

impl From<ModuleError> for StartError {
    fn from(error: ModuleError) -> Self {
        Self::Publish(error.into())
    }
}

/// The control plane, ready to run.
pub struct Control {
    controller: Controller,
    reporter: Arc<Reporter>,
    events: mpsc::UnboundedReceiver<HostEvent>,
    doors: Doors,
    kept: Option<KeptState>,
    metrics: Option<MetricsListener>,
    is_steered: bool,
}

impl Control {
    /// Does everything that can fail, and makes each worker's first epoch, in the order of
    /// [`ControlSetup::counters`].
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn prepare(setup: ControlSetup) -> Result<(Self, Vec<WorkerChannels>), StartError> {
        let doors = Doors::open(&setup.checked.config.admin, setup.is_upgrade).await?;
        let config = Arc::new(setup.checked.config);
        let shared = setup.shared;
        let network = Network::start(&config, &shared).await?;
        let health = first_health(&config, setup.clock_zero, setup.kept.as_ref());
        let seed = RandomState::new().build_hasher().finish();
        let policy_host = setup.checked.modules.policy_host;
        let mut catalog = Catalog::new(config.services_max, config.backends_max);
        let effects = health.effects(&config);
        let snapshot = catalog.apply(&config, &network.ports, &shared.gauges, &effects)?;
        let workers = setup.counters.len();
        let options = BindOptions::first(workers, seed);
        (setup.kept.iter()).for_each(|kept| kept.restore_policies(&policy_host));
        let draft = Draft::make(&policy_host, &config, (snapshot, effects), options).await?;
        let modules = draft.in_use();
        modules::activate(&policy_host, &modules);
        let (snapshot, effects) = (Arc::clone(&draft.snapshot), draft.effects.clone());
        if let Some(kept) = &setup.kept {
            let now = Now::from_start(setup.clock_zero.elapsed());
            kept.restore_sessions(&shared, &snapshot, workers, now);
        }
        let (workers, channels) = worker_channels(draft, workers);
        let controller = Controller {
            view: Arc::new(CurrentView::new(first_view(&config, &snapshot, &modules))),
            config,
            loaded_at: SystemTime::now(),
            catalog,
            attached: network.attached,
            ports: network.ports,
            links: network.links,
            shared,
            kernel: network.kernel,
            resolver: Arc::new(network.resolver),
            policy_host,
            seed,
            counters: Arc::new(CounterTotals::new(setup.counters, &snapshot)),
            snapshot,
            modules,
            check_host: setup.checked.modules.check_host,
            checks: BoundChecks::default(),
            jobs: watch::Sender::default(),
            health: Arc::new(health),
            effects,
            faulted: BTreeSet::new(),
            workers,
            sent_at: setup.started,
            clock_zero: setup.clock_zero,
            steering: setup.steering,
            steering_rules: Rules::default(),
            steering_problem: None,
            worker_problem: None,
            port_problems: Vec::new(),
            republish_due: false,
            last_reload: None,
            on_reload: setup.on_reload,
            port_report: setup.ports.into(),
            reloads: ReloadCounts::default(),
        };
        let control = Self {
            reporter: Arc::new(reporter(&controller, setup.log, setup.started)),
            controller,
            events: setup.checked.modules.events,
            doors,
            kept: setup.kept,
            metrics: setup.metrics,
            is_steered: false,
        };
        Ok((control, channels))
    }

    /// Steers traffic to the workers. [`Control::run`] does so too; a process that takes over calls it
    /// before.
    ///
    /// # Errors
    /// The steering rules could not be set.
    pub async fn steer(&mut self) -> Result<(), StartError> {
        let controller = &mut self.controller;
        let snapshot = Arc::clone(&controller.snapshot);
        controller
            .resolve_next_hops(&snapshot, RESOLVE_AT_START_MAX)
            .await;
        controller
            .add_reply_rules(&snapshot)
            .map_err(PublishError::Steering)?;
        controller.update_steering();
        if let Some(why) = controller.steering_problem.take() {
            return Err(PublishError::Steering(SteeringError(why)).into());
        }
        self.is_steered = true;
        Ok(())
    }

    /// Takes over what has changed of the sessions since the state was sent, while no worker runs.
    pub fn change_sessions(&self, changes: &Changes) {
        let controller = &self.controller;
        if let Some(kept) = &self.kept {
            let tables = (&controller.shared, &*controller.snapshot);
            kept.change_sessions(changes, tables, controller.workers.len(), controller.now());
        }
    }

    /// Steers traffic to the started workers, then makes changes until SIGTERM or SIGINT, or until another
    /// process has taken over. Calls `ready` once when traffic flows.
    ///
    /// # Errors
    /// The steering rules or the health checks could not be started. Later errors do not end the loop.
    pub async fn run(
        mut self,
        signals: Signals,
        ready: impl FnOnce(),
    ) -> Result<Stopped, StartError> {
        if !self.is_steered {
            self.steer().await?;
        }
        let Self {
            mut controller,
            reporter,
            events,
            doors,
            kept,
            metrics,
            ..
        } = self;
        let (hangup, end) = signals.split();
        let (request, requests) = mpsc::channel::<Request>(REQUESTS_QUEUED);
        if let Some(kept) = kept {
            kept.consume();
        }
        controller.record_reach();
        controller.health_changed().await;
        let succeeded = Arc::new(AtomicBool::new(false));
        let doors = doors.serve(&reporter, request, &succeeded);
        let metrics = metrics.map(|it| tokio::spawn(it.serve(Arc::clone(&reporter))));
        // Watched before the checks start, so that no result is missed.
        let health = controller.health.watch();
        let faults = controller.start_checks().await?;
        ready();

        let triggers = Triggers {
            events,
            host: controller.resolver.host(),
            next_hops: controller.resolver.watch_states(),
            requests,
            hangup,
            faults,
            health,
        };
        let rates = rates::keep(reporter);
        // A signal abandons a change in progress between two of its steps.
        let successor = tokio::select! {
            () = end => None,
            successor = triggers.drive(&mut controller) => Some(successor),
            _ = rates => None,
        };
        succeeded.store(successor.is_some(), Ordering::Release);
        if successor.is_none() {
            tracing::info!("shutting down on a signal");
        }
        for task in doors.into_iter().chain(metrics) {
            task.abort();
            // When the task has ended, the socket is removed.
            let _ = task.await;
        }
        // While the workers still run.
        let policies = match successor {
            Some(_) => Vec::new(),
            None => controller.save_policies(),
        };
        Ok(Stopped {
            controller,
            policies,
            successor,
        })
    }
}

/// Returns the health of all backends at the start: what an earlier process left, as far as it left any.
fn first_health(config: &Arc<Config>, zero: Instant, kept: Option<&KeptState>) -> HealthMonitor {
    let health = HealthMonitor::new(zero);
    health.adopt(config);
    if let Some(kept) = kept {
        kept.restore_health(&health);
    }
    health
}

fn first_view(config: &Arc<Config>, snapshot: &Arc<Snapshot>, modules: &[BuildsInUse]) -> View {
    View {
        config: Arc::clone(config),
        loaded_at: SystemTime::now(),
        snapshot: Arc::clone(snapshot),
        modules: modules.to_vec(),
        last_reload: None,
        reloads: ReloadCounts::default(),
        problems: Vec::new(),
    }
}

fn reporter(controller: &Controller, log: Arc<LogState>, started: Instant) -> Reporter {
    Reporter {
        started,
        clock_zero: controller.clock_zero,
        started_at: SystemTime::now() - started.elapsed(),
        log,
        view: Arc::clone(&controller.view),
        sessions: Arc::clone(&controller.shared.sessions),
        gauges: Arc::clone(&controller.shared.gauges),
        shared: controller.shared.clone(),
        counters: Arc::clone(&controller.counters),
        ports: Arc::clone(&controller.port_report),
        resolver: Arc::clone(&controller.resolver),
        policy_host: Arc::clone(&controller.policy_host),
        policy_seed: controller.seed,
        check_host: Arc::clone(&controller.check_host),
        health: Arc::clone(&controller.health),
        flood: FloodWatch::default(),
        symptoms: Symptoms::default(),
    }
}

/// Makes the channels between the controller and each worker, with the first epoch released.
fn worker_channels(draft: Draft, workers: usize) -> (Vec<WorkerLink>, Vec<WorkerChannels>) {
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
        let channels = WorkerChannels {
            epoch,
            mailbox: new,
            returned: old,
        };
        (link, channels)
    };
    epochs.into_iter().map(pair).unzip()
}
