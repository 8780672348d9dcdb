//! Floods of fragments: memory stays bounded, everything is counted, and what is in order passes.

use std::time::Duration;

use crate::cutting::cut;
use crate::fragments::{assert_forgotten, back, bytes, opened, there};
use crate::frames::{one, request};
use crate::world::{BACK, FRONT, Settings, V4, V6, World};
use waxwing_dataplane::{DropReason, FragmentLimits};
use waxwing_packet::{Protocol, TcpFlags};

const SMALL: FragmentLimits = FragmentLimits {
    datagrams: 64,
    held: 8,
    held_len_max: 256,
    timeout: Duration::from_secs(5),
};

fn small() -> Settings {
    Settings {
        protocol: Protocol::Udp,
        fragments: SMALL,
        ..Settings::default()
    }
}

fn pieces(client_port: u16, id: u32) -> Vec<Vec<u8>> {
    let whole = there(V4, client_port).frame(Protocol::Udp, &bytes(88));
    cut(&whole, &[32, 32], id)
}

/// Fragments of datagrams whose first one never comes.
fn flood(world: &mut World, ids: std::ops::Range<u32>, mut between: impl FnMut(&mut World, u32)) {
    for id in ids {
        let late = &pieces(9999, id)[1 + id as usize % 2];
        assert!(world.frame(FRONT, late).is_empty());
        between(world, id);
    }
}

#[test]
fn a_flood_without_first_fragments_is_held_within_bounds_and_counted() {
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
fn whole_packets_and_datagrams_in_order_pass_through_such_a_flood() {
    let mut world = opened(small());
    let ours = pieces(4000, 1 << 15);
    assert_eq!(world.frame(FRONT, &ours[0]).len(), 1);
    flood(&mut world, 0..2000, |world, id| {
        let whole = there(V4, 4000).frame(Protocol::Udp, b"whole");
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
fn what_comes_out_of_order_passes_while_it_is_among_the_newest() {
    let mut world = opened(small());
    for id in 0..1000 {
        // Each time a few of the flood come between a fragment and its first one.
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
fn a_flood_of_first_fragments_forgets_the_oldest_and_drops_none_of_them() {
    let mut world = opened(small());
    let capacity = world.shared.fragments.capacity();
    for id in 0..2000 {
        assert_eq!(world.frame(FRONT, &pieces(4000, id)[0]).len(), 1);
        assert!(world.shared.fragments.len() <= capacity);
    }
    assert_eq!(world.drops(), []);
    // The newest are known; the second of one that is not waits, and in vain.
    assert_eq!(world.frame(FRONT, &pieces(4000, 1999)[1]).len(), 1);
    assert!(world.frame(FRONT, &pieces(4000, 0)[1]).is_empty());
    world.sweep_round(0, SMALL.timeout + Duration::from_secs(1));
    assert_eq!(world.drops(), [(DropReason::FragmentTimeout, 1)]);
    assert_forgotten(&world);
}

#[test]
fn a_frame_that_is_too_long_to_wait_is_dropped_and_forwarded_in_order() {
    let mut world = opened(small());
    let whole = there(V4, 4000).frame(Protocol::Udp, &bytes(600));
    let long = cut(&whole, &[304], 7);
    assert_eq!(world.frame(FRONT, &long[0]).len(), 1);
    assert_eq!(world.frame(FRONT, &long[1]).len(), 1);
    assert!(world.frame(FRONT, &long[1]).is_empty());
    assert_eq!(world.drops(), [(DropReason::FragmentLimit, 1)]);
}

/// The pool is what frames are received into: with none left, what waited is dropped, not kept.
#[test]
fn what_waited_is_dropped_where_there_is_no_frame_to_send_it_in() {
    let mut world = opened(Settings {
        fragments: FragmentLimits::default(),
        ..small()
    });
    let ours = pieces(4000, 7);
    for late in &ours[1..] {
        assert!(world.frame(FRONT, late).is_empty());
    }
    // All of the pool but one frame is on its way.
    let mut others = 0;
    while world.io(0).in_flight() < 255 {
        assert!(
            world
                .io(0)
                .inject(BACK, &back(V4, 0, 4000).frame(Protocol::Udp, b"x"))
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
fn a_flood_at_two_workers_of_both_families_is_counted_to_the_last_frame() {
    for plan in [V4, V6] {
        let mut world = opened(Settings {
            plan,
            workers: 2,
            ..small()
        });
        for id in 0..3000_u32 {
            let way = match id % 3 {
                0 => back(plan, 0, 4000),
                _ => there(plan, 4000 + (id % 5) as u16),
            };
            let whole = way.frame(Protocol::Udp, &bytes(88));
            let all = cut(&whole, &[32, 32], id % 700);
            let frame = &all[(id.wrapping_mul(2_654_435_761) >> 16) as usize % 3];
            world.frame_at(id as usize & 1, way.port, frame);
        }
        world.sweep_round(0, SMALL.timeout + Duration::from_secs(1));
        assert_forgotten(&world);
        // That all of it adds up is what each world ends with.
    }
}

#[test]
fn tcp_goes_on_while_fragments_of_its_own_tuple_are_forged() {
    let mut world = World::new(Settings {
        fragments: SMALL,
        ..Settings::default()
    });
    crate::frames::establish(&mut world, 4000, 0);
    let whole = there(V4, 4000).frame(Protocol::Tcp, &bytes(88));
    for id in 0..1000 {
        for late in &cut(&whole, &[32, 32], id)[1..] {
            assert!(world.frame(FRONT, late).is_empty());
        }
        one(&world.frame(FRONT, &request(V4, 4000, TcpFlags::ACK)));
    }
    assert_eq!(world.sessions().len(), 1);
}
