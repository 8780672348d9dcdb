//! Modules that were built long ago, one for each minor version of the ABI, still serve.
//!
//! `built/` has `examples/first-policy`, built with the SDK of its time. Never build them anew.

use waxwing_dataplane::Pick;
use waxwing_plugin::HostEvent;

use crate::common::{host, pick, service};

/// By the ABI's version in their sections.
const BUILT: [(&str, &[u8]); 2] = [
    ("1.0", include_bytes!("../built/first_policy_abi_1_0.wasm")),
    ("1.1", include_bytes!("../built/first_policy_abi_1_1.wasm")),
];

#[test]
fn modules_of_every_abi_pick_as_they_did() {
    let mut all = Vec::new();
    for (abi, bytes) in BUILT {
        let (host, events) = host(&[("test", bytes)], None);
        let bound = host.bind("test", 2, 1, &[service(&[1, 1, 2])]);
        let mut bound = bound.unwrap_or_else(|error| panic!("ABI {abi}: {error}"));
        let info = &bound.in_use.module.info;
        assert_eq!(format!("{}.{}", info.abi_major, info.abi_minor), abi);
        let mut picks = Vec::new();
        for policy in &mut bound.policies {
            picks.push(pick(&mut **policy, 3, &[1, 2, 3]).expect("picks"));
        }
        let faults: Vec<HostEvent> = events.try_iter().collect();
        assert!(faults.is_empty(), "ABI {abi}: {faults:?}");
        all.push(picks);
    }
    // All flows are one client's, which both workers send to one backend.
    assert!(matches!(all[0][0][0], Pick::Backend(_)), "{all:?}");
    assert!(
        all.iter()
            .flatten()
            .flatten()
            .all(|pick| *pick == all[0][0][0]),
        "{all:?}"
    );
}
