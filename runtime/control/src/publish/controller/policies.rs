//! Changes of policy modules: new builds, canaries, failed instances; and removed backends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use waxwing_plugin::{FaultReport, Recovery};

use super::{Controller, PublishError};
use crate::admin::requests::{LiftQuarantine, RollBack};
use crate::health;
use crate::parallel::side_by_side;
use crate::publish::modules;
use crate::restart::policies::{self, KeptPolicy};

/// Why no quarantine was lifted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LiftError {
    #[error("module {module} has no quarantined build {hash}*; its quarantined builds: {builds}")]
    NoSuchBuild {
        module: String,
        hash: String,
        builds: String,
    },
    #[error("module {0} has no quarantined build")]
    NotQuarantined(String),
}

/// Why a module was not rolled back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RollBackError {
    #[error("no policy is named \"{0}\"; `waxwing module list` shows them")]
    Unknown(String),
    #[error(
        "module {0} has no build to go back to: neither an earlier one of this run that is not quarantined, \
         nor one built into the program"
    )]
    NoEarlier(String),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Controller {
    /// Quarantines the newest build in use of a policy's module and lets the one before it serve; it does
    /// when this returns. Returns what was done.
    ///
    /// # Errors
    /// There is no such module or no such build, or the change cannot be published.
    pub(crate) async fn roll_back(&mut self, request: &RollBack) -> Result<String, RollBackError> {
        let name = request.module.clone();
        if !self.config.policies().iter().any(|used| **used == *name) {
            return Err(RollBackError::Unknown(name));
        }
        let host = Arc::clone(&self.policy_host);
        // On a blocking thread: the host writes files, and may compile.
        let rolled = modules::blocking(move || host.roll_back(&name)).await;
        let (from, to) = rolled.ok_or_else(|| RollBackError::NoEarlier(request.module.clone()))?;
        self.publish_changed_modules().await?;
        self.update_view();
        Ok(format!(
            "{to} serves instead of {from}, which is quarantined"
        ))
    }

    /// Ends the quarantine of a module's builds, and tries its newest build as a new one is. Returns their
    /// hashes.
    ///
    /// # Errors
    /// There is no such build.
    pub(crate) async fn lift_quarantine(
        &mut self,
        request: &LiftQuarantine,
    ) -> Result<Vec<String>, LiftError> {
        let LiftQuarantine { module, hash } = request.clone();
        let (policies, checks) = (Arc::clone(&self.policy_host), Arc::clone(&self.check_host));
        // On a blocking thread: the hosts write files.
        let lifted = modules::blocking(move || {
            let mut lifted = policies.lift(&module, &hash);
            lifted.extend(checks.lift(&module, &hash));
            lifted
        })
        .await;
        if lifted.is_empty() {
            return Err(self.not_lifted(request));
        }
        // If the build serves, because there is no other, its instances are disabled.
        self.faulted.insert(request.module.clone());
        self.modules_changed(&BTreeSet::from([request.module.clone()]))
            .await;
        self.update_view();
        Ok(lifted)
    }

    fn not_lifted(&self, LiftQuarantine { module, hash }: &LiftQuarantine) -> LiftError {
        let mut states = self.policy_host.status();
        states.extend(self.check_host.status());
        let of_module = states.into_iter().filter(|state| state.name == *module);
        let builds: Vec<String> = of_module
            .flat_map(|state| state.quarantined)
            .map(|build| build.hash.chars().take(12).collect())
            .collect();
        let module = module.clone();
        match builds.is_empty() {
            true => LiftError::NotQuarantined(module),
            false => LiftError::NoSuchBuild {
                module,
                hash: hash.clone(),
                builds: builds.join(", "),
            },
        }
    }

    /// Publishes the current config again, with new instances of what changed or failed.
    pub(super) async fn republish(&mut self) {
        match self.publish(Arc::clone(&self.config)).await {
            Ok(()) => {}
            Err(e @ PublishError::Stuck { .. }) => {
                tracing::error!("{e}; trying again");
                self.republish_due = true;
            }
            Err(e) => tracing::error!("{e}; the modules in use keep serving"),
        }
    }

    /// Has the policies save their states. It waits for the workers.
    pub(crate) fn save_policies(&self) -> Vec<KeptPolicy> {
        policies::save(&self.policy_host, &self.modules, self.workers.len())
    }

    /// Frees the removed backends whose last session has ended.
    pub(crate) async fn drop_retired(&mut self) {
        if self.catalog.has_freeable(&self.shared.gauges)
            && let Err(e) = self.publish(Arc::clone(&self.config)).await
        {
            tracing::warn!("removed backends cannot be dropped yet: {e}");
        }
    }

    /// Ends the start for the modules' hosts. Returns the modules whose files it did not wait for.
    pub(crate) fn end_start(&self) -> BTreeSet<String> {
        let mut later = self.policy_host.end_start();
        later.append(&mut self.check_host.end_start());
        later
    }

    /// Returns a task that compiles the modules whose files changed. It takes up to seconds, so it runs
    /// outside the control loop and health changes do not wait for it. The hosts keep the results.
    pub(crate) fn compile(
        &self,
        names: BTreeSet<String>,
    ) -> impl FnOnce() -> BTreeSet<String> + Send + use<> {
        let policies = self.config.policies();
        let (host, config) = (Arc::clone(&self.policy_host), Arc::clone(&self.config));
        let (check_host, checks) = (Arc::clone(&self.check_host), self.checks.clone());
        move || {
            let changed = policies.iter().filter(|name| names.contains(&***name));
            // A refusal is logged, kept for the status, and returned again when the policy is bound.
            let changed: Vec<_> = changed.collect();
            side_by_side(&changed, |name| drop(host.policy(name)));
            if names.iter().any(|name| checks.has(name)) {
                let _ = health::bind(&check_host, &config, &checks);
            }
            names
        }
    }

    /// Applies changed module files, after they were compiled.
    pub(crate) async fn modules_changed(&mut self, names: &BTreeSet<String>) {
        if names.iter().any(|name| self.checks.has(name)) {
            self.rebind_checks().await;
        }
        let in_use = self.config.policies();
        if in_use.iter().any(|name| names.contains(&**name)) {
            self.publish_modules_or_retry().await;
        }
    }

    /// Ends the canary of a new build: all workers get it, or the first one gets the serving build back.
    pub(crate) async fn canary_ended(&mut self) {
        let host = Arc::clone(&self.policy_host);
        // On a blocking thread: the host writes files.
        modules::blocking(move || host.judge_canaries()).await;
        if self.publish_modules_or_retry().await {
            self.update_view();
        }
    }

    /// Returns whether changed modules are in effect; on failure the next tick tries again.
    async fn publish_modules_or_retry(&mut self) -> bool {
        match self.publish_changed_modules().await {
            Ok(()) => true,
            Err(e) => {
                tracing::error!("{e}; the modules in use keep serving");
                self.republish_due = true;
                false
            }
        }
    }

    /// Returns when the next canary ends; `None` while a retry is due, which includes the canary.
    pub(crate) fn canary_ends(&self) -> Option<Instant> {
        self.policy_host
            .canary_ends()
            .filter(|_| !self.republish_due)
    }

    /// Replaces instances that failed; they are disabled until then.
    pub(crate) async fn instances_faulted(&mut self, reports: Vec<FaultReport>) {
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
            if !report.replaced {
                self.faulted.insert(module.name.clone());
            }
            let host = Arc::clone(&self.policy_host);
            match modules::blocking(move || host.recover(&report)).await {
                Recovery::Nothing => {}
                Recovery::Rebuild | Recovery::RolledBack => replace = true,
                Recovery::Exhausted => tracing::error!(
                    "there is no earlier build to roll back to: weighted rendezvous chooses until the \
                     module's file changes"
                ),
            }
        }
        if replace {
            self.republish().await;
        }
    }
}
