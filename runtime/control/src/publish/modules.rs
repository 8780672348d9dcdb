//! Binds a config's policies: which services each module serves, with which backends.
//!
//! Invariant: a module sees a service's backends in the order of [`Service::backends`]. A backend's key
//! is the same on every worker and balancer, and after a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Resource;
use tokio::sync::mpsc;
use waxwing_dataplane::session::{Key, Tuple};
use waxwing_dataplane::{Backend, BackendId, Gauges, Snapshot};
use waxwing_packet::Address;
use waxwing_plugin::checks::{CheckHost, CheckOptions};
use waxwing_plugin::{
    BackendInfo, BoundModule, BuildsInUse, CodeCache, Compiler, Host, HostError, HostEvent,
    HostOptions, ModuleError, ModuleStatus, Refusal, ServiceBinding,
};

use crate::admin::connections::connections_max;
use crate::admin::metrics_listener;
use crate::config::{self, ClusterKey, Config, Problem, Service, Span};
use crate::health::{self, Effects};
use crate::parallel::side_by_side;
use crate::publish::catalog::Catalog;
use crate::publish::keys::{service_in, snapshot_key};
use crate::publish::module_error::{ModuleProblems, module_error};

/// The modules built into the program: name and bytes of each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shipped {
    /// Policies.
    pub policies: &'static [(&'static str, &'static [u8])],
    /// Health checks.
    pub checks: &'static [(&'static str, &'static [u8])],
}

/// Which modules there are, and what makes machine code of them.
#[derive(Clone, Debug, Default)]
pub struct ModuleOptions {
    /// The modules built into the program.
    pub shipped: Shipped,
    /// Compiles the modules of the config's folder, now and later.
    pub compiler: Compiler,
    /// Keeps machine code for the next start.
    pub cache: Option<Arc<CodeCache>>,
    /// The folder of what survives a restart, unless the config names one; `None`: nothing does.
    pub state: Option<PathBuf>,
    /// How long the start waits for files to be compiled, if other builds can serve meanwhile; `None`: as
    /// long as it takes.
    pub start_within: Option<Duration>,
}

/// The plugin hosts and their events.
pub struct Modules {
    pub(crate) policy_host: Arc<Host>,
    pub(crate) check_host: Arc<CheckHost>,
    pub(crate) events: mpsc::UnboundedReceiver<HostEvent>,
}

impl Modules {
    /// Starts the hosts and watches the config's module folder.
    ///
    /// # Errors
    /// The Wasm engine does not work on this machine.
    pub fn start(config: &Config, options: ModuleOptions) -> Result<Self, HostError> {
        let ModuleOptions {
            shipped,
            compiler,
            cache,
            state,
            start_within,
        } = options;
        let (sender, events) = mpsc::unbounded_channel();
        let folder = config.modules.as_ref().map(|folder| folder.value.clone());
        let state = state.filter(|_| folder.is_some());
        let state = state.map(|program| config.state_folder(program));
        let options = CheckOptions {
            compiler: compiler.clone(),
            cache: cache.clone(),
            state: state.clone(),
            start_within,
            ..CheckOptions::default()
        };
        let files = rustix::process::getrlimit(Resource::Nofile).current;
        let files = files.unwrap_or(u64::MAX);
        let options = options.within_open_files(
            files,
            connections_max() + metrics_listener::connections_max(),
        );
        let check_host = CheckHost::new(options, shipped.checks, folder.clone())?;
        let options = HostOptions {
            compiler,
            cache,
            state,
            start_within,
            canary: config.canary,
            share_percent: config.module_share,
            ..HostOptions::default()
        };
        let policy_host = Host::new(options, shipped.policies, folder, move |event| {
            // Fails only during shutdown.
            let _ = sender.send(event);
        })?;
        Ok(Self {
            policy_host: Arc::new(policy_host),
            check_host: Arc::new(check_host),
            events,
        })
    }
}

impl Modules {
    /// Returns an error for each module in use whose newest build is refused although another one can serve.
    /// `found` is what [`check`] found.
    pub(crate) fn refused(&self, config: &Config, found: &ModuleProblems) -> Vec<Problem> {
        let refused = |modules: Vec<ModuleStatus>, place: &dyn Fn(&str) -> Option<Span>| {
            let error = |module: ModuleStatus| {
                if found.unusable.iter().any(|name| **name == *module.name) {
                    return None;
                }
                let why = module.refused?.reason;
                let text = format!("{why}; at start another build of that name serves instead");
                Some(config.error_at(place(&module.name)?, text))
            };
            modules.into_iter().filter_map(error).collect::<Vec<_>>()
        };
        let policies = refused(self.policy_host.status(), &|name| policy_span(config, name));
        let checks = refused(self.check_host.status(), &|name| {
            health::check_span(config, name)
        });
        policies.into_iter().chain(checks).collect()
    }
}

/// Returns the seed of the hashes that policies see and of backends' keys.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "both halves of the key are used"
)]
pub const fn cluster_seed(ClusterKey(key): ClusterKey) -> [u64; 4] {
    [(key >> 64) as u64, key as u64, 0, 0]
}

/// How policies are bound.
pub(crate) struct BindOptions {
    pub(crate) workers: usize,
    /// Given to the policies.
    pub(crate) seed: u64,
    /// Modules in use; their instances are kept where new ones would be equal.
    pub(crate) reusable: Vec<BuildsInUse>,
    pub(crate) builds: Builds,
}

impl BindOptions {
    /// Those at the start.
    pub(crate) const fn first(workers: usize, seed: u64) -> Self {
        Self {
            workers,
            seed,
            reusable: Vec::new(),
            builds: Builds::Newest,
        }
    }
}

/// Which builds are bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Builds {
    /// The newest builds that pass validation; compiles new files.
    Newest,
    /// The builds in use, where possible.
    Serving,
}

/// Tells the host which modules are in use.
pub(crate) fn activate(host: &Host, modules: &[BuildsInUse]) {
    for BuildsInUse { module, others, .. } in modules {
        host.activate(module, others.is_some());
    }
}

/// The state that policies are bound to.
pub(crate) struct BindTarget {
    pub(crate) config: Arc<Config>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) effects: Effects,
}

/// Binds every policy of a config, in the order of [`Config::policies`], with one instance per worker.
///
/// # Errors
/// Of the first policy that cannot serve.
pub(crate) async fn bind(
    host: &Arc<Host>,
    target: BindTarget,
    options: BindOptions,
) -> Result<Vec<BoundModule>, ModuleError> {
    let host = Arc::clone(host);
    blocking(move || {
        let config = &target.config;
        let keys = Key::new(cluster_seed(config.cluster_key));
        let workers = u32::try_from(options.workers).unwrap_or(u32::MAX);
        let bind = |name: &Arc<str>| {
            let before = options
                .reusable
                .iter()
                .find(|old| old.module.name == **name);
            let services = bindings(&target, &keys, name);
            match (before, options.builds) {
                (Some(before), Builds::Serving) => {
                    host.rebind(before, workers, options.seed, &services)
                }
                _ => host.bind_or_fall_back(name, workers, options.seed, &services, before),
            }
        };
        side_by_side(&config.policies(), bind).into_iter().collect()
    })
    .await
}

/// Returns a problem for each module that is missing or refuses its services, at a service that names
/// it.
pub(crate) async fn check(
    host: &Arc<Host>,
    checks: &Arc<CheckHost>,
    config: Config,
) -> ModuleProblems {
    let (host, checks) = (Arc::clone(host), Arc::clone(checks));
    blocking(move || {
        let mut found = ModuleProblems::default();
        add_problems(&host, config.clone(), &mut found);
        health::add_problems(&checks, &config, &mut found);
        found
    })
    .await
}

/// Runs blocking work, such as compiling for up to seconds, outside the executor's threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The task is never cancelled, so it panicked: pass the panic on.
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

fn add_problems(host: &Host, mut config: Config, found: &mut ModuleProblems) {
    // Not what is checked here, and no reason to check less: limits, and services without a policy.
    config.source_nat.clear();
    config
        .services
        .retain(|service| !service.policy.value.is_empty());
    let backends = config
        .services
        .iter()
        .map(|service| service.backends.len())
        .sum();
    let gauges = Gauges::new(backends, 1);
    let mut catalog = Catalog::new(config.services.len(), backends);
    let effects = Effects::new();
    let Ok(snapshot) = catalog.apply(&config, &[], &gauges, &effects) else {
        return;
    };
    let target = BindTarget {
        config: Arc::new(config),
        snapshot: Arc::new(snapshot),
        effects,
    };
    let config = &target.config;
    let keys = Key::new(cluster_seed(config.cluster_key));
    let check = |name: &Arc<str>| {
        let bound = host.bind(name, 1, 0, &bindings(&target, &keys, name));
        let problem = problem(config, name, &bound.err()?)?;
        Some((Arc::clone(name), problem))
    };
    found.add(side_by_side(&config.policies(), check));
}

/// Returns the error at its place in the config: the `policy_config` that the module refused, or the
/// first `policy` that names the module.
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
    span.or_else(|| policy_span(config, policy))
        .map(|span| config.error_in(span, module_error(policy, error)))
}

/// Returns where a config names a policy first.
fn policy_span(config: &Config, policy: &str) -> Option<Span> {
    let mut policies = config.services.iter().map(|service| &service.policy);
    let first = policies.find(|named| &*named.value == policy);
    first.map(|named| named.span)
}

fn bindings(target: &BindTarget, keys: &Key, policy: &str) -> Vec<ServiceBinding> {
    let services = target
        .config
        .services
        .iter()
        .filter(|service| &*service.policy.value == policy);
    services
        .filter_map(|service| binding(service, target, keys))
        .collect()
}

/// Returns the binding of a service; `None` if it is not in the snapshot, which is made from the same
/// config.
fn binding(entry: &Service, target: &BindTarget, keys: &Key) -> Option<ServiceBinding> {
    let BindTarget {
        snapshot, effects, ..
    } = target;
    let service = service_in(snapshot, entry)?;
    let info = |(id, entry): (&BackendId, &config::Backend)| {
        let backend = snapshot.backend(*id)?;
        Some(BackendInfo {
            id: *id,
            key: stable_key(keys, backend),
            weight: backend.weight,
            healthy: backend.healthy,
            health_weight: effects.get(&snapshot_key(backend)).map_or(100, |effect| {
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

/// Returns a key that depends on the address, port and protocol alone.
fn stable_key(keys: &Key, backend: &Backend) -> u64 {
    let endpoint = Tuple {
        source: backend.address,
        destination: Address::default(),
        source_port: backend.port,
        destination_port: 0,
        protocol: backend.protocol,
    };
    keys.hash(&endpoint).bits()
}
