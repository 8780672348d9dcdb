//! From a config to the checks to run: which module, on which backend, how often.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use waxwing_dataplane::{BackendId, Snapshot};
use waxwing_plugin::checks::{
    Check, CheckConfig, CheckHost, CheckRoots, CheckTarget, CheckTls, TlsConfigError,
};
use waxwing_plugin::{ModuleError, Refusal};

use super::rules::{CheckIdentity, CheckKey, check_port};
use super::schedule::ScheduledJob;
use crate::config::{CheckTiming, Config, HealthCheck, Problem, Service, Span, TlsConfig};
use crate::parallel::side_by_side;
use crate::publish::keys::{backend_key, service_in};
use crate::publish::module_error::{ModuleProblems, module_error};

/// One check of one backend.
pub(crate) struct CheckJob {
    pub(crate) key: CheckKey,
    pub(crate) identity: CheckIdentity,
    pub(crate) backend: BackendId,
    pub(crate) timing: CheckTiming,
    /// In percent of the interval.
    pub(crate) jitter: u32,
    pub(crate) check: Arc<Check>,
    pub(crate) target: CheckTarget,
}

impl ScheduledJob for CheckJob {
    fn key(&self) -> CheckKey {
        self.key
    }

    fn timing(&self) -> CheckTiming {
        self.timing
    }

    fn jitter(&self) -> u32 {
        self.jitter
    }
}

/// The modules of a config's checks, and their TLS settings.
#[derive(Clone, Default)]
pub(crate) struct BoundChecks {
    modules: HashMap<Arc<str>, Arc<Check>>,
    tls: Vec<(TlsConfig, Arc<CheckTls>)>,
}

impl BoundChecks {
    /// Puts these modules into service on the host, and removes all others.
    pub(crate) fn activate(&self, host: &CheckHost) {
        for check in self.modules.values() {
            host.activate(check);
        }
        let names: Vec<Arc<str>> = self.modules.keys().cloned().collect();
        host.retain(&names);
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.modules.contains_key(name)
    }

    fn tls(&self, config: &TlsConfig) -> Option<Arc<CheckTls>> {
        let found = self.tls.iter().find(|(other, _)| other == config);
        found.map(|(_, tls)| Arc::clone(tls))
    }
}

/// Returns the names of the modules that a config's checks use, each once.
fn names(config: &Config) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = checks(config)
        .map(|(_, check)| Arc::clone(&check.module.value))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn checks(config: &Config) -> impl Iterator<Item = (&Service, &HealthCheck)> {
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

/// Binds the modules of a config's checks. If no build of a module fits any more, the one in
/// `before` continues. Compiling takes from 10 ms to seconds: do not call on an async thread.
///
/// # Errors
/// A module has no build that fits, and is not in `before`.
pub(crate) fn bind(
    host: &CheckHost,
    config: &Config,
    before: &BoundChecks,
) -> Result<BoundChecks, ModuleError> {
    let mut bound = BoundChecks::default();
    let names = names(config);
    let made = side_by_side(&names, |name| bind_module(host, config, name));
    for (name, made) in names.into_iter().zip(made) {
        let check = match made {
            Ok(check) => check,
            Err(error) => match before.modules.get(&name) {
                Some(check) => {
                    tracing::error!("{error}; the previous build continues");
                    Arc::clone(check)
                }
                None => return Err(error),
            },
        };
        bound.modules.insert(name, check);
    }
    let mut cache = RootsCache::default();
    for (_, check) in checks(config) {
        if bound.tls(&check.tls).is_none() {
            let made = cache.tls(&check.tls).map(Arc::new).or_else(|why| {
                let before = before.tls(&check.tls).ok_or(why.clone())?;
                tracing::warn!("health checks continue with the previous TLS settings: {why}");
                Ok::<_, TlsConfigError>(before)
            });
            match made {
                Ok(tls) => bound.tls.push((check.tls.clone(), tls)),
                // A check that uses TLS reports the missing roots in its result.
                Err(why) => tracing::debug!("health checks without TLS: {why}"),
            }
        }
    }
    Ok(bound)
}

/// The root certificates of a config's checks. Each file is read once.
#[derive(Default)]
struct RootsCache {
    roots: HashMap<Option<PathBuf>, Result<CheckRoots, TlsConfigError>>,
}

impl RootsCache {
    fn roots(&mut self, tls: &TlsConfig) -> Result<CheckRoots, TlsConfigError> {
        if !tls.verify {
            return CheckRoots::accept_any();
        }
        let path = tls.roots.as_ref().map(|roots| roots.value.clone());
        let read = |path: &Option<PathBuf>| CheckRoots::read(path.as_deref());
        let entry = self.roots.entry(path).or_insert_with_key(read);
        entry.clone()
    }

    fn tls(&mut self, tls: &TlsConfig) -> Result<CheckTls, TlsConfigError> {
        let name = tls.server_name.as_ref().map(|name| &*name.value);
        CheckTls::new(&self.roots(tls)?, name)
    }
}

/// Adds a problem for each check whose module is missing, whose module refuses its config, or
/// whose TLS settings are invalid.
pub(crate) fn add_problems(host: &CheckHost, config: &Config, found: &mut ModuleProblems) {
    found.add(side_by_side(&names(config), |name| {
        let error = bind_module(host, config, name).err()?;
        Some((Arc::clone(name), problem(config, name, &error)?))
    }));
    let problems = &mut found.problems;
    let mut cache = RootsCache::default();
    for (_, check) in checks(config) {
        // Missing system roots are no problem: the check may not use TLS.
        if let Some(roots) = &check.tls.roots
            && let Err(why) = cache.roots(&check.tls)
        {
            problems.push(config.error_at(roots.span, why.to_string()));
        }
        if let Some(name) = &check.tls.server_name
            && let Err(why) = CheckTls::check_name(&name.value)
        {
            problems.push(config.error_at(name.span, why.to_string()));
        }
    }
}

fn problem(config: &Config, name: &str, error: &ModuleError) -> Option<Problem> {
    let of_module = |(_, check): &(&Service, &HealthCheck)| &*check.module.value == name;
    let refused = match &error.refusal {
        Refusal::Refused { service, .. } => checks(config)
            .filter(of_module)
            .find(|(of, _)| *of.name.value == **service)
            .map(|(_, check)| check.config.span),
        _ => None,
    };
    let span = refused.or_else(|| check_span(config, name))?;
    Some(config.error_in(span, module_error(name, error)))
}

/// Returns where a config names the module of a check first.
pub(crate) fn check_span(config: &Config, name: &str) -> Option<Span> {
    let mut all = checks(config);
    let first = all.find(|(_, check)| &*check.module.value == name);
    first.map(|(_, check)| check.module.span)
}

/// Returns every check to run.
pub(crate) fn jobs(
    config: &Config,
    snapshot: &Snapshot,
    bound: &BoundChecks,
) -> Vec<Arc<CheckJob>> {
    let mut jobs = Vec::new();
    for entry in &config.services {
        // The snapshot was made from this config, and has its backends in the same order.
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
                let timing = backend.health.apply(check.timing);
                jobs.push(Arc::new(CheckJob {
                    key: (backend_key(entry, backend), at),
                    identity: CheckIdentity::of(check, backend),
                    backend: *id,
                    timing,
                    jitter: check.jitter,
                    check: Arc::clone(module),
                    target: CheckTarget {
                        service: Arc::clone(&entry.name.value),
                        backend: backend.title().into(),
                        address: SocketAddr::new(
                            backend.address.value.into(),
                            check_port(check, backend),
                        ),
                        protocol: entry.protocol.value,
                        config_json: Arc::clone(&check.config.value),
                        tls: tls.clone(),
                        timeout: timing.timeout,
                        signals: entry.signals.clone().into(),
                    },
                }));
            }
        }
    }
    jobs
}
