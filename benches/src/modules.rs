//! Policies as modules, on the balancer's plugin host.

use std::path::Path;

use waxwing_dataplane::{BackendId, Policy, ServiceId};
use waxwing_plugin::{BackendInfo, Host, HostOptions, ServiceBinding};
use waxwing_sdk::abi::BackendRecord;
use waxwing_tests::Scratch;

/// The service of every policy.
pub const SERVICE: ServiceId = ServiceId(0);
/// The seed of random policies.
pub const SEED: u64 = 42;
/// A module that answers without work: the lower bound of any policy's cost.
pub const EMPTY: &str = include_str!("../../runtime/workbench/src/empty.wat");

/// Makes a host that ships the modules of `packages`, which are compiled first, and `others`, given as text.
pub fn host(packages: &[&str], others: &[(&'static str, &str)]) -> Host {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let target = Scratch::new().expect("a scratch directory can be created");
    let modules = waxwing_module_build::build(&manifest, packages, target.path())
        .expect("the modules compile");
    let mut shipped: Vec<(&'static str, &'static [u8])> = modules
        .iter()
        .map(|module| {
            let bytes = std::fs::read(&module.path).expect("the module can be read");
            (&*module.name.clone().leak(), &*bytes.leak())
        })
        .collect();
    drop(target);
    for (name, text) in others {
        let bytes = wat::parse_str(text).expect("the module's text is valid");
        shipped.push((name, bytes.leak()));
    }
    Host::new(HostOptions::default(), &shipped, None, |_| ()).expect("the host accepts the modules")
}

/// Makes a worker's instance of a module for [`SERVICE`]; `None` if the policy does not accept so many
/// backends.
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

/// Binds [`SERVICE`] to a config and backends.
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
