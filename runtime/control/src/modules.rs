//! From a config's policies to instances: which services each module is to serve, and how.
//!
//! Invariant: a module knows a service's backends in the order of [`Service::backends`], and a
//! backend by a key that is the same on every worker and balancer, and after a restart.

use std::sync::Arc;

use tokio::sync::mpsc;
use waxwing_dataplane::session::{Key, Tuple};
use waxwing_dataplane::{Backend, BackendId, Gauges, Snapshot};
use waxwing_packet::Address;
use waxwing_plugin::checks::{CheckHost, CheckOptions};
use waxwing_plugin::{
    BackendInfo, BoundModule, BuildsInUse, Compiler, Host, HostError, HostEvent, HostOptions,
    ModuleError, Refusal, ServiceBinding,
};

use crate::catalog::{Catalog, key_of};
use crate::config::{ClusterKey, Config, Located, Problem, Service};
use crate::health::{self, Effects};

/// The modules that come with the program: name and bytes of each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shipped {
    /// Those that choose backends.
    pub policies: &'static [(&'static str, &'static [u8])],
    /// Those that check backends' health.
    pub checks: &'static [(&'static str, &'static [u8])],
}

/// The plugin hosts, with what they tell of.
pub struct Modules {
    pub(crate) host: Arc<Host>,
    pub(crate) checks: Arc<CheckHost>,
    pub(crate) events: mpsc::UnboundedReceiver<HostEvent>,
}

impl Modules {
    /// Starts the hosts, and the watch over the config's folder.
    ///
    /// # Errors
    /// The Wasm engine does not work on this machine.
    pub fn start(config: &Config, shipped: Shipped, compiler: Compiler) -> Result<Self, HostError> {
        let (tell, events) = mpsc::unbounded_channel();
        let folder = config.modules.as_ref().map(|folder| folder.value.clone());
        let options = CheckOptions {
            compiler: compiler.clone(),
            ..CheckOptions::default()
        };
        let checks = CheckHost::new(options, shipped.checks, folder.clone())?;
        let options = HostOptions {
            compiler,
            canary: config.canary,
            ..HostOptions::default()
        };
        let host = Host::new(options, shipped.policies, folder, move |event| {
            // Nobody listens any more only at the very end.
            let _ = tell.send(event);
        })?;
        Ok(Self {
            host: Arc::new(host),
            checks: Arc::new(checks),
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
    pub(crate) before: Vec<BuildsInUse>,
    pub(crate) builds: Builds,
}

/// Which builds are bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Builds {
    /// The newest that pass: one that is new is compiled first.
    Newest,
    /// Those that serve, where they can.
    Serving,
}

/// Tells the host what was put to work.
pub(crate) fn tell(host: &Host, modules: &[BuildsInUse]) {
    for BuildsInUse { module, others, .. } in modules {
        host.activate(module, others.is_some());
    }
}

/// What policies are bound to.
pub(crate) struct Subject {
    pub(crate) config: Arc<Config>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) effects: Effects,
}

/// Binds every policy of a config, in the order of [`Config::policies`], with an instance per
/// worker.
///
/// # Errors
/// The first policy that cannot serve.
pub(crate) async fn bind(
    host: &Arc<Host>,
    subject: Subject,
    wanted: Wanted,
) -> Result<Vec<BoundModule>, ModuleError> {
    let host = Arc::clone(host);
    blocking(move || {
        let config = &subject.config;
        let keys = Key::new(cluster_seed(config.cluster_key));
        let workers = u32::try_from(wanted.workers).unwrap_or(u32::MAX);
        let bind = |name: &Arc<str>| {
            let before = wanted.before.iter().find(|old| old.module.name == **name);
            let services = bindings(&subject, &keys, name);
            match (before, wanted.builds) {
                (Some(before), Builds::Serving) => {
                    host.rebind(before, workers, wanted.seed, &services)
                }
                _ => host.bind_or_fall_back(name, workers, wanted.seed, &services, before),
            }
        };
        config.policies().iter().map(bind).collect()
    })
    .await
}

/// Every module that is missing or refuses its services, each as a problem at a service that
/// names it.
pub(crate) async fn check(
    host: &Arc<Host>,
    checks: &Arc<CheckHost>,
    config: Config,
) -> Vec<Problem> {
    let (host, checks) = (Arc::clone(host), Arc::clone(checks));
    blocking(move || {
        let mut problems = problems(&host, config.clone());
        problems.extend(health::problems(&checks, &config));
        problems
    })
    .await
}

/// Runs what compiles, which takes milliseconds to seconds, off the executor's threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Nobody cancels it, so it has panicked: a bug, which goes on to whoever called.
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

fn problems(host: &Host, config: Config) -> Vec<Problem> {
    let gauges = Gauges::new(config.backends_max, 1);
    // What has no room is reported where the real catalog applies the config.
    let mut catalog = Catalog::new(config.services_max, config.backends_max);
    let effects = Effects::new();
    let Ok(snapshot) = catalog.apply(&config, &[], &gauges, &effects) else {
        return Vec::new();
    };
    let subject = Subject {
        config: Arc::new(config),
        snapshot: Arc::new(snapshot),
        effects,
    };
    let config = &subject.config;
    let keys = Key::new(cluster_seed(config.cluster_key));
    let check = |name: &Arc<str>| {
        let bound = host.bind(name, 1, 0, &bindings(&subject, &keys, name));
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

fn bindings(subject: &Subject, keys: &Key, policy: &str) -> Vec<ServiceBinding> {
    let services = subject
        .config
        .services
        .iter()
        .filter(|service| &*service.policy.value == policy);
    services
        .filter_map(|service| binding(service, subject, keys))
        .collect()
}

/// The binding of a service; `None` for one that is not in the snapshot, which was made from the
/// same config.
fn binding(entry: &Service, subject: &Subject, keys: &Key) -> Option<ServiceBinding> {
    let Subject {
        snapshot, effects, ..
    } = subject;
    let Located { value: vip, .. } = entry.vip;
    let service = snapshot.service_of(vip, entry.ports.value, entry.protocol.value)?;
    let info = |(id, entry): (&BackendId, &crate::config::Backend)| {
        let backend = snapshot.backend(*id)?;
        Some(BackendInfo {
            id: *id,
            key: key(keys, backend),
            weight: backend.weight,
            healthy: backend.healthy,
            health_weight: effects.get(&key_of(backend)).map_or(100, |effect| {
                u16::try_from(effect.percent).unwrap_or(u16::MAX)
            }),
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
