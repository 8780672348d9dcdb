//! Reloading the config file.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Controller, PublishError};
use crate::admin::status::ReloadStatus;
use crate::config::{Config, ConfigErrors, Problem};
use crate::publish::changes::Changes;
use crate::publish::keys::{BackendKey, snapshot_key};
use crate::publish::reloads::Reload;
use crate::publish::{modules, preflight};
use crate::time::unix_seconds;

/// Why a reload was refused; the running config stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error("cannot read the kernel's network tables (rtnetlink): {0}")]
    Netlink(#[from] io::Error),
    #[error(
        "{}: changes of {keys} take effect only at start; restart waxwing, or undo them and reload",
        path.display()
    )]
    NeedsRestart { path: PathBuf, keys: String },
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Controller {
    /// Reads the config file again and puts it into effect. Returns what changed, and the warnings.
    ///
    /// # Errors
    /// Everything that is wrong with the config; the running one stays.
    pub(crate) async fn reload(&mut self) -> Result<ReloadStatus, ReloadError> {
        (self.on_reload)(Reload::Begins);
        let at = unix_seconds(SystemTime::now());
        let outcome = self
            .try_reload()
            .await
            .map(|done| ReloadStatus { at, ..done });
        let status = match &outcome {
            Ok(done) => {
                for warning in &done.warnings {
                    tracing::warn!("{warning}");
                }
                tracing::info!("config reloaded, {}", done.changes);
                done.clone()
            }
            Err(why) => {
                tracing::error!("config not reloaded, the running config stays:\n{why}");
                ReloadStatus {
                    at,
                    error: Some(why.to_string()),
                    ..ReloadStatus::default()
                }
            }
        };
        (self.on_reload)(Reload::Ended(&status));
        self.last_reload = Some(status);
        match &outcome {
            Ok(_) => self.reloads.succeeded += 1,
            Err(_) => self.reloads.refused += 1,
        }
        self.update_view();
        outcome
    }

    async fn try_reload(&mut self) -> Result<ReloadStatus, ReloadError> {
        let mut reading = Config::read_file(self.config.source().path())?;
        // The ports are attached and stay so; nothing that the network is like stops a reload.
        let found = preflight::network(reading.config(), &self.kernel).await?;
        reading.add(found.into_iter().map(Problem::into_warning));
        let config = reading.config().clone().with_incomplete();
        let found = modules::check(&self.policy_host, &self.check_host, config).await;
        reading.add(found.problems);
        let (config, warnings) = reading.finish()?;
        let fixed = config.needs_restart(&self.config);
        if !fixed.is_empty() {
            return Err(ReloadError::NeedsRestart {
                path: config.source().path().to_owned(),
                keys: fixed.join(", "),
            });
        }
        // So that the ids of removed backends without sessions are free for this config.
        self.drop_retired().await;
        let changes = Changes::between(&self.config, &config);
        let touched = self.sessions_of(&changes.removed);
        self.publish(Arc::new(config)).await?;
        self.loaded_at = SystemTime::now();
        let generation = self.snapshot.generation;
        let sessions = if touched == 1 { "session" } else { "sessions" };
        Ok(ReloadStatus {
            changes: format!("generation {generation}: {changes}, {touched} {sessions} touched"),
            warnings: warnings.iter().map(ToString::to_string).collect(),
            ..ReloadStatus::default()
        })
    }

    /// Returns whether a session is half-open or active.
    pub(crate) fn has_open_sessions(&self) -> bool {
        let gauges = &self.shared.gauges;
        let mut backends = self.snapshot.backends();
        backends.any(|backend| gauges.sessions(backend.id).load() > 0)
    }

    /// Counts the half-open and active sessions of backends.
    fn sessions_of(&self, keys: &HashSet<BackendKey>) -> u64 {
        let backends = self.snapshot.backends();
        let members = backends.filter(|backend| keys.contains(&snapshot_key(backend)));
        let gauges = &self.shared.gauges;
        members
            .map(|backend| u64::from(gauges.sessions(backend.id).load()))
            .sum()
    }
}
