//! The lists of this crate have what the balancer ships.

use std::fs;

macro_rules! packages {
    ($($name:ident :: $type:ident, $package:literal, $config:literal;)*) => {
        [$($package),*]
    };
}

/// The packages of a kind that the balancer's build script embeds, in alphabetical order.
fn embedded(kind: &str) -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../runtime/cli/build.rs");
    let script = fs::read_to_string(script).expect("the build script");
    let quoted = script.split('"').skip(1).step_by(2);
    let mut packages: Vec<String> = quoted
        .filter(|text| text.starts_with(kind))
        .map(str::to_owned)
        .collect();
    packages.sort_unstable();
    packages
}

#[test]
fn every_shipped_module_is_listed() {
    let mut policies = waxwing_policies::for_each_policy!(packages);
    policies.sort_unstable();
    assert_eq!(policies[..], embedded("waxwing-policy-"));
    let mut checks = waxwing_policies::for_each_health_check!(packages);
    checks.sort_unstable();
    assert_eq!(checks[..], embedded("waxwing-health-"));
}
