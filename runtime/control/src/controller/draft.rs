//! What a change will be, before anything of it is in effect.

use std::sync::Arc;

use waxwing_dataplane::epoch::Release;
use waxwing_dataplane::{Epoch, Snapshot};
use waxwing_plugin::{BoundModule, BuildsInUse, Host, ModuleError};

use crate::config::Config;
use crate::health::Effects;
use crate::modules::{self, Subject, Wanted};

/// What is sent to the workers.
pub(crate) struct Draft {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) effects: Effects,
    /// By their place in the config's policies.
    pub(super) modules: Vec<BoundModule>,
}

impl Draft {
    /// Binds the policies of a snapshot; [`Wanted::before`] gives what goes on.
    pub(crate) async fn make(
        host: &Arc<Host>,
        config: &Arc<Config>,
        (snapshot, effects): (Snapshot, Effects),
        wanted: Wanted,
    ) -> Result<Self, ModuleError> {
        let snapshot = Arc::new(snapshot);
        let subject = Subject {
            config: Arc::clone(config),
            snapshot: Arc::clone(&snapshot),
            effects: effects.clone(),
        };
        let modules = modules::bind(host, subject, wanted).await?;
        Ok(Self {
            snapshot,
            effects,
            modules,
        })
    }

    /// What the instances are made of.
    pub(crate) fn in_use(&self) -> Vec<BuildsInUse> {
        let in_use = self.modules.iter().map(|module| module.in_use.clone());
        in_use.collect()
    }

    /// One epoch for each of `workers` workers, all held back by one release. `before` is what they
    /// work with, whose instances go on where the draft keeps them.
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
