//! A service and its backends, as an instance knows them.

use std::sync::Arc;

use waxwing_dataplane::{BackendId, ServiceId};
use waxwing_sdk::abi::HostFields;

use crate::policy::module_counters::CounterPublisher;
use crate::policy::outcomes::OutcomeCounter;
use crate::policy::regions::Regions;
use crate::policy::shared_cells::SharedCells;

/// A backend, as a policy sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendInfo {
    /// Its stable id.
    pub id: BackendId,
    /// A hash of its address and port under the cluster's key: the same on every worker and
    /// balancer, and after a restart.
    pub key: u64,
    /// Its share of new sessions; 0 takes none.
    pub weight: u32,
    /// Whether its health lets it take new sessions.
    pub healthy: bool,
    /// The factor that its health checks apply to its weight, in percent.
    pub health_weight: u16,
    /// The operator's tag; 0 if none.
    pub tag: u32,
}

/// A service that a module is to serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceBinding {
    /// Its stable id.
    pub service: ServiceId,
    /// Its name, for messages.
    pub name: Arc<str>,
    /// The policy's config, JSON text.
    pub config_json: String,
    /// Its backends, in the order of [`waxwing_dataplane::Service::backends`].
    pub backends: Vec<BackendInfo>,
}

/// A service that an instance serves.
pub(crate) struct HostedService {
    pub(crate) service: ServiceId,
    pub(crate) name: Arc<str>,
    pub(crate) config_json: Arc<str>,
    pub(crate) regions: Regions,
    pub(crate) backends: Box<[BackendInfo]>,
    /// Which backends take new sessions, and which are healthy: a healthy one may keep its clients.
    pub(crate) available: Box<[bool]>,
    pub(crate) healthy: Box<[bool]>,
    /// The header's fields that stay: all but the time.
    pub(crate) host_fields: HostFields,
    pub(crate) refreshed_ms: u64,
    pub(crate) ticked_ms: u64,
    pub(crate) counters: CounterPublisher,
    pub(crate) shared: SharedCells,
    pub(crate) outcomes: Arc<OutcomeCounter>,
}
