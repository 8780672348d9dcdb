//! Changes of policy modules: new builds, canaries, failed instances; and removed backends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use waxwing_plugin::{FaultReport, Recovery};

use super::{Controller, PublishError};
use crate::health;
use crate::publish::modules;

impl Controller {
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

    /// Frees the removed backends whose last session has ended.
    pub(crate) async fn drop_retired(&mut self) {
        if self.catalog.has_freeable(&self.shared.gauges)
            && let Err(e) = self.publish(Arc::clone(&self.config)).await
        {
            tracing::warn!("removed backends cannot be dropped yet: {e}");
        }
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
            for name in policies.iter().filter(|name| names.contains(&***name)) {
                // A refusal is logged, kept for the status, and returned again when the policy is bound.
                let _ = host.policy(name);
            }
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

    /// Ends the canary of a new build.
    pub(crate) async fn canary_ended(&mut self) {
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
            self.faulted.insert(module.name.clone());
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
