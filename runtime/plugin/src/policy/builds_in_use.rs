//! Which builds of a module serve.

use std::sync::Arc;

use tracing::warn;
use waxwing_dataplane::Policy;

use crate::build::module::CompiledModule;
use crate::policy::hosted::ServiceBinding;
use crate::policy::saved_states::{SavedState, SavedStates, StateDesk};

/// The builds of a module that the workers' instances were made of, and the services they serve.
#[derive(Clone, Debug)]
pub struct BuildsInUse {
    /// The newest build that passed.
    pub module: Arc<CompiledModule>,
    /// If [`BuildsInUse::module`] is a canary: the build on all workers except the first.
    pub others: Option<Arc<CompiledModule>>,
    /// The services; `None` if no build can serve them and the native fallback does.
    pub services: Option<Arc<[ServiceBinding]>>,
}

impl BuildsInUse {
    /// Returns the build that most workers have.
    #[must_use]
    pub fn majority(&self) -> &Arc<CompiledModule> {
        self.others.as_ref().unwrap_or(&self.module)
    }

    /// Returns the build of a worker's instance.
    pub(crate) fn build_of(&self, worker: u32) -> &Arc<CompiledModule> {
        match worker {
            0 => &self.module,
            _ => self.majority(),
        }
    }

    /// Returns what the serving instances leave to new ones: of the first build on the first worker, of the
    /// second on the others.
    pub(crate) fn ask_for_states(
        &self,
        desk: &StateDesk,
        (first, others): (&Arc<CompiledModule>, &Arc<CompiledModule>),
        workers: u32,
        services: &[ServiceBinding],
        is_quarantined: impl Fn(&CompiledModule) -> bool,
    ) -> Option<Arc<SavedStates>> {
        let leaves = |worker| {
            let build = if worker == 0 { first } else { others };
            self.leaves_state(worker, build, services)
        };
        if !(0..workers).any(leaves) {
            return None;
        }
        let mut saved = self.ask(desk, workers);
        // A build that failed leaves nothing to another one.
        let failed = |worker: &u32| is_quarantined(self.build_of(*worker));
        (0..workers)
            .filter(failed)
            .for_each(|worker| saved.forget(worker));
        Some(Arc::new(saved))
    }

    /// Has the serving instances save their state.
    pub(crate) fn save(&self, desk: &StateDesk, workers: u32) -> Vec<SavedState> {
        let states = self.services.is_some().then(|| self.ask(desk, workers));
        states.map_or_else(Vec::new, SavedStates::into_list)
    }

    fn ask(&self, desk: &StateDesk, workers: u32) -> SavedStates {
        let asked = (0..workers).filter(|worker| self.build_of(*worker).keeps_state());
        let saved = match asked.count() {
            0 => SavedStates::default(),
            asked => desk.ask(asked),
        };
        let name = &self.module.name;
        if let Some(problem) = &saved.problem {
            warn!("policy {name}: a state is not kept: {problem}");
        }
        if saved.late > 0 {
            warn!(
                "policy {name}: {} workers did not save their state in time",
                saved.late
            );
        }
        saved
    }

    /// Returns whether a worker's instance leaves its state to one of this build for these services: it keeps
    /// state, and does not serve on itself.
    fn leaves_state(
        &self,
        worker: u32,
        build: &CompiledModule,
        services: &[ServiceBinding],
    ) -> bool {
        let present = self.build_of(worker);
        let Some(before) = self.services.as_deref() else {
            return false;
        };
        let goes_on = |new: &ServiceBinding| {
            before
                .iter()
                .any(|old| old.service == new.service && old.config_json == new.config_json)
        };
        let serves_on = build.hash == present.hash && build.info.keep;
        build.info.saves && present.keeps_state() && !(serves_on && services.iter().all(goes_on))
    }

    /// Returns the build of a worker's instance, if it was made for these services.
    pub(crate) fn build_for(
        &self,
        worker: u32,
        services: &[ServiceBinding],
    ) -> Option<&CompiledModule> {
        let same = self.services.as_deref() == Some(services);
        same.then(|| &**self.build_of(worker))
    }
}

/// A module with one instance per worker.
pub struct BoundModule {
    /// The builds that the instances were made of.
    pub in_use: BuildsInUse,
    /// Instances by worker; [`waxwing_dataplane::policy::Vacant`] for those in [`BoundModule::kept`].
    pub policies: Vec<Box<dyn Policy>>,
    /// The workers that keep their present instance: it has the same build and the same services.
    pub kept: Vec<usize>,
}

impl BoundModule {
    /// Returns whether all workers keep their instances.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.len() == self.policies.len()
    }
}
