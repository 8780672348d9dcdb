//! Ids of source addresses, over sequences of configs.

use super::*;
use waxwing_dataplane::SourceId;

/// A config with these source addresses, by their last octets.
fn with_sources(octets: &[u8]) -> Config {
    let addresses: Vec<_> = octets.iter().map(|n| format!("\"10.2.0.{n}\"")).collect();
    let addresses = addresses.join(", ");
    let table = format!("[[source_nat]]\naddresses = [{addresses}]\n");
    let table = if octets.is_empty() { "" } else { &table };
    let text = format!("[[port]]\ninterface = \"eth0\"\n{table}");
    let read = Config::parse(&text, Path::new("lb.toml")).map_err(|e| e.to_string());
    read.unwrap().0
}

fn apply(world: &mut World, octets: &[u8]) -> Snapshot {
    let config = with_sources(octets);
    let (gauges, effects) = (&world.gauges, Effects::new());
    world.catalog.apply(&config, &[], gauges, &effects).unwrap()
}

/// The id of the address with this last octet.
fn id(snapshot: &Snapshot, last: u8) -> Option<SourceId> {
    let address = Address::v4([10, 2, 0, last]);
    let mut sources = snapshot.sources().iter();
    sources.find(|(_, it)| *it == address).map(|(id, _)| id)
}

#[test]
fn a_source_address_keeps_its_id_and_is_owned() {
    let mut world = World::new(1, 1);
    let first = apply(&mut world, &[9, 8]);
    assert!(first.is_vip(Address::v4([10, 2, 0, 9])));
    let second = apply(&mut world, &[7, 8, 9]);
    for octet in [8, 9] {
        assert_eq!(id(&first, octet), id(&second, octet));
        assert!(!id(&first, octet).unwrap().is_client());
    }
}

#[test]
fn a_removed_source_address_stays_until_its_last_session_ended() {
    let mut world = World::new(1, 1);
    let first = apply(&mut world, &[9, 8]);
    let nine = id(&first, 9).unwrap();
    world.gauges.begin_source(nine);
    for _ in 0..3 {
        assert_eq!(id(&apply(&mut world, &[8]), 9), Some(nine));
        assert!(!world.catalog.has_freeable(&world.gauges));
    }
    world.gauges.end_source(nine);
    assert!(world.catalog.has_freeable(&world.gauges));
    let last = apply(&mut world, &[8]);
    assert_eq!(id(&last, 9), None);
    assert!(!last.is_vip(Address::v4([10, 2, 0, 9])));
    assert!(!world.catalog.has_freeable(&world.gauges));
}

#[test]
fn an_address_without_sessions_goes_one_change_later() {
    let mut world = World::new(1, 1);
    let nine = id(&apply(&mut world, &[9]), 9);
    let kept = apply(&mut world, &[]);
    assert_eq!(id(&kept, 9), nine, "a worker may use it still");
    assert_eq!(id(&apply(&mut world, &[]), 9), None);
}
