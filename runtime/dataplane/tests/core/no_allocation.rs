//! The hot path does not allocate, and takes no lock for established sessions: counted by the allocator
//! and the locks themselves.

#![expect(unsafe_code, reason = "counting allocations takes a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use crate::fragments::{bytes, opened, to_backend, to_client};
use crate::frames::{
    ACK, SYN, SYN_ACK, datagram, datagram_back, error_back, error_to, reply, request,
};
use crate::hosts::{Host, Kind};
use crate::icmp_sent::{may_be_cut, packet};
use crate::source_nat;
use crate::world::{BACK, FRONT, Settings, V4, V6, World, backend_mac};
use waxwing_dataplane::egress::routes::{Path, Routes};
use waxwing_dataplane::model::{NoBackend, SessionAction};
use waxwing_dataplane::{DropReason, NextHop, locks};
use waxwing_packet::{Family, Prefix, Protocol, VlanTags, checksum};
use waxwing_testkit::fragmenter::fragment;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: each call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller upholds the contract of the same method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of the same method.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// New flows do not allocate either, within the core (a policy may, in its own
/// memory): all buffers exist from the start.
#[test]
fn neither_established_packets_nor_new_flows_allocate() {
    for (plan, wants_closed, by_routes, transparent) in [
        (V4, false, false, false),
        (V6, true, false, false),
        (V4, false, true, false),
        (V4, false, false, true),
    ] {
        let mut world = World::new(Settings {
            wants_closed,
            transparent,
            ..Settings::tcp(plan)
        });
        if by_routes {
            let everywhere = Prefix::new(V4.client, 0);
            let routes = Routes::new(&[(everywhere, Path::Gateways([0, 1].into()))].into(), 2);
            let gateway = NextHop {
                port: FRONT,
                mac: backend_mac(9),
            };
            routes.set_gateway(1, Some(gateway));
            world.shared.next_hops.routes().replace(Some(routes.into()));
        }
        world.io(0).recycle_sent();
        let batch = |from: u16, flags| -> Vec<_> {
            (from..from + 50)
                .map(|port| (FRONT, request(plan, port, flags)))
                .collect()
        };
        let answers = (4000..4050).map(|port| (BACK, reply(plan, 0, port, SYN_ACK)));
        let arrivals = [
            batch(4000, SYN),
            answers.collect(),
            batch(4000, ACK),
            batch(5000, SYN),
        ];
        world.script().asked.reserve(1000);

        let before = ALLOCATIONS.get();
        for (number, frames) in arrivals.iter().enumerate() {
            for (port, frame) in frames {
                assert!(world.io(0).inject(*port, frame));
            }
            let locks = locks::taken();
            world.run(0);
            assert_locks(matches!(number, 1 | 2), locks);
        }
        assert_eq!(
            ALLOCATIONS.get() - before,
            0,
            "allocations on the packet's way"
        );
        assert_eq!(world.sessions().len(), 100);
    }
}

/// Established packets took no lock since `before`; a new flow did, which shows that locks are counted. A
/// release build does not count locks and tests only allocations.
fn assert_locks(are_hits: bool, before: Option<u64>) {
    let after = locks::taken();
    assert_eq!(after.is_some(), cfg!(debug_assertions), "they are counted");
    if are_hits {
        assert_eq!(after, before, "a lock on a known session's way");
    } else {
        assert!(after.is_none() || after > before, "a session takes locks");
    }
}

/// Neither does drawing a source port, evicting for one, or searching a full pool.
#[test]
fn source_nat_allocates_nothing() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            wants_closed: false,
            ..source_nat::settings(plan, 40)
        });
        world.io(0).recycle_sent();
        world.script().asked.reserve(1000);
        let (client, server) = (Host::neighbour(plan), Host::server(plan, 0));
        let vip = source_nat::vip(plan);
        let batch = |flags| -> Vec<_> {
            (0..50)
                .map(|n| client.frame(4000 + n, vip, Kind::tcp(flags)))
                .collect()
        };
        let seen = (1024..1064).map(|port| (source_nat::source(plan, 0), port));
        let answers = seen.map(|seen| server.frame(8080, seen, Kind::tcp(SYN_ACK)));
        let answers: Vec<_> = answers.collect();
        let (opening, going_on) = (batch(SYN), batch(ACK));
        let arrivals = [&opening, &answers, &going_on, &answers, &going_on, &opening];

        let before = ALLOCATIONS.get();
        for frames in arrivals {
            world.batch(BACK, frames);
        }
        assert_eq!(ALLOCATIONS.get() - before, 0);
        assert_eq!(world.sessions().len(), 40);
        assert!(world.counters[0].evicted.get() > 0);
        assert!(world.dropped(DropReason::SourcePorts) > 0);
    }
}

/// Sessions of down backends, and flows that no backend takes: each answer
/// is written into the client's own frame.
#[test]
fn rejections_allocate_nothing() {
    for (plan, protocol) in [(V4, Protocol::Tcp), (V6, Protocol::Udp)] {
        let mut world = World::new(Settings {
            wants_closed: false,
            no_backend: NoBackend::Reject,
            ..Settings::new(plan, protocol)
        });
        world.io(0).recycle_sent();
        let batch = || -> Vec<_> {
            let ports = 4000..4050;
            match protocol {
                Protocol::Tcp => ports.map(|port| request(plan, port, ACK)).collect(),
                Protocol::Udp => ports.map(|port| datagram(plan, port, b"?")).collect(),
            }
        };
        let take = |world: &mut World, frames: &[Vec<u8>]| {
            world.batch(FRONT, frames);
        };
        let batches = [batch(), batch(), batch()];
        world.script().asked.reserve(1000);
        take(&mut world, &batches[0]);
        world.change(|settings| settings.health = vec![(false, SessionAction::Reset); 3]);
        world.run(0);

        let before = ALLOCATIONS.get();
        take(&mut world, &batches[1]);
        take(&mut world, &batches[2]);
        assert_eq!(ALLOCATIONS.get() - before, 0, "{protocol}");
        let counters = &world.counters[0];
        assert_eq!((counters.reset.get(), counters.rejected.get()), (50, 50));
        assert_eq!(world.drops(), []);
    }
}

/// Held fragments are copied into preallocated slots.
#[test]
fn fragments_allocate_nothing() {
    for plan in [V4, V6] {
        let mut world = opened(Settings::udp(plan));
        world.io(0).recycle_sent();
        let mut arrivals = Vec::new();
        for way in [to_backend(plan, 4000), to_client(plan, 0, 4000)] {
            for id in 0..100 {
                let whole = way.frame(Protocol::Udp, &bytes(88));
                let mut pieces = fragment(&whole, &[32, 32], id);
                pieces.rotate_left(id as usize % 3);
                arrivals.extend(pieces.into_iter().map(|piece| (way.port, piece)));
            }
        }
        let before = ALLOCATIONS.get();
        for (port, frame) in &arrivals {
            assert!(world.io(0).inject(*port, frame));
            world.run(0);
        }
        assert_eq!(ALLOCATIONS.get() - before, 0);
        let counters = &world.counters[0];
        assert_eq!(counters.transmitted.packets.get(), 1 + 600);
        assert!(counters.held.get() > 100);
    }
}

/// Forwarded ICMP errors in both directions, and errors of the balancer's own.
#[test]
fn icmp_errors_allocate_nothing() {
    for (plan, protocol) in [(V4, Protocol::Tcp), (V6, Protocol::Udp)] {
        let mut world = World::new(Settings::new(plan, protocol));
        let (to, back) = match protocol {
            Protocol::Tcp => (request(plan, 4000, SYN), reply(plan, 0, 4000, SYN_ACK)),
            Protocol::Udp => (datagram(plan, 4000, b"?"), datagram_back(plan, 0, 4000)),
        };
        let forwarded = world.frame(FRONT, &to).remove(0).1;
        let returned = world.frame(BACK, &back).remove(0).1;
        let mut last_hop = to.clone();
        let at = usize::from(crate::frames::ip(&to).network);
        match plan.vip.family() {
            Family::V4 => {
                last_hop[at + 8] = 1;
                last_hop[at + 10..at + 12].fill(0);
                let sum = checksum::of(&last_hop[at..at + 20]);
                last_hop[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
            }
            Family::V6 => last_hop[at + 7] = 1,
        }
        let frames = [
            (BACK, error_back(plan, plan.backend(0), &forwarded[14..])),
            (FRONT, error_to(plan, plan.client, &returned[14..])),
            (FRONT, last_hop),
        ];
        world.io(0).recycle_sent();
        let before = ALLOCATIONS.get();
        for (port, frame) in &frames {
            assert!(world.io(0).inject(*port, frame));
        }
        world.run(0);
        assert_eq!(ALLOCATIONS.get() - before, 0, "{protocol}");
        let counters = &world.counters[0];
        assert_eq!(counters.icmp_errors_forwarded.get(), 2);
        assert_eq!(counters.time_exceeded_sent.get(), 1);
    }
}

/// Jumbo frames are linearized and fragmented in preallocated buffers.
#[test]
fn jumbo_frames_allocate_nothing() {
    for mtu in [9000, 1500] {
        let mut world = crate::icmp_sent::opened(V4, Protocol::Tcp, mtu);
        world.io(0).recycle_sent();
        let frame = may_be_cut(V4, FRONT, VlanTags::NONE, 8900);
        let too_big = packet(V4, Protocol::Tcp, BACK, VlanTags::NONE, 64, &bytes(8900));
        for _ in 0..20 {
            assert!(world.io(0).inject(FRONT, &frame));
            assert!(world.io(0).inject(BACK, &too_big));
        }
        let before = ALLOCATIONS.get();
        world.run(0);
        assert_eq!(ALLOCATIONS.get() - before, 0, "MTU {mtu}");
        let (cut, reported) = if mtu == 1500 { (20, 20) } else { (0, 0) };
        assert_eq!(world.counters[0].packets_fragmented.get(), cut);
        assert_eq!(world.counters[0].too_big_sent.get(), reported);
        assert_eq!(world.drops(), []);
    }
}
