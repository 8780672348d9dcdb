//! From a config's policies to instances: which services each module is to serve, and how.
//!
//! Invariant: a module knows a service's backends in the order of [`Service::backends`], and a
//! backend by a key that is the same on every worker and balancer, and after a restart.

use std::sync::Arc;

use tokio::sync::mpsc;
use waxwing_dataplane::session::{Key, Tuple};
use waxwing_dataplane::{Backend, BackendId, Gauges, Snapshot};
use waxwing_packet::Address;
use waxwing_plugin::{
    BackendInfo, Bound, Compiler, Event, Host, HostError, InUse, ModuleError, Options, Refusal,
    ServiceBinding,
};

use crate::catalog::Catalog;
use crate::config::{ClusterKey, Config, Located, Problem, Service};

/// The modules that come with the program: name and bytes.
pub type Shipped = &'static [(&'static str, &'static [u8])];

/// The plugin host, with what it tells of.
pub struct Modules {
    pub(crate) host: Arc<Host>,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
}

impl Modules {
    /// Starts the host, and its watch over the config's folder.
    ///
    /// # Errors
    /// The Wasm engine does not work on this machine.
    pub fn start(config: &Config, shipped: Shipped, compiler: Compiler) -> Result<Self, HostError> {
        let (tell, events) = mpsc::unbounded_channel();
        let folder = config.modules.as_ref().map(|folder| folder.value.clone());
        let options = Options {
            compiler,
            canary: config.canary,
            ..Options::default()
        };
        let host = Host::new(options, shipped, folder, move |event| {
            // Nobody listens any more only at the very end.
            let _ = tell.send(event);
        })?;
        Ok(Self {
            host: Arc::new(host),
            events,
        })
    }
}

/// The seed of the hash that policies see, and that backends' keys are made with.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "both halves of the key are taken"
)]
pub const fn cluster_seed(ClusterKey(key): ClusterKey) -> [u64; 4] {
    [(key >> 64) as u64, key as u64, 0, 0]
}

/// For whom policies are bound.
pub(crate) struct Wanted {
    pub(crate) workers: usize,
    /// Told to the policies.
    pub(crate) seed: u64,
    /// What serves: its instances go on where they would be made the same.
    pub(crate) before: Vec<InUse>,
}

/// Tells the host what was put to work.
pub(crate) fn tell(host: &Host, modules: &[InUse]) {
    for InUse { module, others, .. } in modules {
        host.put_to_work(module, others.is_some());
    }
}

/// Binds every policy of a config, in the order of [`Config::policies`], with an instance per
/// worker.
///
/// # Errors
/// The first policy that cannot serve.
pub(crate) async fn bind(
    host: &Arc<Host>,
    config: Arc<Config>,
    snapshot: Arc<Snapshot>,
    wanted: Wanted,
) -> Result<Vec<Bound>, ModuleError> {
    let host = Arc::clone(host);
    blocking(move || {
        let keys = Key::new(cluster_seed(config.cluster_key));
        let workers = u32::try_from(wanted.workers).unwrap_or(u32::MAX);
        let bind = |name: &Arc<str>| {
            let before = wanted.before.iter().find(|old| old.module.name == **name);
            let services = bindings(&config, &snapshot, &keys, name);
            host.bind_again(name, workers, wanted.seed, &services, before)
        };
        config.policies().iter().map(bind).collect()
    })
    .await
}

/// Every module that is missing or refuses its services, each as a problem at a service that
/// names it.
pub(crate) async fn check(host: &Arc<Host>, config: Config) -> Vec<Problem> {
    let host = Arc::clone(host);
    blocking(move || problems(&host, &config)).await
}

/// Runs what compiles, which takes milliseconds to seconds, off the executor's threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Nobody cancels it, so it has panicked: a bug, which goes on to whoever called.
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

fn problems(host: &Host, config: &Config) -> Vec<Problem> {
    let gauges = Gauges::new(config.backends_max, 1);
    // What has no room is reported where the real catalog applies the config.
    let mut catalog = Catalog::new(config.services_max, config.backends_max);
    let Ok(snapshot) = catalog.apply(config, &[], &gauges) else {
        return Vec::new();
    };
    let keys = Key::new(cluster_seed(config.cluster_key));
    let check = |name: &Arc<str>| {
        let bound = host.bind(name, 1, 0, &bindings(config, &snapshot, &keys, name));
        bound.err().and_then(|error| problem(config, name, &error))
    };
    config.policies().iter().filter_map(check).collect()
}

/// The error at the place it is about: a service's `policy_config` where the module refused that,
/// else the first `policy` that names the module.
fn problem(config: &Config, policy: &str, error: &ModuleError) -> Option<Problem> {
    let named = |name: &str| {
        config
            .services
            .iter()
            .find(|service| &*service.name.value == name)
    };
    let span = match &error.refusal {
        Refusal::Refused { service, .. } => named(service).map(|s| s.policy_config.span),
        Refusal::SetUp { service, .. }
        | Refusal::Abi { service, .. }
        | Refusal::Vetting { service, .. } => named(service).map(|s| s.policy.span),
        _ => None,
    };
    let first = || {
        let mut policies = config.services.iter().map(|service| &service.policy);
        policies
            .find(|named| &*named.value == policy)
            .map(|named| named.span)
    };
    span.or_else(first)
        .map(|span| config.error_at(span, error.to_string()))
}

fn bindings(config: &Config, snapshot: &Snapshot, keys: &Key, policy: &str) -> Vec<ServiceBinding> {
    let services = config
        .services
        .iter()
        .filter(|service| &*service.policy.value == policy);
    services
        .filter_map(|service| binding(service, snapshot, keys))
        .collect()
}

/// The binding of a service; `None` for one that is not in the snapshot, which was made from the
/// same config.
fn binding(entry: &Service, snapshot: &Snapshot, keys: &Key) -> Option<ServiceBinding> {
    let Located { value: vip, .. } = entry.vip;
    let service = snapshot.service_at(vip, entry.port.value, entry.protocol.value)?;
    let info = |(id, entry): (&BackendId, &crate::config::Backend)| {
        let backend = snapshot.backend(*id)?;
        Some(BackendInfo {
            id: *id,
            key: key(keys, backend),
            weight: backend.weight,
            healthy: true,
            tag: entry.tag,
        })
    };
    Some(ServiceBinding {
        service: service.id,
        name: Arc::clone(&service.name),
        config_json: entry.policy_config.value.to_string(),
        backends: service
            .backends
            .iter()
            .zip(&entry.backends)
            .filter_map(info)
            .collect(),
    })
}

fn key(keys: &Key, backend: &Backend) -> u64 {
    let endpoint = Tuple {
        source: backend.address,
        destination: Address::default(),
        source_port: backend.port,
        destination_port: 0,
        protocol: backend.protocol,
    };
    keys.hash(&endpoint).bits()
}
