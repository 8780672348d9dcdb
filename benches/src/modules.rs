//! Policies as modules, on the balancer's own host.

use std::path::Path;

use waxwing_dataplane::{BackendId, Policy, ServiceId};
use waxwing_plugin::{BackendInfo, Host, HostOptions, ServiceBinding};
use waxwing_sdk::abi::BackendRecord;
use waxwing_tests::Scratch;

/// The service that all of them serve.
pub const SERVICE: ServiceId = ServiceId(0);
/// What random policies draw from.
pub const SEED: u64 = 42;
/// A module that only answers, as text: the floor of any.
pub const EMPTY: &str = include_str!("../../runtime/workbench/src/empty.wat");

/// A host with the modules of these packages, compiled for it, and others that are given as text.
///
/// # Panics
/// There is no compiler for Wasm, or a module is not valid.
#[must_use]
pub fn host(packages: &[&str], others: &[(&'static str, &str)]) -> Host {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let target = Scratch::new().expect("a directory");
    let modules = waxwing_module_build::build(&manifest, packages, target.path()).expect("modules");
    let mut shipped: Vec<(&'static str, &'static [u8])> = modules
        .iter()
        .map(|module| {
            let bytes = std::fs::read(&module.path).expect("a module");
            (&*module.name.clone().leak(), &*bytes.leak())
        })
        .collect();
    drop(target);
    for (name, text) in others {
        let bytes = wat::parse_str(text).expect("it is valid");
        shipped.push((name, bytes.leak()));
    }
    Host::new(HostOptions::default(), &shipped, None, |_| ()).expect("a host")
}

/// A worker's instance of a module for [`SERVICE`], or `None` where it does not take so many backends.
#[must_use]
pub fn instance(
    host: &Host,
    name: &str,
    config: &str,
    records: &[BackendRecord],
) -> Option<Box<dyn Policy>> {
    host.bind(name, 1, SEED, &[binding(config, records)])
        .ok()?
        .policies
        .pop()
}

/// [`SERVICE`] with a config and these backends.
#[must_use]
pub fn binding(config: &str, records: &[BackendRecord]) -> ServiceBinding {
    let backend = |record: &BackendRecord| BackendInfo {
        id: BackendId(record.id),
        key: record.key,
        weight: record.weight,
        healthy: true,
        health_weight: 100,
        tag: record.tag,
    };
    ServiceBinding {
        service: SERVICE,
        name: "web".into(),
        config_json: config.into(),
        backends: records.iter().map(backend).collect(),
    }
}
