//! Shares: what one service may have of the session table, and one network of clients of the new sessions.

use std::time::Duration;

use crate::frames::{ACK, SYN, SYN_ACK, establish, one, reply, request, request_to, segment};
use crate::world::{BACK, FRONT, SERVICE_PORT, Settings, V4, V6, World};
use waxwing_dataplane::{DropReason, SourceLimit};
use waxwing_packet::{Address, Family};
use waxwing_testkit::build;

const LIMIT: SourceLimit = SourceLimit {
    sessions_per_s: 100,
    prefix_v4: 32,
    prefix_v6: 64,
};

/// A SYN of the n-th client beside the plan's.
fn syn_of(client: Address, n: u16) -> Vec<u8> {
    build::Tcp {
        source: (client, 10_000 + n),
        ..segment(
            if client.family() == Family::V4 {
                V4
            } else {
                V6
            },
            0,
            SYN,
        )
    }
    .frame()
}

#[test]
fn a_service_that_has_its_share_takes_nothing_from_the_others() {
    let mut world = World::new(Settings {
        sessions_max: 256,
        second_service: true,
        service_sessions_max: Some(64),
        ..Settings::default()
    });
    for port in 4000..4032 {
        establish(&mut world, port, 0);
    }
    // The flood has the service's own unassured sessions for itself, and no more.
    for n in 0..500 {
        one(&world.frame(FRONT, &request(V4, 10_000 + n, SYN)));
        assert!(world.sessions().len() <= 64);
    }
    assert_eq!(world.drops(), []);
    let mut of_second = 0;
    for port in 20_000..20_064 {
        let second = request_to(V4, port, SERVICE_PORT + 1, SYN);
        of_second += world.frame(FRONT, &second).len();
    }
    assert_eq!(of_second, 64, "the other service has its own share");
    let kept = world.sessions().iter().filter(|s| s.is_assured()).count();
    assert_eq!(kept, 32, "what is assured stays");
}

#[test]
fn a_service_full_of_assured_sessions_drops_and_counts() {
    let mut world = World::new(Settings {
        service_sessions_max: Some(8),
        ..Settings::default()
    });
    for port in 4000..4008 {
        establish(&mut world, port, 0);
    }
    assert_eq!(world.frame(FRONT, &request(V4, 5000, SYN)), []);
    assert_eq!(world.drops(), [(DropReason::ServiceFull, 1)]);
    // A whole batch opens no more than what is left.
    world.change(|settings| settings.service_sessions_max = Some(10));
    let sent = world.batch(FRONT, (5000..5010).map(|port| request(V4, port, SYN)));
    assert_eq!(sent.len(), 10, "they evict each other");
    assert_eq!(world.sessions().len(), 10);
    // A lower limit ends nothing.
    world.change(|settings| settings.service_sessions_max = Some(2));
    one(&world.frame(FRONT, &request(V4, 4000, ACK)));
    one(&world.frame(BACK, &reply(V4, 0, 4000, ACK)));
}

#[test]
fn one_network_of_clients_has_its_share_of_new_sessions() {
    for (plan, neighbour, stranger) in [
        (V4, V4.client, Address::v4([198, 51, 100, 8])),
        (
            V6,
            Address::from_bits(V6.client.bits() + 1),
            Address::from_bits(V6.client.bits() + (1 << 64)),
        ),
    ] {
        let mut world = World::new(Settings {
            source_limit: Some(LIMIT),
            ..Settings::tcp(plan)
        });
        let opened = |world: &mut World, client: Address, from: u16| {
            let syns = (from..from + 200).map(|n| syn_of(client, n));
            syns.filter(|syn| !world.frame(FRONT, syn).is_empty())
                .count()
        };
        assert_eq!(opened(&mut world, plan.client, 0), 100);
        assert_eq!(opened(&mut world, neighbour, 1000), 0, "the same network");
        assert_eq!(world.drops(), [(DropReason::SourceLimit, 300)]);
        assert_eq!(opened(&mut world, stranger, 0), 100);
        world.advance(Duration::from_millis(100));
        assert_eq!(opened(&mut world, plan.client, 2000), 10);
        // What is open goes on.
        one(&world.frame(FRONT, &syn_of(plan.client, 0)));
        world.change(|settings| settings.source_limit = None);
        assert_eq!(opened(&mut world, plan.client, 3000), 200);
    }
}

/// An office behind one address: its connections open, close and come again.
#[test]
fn a_translated_office_is_not_limited() {
    let mut world = World::new(Settings {
        source_limit: Some(SourceLimit {
            sessions_per_s: 20_000,
            ..LIMIT
        }),
        sessions_max: 4096,
        ..Settings::default()
    });
    for n in 0..2000_u16 {
        let port = 1024 + n;
        one(&world.frame(FRONT, &request(V4, port, SYN)));
        one(&world.frame(BACK, &reply(V4, 0, port, SYN_ACK)));
        one(&world.frame(FRONT, &request(V4, port, ACK)));
        world.advance(Duration::from_micros(500));
    }
    assert_eq!(world.drops(), []);
}
