//! The controller's part in health: who checks, and what the results change.

use std::sync::Arc;

use tokio::sync::mpsc;
use waxwing_plugin::{ModuleError, Recovery};

use super::{Controller, PublishError};
use crate::catalog::{BackendKey, backend_key};
use crate::config::Config;
use crate::health::{self, BoundChecks, Fault, Runner};
use crate::modules::{self, Builds};
use crate::run::StartError;
use crate::signals::SetBackend;

/// Failures of checks' modules that wait to be looked at.
const FAULTS_WAITING: usize = 64;

impl Controller {
    /// Puts what the backends' health means into effect, if that is something new.
    pub(crate) async fn publish_health(&mut self) -> Result<(), PublishError> {
        let config = Arc::clone(&self.config);
        if self.health.effects(&config) == self.effects {
            self.show();
            return Ok(());
        }
        let (catalog, draft) = self.draft(&config, Builds::Serving).await?;
        self.put_into_effect(config, catalog, draft).await
    }

    /// The modules of a config's checks.
    pub(super) fn bind_checks(
        &self,
        config: &Arc<Config>,
    ) -> impl Future<Output = Result<BoundChecks, ModuleError>> + use<> {
        let (host, config) = (Arc::clone(&self.check_host), Arc::clone(config));
        let before = self.checks.clone();
        modules::blocking(move || health::bind(&host, &config, &before))
    }

    /// Starts the thread that runs the checks; gives what it tells of modules that fail.
    ///
    /// # Errors
    /// There is no thread to be had, or a check's module cannot serve any more.
    pub(crate) async fn start_checks(&mut self) -> Result<mpsc::Receiver<Fault>, StartError> {
        let checks = self.bind_checks(&self.config).await?;
        let (tell, faults) = mpsc::channel(FAULTS_WAITING);
        let runner = Runner {
            host: Arc::clone(&self.check_host),
            health: Arc::clone(&self.health),
            reporter: Arc::clone(&self.reporter),
            jobs: self.jobs.subscribe(),
            faults: tell,
            complained: None,
        };
        runner.start()?;
        self.run_checks(checks).await;
        Ok(faults)
    }

    /// Has the checks of the config in effect run by these modules.
    pub(super) async fn run_checks(&mut self, checks: BoundChecks) {
        self.checks = checks;
        let jobs = health::jobs(&self.config, &self.snapshot, &self.checks);
        self.jobs.send_replace(jobs);
        let (host, checks) = (Arc::clone(&self.check_host), self.checks.clone());
        // The host writes files then.
        modules::blocking(move || checks.activate(&host)).await;
    }

    /// Binds the modules of the checks anew.
    pub(super) async fn renew_checks(&mut self) {
        match self.bind_checks(&self.config).await {
            Ok(checks) => self.run_checks(checks).await,
            Err(e) => tracing::error!("what checks goes on checking: {e}"),
        }
        self.show();
    }

    /// Checks' modules failed.
    pub(crate) async fn checks_faulted(&mut self, faults: Vec<Fault>) {
        let host = Arc::clone(&self.check_host);
        let recoveries = modules::blocking(move || {
            let recover = |Fault { check, why }| host.recover(&check, &why);
            faults.into_iter().map(recover).collect::<Vec<_>>()
        })
        .await;
        // Else every run has an instance of its own: there is nothing to make anew.
        if recoveries.contains(&Recovery::RolledBack) {
            self.renew_checks().await;
        }
    }

    /// The health of backends may be another now.
    pub(crate) async fn health_changed(&mut self) {
        match self.publish_health().await {
            Ok(()) => {}
            Err(e) => {
                tracing::error!("the health of backends is not in effect: {e}; trying again");
                self.modules_due = true;
            }
        }
    }

    /// The operator's word on a backend: in effect when this returns.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub(crate) async fn set_backend(&mut self, request: &SetBackend) -> Result<(), String> {
        let key = self.backend_called(&request.service, &request.backend)?;
        self.health.set_admin(key, request.state);
        self.publish_health().await.map_err(|e| e.to_string())
    }

    fn backend_called(&self, service: &str, backend: &str) -> Result<BackendKey, String> {
        let (service, backend) = self.config.find_backend(service, backend)?;
        Ok(backend_key(service, &service.backends[backend]))
    }
}
