//! Fragments that are dropped or passed to the kernel: how each is counted, and that nothing of it
//! remains.

use std::time::Duration;

use crate::fragments::{Endpoints, ID, assert_forgotten, bytes, opened, to_backend, to_client};
use crate::frames::request;
use crate::world::{BACK, FRONT, SERVICE_PORT, Settings, V4, V6, World};
use waxwing_dataplane::model::NoBackend;
use waxwing_dataplane::{BackendId, DropReason, FragmentLimits};
use waxwing_packet::{Protocol, TcpFlags, Transport, icmp};
use waxwing_testkit::fragmenter::{
    IP, fix_checksum, fragment, fragment_at, fragment_with, ip_of, permutations, reassemble,
};

use DropReason::{
    Fragment, FragmentDuplicate, FragmentLimit, FragmentOverlap, FragmentTimeout, Malformed,
    TinyFragment,
};

/// A UDP datagram with 88 bytes of payload: 96 bytes to fragment.
fn datagram(ends: Endpoints) -> Vec<u8> {
    ends.frame(Protocol::Udp, &bytes(88))
}

fn all_frames(world: &mut World, ends: Endpoints, frames: &[Vec<u8>]) -> usize {
    frames
        .iter()
        .map(|frame| world.frame(ends.port, frame).len())
        .sum()
}

/// The fragment of a range such as `0-32+`; `+`: more follow.
fn piece(whole: &[u8], range: &str) -> Vec<u8> {
    let (from, to) = range
        .trim_end_matches('+')
        .split_once('-')
        .expect("a range");
    let [from, to] = [from, to].map(|end| end.parse::<usize>().expect("a number"));
    fragment_at(whole, ID, from, to - from, range.ends_with('+'))
}

#[test]
fn an_overlapping_fragment_and_all_later_ones_are_dropped() {
    // Ranges (`+`: more fragments follow), frames sent, drop reason, frames dropped.
    let rows = [
        ("0-32+ 24-96 32-96", 1, FragmentOverlap, 2),
        ("0-32+ 8-24+ 32-96", 1, FragmentOverlap, 2),
        ("8-24+ 0-32+ 32-96", 0, FragmentOverlap, 3),
        ("48-96 24-56+ 0-32+", 0, FragmentOverlap, 3),
        ("0-32+ 32-96 32-96", 2, FragmentDuplicate, 0),
        ("0-32+ 0-32+ 32-96", 2, FragmentDuplicate, 1),
        ("32-96 32-96 0-32+", 2, FragmentDuplicate, 1),
        // The same range, once as the end of the datagram and once not.
        ("32-64 32-64+ 0-32+", 0, FragmentOverlap, 3),
        // Two ends.
        ("0-32+ 48-64 64-96", 2, FragmentOverlap, 1),
        // Behind the end.
        ("0-32+ 40-64 64-96+", 2, FragmentOverlap, 1),
    ];
    for plan in [V4, V6] {
        for ends in [to_backend(plan, 4000), to_client(plan, 0, 4000)] {
            for (ranges, sent, reason, dropped) in rows {
                let mut world = opened(Settings::udp(plan));
                let whole = datagram(ends);
                let frames: Vec<_> = (ranges.split(' '))
                    .map(|range| piece(&whole, range))
                    .collect();
                assert_eq!(all_frames(&mut world, ends, &frames), sent, "{ranges}");
                assert_eq!(world.dropped(reason), dropped, "{ranges}");
                // The rest, a late duplicate included, times out.
                world.sweep_round(0, FragmentLimits::default().timeout);
                world.io(0).sent();
                assert_forgotten(&world);
            }
        }
    }
}

/// The batch's first fragment is recorded before the others, and still no byte of a
/// spoiled datagram passes twice.
#[test]
fn an_overlap_within_one_batch_is_found() {
    for order in permutations(3) {
        let mut world = opened(Settings::udp(V4));
        let ends = to_backend(V4, 4000);
        let whole = datagram(ends);
        let frames = ["0-40+", "32-64+", "64-96"].map(|range| piece(&whole, range));
        let sent = world.batch(FRONT, order.iter().map(|&n| &frames[n]));
        let mut covered: Vec<(u16, u16)> = (sent.iter())
            .filter_map(|(_, frame)| ip_of(frame).fragment)
            .map(|f| (f.offset, f.offset + f.len))
            .collect();
        covered.sort_unstable();
        assert!(
            covered.windows(2).all(|pair| pair[0].1 <= pair[1].0),
            "{covered:?}"
        );
        assert!(world.dropped(FragmentOverlap) > 0);
    }
}

#[test]
fn impossible_fragments_are_dropped_alone() {
    let tcp = |at: usize, more, len: usize| {
        let whole = to_backend(V4, 4000).frame(Protocol::Tcp, &bytes(80));
        fragment_with(&whole, ID, at, more, &bytes(len))
    };
    let header = to_backend(V4, 4000).frame(Protocol::Tcp, &[])[IP + 20..].to_vec();
    let first = |len: usize| {
        let whole = to_backend(V4, 4000).frame(Protocol::Tcp, &bytes(80));
        fragment_with(&whole, ID, 0, true, &header[..len])
    };
    let mut other_protocol = tcp(24, false, 40);
    other_protocol[IP + 9] = 132;
    other_protocol[IP + 10..IP + 12].fill(0);
    let v6 = datagram(to_backend(V6, 4000));
    let mut tiny = fragment_with(&v6, ID, 0, true, &[17, 0, 1, 4, 0, 0, 0, 0]);
    tiny[IP + 40] = 60;
    for (what, frame, reason) in [
        ("eight bytes of TCP", first(8), TinyFragment),
        ("sixteen bytes of TCP", first(16), TinyFragment),
        ("in the TCP header", tcp(8, true, 40), TinyFragment),
        ("at its end", tcp(16, true, 40), TinyFragment),
        ("nothing but options", tiny, TinyFragment),
        ("no multiple of eight", tcp(24, true, 41), Malformed),
        ("no data", tcp(24, false, 0), Malformed),
        ("behind 65,535", tcp(65_512, false, 24), Malformed),
        (
            "behind it with the header",
            tcp(65_504, false, 16),
            Malformed,
        ),
        (
            "behind it over IPv6",
            fragment_with(&v6, ID, 65_528, false, &bytes(8)),
            Malformed,
        ),
        ("another protocol", other_protocol, Fragment),
    ] {
        let mut world = World::new(Settings::default());
        assert!(world.frame(FRONT, &frame).is_empty(), "{what}");
        assert_eq!(world.drops(), [(reason, 1)], "{what}");
        assert_forgotten(&world);
    }
}

#[test]
fn a_fragment_without_its_first_one_times_out() {
    for plan in [V4, V6] {
        let mut world = opened(Settings::udp(plan));
        let (ends, answer) = (to_backend(plan, 4000), to_client(plan, 0, 4000));
        let lost = fragment(&datagram(ends), &[32, 32], ID);
        let lost_back = fragment(&datagram(answer), &[32, 32], ID);
        assert_eq!(all_frames(&mut world, ends, &lost[1..]), 0);
        assert_eq!(all_frames(&mut world, answer, &lost_back[1..]), 0);
        assert_eq!(world.shared.fragments.held(), 4);

        world.sweep_round(
            0,
            FragmentLimits::default().timeout - Duration::from_secs(1),
        );
        assert_eq!(
            world.shared.fragments.held(),
            4,
            "they wait up to the time limit"
        );
        world.sweep_round(0, Duration::from_secs(1));
        assert_forgotten(&world);
        assert_eq!(
            world.drops(),
            [(FragmentTimeout, 2)],
            "nobody else has the VIP"
        );
        let to_kernel = world.io(0).passed_to_kernel();
        let expected = lost_back[1..].iter().map(|frame| (BACK, frame.clone()));
        assert_eq!(
            to_kernel,
            expected.collect::<Vec<_>>(),
            "it may be another's"
        );

        // The first one arrives too late: it is forwarded alone.
        assert_eq!(world.frame(FRONT, &lost[0]).len(), 1);
    }
}

/// Found by the next use of the identification rather than the sweep: a worker may be too busy to sweep.
#[test]
fn an_identification_reused_after_the_timeout_is_another_datagram() {
    let mut world = opened(Settings::udp(V4));
    let ends = to_backend(V4, 4000);
    let pieces = fragment(&datagram(ends), &[32, 32], ID);
    // The middle fragment is lost.
    assert_eq!(
        all_frames(&mut world, ends, &[pieces[0].clone(), pieces[2].clone()]),
        2
    );
    assert_eq!(world.shared.fragments.len(), 1);
    world.advance(FragmentLimits::default().timeout + Duration::from_secs(1));
    assert_eq!(all_frames(&mut world, ends, &pieces), 3);
    assert_eq!(world.drops(), []);
    assert_forgotten(&world);
}

#[test]
fn fragments_of_no_session_go_to_the_kernel_in_order() {
    for plan in [V4, V6] {
        for order in permutations(3) {
            let mut world = World::new(Settings::udp(plan));
            let ends = to_client(plan, 0, 4000);
            let pieces = fragment(&datagram(ends), &[32, 32], ID);
            let frames: Vec<_> = order.iter().map(|&n| pieces[n].clone()).collect();
            assert_eq!(all_frames(&mut world, ends, &frames), 0);
            let kernel: Vec<_> = world.io(0).passed_to_kernel();
            assert_eq!(kernel.len(), 3, "{order:?}");
            assert!(
                kernel
                    .iter()
                    .all(|(port, frame)| *port == BACK && pieces.contains(frame))
            );
            // Those that waited follow the first in the order of their arrival.
            let waited = order.iter().position(|&n| n == 0).unwrap_or_default();
            assert_eq!(kernel[0].1, pieces[0]);
            let came = order[..waited].iter().map(|&n| &pieces[n]);
            assert!(came.eq(kernel[1..=waited].iter().map(|(_, frame)| frame)));
            assert_forgotten(&world);
            assert_eq!(world.drops(), []);
        }
    }
}

#[test]
fn later_fragments_share_the_first_ones_drop_reason() {
    let drained = Settings {
        weights: vec![0],
        ..Settings::udp(V4)
    };
    let rejecting = Settings {
        no_backend: NoBackend::Reject,
        ..drained.clone()
    };
    let no_service = to_backend(V4, 4000).to_port(SERVICE_PORT + 9);
    for (settings, ends, reason, answers) in [
        (Settings::udp(V4), no_service, DropReason::NoService, 0),
        (drained, to_backend(V4, 4000), DropReason::NoBackend, 0),
        (rejecting, to_backend(V4, 4000), DropReason::NoBackend, 1),
    ] {
        for order in permutations(3) {
            let mut world = World::new(settings.clone());
            let pieces = fragment(&datagram(ends), &[32, 32], ID);
            let mut sent = Vec::new();
            for &n in &order {
                sent.extend(world.frame(FRONT, &pieces[n]));
            }
            assert_eq!(world.drops(), [(reason, 3 - answers)], "{order:?}");
            assert_eq!(sent.len() as u64, answers);
            for (_, frame) in sent {
                let port_unreachable = Transport::Icmp { kind: 3, code: 3 };
                assert_eq!(ip_of(&frame).transport, port_unreachable);
                assert_eq!(icmp::PROTOCOL_V4, frame[IP + 9]);
            }
            assert_forgotten(&world);
        }
    }
}

#[test]
fn each_fragment_is_checked_against_the_egress_mtu() {
    let mut world = opened(Settings::udp(V4));
    world.shared.next_hops.set(BackendId(0), None);
    let ends = to_backend(V4, 4000);
    let pieces = fragment(&datagram(ends), &[32, 32], ID);
    for n in [1, 0, 2] {
        assert!(world.frame(FRONT, &pieces[n]).is_empty());
    }
    assert_eq!(world.drops(), [(DropReason::NeighborUnresolved, 3)]);
    assert_eq!(world.shared.next_hops.take_wanted(), [BackendId(0)]);

    // The second is too big, and is fragmented again if that is allowed.
    let mut world = opened(Settings {
        mtu: 60,
        ..Settings::udp(V4)
    });
    let mut pieces = fragment(&datagram(ends), &[40], ID);
    let sent: Vec<_> = pieces
        .iter()
        .flat_map(|piece| world.frame(FRONT, piece))
        .map(|(_, frame)| frame)
        .collect();
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|frame| frame.len() <= IP + 60));
    assert!(reassemble(&sent).ends_with(&bytes(88)));
    assert_eq!(world.counters[0].packets_fragmented.get(), 1);
    assert_forgotten(&world);

    // No error is sent about one that must not be fragmented: it has no ports to quote.
    let mut world = opened(Settings {
        mtu: 60,
        ..Settings::udp(V4)
    });
    pieces[1][IP + 6] |= 0x40;
    fix_checksum(&mut pieces[1]);
    assert_eq!(all_frames(&mut world, ends, &pieces), 1);
    assert_eq!(world.drops(), [(DropReason::TooBig, 1)]);
    assert_forgotten(&world);
}

#[test]
fn later_fragments_of_an_ended_session_are_dropped() {
    let mut world = opened(Settings::udp(V4));
    let ends = to_backend(V4, 4000);
    let pieces = fragment(&datagram(ends), &[32, 32], ID);
    assert_eq!(world.frame(FRONT, &pieces[0]).len(), 1);
    let sessions = &world.shared.sessions;
    let (at, _) = sessions.iter().next().expect("the datagram's");
    sessions.remove(&mut sessions.slot_cache(), at);
    assert_eq!(all_frames(&mut world, ends, &pieces[1..]), 0);
    assert_eq!(world.drops(), [(Fragment, 2)]);
    assert_forgotten(&world);
}

#[test]
fn a_datagram_has_a_limit_of_fragments() {
    let mut world = opened(Settings::udp(V4));
    let ends = to_backend(V4, 4000);
    let whole = ends.frame(Protocol::Udp, &bytes(8 * 80 - 8));
    let pieces = fragment(&whole, &[8; 79], ID);
    let sent = all_frames(&mut world, ends, &pieces);
    assert_eq!((sent, world.drops()), (64, vec![(FragmentLimit, 80 - 64)]));

    // As many that wait for the first: one too many drops them all.
    let mut world = opened(Settings::udp(V4));
    assert_eq!(all_frames(&mut world, ends, &pieces[1..]), 0);
    assert_eq!(world.drops(), [(FragmentLimit, 79)]);
    assert_eq!(world.shared.fragments.held(), 0);
}

#[test]
fn a_segments_first_fragment_updates_the_connection() {
    let mut world = World::new(Settings::default());
    let whole = to_backend(V4, 4000).frame(Protocol::Tcp, &bytes(80));
    let mut syn = whole.clone();
    syn[IP + 33] = TcpFlags::SYN;
    for piece in fragment(&syn, &[40], ID) {
        world.frame(FRONT, &piece);
    }
    assert!(world.session().tcp.is_opening());
    assert_eq!(
        world.frame(FRONT, &request(V4, 4000, TcpFlags::SYN)).len(),
        1
    );
    assert_eq!(world.sessions().len(), 1);
}
