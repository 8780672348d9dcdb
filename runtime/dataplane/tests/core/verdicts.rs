//! How frames end: sent, passed to the kernel, or dropped with a reason.

use crate::frames::{ACK, RST, SYN, SYN_ACK, establish, one, reply, request, request_to, segment};
use crate::world::{BACK, FRONT, Settings, V4, World, backend_mac};
use waxwing_dataplane::{BackendId, DropReason};
use waxwing_packet::{Address, Mac};

#[test]
fn frames_that_are_not_ours_go_to_the_kernel_unchanged() {
    let mut world = World::new(Settings::default());
    // A backend's reply on a connection that did not come through the VIP.
    let direct = reply(V4, 0, 4000, SYN_ACK);
    assert!(world.frame(BACK, &direct).is_empty());
    assert_eq!(world.io(0).passed_to_kernel(), [(BACK, direct)]);
    assert_eq!(world.counters[0].to_kernel.get(), 1);
    assert_eq!(world.drops(), []);
}

#[test]
fn every_drop_has_its_reason() {
    let drained = Settings {
        weights: vec![0, 0],
        ..Settings::default()
    };
    let small = Settings {
        mtu: 40,
        ..Settings::default()
    };
    let mut loopback = V4;
    loopback.client = Address::v4([127, 0, 0, 1]);
    let mut itself = V4;
    itself.client = V4.vip;
    // No error is sent to a multicast group, nor about a packet that may be fragmented but makes too many
    // fragments.
    let mut last_hop = segment(V4, 4000, SYN);
    last_hop.hop_limit = 1;
    last_hop.link.destination = Mac([1, 0, 0, 0, 0, 1]);
    let mut large = segment(V4, 4000, SYN);
    large.payload = &[7; 400];
    let mut large = large.frame();
    large[20] = 0;
    let mut truncated = request(V4, 4000, SYN);
    truncated.truncate(40);
    let mut fragment = request(V4, 4000, SYN);
    fragment[20] = 0x20;
    fragment[23] = 132;
    let mut other_protocol = request(V4, 4000, SYN);
    other_protocol[23] = 132;
    for (settings, frame, reason) in [
        (drained, request(V4, 4000, SYN), DropReason::NoBackend),
        (small, large, DropReason::TooBig),
        (
            Settings::default(),
            request_to(V4, 4000, 99, SYN),
            DropReason::NoService,
        ),
        (
            Settings::default(),
            request(loopback, 4000, SYN),
            DropReason::Martian,
        ),
        (
            Settings::default(),
            request(itself, 4000, SYN),
            DropReason::Martian,
        ),
        (Settings::default(), last_hop.frame(), DropReason::HopLimit),
        (Settings::default(), truncated, DropReason::Malformed),
        (Settings::default(), fragment, DropReason::Fragment),
        (Settings::default(), other_protocol, DropReason::Unsupported),
    ] {
        let mut world = World::new(settings);
        assert!(world.frame(FRONT, &frame).is_empty(), "{reason:?}");
        assert_eq!(world.drops(), [(reason, 1)]);
    }
}

#[test]
fn an_unresolved_next_hop_is_requested_and_counted() {
    let mut world = World::new(Settings::default());
    world.shared.next_hops.set(BackendId(0), None);
    assert!(world.frame(FRONT, &request(V4, 4000, SYN)).is_empty());
    assert_eq!(world.drops(), [(DropReason::NeighborUnresolved, 1)]);
    assert_eq!(world.shared.next_hops.take_wanted(), [BackendId(0)]);

    world.shared.next_hops.set(
        BackendId(0),
        Some(waxwing_dataplane::NextHop {
            port: BACK,
            mac: backend_mac(0),
        }),
    );
    one(&world.frame(FRONT, &request(V4, 4000, SYN)));
    assert_eq!(
        world.script().asked.len(),
        1,
        "the retry is of the same session"
    );
}

#[test]
fn a_full_transmit_ring_drops_and_recovers() {
    let mut world = World::new(Settings::default());
    establish(&mut world, 4000, 0);
    world.io(0).limit_transmit(0);
    assert!(world.frame(FRONT, &request(V4, 4000, ACK)).is_empty());
    assert_eq!(world.drops(), [(DropReason::TransmitRingFull, 1)]);
    world.io(0).limit_transmit(usize::MAX);
    one(&world.frame(FRONT, &request(V4, 4000, ACK)));
}

#[test]
fn counters_count_exactly_what_happened() {
    let mut world = World::new(Settings::default());
    establish(&mut world, 4000, 0);
    let refused = world.frame(FRONT, &request(V4, 4001, SYN));
    one(&refused);
    one(&world.frame(BACK, &reply(V4, 0, 4001, RST | ACK)));
    let counters = &world.counters[0];
    let backend = counters.backend(BackendId(0));
    assert_eq!(counters.received.packets.get(), 5);
    assert_eq!(backend.forward.packets.get(), 3);
    assert_eq!(backend.reply.packets.get(), 2);
    let gauges = &world.shared.gauges;
    assert_eq!(gauges.opened(BackendId(0)), 2);
    assert_eq!(gauges.refused(BackendId(0)), 1);
    assert_eq!(world.drops(), []);
}
