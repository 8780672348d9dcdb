//! Health checks: binding their modules, and publishing what their results change.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use waxwing_plugin::{ModuleError, Recovery};

use super::{Controller, PublishError};
use crate::admin::requests::{SetBackend, SetWeight};
use crate::config::{Config, UnknownBackend};
use crate::health::{self, AdminState, BoundChecks, CheckFault, Runner};
use crate::publish::catalog::WEIGHT_MAX;
use crate::publish::keys::{BackendKey, backend_key};
use crate::publish::modules::{self, Builds};

/// The capacity of the queue of failed check modules.
const FAULTS_QUEUED: usize = 64;

/// Why a backend's admin state was not set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetBackendError {
    #[error(transparent)]
    Backend(#[from] UnknownBackend),
    #[error("only a drain has a time within which it ends")]
    Within,
    #[error("{0} is no weight; write a number from 0 to 65535")]
    Weight(u32),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Controller {
    /// Puts the effects of the backends' health into effect, if they changed.
    pub(crate) async fn publish_health(&mut self) -> Result<(), PublishError> {
        let config = Arc::clone(&self.config);
        if self.health.effects(&config) == self.effects {
            self.update_view();
            return Ok(());
        }
        let (catalog, draft) = self.draft(&config, Builds::Serving).await?;
        self.put_into_effect(config, catalog, draft).await
    }

    /// Binds the modules of a config's checks.
    pub(super) fn bind_checks(
        &self,
        config: &Arc<Config>,
    ) -> impl Future<Output = Result<BoundChecks, ModuleError>> + use<> {
        let (host, config) = (Arc::clone(&self.check_host), Arc::clone(config));
        let before = self.checks.clone();
        modules::blocking(move || health::bind(&host, &config, &before))
    }

    /// Starts the thread that runs the checks. Returns the receiver of modules that fail.
    ///
    /// # Errors
    /// The thread cannot be started, or a check's module cannot serve any more.
    pub(crate) async fn start_checks(
        &mut self,
    ) -> Result<mpsc::Receiver<CheckFault>, PublishError> {
        let checks = self.bind_checks(&self.config).await?;
        let (report, faults) = mpsc::channel(FAULTS_QUEUED);
        let runner = Runner {
            host: Arc::clone(&self.check_host),
            health: Arc::clone(&self.health),
            view: Arc::clone(&self.view),
            counters: Arc::clone(&self.counters),
            gauges: Arc::clone(&self.shared.gauges),
            jobs: self.jobs.subscribe(),
            faults: report,
            warned_at: None,
        };
        runner.start().map_err(PublishError::Thread)?;
        self.run_checks(checks).await;
        Ok(faults)
    }

    /// Runs the current config's checks with these modules.
    pub(super) async fn run_checks(&mut self, checks: BoundChecks) {
        self.checks = checks;
        let jobs = health::jobs(&self.config, &self.snapshot, &self.checks);
        self.jobs.send_replace(jobs);
        let (host, checks) = (Arc::clone(&self.check_host), self.checks.clone());
        // On a blocking thread: the host writes files.
        modules::blocking(move || checks.activate(&host)).await;
    }

    /// Binds the checks to the newest builds of their modules.
    pub(super) async fn rebind_checks(&mut self) {
        match self.bind_checks(&self.config).await {
            Ok(checks) => self.run_checks(checks).await,
            Err(e) => tracing::error!("{e}; the check modules in use keep running"),
        }
        self.update_view();
    }

    /// Handles failed check modules.
    pub(crate) async fn checks_faulted(&mut self, faults: Vec<CheckFault>) {
        let host = Arc::clone(&self.check_host);
        let recoveries = modules::blocking(move || {
            let recover = |CheckFault { check, why }| host.recover(&check, &why);
            faults.into_iter().map(recover).collect::<Vec<_>>()
        })
        .await;
        // Each run has an instance of its own, so only a rollback needs new bindings.
        if recoveries.contains(&Recovery::RolledBack) {
            self.rebind_checks().await;
        }
    }

    /// Publishes changed health; on failure the next tick tries again.
    pub(crate) async fn health_changed(&mut self) {
        match self.publish_health().await {
            Ok(()) => {}
            Err(e) => {
                tracing::error!("a change of backends' health is not in effect: {e}; trying again");
                self.republish_due = true;
            }
        }
    }

    /// Sets a backend's admin state; it is in effect when this returns.
    ///
    /// # Errors
    /// There is no such backend, or the change cannot be published.
    pub(crate) async fn set_backend(
        &mut self,
        request: &SetBackend,
    ) -> Result<(), SetBackendError> {
        let within = request.within_s.map(Duration::from_secs);
        if within.is_some() && request.state != AdminState::Draining {
            return Err(SetBackendError::Within);
        }
        let found = self.config.find_backend(&request.service, &request.backend);
        let key = match found {
            Ok((service, at)) => backend_key(service, &service.backends[at]),
            Err(unknown) => self.find_removed(request).ok_or(unknown)?,
        };
        self.health.set_admin(key, request.state, within);
        Ok(self.publish_health().await?)
    }

    /// Sets the operator's weight of a backend; it is in effect when this returns.
    ///
    /// # Errors
    /// There is no such backend or weight, or the change cannot be published.
    pub(crate) async fn set_weight(&mut self, request: &SetWeight) -> Result<(), SetBackendError> {
        if let Some(weight) = request.weight.filter(|it| u64::from(*it) > WEIGHT_MAX) {
            return Err(SetBackendError::Weight(weight));
        }
        let (service, backend) = (&request.service, &request.backend);
        let (service, at) = self.config.find_backend(service, backend)?;
        let key = backend_key(service, &service.backends[at]);
        self.health.set_weight(key, request.weight);
        Ok(self.publish_health().await?)
    }

    /// Returns a removed backend that still has sessions.
    fn find_removed(&self, request: &SetBackend) -> Option<BackendKey> {
        let removed = self.health.removed();
        let mut removed = removed.iter().filter(|(_, it)| {
            *it.service == *request.service && it.entry.is_called(&request.backend)
        });
        removed.next().map(|(key, _)| *key)
    }
}
