//! Which builds of a module serve.

use std::sync::Arc;

use waxwing_dataplane::Policy;

use crate::build::module::CompiledModule;
use crate::policy::hosted::ServiceBinding;

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

    /// Returns the build of a worker's instance, if it was made for these services.
    pub(crate) fn build_for(
        &self,
        worker: u32,
        services: &[ServiceBinding],
    ) -> Option<&CompiledModule> {
        let same = self.services.as_deref() == Some(services);
        let build = if worker == 0 {
            &self.module
        } else {
            self.majority()
        };
        same.then_some(build)
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
