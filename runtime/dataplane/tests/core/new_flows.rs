//! New flows: what a policy sees, and the effect of its picks.

use crate::frames::{ACK, FIN_ACK, RST, SYN, SYN_ACK, establish, ip, one, ports, request};
use crate::world::{BACKEND_PORT, FRONT, SERVICE_PORT, Settings, V4, V6, World};
use waxwing_dataplane::model::Release;
use waxwing_dataplane::model::{MidStream, SessionAction};
use waxwing_dataplane::{DropReason, Pick, PolicyFault};
use waxwing_packet::Address;

#[test]
fn two_frames_of_one_new_flow_in_a_batch_get_one_session() {
    let mut world = World::new(Settings::default());
    world.script().picks = vec![Pick::Backend(0), Pick::Backend(1), Pick::Backend(2)];
    let sent = world.batch(
        FRONT,
        [4000, 4001, 4000].map(|client_port| request(V4, client_port, SYN)),
    );
    let to: Vec<Address> = sent
        .iter()
        .map(|(_, frame)| ip(frame).destination)
        .collect();
    assert_eq!(
        to,
        [V4.backend(0), V4.backend(1), V4.backend(0)],
        "in the order of arrival"
    );
    assert_eq!(world.script().calls, 1, "one call for the batch");
    assert_eq!(world.script().asked.len(), 2);
    assert_eq!(world.sessions().len(), 2);
}

#[test]
fn further_packets_of_a_dropped_flow_share_its_reason() {
    let mut world = World::new(Settings::default());
    world.script().picks = vec![Pick::Drop];
    world.batch(FRONT, (0..3).map(|_| request(V4, 4000, SYN)));
    assert_eq!(world.drops(), [(DropReason::Policy, 3)]);
    assert_eq!(world.script().asked.len(), 1);
}

#[test]
fn an_invalid_pick_goes_to_the_fallback() {
    let weights = vec![1, 0, 1];
    let mut world = World::new(Settings {
        weights,
        ..Settings::default()
    });
    world.script().picks = vec![
        Pick::Backend(1),
        Pick::Backend(99),
        Pick::Backend(u32::MAX),
        Pick::Fallback,
    ];
    for client_port in 0..40 {
        assert_ne!(
            world.destination_of(&request(V4, 4000 + client_port, SYN)),
            V4.backend(1),
            "a drained backend takes no session"
        );
    }
    assert_eq!(world.counters[0].fallback.get(), 40);
    assert!(
        world.held()[0] > 0 && world.held()[2] > 0,
        "{:?}",
        world.held()
    );

    world.script().picks = vec![Pick::Drop];
    assert!(world.frame(FRONT, &request(V4, 5000, SYN)).is_empty());
    assert_eq!(world.drops(), [(DropReason::Policy, 1)]);
}

#[test]
fn a_policy_that_fails_costs_no_packet() {
    let mut world = World::new(Settings::default());
    world.script().fault = Some(PolicyFault::Trap);
    for client_port in 0..30 {
        one(&world.frame(FRONT, &request(V4, 4000 + client_port, SYN)));
    }
    assert_eq!(world.counters[0].fallback.get(), 30);
    assert!(world.held().iter().all(|n| *n > 0), "{:?}", world.held());
}

#[test]
fn a_policy_sees_the_flow_and_the_payload_it_requested() {
    let mut world = World::new(Settings::tcp(V6));
    world.script().payload_len = 2;
    one(&world.frame(FRONT, &request(V6, 4000, SYN)));
    one(&world.frame(FRONT, &request(V6, 4001, ACK)));
    let flows = world.script().asked.clone();
    assert_eq!((flows[0].source, flows[0].source_port), (V6.client, 4000));
    assert_eq!(
        (flows[0].destination, flows[0].destination_port),
        (V6.vip, SERVICE_PORT)
    );
    assert_eq!(
        &flows[0].payload[..usize::from(flows[0].payload_len)],
        b"GE"
    );
    assert_eq!((flows[0].mid_stream, flows[1].mid_stream), (false, true));
    assert_ne!(flows[0].hash, flows[1].hash);
}

#[test]
fn mid_stream_packets_are_picked_or_dropped() {
    for (mid_stream, flags, goes_on) in [
        (MidStream::Pick, ACK, true),
        (MidStream::Pick, FIN_ACK, true),
        (MidStream::Pick, RST, false),
        (MidStream::Drop, ACK, false),
        (MidStream::Drop, SYN_ACK, false),
        (MidStream::Drop, SYN, true),
    ] {
        let mut world = World::new(Settings {
            mid_stream,
            ..Settings::default()
        });
        let sent = world.frame(FRONT, &request(V4, 4000, flags));
        assert_eq!(
            sent.len(),
            usize::from(goes_on),
            "{mid_stream:?} {flags:#x}"
        );
        assert_eq!(world.dropped(DropReason::MidStream), u64::from(!goes_on));
        assert_eq!(world.sessions().len(), usize::from(goes_on));
    }
}

#[test]
fn a_new_epoch_moves_no_session_and_waits_for_its_release() {
    let mut world = World::new(Settings::default());
    world.script().picks = vec![Pick::Backend(0)];
    establish(&mut world, 4000, 0);

    let drained = Settings {
        weights: vec![0, 1, 1],
        ..world.settings.clone()
    };
    let release = Release::held();
    let epoch = world.epoch(drained.snapshot(2), release.clone());
    world.send(0, epoch);
    world.assert_reaches(
        0,
        &request(V4, 4001, SYN),
        "held back: the old epoch serves",
    );

    release.give();
    assert_ne!(
        world.destination_of(&request(V4, 4002, SYN)),
        V4.backend(0),
        "the drained backend takes no new session"
    );
    world.assert_reaches(0, &request(V4, 4000, ACK), "its old session stays");
    assert_eq!(
        world.returned.try_iter().count(),
        1,
        "the old epoch came back"
    );
}

#[test]
fn a_pick_of_a_down_backend_goes_to_the_fallback() {
    let [up, down] = [true, false].map(|healthy| (healthy, SessionAction::Keep));
    let ending = (true, SessionAction::Reset);
    let cases = [
        ("up", up, Pick::Backend(0), 1, true),
        ("drains", up, Pick::Backend(0), 0, false),
        ("drains", up, Pick::Keep(0), 0, true),
        ("down", down, Pick::Backend(0), 1, false),
        ("down", down, Pick::Keep(0), 1, false),
        ("at its end", ending, Pick::Keep(0), 0, false),
    ];
    for (what, health, pick, weight, taken) in cases {
        let mut world = World::new(Settings {
            weights: vec![weight, 1, 0],
            health: vec![health],
            ..Settings::default()
        });
        world.script().picks = vec![pick];
        let (_, packet) = one(&world.frame(FRONT, &request(V4, 4000, SYN)));
        let to = V4.backend(u32::from(!taken));
        assert_eq!(
            (packet.destination, ports(&packet).1),
            (to, BACKEND_PORT),
            "{what}, {pick:?}"
        );
        assert_eq!(world.counters[0].fallback.get(), u64::from(!taken));
    }
}
