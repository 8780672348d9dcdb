//! A change that is bound and ready, but not yet in effect.

use std::sync::Arc;

use waxwing_dataplane::model::Release;
use waxwing_dataplane::{Epoch, Snapshot};
use waxwing_plugin::{BoundModule, BuildsInUse, Host, ModuleError};

use crate::config::Config;
use crate::health::Effects;
use crate::publish::modules::{self, BindOptions, BindTarget};

/// A snapshot and its bound policies, ready to be sent to the workers.
pub(crate) struct Draft {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) effects: Effects,
    /// In the order of [`Config::policies`].
    pub(super) modules: Vec<BoundModule>,
}

impl Draft {
    /// Binds the policies of a snapshot, reusing instances of [`BindOptions::reusable`].
    pub(crate) async fn make(
        host: &Arc<Host>,
        config: &Arc<Config>,
        (snapshot, effects): (Snapshot, Effects),
        options: BindOptions,
    ) -> Result<Self, ModuleError> {
        let snapshot = Arc::new(snapshot);
        let target = BindTarget {
            config: Arc::clone(config),
            snapshot: Arc::clone(&snapshot),
            effects: effects.clone(),
        };
        let modules = modules::bind(host, target, options).await?;
        Ok(Self {
            snapshot,
            effects,
            modules,
        })
    }

    /// Returns the modules of the bound policies.
    pub(crate) fn in_use(&self) -> Vec<BuildsInUse> {
        let in_use = self.modules.iter().map(|module| module.in_use.clone());
        in_use.collect()
    }

    /// Returns one epoch per worker, all held by `release`. `before` are the modules that the workers
    /// use now; kept instances are moved over from them.
    pub(crate) fn epochs(
        self,
        workers: usize,
        before: &[BuildsInUse],
        release: &Release,
    ) -> Vec<Epoch> {
        let mut epochs: Vec<Epoch> = (0..workers)
            .map(|_| Epoch {
                snapshot: Arc::clone(&self.snapshot),
                policies: Vec::with_capacity(self.modules.len()),
                kept: Vec::new(),
                release: release.clone(),
            })
            .collect();
        for (here, module) in self.modules.into_iter().enumerate() {
            let name = &module.in_use.module.name;
            let there = before.iter().position(|old| old.module.name == *name);
            for (worker, (epoch, policy)) in epochs.iter_mut().zip(module.policies).enumerate() {
                epoch.policies.push(policy);
                if let Some(there) = there
                    && module.kept.contains(&worker)
                {
                    epoch.kept.push((here, there));
                }
            }
        }
        epochs
    }
}
