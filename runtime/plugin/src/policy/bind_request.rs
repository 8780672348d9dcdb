//! What a module's instances are made for.

use std::sync::Arc;

use crate::policy::builds_in_use::BuildsInUse;
use crate::policy::hosted::ServiceBinding;
use crate::policy::saved_states::SavedStates;

/// What instances are made for.
pub(crate) struct BindRequest<'a> {
    pub(crate) workers: u32,
    pub(crate) seed: u64,
    pub(crate) services: Arc<[ServiceBinding]>,
    pub(crate) before: Option<&'a BuildsInUse>,
    /// What the first instances start with.
    pub(crate) first: Option<Arc<SavedStates>>,
}

impl<'a> BindRequest<'a> {
    pub(crate) fn new(
        workers: u32,
        seed: u64,
        services: &[ServiceBinding],
        before: Option<&'a BuildsInUse>,
    ) -> Self {
        Self {
            workers,
            seed,
            services: services.into(),
            before,
            first: None,
        }
    }
}
