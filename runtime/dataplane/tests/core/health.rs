//! A backend's health and its sessions: kept, reset, or picked anew.

use std::time::Duration;

use crate::frames::{
    ACK, RST, SYN, TAGS, datagram, datagram_back, establish, ip, one, play, ports, reply, request,
    segment,
};
use crate::world::{BACK, CLIENT_MAC, FRONT, PORT_MACS, SERVICE_PORT, Settings, V4, V6, World};
use waxwing_dataplane::model::{MidStream, SessionAction};
use waxwing_dataplane::policy::End;
use waxwing_dataplane::session::Phase;
use waxwing_dataplane::{DropReason, Pick};
use waxwing_packet::{Protocol, Transport};
use waxwing_testkit::build;

const DOWN: bool = false;

fn tcp(mid_stream: MidStream) -> Settings {
    Settings {
        mid_stream,
        ..Settings::default()
    }
}

/// Sets the first backend's health; from then on policies pick the second.
fn first_backend_is(world: &mut World, healthy: bool, sessions: SessionAction) {
    world.change(|settings| settings.health = vec![(healthy, sessions)]);
    world.script().picks = vec![Pick::Backend(1)];
}

#[test]
fn a_connection_to_a_down_backend_is_reset_at_the_clients_next_packet() {
    for (plan, tags) in [V4, V6].into_iter().flat_map(|p| TAGS.map(|t| (p, t))) {
        let mut world = World::new(Settings::tcp(plan));
        establish(&mut world, 4000, 0);
        first_backend_is(&mut world, DOWN, SessionAction::Reset);
        let (port, packet) = one(&world.frame(BACK, &reply(plan, 0, 4000, ACK)));
        assert_eq!((port, packet.source), (FRONT, plan.vip), "it still speaks");

        let original = build::Tcp {
            tags,
            sequence: 77,
            acknowledgment: 0xffff_fffe,
            ..segment(plan, 4000, ACK)
        };
        let sent = world.frame(FRONT, &original.frame());
        let (port, packet) = one(&sent);
        assert_eq!(port, FRONT, "back to where it came from");
        assert_eq!(packet.ethernet.destination, CLIENT_MAC);
        assert_eq!(packet.ethernet.source, PORT_MACS[0]);
        assert_eq!(packet.ethernet.tags, tags);
        assert_eq!((packet.source, packet.destination), (plan.vip, plan.client));
        assert_eq!(ports(&packet), (SERVICE_PORT, 4000));
        let at = usize::from(packet.transport_start);
        assert_eq!(sent[0].1[at + 4..at + 8], [0xff, 0xff, 0xff, 0xfe]);
        assert!(matches!(packet.transport, Transport::Tcp { flags, .. } if flags.0 == RST));

        assert_eq!(world.sessions(), []);
        assert_eq!(world.held(), [0, 0, 0]);
        assert_eq!(world.script().closed[0].end, End::Reset);
        assert_eq!(world.counters[0].reset.get(), 1);
        assert_eq!(world.drops(), []);
        world.assert_reaches(1, &request(plan, 4000, SYN), "the client's next try");
    }
}

#[test]
fn a_datagram_to_a_down_backend_is_unreachable_and_the_next_finds_another() {
    for plan in [V4, V6] {
        for tags in [TAGS[0], TAGS[1]] {
            let mut world = World::new(Settings::udp(plan));
            one(&world.frame(FRONT, &datagram(plan, 5000, b"one")));
            one(&world.frame(BACK, &datagram_back(plan, 0, 5000)));
            first_backend_is(&mut world, DOWN, SessionAction::Reset);
            one(&world.frame(BACK, &datagram_back(plan, 0, 5000)));

            let original = build::Tcp {
                tags,
                hop_limit: 9,
                ..segment(plan, 5000, 0)
            }
            .frame_of(Protocol::Udp);
            let sent = world.frame(FRONT, &original);
            let (port, packet) = one(&sent);
            let (kind, code) = if plan.vip == V4.vip { (3, 3) } else { (1, 4) };
            let unreachable = Transport::Icmp { kind, code };
            assert_eq!(packet.transport, unreachable);
            assert_eq!((port, packet.ethernet.destination), (FRONT, CLIENT_MAC));
            assert_eq!(packet.ethernet.tags, tags);
            assert_eq!((packet.source, packet.destination), (plan.vip, plan.client));
            let quote = usize::from(packet.transport_start) + 8;
            let as_sent = usize::from(ip(&original).network);
            assert_eq!(
                sent[0].1[quote..],
                original[as_sent..],
                "as the client sent it"
            );
            assert_eq!(
                (world.sessions().len(), world.counters[0].reset.get()),
                (0, 1)
            );
            assert_eq!(
                world.destination_of(&datagram(plan, 5000, b"three")),
                plan.backend(1)
            );
        }
    }
}

#[test]
fn a_flow_of_a_down_backend_continues_at_another_if_configured() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings::udp(plan));
        one(&world.frame(FRONT, &datagram(plan, 5000, b"one")));
        one(&world.frame(BACK, &datagram_back(plan, 0, 5000)));
        first_backend_is(&mut world, DOWN, SessionAction::Repick);
        one(&world.frame(BACK, &datagram_back(plan, 0, 5000)));
        world.assert_reaches(1, &datagram(plan, 5000, b"two"), "no datagram is lost");
        assert_eq!((world.held(), world.drops()), (vec![0, 1, 0], vec![]));
        assert_eq!(world.counters[0].repicked.get(), 1);
        assert_eq!(world.script().closed[0].end, End::Reset);
    }
}

#[test]
fn a_connection_picked_anew_counts_as_mid_stream() {
    for (mid_stream, goes_on) in [(MidStream::Pick, true), (MidStream::Drop, false)] {
        let mut world = World::new(tcp(mid_stream));
        establish(&mut world, 4000, 0);
        first_backend_is(&mut world, DOWN, SessionAction::Repick);
        let sent = world.frame(FRONT, &request(V4, 4000, ACK));
        assert_eq!(sent.len(), usize::from(goes_on));
        assert_eq!(world.dropped(DropReason::MidStream), u64::from(!goes_on));
        assert_eq!(
            world.dropped_of(0, DropReason::MidStream),
            u64::from(!goes_on)
        );
        assert_eq!(world.held(), [0, u32::from(goes_on), 0]);
        let flows = world.script().asked.clone();
        assert!(flows[1..].iter().all(|flow| flow.mid_stream));
    }
}

#[test]
fn a_kept_session_outlives_its_backends_outage() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings::tcp(plan));
        establish(&mut world, 4000, 0);
        first_backend_is(&mut world, DOWN, SessionAction::Keep);
        let to = |world: &mut World, port, flags| world.destination_of(&request(plan, port, flags));
        assert_eq!(to(&mut world, 4000, ACK), plan.backend(0));
        assert_eq!(
            to(&mut world, 4000, SYN),
            plan.backend(0),
            "RFC 5961 has it answered there"
        );
        assert_eq!(to(&mut world, 4001, SYN), plan.backend(1));
        first_backend_is(&mut world, true, SessionAction::Keep);
        world.script().picks = vec![Pick::Backend(0)];
        one(&world.frame(BACK, &reply(plan, 0, 4000, ACK)));
        assert_eq!(to(&mut world, 4000, ACK), plan.backend(0));
        assert_eq!(to(&mut world, 4001, ACK), plan.backend(1));
        assert_eq!(to(&mut world, 4002, SYN), plan.backend(0));
        assert_eq!((world.held(), world.drops()), (vec![2, 1, 0], vec![]));
    }
}

#[test]
fn a_syn_never_goes_to_a_down_backend() {
    use SessionAction::{Keep, Repick, Reset};
    for action in [Keep, Reset, Repick] {
        let mut world = World::new(Settings::default());
        one(&world.frame(FRONT, &request(V4, 4000, SYN)));
        first_backend_is(&mut world, DOWN, action);
        world.assert_reaches(1, &request(V4, 4000, SYN), format_args!("{action:?}"));
        assert_eq!(world.counters[0].repicked.get(), 1);
        assert_eq!(world.script().closed[0].end, End::Unanswered);
        assert_eq!(world.held(), [0, 1, 0]);
    }
    // A SYN within a connection that would be reset or picked anew is not rejected either.
    for action in [Reset, Repick] {
        let mut world = World::new(Settings::default());
        establish(&mut world, 4000, 0);
        first_backend_is(&mut world, DOWN, action);
        world.assert_reaches(1, &request(V4, 4000, SYN), format_args!("{action:?}"));
        assert_eq!(world.counters[0].repicked.get(), 1);
    }
}

/// A server that is gone does not answer the client's SYN, so the client's reused port must find another.
#[test]
fn a_syn_moves_a_silent_connection_of_a_removed_backend() {
    for plan in [V4, V6] {
        let mut world = World::new(Settings {
            plan,
            ..Settings::default()
        });
        establish(&mut world, 4000, 0);
        world.change(|settings| settings.removed = 1);
        world.script().picks = vec![Pick::Backend(0)];
        let (_, packet) = one(&world.frame(FRONT, &request(plan, 4000, ACK)));
        assert_eq!(packet.destination, plan.backend(0), "its sessions stay");
        let (_, packet) = one(&world.frame(FRONT, &request(plan, 4000, SYN)));
        assert_eq!(
            packet.destination,
            plan.backend(0),
            "a forged one moves nothing"
        );
        // The client repeats its SYN after a second.
        world.advance(Duration::from_secs(1));
        let (_, packet) = one(&world.frame(FRONT, &request(plan, 4000, SYN)));
        assert_eq!(packet.destination, plan.backend(1));
        assert_eq!(world.held(), [0, 1, 0]);
        assert_eq!(world.counters[0].repicked.get(), 1);
    }
}

/// Idle sessions of a removed backend must not hold its id for hours.
#[test]
fn sessions_that_have_to_leave_a_removed_backend_end_without_a_packet() {
    for action in [
        SessionAction::Keep,
        SessionAction::Reset,
        SessionAction::Repick,
    ] {
        for removed in [0, 1] {
            let mut world = World::new(Settings::default());
            establish(&mut world, 4000, 0);
            world.change(|settings| {
                settings.removed = removed;
                settings.health = vec![(DOWN, action)];
            });
            world.sweep_round(0, Duration::from_secs(5));
            assert_eq!(world.held()[0], 1, "its client may still send");
            world.sweep_round(0, Duration::from_secs(10));
            let ends = removed == 1 && action != SessionAction::Keep;
            assert_eq!(world.held()[0], u32::from(!ends), "{action:?} {removed}");
        }
    }
}

#[test]
fn a_clients_own_rst_reaches_the_backend() {
    let mut world = World::new(Settings::default());
    establish(&mut world, 4000, 0);
    first_backend_is(&mut world, true, SessionAction::Reset);
    let (port, packet) = one(&world.frame(FRONT, &request(V4, 4000, RST)));
    assert_eq!((port, packet.destination), (BACK, V4.backend(0)));
    assert_eq!(
        (world.sessions().len(), world.counters[0].reset.get()),
        (0, 1)
    );
    assert!(world.frame(FRONT, &request(V4, 4000, RST)).is_empty());
    assert_eq!(world.drops(), [(DropReason::MidStream, 1)]);
}

#[test]
fn a_closed_connection_is_not_reset() {
    for action in [SessionAction::Reset, SessionAction::Repick] {
        let mut world = World::new(Settings::default());
        establish(&mut world, 4000, 0);
        play(&mut world, 4000, "<FA >FA");
        first_backend_is(&mut world, DOWN, action);
        world.assert_reaches(0, &request(V4, 4000, ACK), format_args!("{action:?}"));
        assert_eq!(world.session().tcp.phase(), Phase::Closing);
        world.assert_reaches(1, &request(V4, 4000, SYN), "and makes way");
        assert_eq!(world.counters[0].expired.get(), 1);
        assert_eq!(world.counters[0].repicked.get(), 0);
    }
}

/// The first frame ends the session. Batch boundaries make no difference to the next one.
#[test]
fn the_packet_after_the_one_that_ends_a_session_is_a_new_flow() {
    for at_once in [true, false] {
        let mut world = World::new(tcp(MidStream::Drop));
        establish(&mut world, 4000, 0);
        first_backend_is(&mut world, DOWN, SessionAction::Reset);
        let mut sent = Vec::new();
        for flags in [ACK, ACK, SYN, ACK] {
            assert!(world.io(0).inject(FRONT, &request(V4, 4000, flags)));
            if !at_once {
                world.run(0);
                sent.extend(world.io(0).sent());
            }
        }
        world.run(0);
        sent.extend(world.io(0).sent());
        let to: Vec<_> = sent
            .iter()
            .map(|(_, frame)| ip(frame).destination)
            .collect();
        assert_eq!(to, [V4.client, V4.backend(1), V4.backend(1)], "{at_once}");
        assert_eq!(world.drops(), [(DropReason::MidStream, 1)]);
        assert_eq!(world.counters[0].reset.get(), 1);
    }
}

#[test]
fn a_session_is_reset_once_at_any_worker() {
    let mut world = World::new(Settings {
        workers: 2,
        ..tcp(MidStream::Drop)
    });
    establish(&mut world, 4000, 0);
    first_backend_is(&mut world, DOWN, SessionAction::Reset);
    one(&world.frame_at(1, FRONT, &request(V4, 4000, ACK)));
    assert!(world.frame_at(0, FRONT, &request(V4, 4000, ACK)).is_empty());
    let reset = [0, 1].map(|worker| world.counters[worker].reset.get());
    assert_eq!((reset, world.held()[0]), ([0, 1], 0));
    assert_eq!(world.drops(), [(DropReason::MidStream, 1)]);
}

#[test]
fn a_worker_with_the_old_epoch_keeps_forwarding() {
    let mut world = World::with_workers(2);
    one(&world.frame_at(0, FRONT, &request(V4, 4000, SYN)));
    world.change_at(1, |settings| {
        settings.health = vec![(DOWN, SessionAction::Repick)];
    });
    world.script().picks = vec![Pick::Backend(1)];
    let (_, packet) = one(&world.frame_at(0, FRONT, &request(V4, 4000, ACK)));
    assert_eq!(packet.destination, V4.backend(0));
    let (_, packet) = one(&world.frame_at(1, FRONT, &request(V4, 4000, ACK)));
    assert_eq!(packet.destination, V4.backend(1));
    let (_, packet) = one(&world.frame_at(0, FRONT, &request(V4, 4000, ACK)));
    assert_eq!(
        packet.destination,
        V4.backend(1),
        "there is one session of a flow"
    );
    assert_eq!(world.held(), [0, 1, 0]);
}
