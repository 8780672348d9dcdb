//! The state that the controller last put into effect, for status and health checks to read.
//!
//! Invariant: a reader never waits for a change in progress.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use waxwing_dataplane::Snapshot;
use waxwing_plugin::BuildsInUse;

use crate::admin::status::ReloadStatus;
use crate::config::Config;

/// The state that the controller last put into effect.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) config: Arc<Config>,
    pub(crate) loaded_at: SystemTime,
    pub(crate) snapshot: Arc<Snapshot>,
    /// In the order of [`Config::policies`].
    pub(crate) modules: Vec<BuildsInUse>,
    pub(crate) last_reload: Option<ReloadStatus>,
    pub(crate) reloads: ReloadCounts,
    /// Current problems, for the operator.
    pub(crate) problems: Vec<String>,
}

/// The reloads since the start.
#[derive(Clone, Copy, Default)]
pub(crate) struct ReloadCounts {
    pub(crate) succeeded: u64,
    pub(crate) refused: u64,
}

/// The current [`View`]: set by the controller, read by everyone else.
pub(crate) struct CurrentView(Mutex<Arc<View>>);

impl CurrentView {
    pub(crate) fn new(view: View) -> Self {
        Self(Mutex::new(Arc::new(view)))
    }

    pub(crate) fn get(&self) -> Arc<View> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set(&self, view: View) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }
}
