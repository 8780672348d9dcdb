//! The one owner of change: every config, module or backend change becomes one epoch here.
//!
//! Invariant: a change either reaches every worker or none. All that can fail (ids, modules,
//! the policies' own refusals) is done before the first worker is told; until then the running
//! state stays as it is.
//!
//! # The order of things
//! 1. The next hops of new backends are resolved, so that their first packets are not dropped.
//! 2. The steering rules of new backends are added, so that their first replies come to the workers:
//!    a reply that the kernel routed would reach the client as the backend wrote it, and the client
//!    would reset the connection. (A reply that is no session's goes back to the kernel.)
//! 3. Every worker is sent its epoch, then all are released together. A worker that takes its own
//!    up sends the old one back, which is the acknowledgement.
//! 4. Only when all have done so do the other steering rules follow: those of services, and what
//!    goes. A removed service keeps its rules as long as its backends have sessions: they go with
//!    the backends, in a later change.
//!
//! A worker that does not acknowledge in time holds back the rules and the next change, and nothing
//! else.

mod checks;
mod draft;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use tokio::sync::watch;
use waxwing_dataplane::epoch::Release;
use waxwing_dataplane::forward::Shared;
use waxwing_dataplane::snapshot::Port;
use waxwing_dataplane::steering::{Rules, Steering};
use waxwing_dataplane::{BackendId, Epoch, Snapshot};
use waxwing_packet::Address;
use waxwing_plugin::checks::CheckHost;
use waxwing_plugin::{BoundModule, BuildsInUse, FaultReport, Host, ModuleError, Recovery};

pub(crate) use draft::Draft;

use crate::bridge;
use crate::catalog::{Catalog, CatalogError};
use crate::check;
use crate::config::Config;
use crate::facts::HostFacts;
use crate::health::{self, BoundChecks, Effects, Health, Job};
use crate::kernel::Kernel;
use crate::modules::{self, Builds, Wanted};
use crate::neighbours::{PortLink, Resolver};
use crate::report::{Reporter, View, seconds};
use crate::status::ReloadStatus;
use crate::vlans::with_vlans;

/// How long a change waits for a worker. An idle one looks every 20 ms, a busy one every batch.
const ACKNOWLEDGE_MAX: Duration = Duration::from_secs(2);

/// How often acknowledgements are looked for meanwhile.
const ACKNOWLEDGE_POLL: Duration = Duration::from_millis(2);

/// How long a change waits for the next hops of new backends: long enough for the kernel to ask a
/// second time, which it does after a second. One that does not answer is published all the same, and
/// its packets are dropped and counted until it does.
const RESOLVE_MAX: Duration = Duration::from_millis(1500);

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No ids left.
    #[error("{0}")]
    Catalog(#[from] CatalogError),
    /// A module cannot serve.
    #[error("{0}")]
    Module(#[from] ModuleError),
    /// The rules for new backends' replies could not be set.
    #[error("steering: {0}")]
    Steering(String),
    /// Workers have not taken up the change before.
    #[error(
        "worker {workers} has not taken up the last change for {} s; it may be stuck, so nothing more \
         is changed", .waited.as_secs()
    )]
    Stuck {
        /// Their numbers.
        workers: String,
        /// For how long.
        waited: Duration,
    },
    /// A worker's thread has ended.
    #[error("worker {0} is gone; restart waxwing")]
    WorkerGone(usize),
}

/// A worker, as the controller reaches it.
pub(crate) struct WorkerLink {
    pub(crate) mailbox: Sender<Epoch>,
    pub(crate) returned: Receiver<Epoch>,
    /// Epochs sent whose predecessors have not come back.
    pub(crate) unacknowledged: usize,
}

/// Everything that changes.
pub(crate) struct Controller {
    pub(crate) config: Arc<Config>,
    pub(crate) loaded_at: SystemTime,
    pub(crate) catalog: Catalog,
    /// The attached interfaces.
    pub(crate) attached: Vec<Port>,
    /// The same, and the VLANs on them.
    pub(crate) ports: Vec<Port>,
    pub(crate) links: Vec<PortLink>,
    pub(crate) shared: Shared,
    pub(crate) kernel: Kernel,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) host: Arc<Host>,
    /// Told to the policies, each of which mixes it with its worker's and service's number.
    pub(crate) seed: u64,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) modules: Vec<BuildsInUse>,
    pub(crate) check_host: Arc<CheckHost>,
    pub(crate) checks: BoundChecks,
    /// To the thread that runs the checks.
    pub(crate) jobs: watch::Sender<Vec<Arc<Job>>>,
    pub(crate) health: Arc<Health>,
    /// What of the backends' health is in the snapshot.
    pub(crate) effects: Effects,
    /// Names of modules of which an instance is disabled: the next change makes them anew.
    pub(crate) faulted: BTreeSet<String>,
    pub(crate) workers: Vec<WorkerLink>,
    pub(crate) sent_at: Instant,
    pub(crate) steering: Box<dyn Steering>,
    pub(crate) in_effect: Rules,
    pub(crate) steering_problem: Option<String>,
    pub(crate) worker_problem: Option<String>,
    /// A change of modules that a stuck worker held back.
    pub(crate) modules_due: bool,
    pub(crate) last_reload: Option<ReloadStatus>,
    pub(crate) reporter: Arc<Reporter>,
}

impl Controller {
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
            self.run_checks(checks).await;
        }
        outcome?;
        // Checks that went may have kept backends out.
        self.publish_health().await
    }

    /// Makes instances anew, if that gives another module than the ones that serve.
    pub(crate) async fn publish_changed_modules(&mut self) -> Result<(), PublishError> {
        let config = Arc::clone(&self.config);
        let (catalog, draft) = self.draft(&config, Builds::Newest).await?;
        if draft.modules.iter().all(BoundModule::is_kept) {
            return Ok(());
        }
        self.put_into_effect(config, catalog, draft).await
    }

    /// Everything that can fail.
    async fn draft(
        &mut self,
        config: &Arc<Config>,
        builds: Builds,
    ) -> Result<(Catalog, Draft), PublishError> {
        self.acknowledged(ACKNOWLEDGE_MAX).await?;
        let mut catalog = self.catalog.clone();
        let effects = self.health.effects(config);
        let snapshot = catalog.apply(config, &self.ports, &self.shared.gauges, &effects)?;
        let wanted = Wanted {
            workers: self.workers.len(),
            seed: self.seed,
            before: self.going_on(),
            builds,
        };
        let draft = Draft::make(&self.host, config, (snapshot, effects), wanted).await?;
        Ok((catalog, draft))
    }

    /// What serves and may go on: all but what has failed.
    fn going_on(&self) -> Vec<BuildsInUse> {
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
        self.resolve(&draft.snapshot).await;
        self.steer_replies(&draft.snapshot)
            .map_err(PublishError::Steering)?;
        self.reporter
            .note_new_backends(&self.snapshot, &draft.snapshot);
        self.resolver.follow(config.return_plan());
        self.config = config;
        self.catalog = catalog;
        self.snapshot = Arc::clone(&draft.snapshot);
        self.effects.clone_from(&draft.effects);
        let before = std::mem::replace(&mut self.modules, draft.in_use());
        let sent = self.send(draft, &before);
        self.faulted.clear();
        if let Err(stuck) = self.acknowledged(ACKNOWLEDGE_MAX).await {
            tracing::error!("{stuck}");
        }
        let (host, modules) = (Arc::clone(&self.host), self.modules.clone());
        let names = self.config.policies();
        // The host writes files then.
        modules::blocking(move || {
            modules::tell(&host, &modules);
            host.retain(&names);
        })
        .await;
        sent?;
        self.steer();
        self.show();
        Ok(())
    }

    /// Has the backends' next hops found out, and waits a moment for those of new ones.
    pub(crate) async fn resolve(&mut self, snapshot: &Snapshot) {
        let backends: Vec<(BackendId, Address)> = snapshot
            .backends()
            .map(|backend| (backend.id, backend.address))
            .collect();
        let known = self.resolver.states();
        let mut new: Vec<Address> = backends.iter().map(|(_, address)| *address).collect();
        new.retain(|address| !known.contains_key(address));
        self.resolver.track(backends);
        self.resolver.settled(&new, RESOLVE_MAX).await;
    }

    /// Sends every worker its epoch, then lets all take it up.
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
        // A worker that is gone forwards nothing; the others go on with what is new.
        release.give();
        gone.map_or(Ok(()), |number| Err(PublishError::WorkerGone(number)))
    }

    /// Waits until every worker has taken up what it was sent, and drops what it worked by before.
    pub(crate) async fn acknowledged(&mut self, patience: Duration) -> Result<(), PublishError> {
        let deadline = Instant::now() + patience;
        loop {
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

    /// Brings the steering rules up to the snapshot, once every worker has taken that up. What
    /// fails is tried again at the next call.
    pub(crate) fn steer(&mut self) {
        if self.workers.iter().any(|worker| worker.unacknowledged > 0) {
            return;
        }
        let locals = self.resolver.facts().borrow().locals();
        let rules = rules(&self.snapshot, locals);
        if rules == self.in_effect {
            return;
        }
        let outcome = self.steering.apply(&rules);
        match &outcome {
            Ok(()) => self.in_effect = rules,
            Err(why) if self.steering_problem.as_ref() == Some(why) => {}
            Err(why) => tracing::error!("steering: {why}; trying again"),
        }
        self.steering_problem = outcome.err();
    }

    /// Adds the rules of a snapshot's backends to those in effect.
    pub(crate) fn steer_replies(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let locals = self.resolver.facts().borrow().locals();
        let wanted = rules(snapshot, locals);
        let added = Rules {
            backends: &self.in_effect.backends | &wanted.backends,
            locals: wanted.locals,
            ..self.in_effect.clone()
        };
        if added != self.in_effect {
            self.steering.apply(&added)?;
            self.in_effect = added;
        }
        Ok(())
    }

    /// Now and then: takes up late acknowledgements, and does what waited for them.
    pub(crate) async fn tick(&mut self) {
        let problem = self
            .acknowledged(Duration::ZERO)
            .await
            .err()
            .map(|e| e.to_string());
        if let (Some(problem), None) = (&problem, &self.worker_problem) {
            tracing::error!("{problem}");
        }
        self.worker_problem = problem;
        if std::mem::take(&mut self.modules_due) {
            self.renew_policies().await;
        }
        self.steer();
        self.show();
    }

    /// Links or addresses of the host are different now.
    pub(crate) async fn network_changed(&mut self) {
        let facts = self.resolver.facts().borrow().clone();
        let mut grown = Vec::new();
        for (port, link) in self.attached.iter_mut().zip(&self.links) {
            if let Some(fact) = facts.links.get(&link.link) {
                port.mac = fact.mac.unwrap_or(port.mac);
                let mtu = u16::try_from(fact.mtu).unwrap_or(u16::MAX);
                if mtu > std::mem::replace(&mut port.mtu, mtu) {
                    grown.push((&link.name, fact.mtu));
                }
            }
        }
        for (name, mtu) in grown {
            if let Some(problem) = self.mtu_problem(name, mtu) {
                tracing::warn!("{problem}");
            }
        }
        if self.attached.iter().any(|port| port.bridge.is_some()) {
            bridge::join(&mut self.attached, &self.links, &facts);
        }
        let ports = with_vlans(&self.attached, &self.ports, &facts);
        if ports != self.ports {
            self.ports = ports;
            self.renew_policies().await;
        }
        self.steer();
        self.show();
    }

    /// Publishes the config in effect once more, with instances of what has changed or failed.
    async fn renew_policies(&mut self) {
        match self.publish(Arc::clone(&self.config)).await {
            Ok(()) => {}
            Err(e @ PublishError::Stuck { .. }) => {
                tracing::error!("{e}; trying again");
                self.modules_due = true;
            }
            Err(e) => tracing::error!("what serves goes on serving: {e}"),
        }
    }

    /// Frees removed backends whose last session has ended.
    pub(crate) async fn drop_retired(&mut self) {
        if self.catalog.has_freeable(&self.shared.gauges)
            && let Err(e) = self.publish(Arc::clone(&self.config)).await
        {
            tracing::warn!("removed backends cannot be dropped yet: {e}");
        }
    }

    /// Compiles modules whose files changed, which may take seconds: apart from the loop, so that
    /// changes of backends' health do not wait for it. What comes of it is kept by the hosts.
    pub(crate) fn compile(
        &self,
        names: BTreeSet<String>,
    ) -> impl FnOnce() -> BTreeSet<String> + Send + use<> {
        let policies = self.config.policies();
        let (host, config) = (Arc::clone(&self.host), Arc::clone(&self.config));
        let (check_host, checks) = (Arc::clone(&self.check_host), self.checks.clone());
        move || {
            for name in policies.iter().filter(|name| names.contains(&***name)) {
                // A refusal is logged, kept for `status`, and met again where it is to be bound.
                let _ = host.policy(name);
            }
            if names.iter().any(|name| checks.has(name)) {
                let _ = health::bind(&check_host, &config, &checks);
            }
            names
        }
    }

    /// Modules' files changed, and they are compiled.
    pub(crate) async fn modules_changed(&mut self, names: &BTreeSet<String>) {
        if names.iter().any(|name| self.checks.has(name)) {
            self.renew_checks().await;
        }
        let in_use = self.config.policies();
        if !in_use.iter().any(|name| names.contains(&**name)) {
            return;
        }
        match self.publish_changed_modules().await {
            Ok(()) => {}
            Err(e) => {
                tracing::error!("what serves goes on serving: {e}");
                self.modules_due = true;
            }
        }
    }

    /// The canary of a new build is over.
    pub(crate) async fn canary_ended(&mut self) {
        match self.publish_changed_modules().await {
            Ok(()) => self.show(),
            Err(e) => {
                tracing::error!("what serves goes on serving: {e}");
                // Not at once again: the tick comes back to it.
                self.modules_due = true;
            }
        }
    }

    /// When the next canary is over. While a change waits for a worker, the tick looks after it.
    pub(crate) fn canary_ends(&self) -> Option<Instant> {
        self.host.canary_ends().filter(|_| !self.modules_due)
    }

    /// Instances failed and are disabled until they are replaced.
    pub(crate) async fn faulted(&mut self, reports: Vec<FaultReport>) {
        let mut replace = false;
        for report in reports {
            let FaultReport {
                module,
                worker,
                service,
                text,
                ..
            } = &report;
            tracing::error!(%service, worker, "policy {module:?} failed: {text}");
            self.faulted.insert(module.name.clone());
            let host = Arc::clone(&self.host);
            match modules::blocking(move || host.recover(&report)).await {
                Recovery::Nothing => {}
                Recovery::Rebuild | Recovery::RolledBack => replace = true,
                Recovery::Exhausted => tracing::error!(
                    "there is no other build to go back to: weighted rendezvous chooses until its \
                     file changes"
                ),
            }
        }
        if replace {
            self.renew_policies().await;
        }
    }

    /// Reads the config file anew and puts it into effect; gives the warnings.
    ///
    /// # Errors
    /// Everything that is wrong with it, for people; the running config stays.
    pub(crate) async fn reload(&mut self) -> Result<Vec<String>, String> {
        let outcome = self.try_reload().await;
        match &outcome {
            Ok(warnings) => {
                warnings
                    .iter()
                    .for_each(|warning| tracing::warn!("{warning}"));
                tracing::info!("config reloaded, generation {}", self.snapshot.generation);
            }
            Err(why) => tracing::error!("config not reloaded, the running one stays:\n{why}"),
        }
        self.last_reload = Some(ReloadStatus {
            at: seconds(SystemTime::now()),
            error: outcome.as_ref().err().cloned(),
            warnings: outcome.as_ref().ok().cloned().unwrap_or_default(),
        });
        self.show();
        outcome
    }

    async fn try_reload(&mut self) -> Result<Vec<String>, String> {
        let mut reading =
            Config::read_file(self.config.source().path()).map_err(|e| e.to_string())?;
        let found = check::network(reading.config(), &self.kernel).await;
        reading.add(found.map_err(|e: io::Error| format!("cannot read the network's state: {e}"))?);
        let config = reading.config().clone();
        reading.add(modules::check(&self.host, &self.check_host, config).await);
        let (config, warnings) = reading.finish().map_err(|e| e.to_string())?;
        let fixed = config.needs_restart(&self.config);
        if !fixed.is_empty() {
            return Err(format!(
                "{}: what changed there takes effect at start only ({}); restart waxwing, or write \
                 it as it was and reload",
                config.source().path().display(),
                fixed.join(", ")
            ));
        }
        self.publish(Arc::new(config))
            .await
            .map_err(|e| e.to_string())?;
        self.loaded_at = SystemTime::now();
        Ok(warnings.iter().map(ToString::to_string).collect())
    }

    /// Shows the present state to who asks for it.
    pub(crate) fn show(&self) {
        self.reporter.set_view(View {
            config: Arc::clone(&self.config),
            loaded_at: self.loaded_at,
            snapshot: Arc::clone(&self.snapshot),
            modules: self.modules.clone(),
            last_reload: self.last_reload.clone(),
            problems: self.problems(),
        });
    }

    /// What is wrong at the moment.
    fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self
            .steering_problem
            .iter()
            .chain(&self.worker_problem)
            .cloned()
            .collect();
        let facts = self.resolver.facts().borrow().clone();
        for PortLink {
            name, link: index, ..
        } in &self.links
        {
            match facts.links.get(index) {
                Some(link) if link.up && link.carrier => {
                    problems.extend(self.mtu_problem(name, link.mtu));
                }
                Some(_) => problems.push(format!("{name} is down")),
                None if facts.link(name).is_some() => {
                    problems.push(format!(
                        "{name} was made anew; restart waxwing to attach to it"
                    ));
                }
                None => problems.push(format!("{name} is gone; restart waxwing once it is back")),
            }
        }
        problems.extend(self.bridge_problems(&facts));
        problems.extend(facts.vlans.values().filter_map(|vlan| vlan.problem.clone()));
        problems.extend(self.resolver.returns().problem.clone());
        for vip in self.snapshot.vips() {
            if let Some(holder) = facts.holder_of(*vip) {
                let mut sources = self.snapshot.sources().iter();
                let what = match sources.any(|(_, address)| address == *vip) {
                    true => "source address",
                    false => "VIP",
                };
                problems.push(check::on_link(what, *vip, &holder));
            }
        }
        problems
    }

    /// What is wrong with an MTU that has grown beyond what was laid out at the start.
    fn mtu_problem(&self, name: &str, mtu: u32) -> Option<String> {
        let mtu_max = self.reporter.ports.mtu_max();
        (mtu > mtu_max).then(|| {
            format!(
                "{name}: MTU {mtu} is more than the {mtu_max} that there was memory laid out for at the \
                 start; longer frames are lost. Restart waxwing, or lower it (`ip link set dev {name} \
                 mtu {mtu_max}`)"
            )
        })
    }

    /// What of the bridge is not as transparent mode needs it.
    fn bridge_problems(&self, facts: &HostFacts) -> Vec<String> {
        match &self.ports[..] {
            [first, second] if first.bridge.is_some() => {
                let names = [&*first.name, &*second.name];
                let faults = bridge::faults(facts, names).into_iter();
                let doubts = bridge::doubts(facts, names).into_iter();
                faults.chain(doubts).map(|(_, text)| text).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// The rules of a snapshot. A removed service's endpoint stays while its backends do: the packets of
/// their sessions must go on reaching the workers.
fn rules(snapshot: &Snapshot, locals: BTreeSet<Address>) -> Rules {
    let mut rules = Rules::new(snapshot, locals);
    for backend in snapshot.backends() {
        let port = backend.vip_ports.single().unwrap_or(Rules::ANY_PORT);
        rules
            .services
            .insert((backend.vip, port, backend.protocol as u8));
    }
    rules
}
