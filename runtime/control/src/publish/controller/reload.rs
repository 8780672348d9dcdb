//! Reloading the config file.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::{Controller, PublishError};
use crate::admin::requests::ApplyConfig;
use crate::admin::status::ReloadStatus;
use crate::config::{Config, ConfigErrors, ParsedConfig, Problem};
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

/// Why a config was not applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error("the config in effect has changed since it was read; read it again, and merge")]
    Changed,
    #[error("the config's file has changes that are not in effect; reload first, or undo them")]
    NotLoaded,
    #[error("cannot write {}: {source}; the user that waxwing runs as must be allowed to", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Reload(#[from] ReloadError),
}

/// Returns what names a config's text in `ETag` and `If-Match`, without quotes.
pub(crate) fn etag(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Replaces a file at once, with the mode that it has.
fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mode = std::fs::metadata(path)?.permissions();
    let written = std::fs::write(&new, text)
        .and_then(|()| std::fs::set_permissions(&new, mode))
        .and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        // Best effort.
        let _ = std::fs::remove_file(&new);
    }
    written
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
        let added = self.config.added.clone();
        let reading = Config::read_file_with(self.config.source().path(), |_| added)?;
        let (config, warnings) = self.checked(reading).await?;
        let before = Arc::clone(&self.config);
        let done = self.take_effect(config, &warnings).await?;
        self.loaded_at = SystemTime::now();
        // The file may have some of them now.
        if self.config.added != before.added
            && let Err(error) = self.config.added.keep()
        {
            tracing::warn!("the added backends cannot be kept: {error}");
        }
        Ok(done)
    }

    /// Puts a checked config into effect. Returns what changed.
    ///
    /// # Errors
    /// The running one stays.
    pub(super) async fn take_effect(
        &mut self,
        config: Config,
        warnings: &[Problem],
    ) -> Result<ReloadStatus, ReloadError> {
        // So that the ids of removed backends without sessions are free for this config.
        self.drop_retired().await;
        let changes = Changes::between(&self.config, &config);
        let touched = self.sessions_of(&changes.removed);
        self.publish(Arc::new(config)).await?;
        let generation = self.snapshot.generation;
        let sessions = if touched == 1 { "session" } else { "sessions" };
        Ok(ReloadStatus {
            changes: format!("generation {generation}: {changes}, {touched} {sessions} touched"),
            warnings: texts(warnings),
            ..ReloadStatus::default()
        })
    }

    /// Checks a text as a reload checks the config's file. Returns what it would change, and the warnings.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) async fn validate(&mut self, text: &str) -> Result<ReloadStatus, ReloadError> {
        let added = self.config.added.clone();
        let reading = Config::read_with(text, self.config.source().path(), |_| added);
        let (config, warnings) = self.checked(reading).await?;
        Ok(ReloadStatus {
            changes: Changes::between(&self.config, &config).to_string(),
            warnings: texts(&warnings),
            ..ReloadStatus::default()
        })
    }

    /// Replaces the config's file by a text, and puts that into effect. Returns what changed.
    ///
    /// # Errors
    /// Somebody else was faster, the text has errors, or the file cannot be written: the file stays then.
    pub(crate) async fn apply(&mut self, request: ApplyConfig) -> Result<ReloadStatus, ApplyError> {
        let running = Arc::clone(&self.config);
        let source = running.source();
        let file = std::fs::read_to_string(source.path());
        let file = file.map_err(|error| ApplyError::Write {
            path: source.path().to_owned(),
            source: error,
        })?;
        if etag(source.text()) != request.if_match {
            return Err(ApplyError::Changed);
        }
        if file != source.text() {
            return Err(ApplyError::NotLoaded);
        }
        self.validate(&request.text).await?;
        let failed = |source_error| ApplyError::Write {
            path: source.path().to_owned(),
            source: source_error,
        };
        replace_file(source.path(), &request.text).map_err(failed)?;
        match self.reload().await {
            Ok(done) => Ok(done),
            Err(why) => {
                replace_file(source.path(), &file).map_err(failed)?;
                Err(why.into())
            }
        }
    }

    /// Checks a config against this machine, the modules, and what only a start may change.
    pub(super) async fn checked(
        &mut self,
        mut reading: ParsedConfig,
    ) -> Result<(Config, Vec<Problem>), ReloadError> {
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
        Ok((config, warnings))
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
