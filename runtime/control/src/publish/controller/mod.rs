//! The only place that changes the running state: each change of config, modules, health or network
//! becomes one epoch here.
//!
//! Invariant: a change reaches every worker or none. Everything that can fail (ids, modules, refusals
//! by policies) happens before the first worker gets an epoch; on failure the running state stays.
//!
//! # Order of a change
//! 1. Resolve the next hops of new backends, so that their first packets are not dropped.
//! 2. Add the steering rules of new backends, so that their first replies reach the workers. A reply
//!    that the kernel routed instead would reach the client untranslated, and the client would reset
//!    the connection. (Replies without a session go back to the kernel.)
//! 3. Send each worker its epoch, then release all epochs together. A worker that takes its new epoch
//!    sends the old one back, which is the acknowledgement.
//! 4. After all acknowledgements, apply the remaining steering rules: those of services, and removals.
//!    A removed service keeps its rules while its backends have sessions; they go with the backends,
//!    in a later change.
//!
//! A worker that does not acknowledge in time delays the rules and the next change, nothing else.

pub(crate) mod added;
pub(crate) mod checks;
mod draft;
mod network;
pub(crate) mod policies;
mod problems;
pub(crate) mod reload;
mod steering;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use tokio::sync::watch;
use waxwing_dataplane::model::Port;
use waxwing_dataplane::model::Release;
use waxwing_dataplane::path::SharedState;
use waxwing_dataplane::steering::{Rules, Steering, SteeringError};
use waxwing_dataplane::{BackendId, Epoch, Now, Snapshot};
use waxwing_packet::Address;
use waxwing_plugin::checks::CheckHost;
use waxwing_plugin::{BoundModule, BuildsInUse, Host, ModuleError};

pub(crate) use draft::Draft;

use crate::admin::ports::AttachedPorts;
use crate::admin::status::ReloadStatus;
use crate::config::Config;
use crate::health::{BoundChecks, CheckJob, Effects, HealthMonitor};
use crate::network::kernel::Kernel;
use crate::network::port::PortLink;
use crate::network::resolver::Resolver;
use crate::publish::catalog::{Catalog, CatalogError};
use crate::publish::counter_totals::CounterTotals;
use crate::publish::modules::{self, BindOptions, Builds};
use crate::publish::reloads::OnReload;
use crate::publish::view::{CurrentView, ReloadCounts};

/// How long a change waits for a worker. An idle worker looks every 20 ms, a busy one every batch.
const ACKNOWLEDGE_MAX: Duration = Duration::from_secs(2);

/// How often acknowledgements are polled.
const ACKNOWLEDGE_POLL: Duration = Duration::from_millis(2);

/// How long a change waits for the next hops of new backends: long enough for the kernel's second
/// request, which it sends after one second. A backend that does not answer is published anyway; its
/// packets are dropped and counted until it answers.
const RESOLVE_MAX: Duration = Duration::from_millis(1500);

/// The same at the start: long enough for a neighbour's answer. Until then nobody is served, so all backends
/// would wait for one that does not answer.
pub(crate) const RESOLVE_AT_START_MAX: Duration = Duration::from_millis(100);

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No ids are left.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A module cannot serve.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The steering rules for new backends' replies could not be set.
    #[error("steering: {0}")]
    Steering(SteeringError),
    /// Workers have not acknowledged the last change.
    #[error(
        "worker {workers} has not taken the last change for {} s and may be stuck; further changes wait \
         for it", .waited.as_secs()
    )]
    Stuck {
        /// Their numbers.
        workers: String,
        /// The time since the change was sent.
        waited: Duration,
    },
    /// The thread of the health checks did not start.
    #[error("cannot start the thread that runs health checks: {0}")]
    Thread(#[source] io::Error),
    /// A worker's thread has ended.
    #[error("worker {0} has ended; restart waxwing")]
    WorkerGone(usize),
}

/// The controller's end of a worker's channels.
pub(crate) struct WorkerLink {
    pub(crate) mailbox: Sender<Epoch>,
    pub(crate) returned: Receiver<Epoch>,
    /// Epochs sent whose predecessors have not come back.
    pub(crate) unacknowledged: usize,
}

/// The running state and everything that changes it.
pub(crate) struct Controller {
    pub(crate) config: Arc<Config>,
    pub(crate) loaded_at: SystemTime,
    pub(crate) catalog: Catalog,
    /// The attached interfaces.
    pub(crate) attached: Vec<Port>,
    /// The attached interfaces and the VLAN devices on them.
    pub(crate) ports: Vec<Port>,
    pub(crate) links: Vec<PortLink>,
    pub(crate) shared: SharedState,
    pub(crate) kernel: Kernel,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) policy_host: Arc<Host>,
    /// Given to the policies; each mixes it with its worker's and service's number.
    pub(crate) seed: u64,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) modules: Vec<BuildsInUse>,
    pub(crate) check_host: Arc<CheckHost>,
    pub(crate) checks: BoundChecks,
    /// Goes to the thread that runs the checks.
    pub(crate) jobs: watch::Sender<Vec<Arc<CheckJob>>>,
    pub(crate) health: Arc<HealthMonitor>,
    /// The health effects in the current snapshot.
    pub(crate) effects: Effects,
    /// Modules with a disabled instance; the next change replaces their instances.
    pub(crate) faulted: BTreeSet<String>,
    pub(crate) workers: Vec<WorkerLink>,
    pub(crate) sent_at: Instant,
    /// The zero of the workers' clock.
    pub(crate) clock_zero: Instant,
    pub(crate) steering: Box<dyn Steering>,
    pub(crate) steering_rules: Rules,
    pub(crate) steering_problem: Option<String>,
    pub(crate) worker_problem: Option<String>,
    /// What keeps the ports from being followed.
    pub(crate) port_problems: Vec<String>,
    /// Whether the next tick repeats a change that failed.
    pub(crate) republish_due: bool,
    pub(crate) last_reload: Option<ReloadStatus>,
    pub(crate) on_reload: OnReload,
    pub(crate) reloads: ReloadCounts,
    pub(crate) view: Arc<CurrentView>,
    pub(crate) counters: Arc<CounterTotals>,
    pub(crate) port_report: Arc<dyn AttachedPorts>,
}

impl Controller {
    /// Returns the workers' time.
    pub(crate) fn now(&self) -> Now {
        Now::from_start(self.clock_zero.elapsed())
    }

    /// Puts a config into effect.
    ///
    /// # Errors
    /// [`PublishError`]; nothing has changed then.
    pub(crate) async fn publish(&mut self, config: Arc<Config>) -> Result<(), PublishError> {
        let checks = self.bind_checks(&config).await?;
        let (catalog, draft) = self.draft(&config, Builds::Newest).await?;
        let outcome = self
            .put_into_effect(Arc::clone(&config), catalog, draft)
            .await;
        if Arc::ptr_eq(&self.config, &config) {
            self.health.adopt(&config);
            self.record_reach();
            self.run_checks(checks).await;
        }
        outcome?;
        // A removed check may have kept backends down.
        self.publish_health().await
    }

    /// Replaces the policies' instances, unless all would come from the modules in use.
    pub(crate) async fn publish_changed_modules(&mut self) -> Result<(), PublishError> {
        let config = Arc::clone(&self.config);
        let (catalog, draft) = self.draft(&config, Builds::Newest).await?;
        if draft.modules.iter().all(BoundModule::is_kept) {
            return Ok(());
        }
        self.put_into_effect(config, catalog, draft).await
    }

    /// Does everything of a change that can fail.
    async fn draft(
        &mut self,
        config: &Arc<Config>,
        builds: Builds,
    ) -> Result<(Catalog, Draft), PublishError> {
        self.wait_acknowledged(ACKNOWLEDGE_MAX).await?;
        let mut catalog = self.catalog.clone();
        let effects = self.health.effects(config);
        let snapshot = catalog
            .apply(config, &self.ports, &self.shared.gauges, &effects)?
            .with_own(self.resolver.host().borrow().never_sources());
        let options = BindOptions {
            workers: self.workers.len(),
            seed: self.seed,
            reusable: self.reusable_modules(),
            builds,
        };
        let draft = Draft::make(&self.policy_host, config, (snapshot, effects), options).await?;
        Ok((catalog, draft))
    }

    /// Returns the modules in use, without those that failed.
    fn reusable_modules(&self) -> Vec<BuildsInUse> {
        let modules = self.modules.iter();
        let sound = modules.filter(|in_use| !self.faulted.contains(&in_use.module.name));
        sound.cloned().collect()
    }

    async fn put_into_effect(
        &mut self,
        config: Arc<Config>,
        catalog: Catalog,
        draft: Draft,
    ) -> Result<(), PublishError> {
        self.resolve_next_hops(&draft.snapshot, RESOLVE_MAX).await;
        self.add_reply_rules(&draft.snapshot)
            .map_err(PublishError::Steering)?;
        self.counters
            .restart_new(&self.snapshot, &draft.snapshot, &self.shared.gauges);
        self.resolver.set_return_plan(config.return_plan());
        self.shared.sessions.set_sampling(config.sample_sessions);
        self.config = config;
        self.catalog = catalog;
        self.snapshot = Arc::clone(&draft.snapshot);
        self.effects.clone_from(&draft.effects);
        self.effects.retain(|key, _| self.catalog.contains(key));
        self.health.keep_removed(|key| self.catalog.is_retired(key));
        let before = std::mem::replace(&mut self.modules, draft.in_use());
        let sent = self.send(draft, &before);
        self.faulted.clear();
        if let Err(stuck) = self.wait_acknowledged(ACKNOWLEDGE_MAX).await {
            tracing::error!("{stuck}");
        }
        let (host, modules) = (Arc::clone(&self.policy_host), self.modules.clone());
        let names = self.config.policies();
        // On a blocking thread: the host writes files.
        modules::blocking(move || {
            modules::activate(&host, &modules);
            host.retain(&names);
        })
        .await;
        sent?;
        self.update_steering();
        self.update_view();
        Ok(())
    }

    /// Starts resolving the backends' next hops, and waits at most `patience` for those of new
    /// backends.
    pub(crate) async fn resolve_next_hops(&mut self, snapshot: &Snapshot, patience: Duration) {
        let backends: Vec<(BackendId, Address)> = snapshot
            .backends()
            .map(|backend| (backend.id, backend.address))
            .collect();
        let known = self.resolver.states();
        let mut new: Vec<Address> = backends.iter().map(|(_, address)| *address).collect();
        new.retain(|address| !known.contains_key(address));
        self.resolver.track(backends);
        self.resolver.wait_settled(&new, patience).await;
    }

    /// Sends each worker its epoch, then releases all of them together.
    fn send(&mut self, draft: Draft, before: &[BuildsInUse]) -> Result<(), PublishError> {
        let release = Release::held();
        let epochs = draft.epochs(self.workers.len(), before, &release);
        self.sent_at = Instant::now();
        let mut gone = None;
        for (number, (worker, epoch)) in self.workers.iter_mut().zip(epochs).enumerate() {
            match worker.mailbox.send(epoch) {
                Ok(()) => worker.unacknowledged += 1,
                Err(_) => gone = Some(number),
            }
        }
        // A worker that ended forwards nothing; the others continue with the new epoch.
        release.give();
        gone.map_or(Ok(()), |number| Err(PublishError::WorkerGone(number)))
    }

    /// Waits until every worker has acknowledged its epoch, and drops the old ones.
    pub(crate) async fn wait_acknowledged(
        &mut self,
        patience: Duration,
    ) -> Result<(), PublishError> {
        let deadline = Instant::now() + patience;
        loop {
            let late = self.take_acknowledgements()?;
            if late.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let waited = self.sent_at.elapsed();
                return Err(PublishError::Stuck {
                    workers: late.join(", "),
                    waited,
                });
            }
            tokio::time::sleep(ACKNOWLEDGE_POLL).await;
        }
    }

    /// Drops the old epochs that came back. Returns the numbers of the workers still to acknowledge.
    fn take_acknowledgements(&mut self) -> Result<Vec<String>, PublishError> {
        let mut late = Vec::new();
        for (number, worker) in self.workers.iter_mut().enumerate() {
            loop {
                match worker.returned.try_recv() {
                    Ok(old) => {
                        drop(old);
                        worker.unacknowledged = worker.unacknowledged.saturating_sub(1);
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        return Err(PublishError::WorkerGone(number));
                    }
                }
            }
            if worker.unacknowledged > 0 {
                late.push(number.to_string());
            }
        }
        Ok(late)
    }

    /// Takes late acknowledgements and does what waited for them.
    pub(crate) async fn tick(&mut self) {
        let problem = self
            .wait_acknowledged(Duration::ZERO)
            .await
            .err()
            .map(|e| e.to_string());
        if let (Some(problem), None) = (&problem, &self.worker_problem) {
            tracing::error!("{problem}");
        }
        self.worker_problem = problem;
        self.follow_ports().await;
        self.health.log_summary();
        if std::mem::take(&mut self.republish_due) {
            self.republish().await;
        }
        self.update_steering();
        self.update_view();
    }
}
