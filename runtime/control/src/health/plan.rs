//! From a config to the checks that are to be run: which module, where to, how often.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use waxwing_dataplane::{BackendId, Snapshot};
use waxwing_plugin::checks::{
    Check, CheckConfig, CheckHost, CheckRoots, CheckTarget, CheckTls, TlsConfigError,
};
use waxwing_plugin::{ModuleError, Refusal};

use super::roster::Identity;
use super::schedule::Timed;
use crate::config::{self, Config, Pace, Problem, Service, Tls};
use crate::publish::keys::service_in;
use crate::publish::keys::{BackendKey, backend_key};

/// What a check is known by: its backend, and its place among the service's checks.
pub(crate) type CheckKey = (BackendKey, usize);

/// One check of one backend.
pub(crate) struct Job {
    pub(crate) key: CheckKey,
    /// What makes it this check: its results count for no other.
    pub(crate) identity: Identity,
    pub(crate) backend: BackendId,
    pub(crate) pace: Pace,
    /// In percent of the interval.
    pub(crate) jitter: u32,
    pub(crate) check: Arc<Check>,
    pub(crate) target: CheckTarget,
}

impl Timed for Job {
    fn key(&self) -> CheckKey {
        self.key
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    fn jitter(&self) -> u32 {
        self.jitter
    }
}

/// The modules of a config's checks, and how they speak TLS.
#[derive(Clone, Default)]
pub(crate) struct BoundChecks {
    modules: HashMap<Arc<str>, Arc<Check>>,
    tls: Vec<(Tls, Arc<CheckTls>)>,
}

impl BoundChecks {
    /// Tells the host that these are in use, and no others.
    pub(crate) fn activate(&self, host: &CheckHost) {
        for check in self.modules.values() {
            host.activate(check);
        }
        let names: Vec<Arc<str>> = self.modules.keys().cloned().collect();
        host.retain(&names);
    }

    /// Whether a module is among them.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.modules.contains_key(name)
    }

    fn tls(&self, wanted: &Tls) -> Option<Arc<CheckTls>> {
        let found = self.tls.iter().find(|(tls, _)| is_same(tls, wanted));
        found.map(|(_, made)| Arc::clone(made))
    }
}

/// The names of the modules that a config's checks use, each once.
fn names(config: &Config) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = checks(config)
        .map(|(_, check)| Arc::clone(&check.module.value))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn checks(config: &Config) -> impl Iterator<Item = (&Service, &config::Check)> {
    let services = config.services.iter();
    services.flat_map(|service| {
        service
            .health
            .checks
            .iter()
            .map(move |check| (service, check))
    })
}

fn bind_module(host: &CheckHost, config: &Config, name: &str) -> Result<Arc<Check>, ModuleError> {
    let configs: Vec<CheckConfig> = checks(config)
        .filter(|(_, check)| &*check.module.value == name)
        .map(|(service, check)| CheckConfig {
            service: Arc::clone(&service.name.value),
            json: Arc::clone(&check.config.value),
        })
        .collect();
    host.bind(name, &configs)
}

/// Binds the modules of a config's checks. What no build can serve any more keeps the one of
/// `before`. Compiling takes some 10 ms to seconds: not for an async executor's thread.
///
/// # Errors
/// The first that cannot serve, and did not before.
pub(crate) fn bind(
    host: &CheckHost,
    config: &Config,
    before: &BoundChecks,
) -> Result<BoundChecks, ModuleError> {
    let mut bound = BoundChecks::default();
    for name in names(config) {
        let check = match bind_module(host, config, &name) {
            Ok(check) => check,
            Err(error) => match before.modules.get(&name) {
                Some(check) => {
                    tracing::error!("{error}; the build before goes on");
                    Arc::clone(check)
                }
                None => return Err(error),
            },
        };
        bound.modules.insert(name, check);
    }
    let mut trust = Trust::default();
    for (_, check) in checks(config) {
        if bound.tls(&check.tls).is_none() {
            let made = trust.tls(&check.tls).map(Arc::new).or_else(|why| {
                let before = before.tls(&check.tls).ok_or(why.clone())?;
                tracing::warn!("TLS of health checks goes on as it was read before: {why}");
                Ok::<_, TlsConfigError>(before)
            });
            match made {
                Ok(tls) => bound.tls.push((check.tls.clone(), tls)),
                // A check that wants TLS all the same says so in its result.
                Err(why) => tracing::debug!("no TLS for health checks: {why}"),
            }
        }
    }
    Ok(bound)
}

/// Whom a config's checks trust: each file is read once, whatever the number of names.
#[derive(Default)]
struct Trust {
    roots: HashMap<Option<PathBuf>, Result<CheckRoots, TlsConfigError>>,
}

impl Trust {
    fn roots(&mut self, tls: &Tls) -> Result<CheckRoots, TlsConfigError> {
        if !tls.verify {
            return CheckRoots::accept_any();
        }
        let path = tls.roots.as_ref().map(|roots| roots.value.clone());
        let read = |path: &Option<PathBuf>| CheckRoots::read(path.as_deref());
        let entry = self.roots.entry(path).or_insert_with_key(read);
        entry.clone()
    }

    fn tls(&mut self, tls: &Tls) -> Result<CheckTls, TlsConfigError> {
        let name = tls.server_name.as_ref().map(|name| &*name.value);
        CheckTls::new(&self.roots(tls)?, name)
    }
}

/// Wherever the two are written.
fn is_same(a: &Tls, b: &Tls) -> bool {
    let roots = |tls: &Tls| tls.roots.as_ref().map(|roots| roots.value.clone());
    let name = |tls: &Tls| tls.server_name.as_ref().map(|name| Arc::clone(&name.value));
    a.verify == b.verify && roots(a) == roots(b) && name(a) == name(b)
}

/// Every check whose module is missing or refuses its config, each as a problem where it is
/// written.
pub(crate) fn problems(host: &CheckHost, config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in names(config) {
        if let Err(error) = bind_module(host, config, &name) {
            problems.extend(problem(config, &name, &error));
        }
    }
    let mut trust = Trust::default();
    for (_, check) in checks(config) {
        // Without them, TLS may not be wanted at all.
        if let Some(roots) = &check.tls.roots
            && let Err(why) = trust.roots(&check.tls)
        {
            problems.push(config.error_at(roots.span, why.to_string()));
        }
        if let Some(name) = &check.tls.server_name
            && let Err(why) = CheckTls::check_name(&name.value)
        {
            problems.push(config.error_at(name.span, why.to_string()));
        }
    }
    problems
}

fn problem(config: &Config, name: &str, error: &ModuleError) -> Option<Problem> {
    let of_module = |(_, check): &(&Service, &config::Check)| &*check.module.value == name;
    let refused = match &error.refusal {
        Refusal::Refused { service, .. } => checks(config)
            .filter(of_module)
            .find(|(of, _)| *of.name.value == **service)
            .map(|(_, check)| check.config.span),
        _ => None,
    };
    let first = || {
        checks(config)
            .find(of_module)
            .map(|(_, check)| check.module.span)
    };
    let span = refused.or_else(first)?;
    Some(config.error_at(span, error.to_string()))
}

/// Every check that is to be run.
pub(crate) fn jobs(config: &Config, snapshot: &Snapshot, bound: &BoundChecks) -> Vec<Arc<Job>> {
    let mut jobs = Vec::new();
    for entry in &config.services {
        // The snapshot was made from this config, its backends in the same order.
        let Some(service) = service_in(snapshot, entry) else {
            continue;
        };
        for (at, check) in entry.health.checks.iter().enumerate() {
            let Some(module) = bound.modules.get(&check.module.value) else {
                continue;
            };
            let tls = bound.tls(&check.tls);
            let backends = entry.backends.iter().zip(&service.backends);
            for (backend, id) in backends.filter(|(backend, _)| backend.health.enabled) {
                let pace = backend.health.pace(check.pace);
                let port = backend.health.port.or(check.port);
                jobs.push(Arc::new(Job {
                    key: (backend_key(entry, backend), at),
                    identity: Identity::of(check, backend),
                    backend: *id,
                    pace,
                    jitter: check.jitter,
                    check: Arc::clone(module),
                    target: CheckTarget {
                        service: Arc::clone(&entry.name.value),
                        backend: backend.title().into(),
                        address: SocketAddr::new(
                            backend.address.value.into(),
                            port.unwrap_or_else(|| backend.snapshot_port()),
                        ),
                        protocol: entry.protocol.value,
                        config_json: Arc::clone(&check.config.value),
                        tls: tls.clone(),
                        timeout: pace.timeout,
                        signals: entry.signals.clone().into(),
                    },
                }));
            }
        }
    }
    jobs
}
