//! Floods of fragments: memory is bounded, all is counted, and fragments in order pass.

use std::time::Duration;

use crate::fragments::{assert_forgotten, bytes, opened, to_backend, to_client};
use crate::frames::{one, request};
use crate::world::{BACK, FRONT, Settings, V4, V6, World};
use waxwing_dataplane::{DropReason, FragmentLimits};
use waxwing_packet::{Protocol, TcpFlags};
use waxwing_testkit::fragmenter::fragment;

const SMALL: FragmentLimits = FragmentLimits {
    datagrams: 64,
    held: 8,
    held_len_max: 256,
    timeout: Duration::from_secs(5),
};

fn small() -> Settings {
    Settings {
        fragments: SMALL,
        ..Settings::udp(V4)
    }
}

fn pieces(client_port: u16, id: u32) -> Vec<Vec<u8>> {
    let whole = to_backend(V4, client_port).frame(Protocol::Udp, &bytes(88));
    fragment(&whole, &[32, 32], id)
}

/// Fragments of datagrams whose first one never arrives.
fn flood(world: &mut World, ids: std::ops::Range<u32>, mut between: impl FnMut(&mut World, u32)) {
    for id in ids {
        let late = &pieces(9999, id)[1 + id as usize % 2];
        assert!(world.frame(FRONT, late).is_empty());
        between(world, id);
    }
}

#[test]
fn a_flood_without_first_fragments_stays_within_bounds() {
    let mut world = opened(small());
    let capacity = world.shared.fragments.capacity();
    let memory = world.shared.fragments.memory_bytes();
    flood(&mut world, 0..5000, |world, _| {
        assert!(world.shared.fragments.len() <= capacity / 2);
        assert!(world.shared.fragments.held() <= SMALL.held);
    });
    assert_eq!(
        world.drops(),
        [(DropReason::FragmentLimit, 5000 - SMALL.held as u64)]
    );
    assert_eq!(world.shared.fragments.memory_bytes(), memory);

    world.sweep_round(0, SMALL.timeout + Duration::from_secs(1));
    assert_forgotten(&world);
    assert_eq!(
        world.dropped(DropReason::FragmentTimeout),
        SMALL.held as u64
    );
}

#[test]
fn packets_and_datagrams_in_order_pass_during_a_fragment_flood() {
    let mut world = opened(small());
    let ours = pieces(4000, 1 << 15);
    assert_eq!(world.frame(FRONT, &ours[0]).len(), 1);
    flood(&mut world, 0..2000, |world, id| {
        let whole = to_backend(V4, 4000).frame(Protocol::Udp, b"whole");
        one(&world.frame(FRONT, &whole));
        for piece in pieces(4000, 1 << 14 | id) {
            assert_eq!(world.frame(FRONT, &piece).len(), 1, "in order, at {id}");
        }
    });
    assert_eq!(
        world.frame(FRONT, &ours[1]).len(),
        1,
        "begun before the flood"
    );
    assert_eq!(world.frame(FRONT, &ours[2]).len(), 1);
    let dropped = world.dropped(DropReason::FragmentLimit);
    assert_eq!(world.drops(), [(DropReason::FragmentLimit, dropped)]);
}

#[test]
fn fragments_out_of_order_pass_while_they_are_among_the_newest() {
    let mut world = opened(small());
    for id in 0..1000 {
        // Each time a few fragments of the flood arrive between a fragment and its first one.
        let ours = pieces(4000, 1 << 14 | id);
        assert!(world.frame(FRONT, &ours[1]).is_empty());
        flood(&mut world, id * 4..id * 4 + 4, |_, _| {});
        assert_eq!(
            world.frame(FRONT, &ours[0]).len(),
            2,
            "with the one that waited"
        );
        assert_eq!(world.frame(FRONT, &ours[2]).len(), 1);
    }
}

#[test]
fn a_flood_of_first_fragments_evicts_the_oldest_and_drops_none() {
    let mut world = opened(small());
    let capacity = world.shared.fragments.capacity();
    for id in 0..2000 {
        assert_eq!(world.frame(FRONT, &pieces(4000, id)[0]).len(), 1);
        assert!(world.shared.fragments.len() <= capacity);
    }
    assert_eq!(world.drops(), []);
    // The newest are known. The second fragment of an evicted one waits in vain.
    assert_eq!(world.frame(FRONT, &pieces(4000, 1999)[1]).len(), 1);
    assert!(world.frame(FRONT, &pieces(4000, 0)[1]).is_empty());
    world.sweep_round(0, SMALL.timeout + Duration::from_secs(1));
    assert_eq!(world.drops(), [(DropReason::FragmentTimeout, 1)]);
    assert_forgotten(&world);
}

#[test]
fn a_frame_too_long_to_be_held_passes_only_in_order() {
    let mut world = opened(small());
    let whole = to_backend(V4, 4000).frame(Protocol::Udp, &bytes(600));
    let long = fragment(&whole, &[304], 7);
    assert_eq!(world.frame(FRONT, &long[0]).len(), 1);
    assert_eq!(world.frame(FRONT, &long[1]).len(), 1);
    assert!(world.frame(FRONT, &long[1]).is_empty());
    assert_eq!(world.drops(), [(DropReason::FragmentLimit, 1)]);
}

/// Frames are received into the pool: if it is empty, a held fragment is dropped rather than kept.
#[test]
fn a_held_fragment_is_dropped_if_the_pool_is_empty() {
    let mut world = opened(Settings {
        fragments: FragmentLimits::default(),
        ..small()
    });
    let ours = pieces(4000, 7);
    for late in &ours[1..] {
        assert!(world.frame(FRONT, late).is_empty());
    }
    // All frames of the pool but one are in flight.
    let mut others = 0;
    while world.io(0).in_flight() < 255 {
        assert!(
            world
                .io(0)
                .inject(BACK, &to_client(V4, 0, 4000).frame(Protocol::Udp, b"x"))
        );
        others += 1;
    }
    world.run(0);
    assert!(world.io(0).inject(FRONT, &ours[0]));
    world.run(0);
    assert_eq!(world.io(0).sent().len(), others + 1);
    assert_eq!(world.drops(), [(DropReason::FragmentLimit, 2)]);
    assert_forgotten(&world);
}

#[test]
fn a_fragment_flood_at_two_workers_is_counted_exactly() {
    for plan in [V4, V6] {
        let mut world = opened(Settings {
            plan,
            workers: 2,
            ..small()
        });
        for id in 0..3000_u32 {
            let way = match id % 3 {
                0 => to_client(plan, 0, 4000),
                _ => to_backend(plan, 4000 + (id % 5) as u16),
            };
            let whole = way.frame(Protocol::Udp, &bytes(88));
            let all = fragment(&whole, &[32, 32], id % 700);
            let frame = &all[(id.wrapping_mul(2_654_435_761) >> 16) as usize % 3];
            world.frame_at(id as usize & 1, way.port, frame);
        }
        world.sweep_round(0, SMALL.timeout + Duration::from_secs(1));
        assert_forgotten(&world);
        // The end of each world checks that the counters add up.
    }
}

#[test]
fn forged_fragments_of_a_connection_do_not_disturb_it() {
    let mut world = World::new(Settings {
        fragments: SMALL,
        ..Settings::default()
    });
    crate::frames::establish(&mut world, 4000, 0);
    let whole = to_backend(V4, 4000).frame(Protocol::Tcp, &bytes(88));
    for id in 0..1000 {
        for late in &fragment(&whole, &[32, 32], id)[1..] {
            assert!(world.frame(FRONT, late).is_empty());
        }
        one(&world.frame(FRONT, &request(V4, 4000, TcpFlags::ACK)));
    }
    assert_eq!(world.sessions().len(), 1);
}
