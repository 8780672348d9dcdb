//! Sessions that the operator ends.

use std::time::Duration;

use crate::frames::{ACK, RST, datagram, establish, one, reply, request};
use crate::world::{BACK, EACH, FRONT, Settings, V4, World};
use waxwing_dataplane::model::MidStream;
use waxwing_dataplane::path::kill;
use waxwing_dataplane::session::Phase;
use waxwing_dataplane::{BackendId, Pick};
use waxwing_packet::{Protocol, Transport};

const CLIENT_PORT: u16 = 4000;

impl World {
    /// Ends the only session. Returns whether it was open.
    fn kill(&self) -> bool {
        let (at, session) = self.shared.sessions.iter().next().expect("a session");
        kill(&self.shared, at, &session)
    }

    fn closing(&self) -> u32 {
        self.shared.gauges.sessions(BackendId(0)).closing
    }
}

fn open(wants_closed: bool) -> World {
    let mut world = World::new(Settings {
        wants_closed,
        mid_stream: MidStream::Drop,
        ..Settings::default()
    });
    world.script().picks = vec![Pick::Backend(0)];
    establish(&mut world, CLIENT_PORT, 0);
    world
}

#[test]
fn either_end_is_reset_at_its_next_packet_and_the_end_is_reported_once() {
    let sides: [(_, _, Vec<u8>); 2] = [
        (FRONT, V4.client, request(V4, CLIENT_PORT, ACK)),
        (BACK, V4.backend(0), reply(V4, 0, CLIENT_PORT, ACK)),
    ];
    for (port, sender, packet) in sides {
        let mut world = open(true);
        assert!(world.kill());
        assert!(!world.kill(), "once");
        assert_eq!(
            (world.session().tcp.phase(), world.closing()),
            (Phase::Closing, 1)
        );
        let (to, answer) = one(&world.frame(port, &packet));
        assert_eq!((to, answer.destination), (port, sender));
        assert!(matches!(answer.transport, Transport::Tcp { flags, .. } if flags.has(RST)));
        assert!(world.sessions().is_empty());
        assert_eq!(world.closing(), 0);
        world.run(0);
        assert_eq!(world.script().closed.len(), 1, "{port:?}");
    }
}

#[test]
fn a_killed_session_that_is_silent_leaves_by_the_closing_timeout() {
    let mut world = open(false);
    assert!(world.kill());
    world.sweep_round(
        0,
        world.settings.timeouts.tcp_closing + Duration::from_secs(1),
    );
    assert!(world.sessions().is_empty());
}

/// An RST of either end goes on to the other.
#[test]
fn an_rst_is_not_answered() {
    let mut world = open(false);
    world.kill();
    let (to, forwarded) = one(&world.frame(FRONT, &request(V4, CLIENT_PORT, RST)));
    assert_eq!((to, forwarded.destination), (BACK, V4.backend(0)));
}

#[test]
fn a_killed_flow_of_datagrams_finds_another_backend() {
    for (plan, protocol) in EACH {
        if protocol == Protocol::Tcp {
            continue;
        }
        let mut world = World::new(Settings::new(plan, protocol));
        world.script().picks = vec![Pick::Backend(0), Pick::Backend(1)];
        let datagram = datagram(plan, CLIENT_PORT, b"ask");
        world.assert_reaches(0, &datagram, "at first");
        world.kill();
        world.assert_reaches(1, &datagram, "then");
    }
}
