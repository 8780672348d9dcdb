//! Replies of no session: of a service that adopts them each opens one, whoever of the two ends speaks first.

use waxwing_dataplane::{DropReason, Pick, PortId};
use waxwing_packet::{Address, Protocol, TcpFlags};
use waxwing_testkit::build;

use crate::frames::{
    ACK, RST, SERVER_ISN, SYN, SYN_ACK, ip, one, ports, reply, reply_segment, request, segment,
};
use crate::records::{records, restore};
use crate::world::{
    BACK, CLIENT_MAC, EACH, FRONT, Plan, SERVICE_PORT, Settings, V4, World, backend_mac,
};

const PORT: u16 = 4000;
/// The client's sequence number.
const CLIENT_ISN: u32 = 77;
/// What a reply carries.
const LEN: u32 = 3;

/// A world whose policy would choose the second backend; the connections are the first one's.
fn world(plan: Plan, protocol: Protocol, transparent: bool) -> World {
    let world = World::new(Settings {
        adopts_replies: true,
        transparent,
        ..Settings::new(plan, protocol)
    });
    world.script().picks = vec![Pick::Backend(1)];
    world
}

/// The `n`-th reply of the first backend.
fn nth_reply(plan: Plan, n: u32) -> build::Tcp<'static> {
    build::Tcp {
        sequence: SERVER_ISN + n * LEN,
        acknowledgment: CLIENT_ISN,
        ..reply_segment(plan, 0, PORT, ACK)
    }
}

/// Asserts that the kernel gets one frame, from the VIP to the client.
fn assert_left_to_kernel(world: &mut World, replies: &[Vec<u8>]) {
    assert_eq!(world.batch(BACK, replies), []);
    let passed = world.io(0).passed_to_kernel();
    assert_eq!(passed.len(), replies.len());
    for (_, frame) in passed {
        let packet = ip(&frame);
        let plan = world.settings.plan;
        assert_eq!((packet.source, packet.destination), (plan.vip, plan.client));
        assert_eq!(ports(&packet), (SERVICE_PORT, PORT));
    }
}

#[test]
fn a_reply_opens_its_session_and_the_client_shows_where_it_is() {
    for (plan, protocol) in EACH {
        let mut world = world(plan, protocol, false);
        let replies = [0, 1].map(|n| nth_reply(plan, n).frame_of(protocol));
        assert_left_to_kernel(&mut world, &replies);
        assert_eq!(world.held(), [1, 0, 0]);

        let request = build::Tcp {
            sequence: CLIENT_ISN,
            acknowledgment: SERVER_ISN + 2 * LEN,
            payload: b"",
            ..segment(plan, PORT, ACK)
        };
        world.assert_reaches(0, &request.frame_of(protocol), "its own backend");
        let (port, packet) = one(&world.frame(BACK, &nth_reply(plan, 2).frame_of(protocol)));
        assert_eq!(port, FRONT);
        assert_eq!(packet.ethernet.destination, CLIENT_MAC);
        assert_eq!(packet.source, plan.vip);
        assert_eq!(world.script().calls, 0, "no policy is asked");
        assert_eq!(world.drops(), []);
    }
}

/// Also before its client has shown where it is.
#[test]
fn an_adopted_session_goes_on_after_a_restart() {
    for (plan, protocol) in EACH {
        let mut before = world(plan, protocol, false);
        assert_left_to_kernel(&mut before, &[nth_reply(plan, 0).frame_of(protocol)]);
        let mut after = world(plan, protocol, false);
        assert_eq!(restore(&after, &records(&before)), [Ok(())]);
        assert_left_to_kernel(&mut after, &[nth_reply(plan, 1).frame_of(protocol)]);
        assert_eq!(after.held(), [1, 0, 0]);
    }
}

#[test]
fn on_a_bridge_a_reply_passes_to_where_it_is_sent() {
    for (plan, protocol) in EACH {
        let mut world = world(plan, protocol, true);
        let mut frame = nth_reply(plan, 0).frame_of(protocol);
        frame[..6].copy_from_slice(&CLIENT_MAC.0);
        for _ in 0..2 {
            let (port, packet) = one(&world.frame(BACK, &frame));
            assert_eq!(port, FRONT);
            assert_eq!((packet.source, packet.destination), (plan.vip, plan.client));
            assert_eq!(packet.ethernet.source, backend_mac(0));
            assert_eq!(packet.ethernet.destination, CLIENT_MAC);
        }
        assert_eq!(world.held(), [1, 0, 0]);
    }
}

#[test]
fn a_handshake_goes_on() {
    let mut world = world(V4, Protocol::Tcp, false);
    assert_left_to_kernel(&mut world, &[reply(V4, 0, PORT, SYN_ACK)]);
    world.assert_reaches(0, &request(V4, PORT, ACK), "the handshake's last packet");
    let (port, _) = one(&world.frame(BACK, &reply(V4, 0, PORT, ACK)));
    assert_eq!(port, FRONT);
}

#[test]
fn what_is_no_reply_of_the_service_opens_nothing() {
    let own = Address::v4([10, 2, 0, 1]);
    let base = || reply_segment(V4, 0, PORT, ACK);
    let flags = |flags| build::Tcp {
        flags: TcpFlags(flags),
        ..base()
    };
    let to = |destination| build::Tcp {
        destination,
        ..base()
    };
    let cases = [
        ("an RST", flags(RST)),
        ("the server's own connection", flags(SYN)),
        ("a packet to this host", to((own, PORT))),
        ("one to another server", to((V4.backend(1), 8080))),
    ];
    for (what, packet) in cases {
        let mut world = world(V4, Protocol::Tcp, false);
        world.change(|settings| settings.own = vec![own]);
        let frame = packet.frame();
        assert_eq!(world.frame(BACK, &frame), [], "{what}");
        let passed: Vec<(PortId, Vec<u8>)> = world.io(0).passed_to_kernel();
        assert_eq!(passed.len(), 1, "{what}");
        assert_eq!(passed[0].1, frame, "{what}");
        assert_eq!(world.held(), [0, 0, 0], "{what}");
    }
    let mut world = World::new(Settings::default());
    let frame = base().frame();
    assert_eq!(world.frame(BACK, &frame), []);
    assert_eq!(world.io(0).passed_to_kernel()[0].1, frame, "not asked for");
    assert_eq!(world.held(), [0, 0, 0]);
}

/// An RST of a connection that was lost, or a server's SYN, is no sign of a direct connection.
#[test]
fn what_opens_nothing_stands_in_no_ones_way() {
    for flags in [RST, SYN] {
        let stray = build::Tcp {
            flags: TcpFlags(flags),
            ..reply_segment(V4, 0, PORT, ACK)
        };
        let after_it = || {
            let mut world = world(V4, Protocol::Tcp, false);
            world.script().picks = vec![Pick::Backend(0)];
            assert_eq!(world.frame(BACK, &stray.frame()), []);
            assert_eq!(world.io(0).passed_to_kernel().len(), 1);
            world
        };
        let mut world = after_it();
        assert_left_to_kernel(&mut world, &[nth_reply(V4, 0).frame()]);
        assert_eq!(world.held(), [1, 0, 0]);

        let (_, packet) = one(&after_it().frame(FRONT, &request(V4, PORT, SYN)));
        assert_eq!(ports(&packet).0, PORT, "the client's port is translated");
    }
}

#[test]
fn a_reply_from_the_clients_side_is_forged() {
    let mut world = world(V4, Protocol::Tcp, false);
    assert_eq!(world.frame(FRONT, &reply(V4, 0, PORT, ACK)), []);
    assert_eq!(world.drops(), [(DropReason::SpoofedReply, 1)]);
    assert_eq!(world.held(), [0, 0, 0]);
}

#[test]
fn a_session_that_the_client_opened_before_stays() {
    let mut world = world(V4, Protocol::Tcp, false);
    world.assert_reaches(1, &request(V4, PORT, ACK), "the policy's choice");
    assert_eq!(world.frame(BACK, &reply(V4, 0, PORT, ACK)), []);
    assert_eq!(world.drops(), [(DropReason::TupleClash, 1)]);
    assert_eq!(world.held(), [0, 1, 0]);
}

#[test]
fn a_direct_connection_stays_direct() {
    let mut world = world(V4, Protocol::Tcp, false);
    let direct = build::Tcp {
        destination: (V4.backend(0), 8080),
        ..segment(V4, PORT, SYN)
    };
    world.frame(FRONT, &direct.frame());
    let answer = reply(V4, 0, PORT, SYN_ACK);
    world.frame(BACK, &answer);
    let passed = world.io(0).passed_to_kernel();
    assert_eq!(passed.last().map(|(_, frame)| frame), Some(&answer));
    assert_eq!(world.held(), [0, 0, 0]);
}
