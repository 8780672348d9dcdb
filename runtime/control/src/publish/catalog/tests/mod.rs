//! Which ids are kept, freed and reused over sequences of configs.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod sources;

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use waxwing_dataplane::Ports;
use waxwing_dataplane::model::{MidStream, SessionAction};
use waxwing_dataplane::session::Phase;
use waxwing_packet::Protocol;

use super::*;
use crate::health::Effect;
use crate::publish::keys::snapshot_key;

/// A service for a config: name, last octet of the VIP, policy, last octets of backends.
type Row<'a> = (&'a str, u8, &'a str, &'a [u8]);

fn config(rows: &[Row<'_>]) -> Config {
    let mut text = "[[port]]\ninterface = \"eth0\"\n".to_owned();
    for (name, vip, policy, backends) in rows {
        let _ = write!(
            text,
            "[[service]]\nname = \"{name}\"\nvip = \"203.0.113.{vip}\"\nport = 80\n\
             protocol = \"tcp\"\npolicy = \"{policy}\"\n"
        );
        for backend in *backends {
            let _ = write!(
                text,
                "[[service.backend]]\naddress = \"10.0.0.{backend}\"\nport = 1\n"
            );
        }
    }
    Config::parse(&text, Path::new("lb.toml"))
        .map_err(|e| e.to_string())
        .unwrap()
        .0
}

/// A catalog and what its workers would hold.
struct World {
    catalog: Catalog,
    gauges: Gauges,
}

impl World {
    fn new(services_max: usize, backends_max: usize) -> Self {
        let catalog = Catalog::new(services_max, backends_max);
        Self {
            catalog,
            gauges: Gauges::new(backends_max, 1),
        }
    }

    fn apply(&mut self, rows: &[Row<'_>]) -> Result<Snapshot, CatalogError> {
        self.catalog
            .apply(&config(rows), &[], &self.gauges, &Effects::new())
    }
}

/// The id of the backend with this last octet.
fn backend(snapshot: &Snapshot, last: u8) -> Option<BackendId> {
    let address = Address::v4([10, 0, 0, last]);
    snapshot
        .backends()
        .find(|b| b.address == address)
        .map(|b| b.id)
}

#[test]
fn a_snapshot_matches_its_config() {
    let mut world = World::new(4, 8);
    let rows: [Row<'_>; 3] = [
        ("a", 1, "maglev", &[1, 2]),
        ("b", 2, "mine", &[3]),
        ("c", 3, "maglev", &[]),
    ];
    let snapshot = world.apply(&rows).unwrap();
    assert_eq!(snapshot.generation, 1);
    assert!(snapshot.answers_ping());
    let services: Vec<_> = snapshot.services().collect();
    assert_eq!(
        services.iter().map(|s| &*s.name).collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
    assert_eq!(
        services.iter().map(|s| s.policy).collect::<Vec<_>>(),
        [0, 1, 0]
    );
    assert_eq!(&*config(&rows).policies()[1], "mine");
    for service in &services {
        let key = (service.vip, service.ports, service.protocol);
        assert_eq!(config(&rows).by_endpoint()[&key].name.value, service.name);
    }
    assert_eq!(services[0].mid_stream, MidStream::Pick);
    assert_eq!(services[0].timeouts.udp, Duration::from_secs(120));
    let of_a = services[0]
        .backends
        .iter()
        .map(|id| snapshot.backend(*id).unwrap());
    let of_a: Vec<_> = of_a
        .map(|b| (b.service, b.address.v4_octets()[3], b.vip_ports))
        .collect();
    let ports = Ports::one(80);
    assert_eq!(
        of_a,
        [(services[0].id, 1, ports), (services[0].id, 2, ports)]
    );
}

#[test]
fn ids_survive_reordering_and_renaming() {
    let mut world = World::new(4, 8);
    let before = world
        .apply(&[("a", 1, "p", &[1, 2]), ("b", 2, "p", &[3])])
        .unwrap();
    let after = world
        .apply(&[("new", 2, "q", &[4, 3]), ("renamed", 1, "p", &[2, 1])])
        .unwrap();
    for last in [1, 2, 3] {
        assert_eq!(backend(&before, last), backend(&after, last));
    }
    for vip in [1, 2] {
        let id = |s: &Snapshot| {
            s.service_at(Address::v4([203, 0, 113, vip]), 80, Protocol::Tcp)
                .unwrap()
                .id
        };
        assert_eq!(id(&before), id(&after));
    }
}

#[test]
fn a_removed_backend_is_kept_until_its_last_session_ends() {
    let mut world = World::new(1, 3);
    let first = world.apply(&[("a", 1, "p", &[1, 2])]).unwrap();
    let id = backend(&first, 2).unwrap();
    world.gauges.begin(0, id, Phase::Established);
    for _ in 0..3 {
        let next = world.apply(&[("a", 1, "p", &[1])]).unwrap();
        assert_eq!(backend(&next, 2), Some(id));
        let retired = next.backend(id).unwrap();
        assert_eq!((retired.weight, retired.place), (0, None));
        assert!(!next.services().next().unwrap().backends.contains(&id));
        assert!(!world.catalog.has_freeable(&world.gauges));
    }
    let reset = Effect {
        healthy: false,
        sessions: SessionAction::Reset,
        ..Effect::default()
    };
    let rows: [Row<'_>; 1] = [("a", 1, "p", &[1])];
    let effects = Effects::from([(snapshot_key(first.backend(id).unwrap()), reset)]);
    let next = world
        .catalog
        .apply(&config(&rows), &[], &world.gauges, &effects);
    let retired = next.unwrap().backend(id).cloned().unwrap();
    assert_eq!(
        (retired.healthy, retired.sessions),
        (false, SessionAction::Reset)
    );
    world.gauges.end(0, id, Phase::Established);
    assert!(world.catalog.has_freeable(&world.gauges));
    assert_eq!(
        backend(&world.apply(&[("a", 1, "p", &[1])]).unwrap(), 2),
        None
    );
    assert_eq!(world.catalog.retired.len(), 0);
}

#[test]
fn a_backend_that_returns_gets_its_old_id() {
    let mut world = World::new(1, 3);
    let first = world.apply(&[("a", 1, "p", &[1, 2])]).unwrap();
    let id = backend(&first, 2).unwrap();
    world.gauges.begin(0, id, Phase::Established);
    world.apply(&[("a", 1, "p", &[1])]).unwrap();
    let back = world.apply(&[("a", 1, "p", &[2, 1])]).unwrap();
    assert_eq!(backend(&back, 2), Some(id));
    assert_eq!(back.backend(id).unwrap().weight, 1);
    assert_eq!(world.catalog.retired.len(), 0);
}

#[test]
fn a_removed_service_takes_no_connections_but_keeps_its_sessions() {
    let mut world = World::new(2, 4);
    let first = world
        .apply(&[("a", 1, "p", &[1]), ("b", 2, "p", &[2])])
        .unwrap();
    let id = backend(&first, 2).unwrap();
    let service = first.backend(id).unwrap().service;
    world.gauges.begin(0, id, Phase::Established);
    let vip = Address::v4([203, 0, 113, 2]);
    let next = world.apply(&[("a", 1, "p", &[1])]).unwrap();
    assert!(next.service_at(vip, 80, Protocol::Tcp).is_none());
    assert!(!next.is_vip(vip), "it may have a new owner");
    assert_eq!(
        next.backend(id).map(|b| (b.service, b.vip)),
        Some((service, vip))
    );
    // Its id stays reserved: another service gets none, and the returning service gets it back.
    let full = world.apply(&[("a", 1, "p", &[1]), ("c", 3, "p", &[])]);
    assert!(
        matches!(full, Err(CatalogError::Services { max: 2, .. })),
        "{full:?}"
    );
    let back = world.apply(&[("b", 2, "p", &[2])]).unwrap();
    assert_eq!(
        back.service_at(vip, 80, Protocol::Tcp).map(|s| s.id),
        Some(service)
    );
}

#[test]
fn an_id_is_reused_only_after_a_snapshot_without_it() {
    let mut world = World::new(1, 1);
    let id = backend(&world.apply(&[("a", 1, "p", &[1])]).unwrap(), 1).unwrap();
    let replace: [Row<'_>; 1] = [("a", 1, "p", &[2])];
    assert!(matches!(
        world.apply(&replace),
        Err(CatalogError::Backends { max: 1, .. })
    ));
    assert_eq!(
        backend(&world.apply(&[("a", 1, "p", &[])]).unwrap(), 1),
        Some(id),
        "retired"
    );
    assert!(
        world.apply(&replace).is_err(),
        "a failed apply frees nothing"
    );
    assert_eq!(
        world
            .apply(&[("a", 1, "p", &[])])
            .unwrap()
            .backends()
            .count(),
        0,
        "freed"
    );
    assert_eq!(
        backend(&world.apply(&replace).unwrap(), 2),
        Some(id),
        "reused"
    );
}

#[test]
fn a_failed_apply_changes_nothing() {
    let mut world = World::new(2, 2);
    let before = world.apply(&[("a", 1, "p", &[1])]).unwrap();
    let error = world
        .apply(&[("b", 2, "p", &[5]), ("a", 1, "p", &[1, 7])])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no id for backend 10.0.0.7 port 1 of \"a\": all 2 backend ids are in use, 0 of them by removed \
         backends that may still have sessions; reload after those have ended, or raise \
         `backends_max` and restart"
    );
    let after = world
        .apply(&[("a", 1, "p", &[1]), ("c", 3, "p", &[2])])
        .unwrap();
    assert_eq!(after.generation, before.generation + 1);
    assert_eq!(backend(&before, 1), backend(&after, 1));
}

/// A step of the property below: services with their backends, then sessions that begin and sessions
/// that end, each as an index into the current list.
type Step = (
    Vec<(u8, Vec<u8>)>,
    Vec<prop::sample::Index>,
    Vec<prop::sample::Index>,
);

fn step() -> impl Strategy<Value = Step> {
    let service = (1_u8..5, prop::collection::btree_set(1_u8..8, 0..5));
    let services = prop::collection::btree_map(service.0, service.1, 0..4);
    let services = services.prop_map(|s| {
        s.into_iter()
            .map(|(vip, b)| (vip, b.into_iter().collect()))
            .collect::<Vec<_>>()
    });
    let indices = || prop::collection::vec(any::<prop::sample::Index>(), 0..6);
    (services, indices(), indices())
}

proptest! {
    /// Checks the rule directly: a backend with a session keeps its id, and no other backend gets it.
    #[test]
    fn an_id_in_use_is_never_reused(steps in prop::collection::vec(step(), 1..30)) {
        let mut world = World::new(4, 24);
        // Each session: its backend's id, service, VIP and address.
        let mut sessions: Vec<(BackendId, ServiceId, Address, Address)> = Vec::new();
        let mut last = Snapshot::default();
        for (services, begin, end) in steps {
            let names: Vec<_> = services.iter().map(|(vip, _)| format!("s{vip}")).collect();
            let rows: Vec<Row<'_>> = names.iter().zip(&services)
                .map(|(name, (vip, backends))| (name.as_str(), *vip, "p", backends.as_slice()))
                .collect();
            let Ok(snapshot) = world.apply(&rows) else { continue };
            prop_assert_eq!(snapshot.services().count(), services.len());
            for (id, service, vip, address) in &sessions {
                let backend = snapshot.backend(*id).expect("a session's backend is there");
                prop_assert_eq!((backend.service, backend.vip, backend.address), (*service, *vip, *address));
                prop_assert!(snapshot.service(*service).is_none_or(|s| s.vip == *vip));
            }
            for backend in snapshot.backends() {
                if let Some(before) = last.backend(backend.id) {
                    prop_assert_eq!((before.address, before.vip), (backend.address, backend.vip));
                }
                let listed = snapshot.service(backend.service)
                    .is_some_and(|s| s.backends.contains(&backend.id));
                prop_assert_eq!(backend.weight > 0, listed);
            }
            let live: Vec<_> = snapshot.backends().filter(|b| b.weight > 0).collect();
            for index in begin.iter().filter(|_| !live.is_empty()) {
                let b = index.get(&live);
                world.gauges.begin(0, b.id, Phase::Established);
                sessions.push((b.id, b.service, b.vip, b.address));
            }
            for index in end.iter() {
                if !sessions.is_empty() {
                    let (id, ..) = sessions.swap_remove(index.index(sessions.len()));
                    world.gauges.end(0, id, Phase::Established);
                }
            }
            last = snapshot;
        }
    }
}

#[test]
fn weights_follow_health_and_small_weights_stay_above_zero() {
    let mut config = config(&[("a", 1, "maglev", &[1, 2, 3])]);
    config.services[0].backends[2].weight = 4;
    let keys: Vec<BackendKey> = config.services[0]
        .backends
        .iter()
        .map(|backend| backend_key(&config.services[0], backend))
        .collect();
    let weights = |percents: [u32; 3]| {
        let effect = |percent| Effect {
            percent,
            ..Effect::default()
        };
        let effects = keys.iter().copied().zip(percents.map(effect)).collect();
        weights(&config.services[0], &effects)
    };
    assert_eq!(weights([100, 100, 100]), [1, 1, 4], "as configured");
    assert_eq!(weights([100, 0, 100]), [1, 0, 4]);
    assert_eq!(weights([10, 100, 50]), [10, 100, 200]);
    assert_eq!(weights([1, 1000, 1000]), [1, 1000, 4000]);
}
