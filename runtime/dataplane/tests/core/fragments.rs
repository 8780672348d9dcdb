//! Fragments arrive in any order at any worker. The output, reassembled,
//! equals the output for the whole datagram.

use std::time::Duration;

use proptest::prelude::*;

use crate::frames::{ACK, SYN, ip, one, ports, reply, reply_segment, request, request_to, segment};
use crate::world::{BACK, EACH, FRONT, Plan, SERVICE_PORT, Settings, V4, V6, World, backend_mac};
use waxwing_dataplane::{DropReason, Pick, PortId};
use waxwing_packet::{Address, Protocol};
use waxwing_testkit::build;
use waxwing_testkit::fragmenter::{IP, fragment, fragment_with, ip_of, permutations, reassemble};

/// The default identification.
pub(crate) const ID: u32 = 0x4711;

/// A frame of either direction, and the port that it arrives at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoints {
    pub(crate) port: PortId,
    segment: build::Tcp<'static>,
}

pub(crate) fn to_backend(plan: Plan, client_port: u16) -> Endpoints {
    Endpoints {
        port: FRONT,
        segment: segment(plan, client_port, ACK),
    }
}

pub(crate) fn to_client(plan: Plan, backend: u32, client_port: u16) -> Endpoints {
    Endpoints {
        port: BACK,
        segment: reply_segment(plan, backend, client_port, ACK),
    }
}

impl Endpoints {
    pub(crate) fn to_port(mut self, port: u16) -> Self {
        self.segment.destination.1 = port;
        self
    }

    pub(crate) fn frame(self, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
        build::Tcp {
            payload,
            ..self.segment
        }
        .frame_of(protocol)
    }
}

pub(crate) fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7) as u8).collect()
}

/// A world in which client port 4000 has a session with backend 0.
pub(crate) fn opened(settings: Settings) -> World {
    let (plan, protocol) = (settings.plan, settings.protocol);
    let mut world = World::new(settings);
    let first = match protocol {
        Protocol::Tcp => request(plan, 4000, SYN),
        Protocol::Udp => to_backend(plan, 4000).frame(protocol, b"hello"),
    };
    one(&world.frame(FRONT, &first));
    world
}

/// The packet whose fragments were sent.
pub(crate) fn reassembled(sent: Vec<(PortId, Vec<u8>)>) -> Vec<u8> {
    let pieces: Vec<_> = sent.into_iter().map(|(_, piece)| piece).collect();
    reassemble(&pieces)
}

/// The table is empty.
#[track_caller]
pub(crate) fn assert_forgotten(world: &World) {
    let table = &world.shared.fragments;
    assert_eq!((table.len(), table.held()), (0, 0), "datagrams, fragments");
}

/// Frames arrive, each at its worker: one by one, or all before the first turn.
fn arrive(
    world: &mut World,
    ends: Endpoints,
    frames: &[(usize, Vec<u8>)],
    at_once: bool,
) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    for (worker, frame) in frames {
        assert!(
            world.io(*worker).inject(ends.port, frame),
            "the pool has a frame"
        );
        if !at_once {
            world.run(*worker);
            sent.extend(world.io(*worker).sent());
        }
    }
    for worker in 0..world.settings.workers {
        world.run(worker);
        sent.extend(world.io(worker).sent());
    }
    sent.into_iter().map(|(_, frame)| frame).collect()
}

#[test]
fn fragments_in_any_order_at_any_worker_are_translated_like_the_whole() {
    for (plan, protocol) in EACH {
        let mut world = opened(Settings {
            workers: 2,
            ..Settings::new(plan, protocol)
        });
        for ends in [to_backend(plan, 4000), to_client(plan, 0, 4000)] {
            let whole = ends.frame(protocol, &bytes(99));
            let expected = one_frame(&world.frame(ends.port, &whole));
            for lens in [&[24][..], &[32, 8], &[24, 16, 40]] {
                let pieces = fragment(&whole, lens, ID);
                for order in permutations(pieces.len()) {
                    for workers in 0..1 << pieces.len() {
                        let frames: Vec<_> = (order.iter())
                            .map(|&n| (workers >> n & 1, pieces[n].clone()))
                            .collect();
                        for at_once in [false, true] {
                            let sent = arrive(&mut world, ends, &frames, at_once);
                            assert_eq!(reassemble(&sent), expected, "{order:?} {workers:b}");
                            assert_forgotten(&world);
                        }
                    }
                }
            }
        }
        assert_eq!(world.drops(), []);
        assert_eq!(world.sessions().len(), 1);
        let held: u64 = world.counters.iter().map(|c| c.held.get()).sum();
        let released: u64 = world.counters.iter().map(|c| c.released.get()).sum();
        assert!(held > 1000, "the orders are of any use");
        assert_eq!(held, released);
    }
}

#[test]
fn a_first_fragment_opens_a_session_by_its_policy_even_when_it_comes_last() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings::udp(plan));
        world.script().picks = vec![Pick::Backend(2)];
        world.script().payload_len = 16;
        let ends = to_backend(plan, 4000);
        let whole = ends.frame(Protocol::Udp, &bytes(64));
        let mut pieces = fragment(&whole, &[32, 16], ID);
        pieces.reverse();
        let frames: Vec<_> = pieces.into_iter().map(|frame| (0, frame)).collect();
        let sent = arrive(&mut world, ends, &frames, false);
        assert_eq!(sent.len(), 3);
        for frame in &sent {
            let packet = ip_of(frame);
            let addresses = (packet.source, packet.destination);
            assert_eq!(addresses, (plan.client, plan.backend(2)));
            assert_eq!(packet.ethernet.destination, backend_mac(2));
            assert_eq!(packet.hop_limit, 63);
        }
        let flows = world.script().asked.clone();
        assert_eq!(flows.len(), 1);
        let seen = (flows[0].payload_len, &flows[0].payload[..16]);
        assert_eq!(
            seen,
            (16, &bytes(16)[..]),
            "the policy sees the payload's beginning"
        );
        assert_forgotten(&world);
    }
}

#[test]
fn a_datagram_without_checksum_stays_without() {
    let mut world = opened(Settings::udp(V4));
    let mut whole = to_backend(V4, 4000).frame(Protocol::Udp, &bytes(64));
    whole[40..42].fill(0);
    for piece in fragment(&whole, &[32], ID) {
        let sent = one_frame(&world.frame(FRONT, &piece));
        let first = ip_of(&sent)
            .fragment
            .is_some_and(|fragment| fragment.offset == 0);
        assert!(!first || sent[40..42] == [0, 0], "RFC 768: no checksum");
    }
}

#[test]
fn only_the_first_fragment_gets_the_translated_source_port() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            second_service: true,
            ..Settings::tcp(plan)
        });
        one(&world.frame(FRONT, &request(plan, 4000, SYN)));
        let second = request_to(plan, 4000, SERVICE_PORT + 1, SYN);
        let (_, packet) = one(&world.frame(FRONT, &second));
        let (translated, _) = ports(&packet);
        let to_second = build::Tcp {
            destination: (plan.vip, SERVICE_PORT + 1),
            payload: &bytes(80),
            ..segment(plan, 4000, ACK)
        };
        for (ends, whole) in [
            (to_backend(plan, 4000), to_second.frame()),
            (
                to_client(plan, 0, translated),
                to_client(plan, 0, translated).frame(Protocol::Tcp, &bytes(80)),
            ),
        ] {
            let expected = one_frame(&world.frame(ends.port, &whole));
            let frames: Vec<_> = fragment(&whole, &[40, 24], ID)
                .into_iter()
                .rev()
                .map(|frame| (0, frame))
                .collect();
            assert_eq!(
                reassemble(&arrive(&mut world, ends, &frames, true)),
                expected
            );
        }
        assert_eq!(world.drops(), []);
    }
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let mut world = opened(Settings::tcp(V6));
    for (port, whole) in [
        (FRONT, request(V6, 4000, ACK)),
        (BACK, reply(V6, 0, 4000, ACK)),
    ] {
        for _ in 0..2 {
            let atomic = fragment_with(&whole, ID, 0, false, &whole[IP + 40..]);
            one(&world.frame(port, &atomic));
            assert_forgotten(&world);
        }
    }
    assert_eq!(world.drops(), []);
}

/// Per-hop options precede the fragment header. Options for the destination follow it, in the
/// first fragment's data.
#[test]
fn extension_headers_on_both_sides_of_the_fragment_header_are_walked() {
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let mut world = opened(Settings::udp(V6));
    let mut whole = to_backend(V6, 4000).frame(Protocol::Udp, &bytes(56));
    whole.splice(IP + 40..IP + 40, options(17));
    whole[IP + 6] = 60;
    whole[IP + 4..IP + 6].copy_from_slice(&72_u16.to_be_bytes());
    let expected = one_frame(&world.frame(FRONT, &whole));
    let pieces = fragment(&whole, &[24, 24], ID);
    let hop_by_hop = |piece: &Vec<u8>| {
        let mut longer = piece.clone();
        longer.splice(IP + 40..IP + 40, options(44));
        longer[IP + 6] = 0;
        let len = u16::from_be_bytes([longer[IP + 4], longer[IP + 5]]) + 8;
        longer[IP + 4..IP + 6].copy_from_slice(&len.to_be_bytes());
        longer
    };
    for order in permutations(3) {
        let ends = to_backend(V6, 4000);
        let plain: Vec<_> = order.iter().map(|&n| (0, pieces[n].clone())).collect();
        assert_eq!(
            reassemble(&arrive(&mut world, ends, &plain, false)),
            expected
        );

        let longer: Vec<_> = (order.iter())
            .map(|&n| (0, hop_by_hop(&pieces[n])))
            .collect();
        let mut sent = arrive(&mut world, ends, &longer, false);
        for frame in &mut sent {
            assert_eq!(ip_of(frame).destination, V6.backend(0));
            frame.drain(IP + 40..IP + 48);
            frame[IP + 6] = 44;
            let len = u16::from_be_bytes([frame[IP + 4], frame[IP + 5]]) - 8;
            frame[IP + 4..IP + 6].copy_from_slice(&len.to_be_bytes());
        }
        assert_eq!(reassemble(&sent), expected);
    }
    assert_eq!(world.drops(), []);
}

/// RFC 8200 section 4.5: the first fragment's next header is the packet's.
#[test]
fn a_later_fragment_of_ipv6_may_name_another_protocol() {
    let mut world = opened(Settings::udp(V6));
    let whole = to_backend(V6, 4000).frame(Protocol::Udp, &bytes(56));
    let mut pieces = fragment(&whole, &[24], ID);
    pieces[1][IP + 40] = 59;
    assert!(world.frame(FRONT, &pieces[1]).is_empty());
    assert_eq!(world.frame(FRONT, &pieces[0]).len(), 2);
    assert_eq!(world.drops(), []);
}

/// An identification belongs to one source, destination and, for IPv4,
/// protocol.
#[test]
fn one_identification_of_two_clients_is_two_datagrams() {
    for plan in [V4, V6] {
        let mut world = opened(Settings::udp(plan));
        let mut neighbor = plan;
        neighbor.client = Address::from_bits(plan.client.bits() + 1);
        let [ours, theirs] = [plan, neighbor].map(|plan| {
            let whole = to_backend(plan, 4000).frame(Protocol::Udp, &bytes(64));
            fragment(&whole, &[32], ID)
        });
        let frames = [&theirs[1], &ours[0], &ours[1], &theirs[0]].map(|frame| (0, frame.clone()));
        let sent = arrive(&mut world, to_backend(plan, 4000), &frames, false);
        let sources: Vec<_> = sent.iter().map(|frame| ip_of(frame).source).collect();
        let (a, b) = (plan.client, neighbor.client);
        assert_eq!(sources, [a, a, b, b]);
        assert_eq!(world.drops(), []);
    }
}

#[test]
fn later_fragments_may_pause_within_the_timeout() {
    let mut world = opened(Settings::udp(V4));
    let whole = to_backend(V4, 4000).frame(Protocol::Udp, &bytes(64));
    let pieces = fragment(&whole, &[32, 16], ID);
    for piece in pieces.iter().rev() {
        world.advance(Duration::from_secs(2));
        world.frame(FRONT, piece);
    }
    assert_eq!(world.counters[0].transmitted.packets.get(), 1 + 3);
    assert_forgotten(&world);
}

fn one_frame(sent: &[(PortId, Vec<u8>)]) -> Vec<u8> {
    assert_eq!(sent.len(), 1, "{sent:?}");
    if ip_of(&sent[0].1).fragment.is_none() {
        ip(&sent[0].1);
    }
    sent[0].1.clone()
}

/// A fragmented datagram's journey through the balancer.
#[derive(Clone, Debug)]
struct Travel {
    plan: bool,
    protocol: Protocol,
    reply: bool,
    /// Lengths of all fragments but the last.
    lens: Vec<usize>,
    last_len: usize,
    /// The order of arrival, and each fragment's worker.
    order: Vec<usize>,
    workers: Vec<usize>,
    /// Which fragments are duplicated.
    again: Vec<prop::sample::Index>,
}

fn travels() -> impl Strategy<Value = Travel> {
    let lens = prop::collection::vec((3..40_usize).prop_map(|units| units * 8), 1..9);
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    (any::<(bool, bool)>(), protocol, lens, 1..1000_usize).prop_flat_map(
        |((plan, reply), protocol, lens, last_len)| {
            let count = lens.len() + 1;
            (
                Just((0..count).collect::<Vec<_>>()).prop_shuffle(),
                prop::collection::vec(0..2_usize, count),
                prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            )
                .prop_map(move |(order, workers, again)| Travel {
                    plan,
                    protocol,
                    reply,
                    lens: lens.clone(),
                    last_len,
                    order,
                    workers,
                    again,
                })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Translating the whole datagram equals translating its fragments;
    /// duplicates leave once.
    #[test]
    fn translating_and_cutting_are_the_same_in_either_order(travel in travels()) {
        let plan = if travel.plan { V4 } else { V6 };
        // Translate the whole datagram for comparison.
        let mtu = 4000;
        let protocol = travel.protocol;
        let mut world = opened(Settings { plan, protocol, mtu, workers: 2, ..Settings::default() });
        let ends = if travel.reply { to_client(plan, 0, 4000) } else { to_backend(plan, 4000) };
        let header = if protocol == Protocol::Tcp { 20 } else { 8 };
        let len = travel.lens.iter().sum::<usize>() + travel.last_len - header;
        let whole = ends.frame(protocol, &bytes(len));
        let expected = one_frame(&world.frame(ends.port, &whole));

        let pieces = fragment(&whole, &travel.lens, ID);
        let mut frames: Vec<_> = travel
            .order
            .iter()
            .map(|&n| (travel.workers[n], pieces[n].clone()))
            .collect();
        for index in &travel.again {
            // Before the datagram is complete: later it would start a new one.
            let at = index.index(frames.len() - 1);
            let (worker, frame) = frames[at].clone();
            frames.insert(at + 1, (1 - worker, frame));
        }
        let sent = arrive(&mut world, ends, &frames, false);
        prop_assert_eq!(sent.len(), pieces.len());
        prop_assert_eq!(reassemble(&sent), expected);
        let duplicates = world.dropped(DropReason::FragmentDuplicate);
        prop_assert_eq!(duplicates, travel.again.len() as u64);
        prop_assert_eq!(world.drops().len(), usize::from(duplicates > 0));
        assert_forgotten(&world);
    }
}
