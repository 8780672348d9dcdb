//! Sampled sessions: which ones they are, what they show, and when they take the fast path again.

use std::time::Duration;

use crate::frames::{ACK, FIN_ACK, SERVER_ISN, SYN, SYN_ACK, one, reply_segment, segment};
use crate::world::{BACK, EACH, FRONT, Settings, V4, World};
use waxwing_dataplane::counters::{SAMPLED_TIME_UNIT_US, SampledSegments};
use waxwing_dataplane::{BackendId, ServiceId};
use waxwing_packet::Protocol;
use waxwing_testkit::build;

const BACKEND: BackendId = BackendId(0);
const LARGE: [u8; 1400] = [7; 1400];

fn world(settings: Settings, each: u32) -> World {
    let world = World::new(settings);
    world.shared.sessions.set_sampling(each);
    world
}

/// Sends the client's segment, `from` its first byte of data on.
fn ask(world: &mut World, client_port: u16, flags: u8, from: u32, payload: &[u8]) {
    let plan = world.settings.plan;
    let frame = build::Tcp {
        sequence: from.wrapping_add(1),
        payload,
        ..segment(plan, client_port, flags)
    };
    one(&world.frame(FRONT, &frame.frame()));
}

/// Sends the server's segment, which acknowledges so much of the client's data.
fn answer(world: &mut World, client_port: u16, (flags, from): (u8, u32), payload: &[u8]) {
    let plan = world.settings.plan;
    let frame = build::Tcp {
        sequence: from.wrapping_add(SERVER_ISN + 1),
        acknowledgment: 1,
        payload,
        ..reply_segment(plan, 0, client_port, flags)
    };
    one(&world.frame(BACK, &frame.frame()));
}

fn connect(world: &mut World, client_port: u16) {
    ask(world, client_port, SYN, u32::MAX, b"");
    world.advance(Duration::from_micros(800));
    answer(world, client_port, (SYN_ACK, u32::MAX), b"");
    answer(world, client_port, (SYN_ACK, u32::MAX), b"");
    ask(world, client_port, ACK, 0, b"");
}

fn sampled(world: &World) -> Vec<u16> {
    let sessions = &world.shared.sessions;
    let sampled = sessions.iter().filter(|(at, _)| sessions.is_sampled(*at));
    let mut ports: Vec<u16> = sampled.map(|(_, session)| session.client_port).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn of_so_many_new_sessions_of_a_backend_one_is_sampled() {
    let mut world = world(Settings::default(), 4);
    (0..10).for_each(|n| connect(&mut world, 4000 + n));
    assert_eq!(sampled(&world), [4000, 4004, 4008]);
    // One that it did not see begin is none.
    ask(&mut world, 5000, ACK, 0, b"GET");
    ask(&mut world, 5001, ACK, 0, b"GET");
    assert_eq!(sampled(&world).len(), 3);
    world.shared.sessions.set_sampling(0);
    (0..10).for_each(|n| connect(&mut world, 6000 + n));
    assert_eq!(sampled(&world).len(), 3);
}

#[test]
fn a_sampled_session_shows_its_times_and_what_is_sent_again() {
    for (plan, protocol) in EACH {
        if protocol == Protocol::Udp {
            continue;
        }
        let mut world = world(Settings::tcp(plan), 1);
        connect(&mut world, 4000);
        ask(&mut world, 4000, ACK, 0, b"GET");
        world.advance(Duration::from_millis(40));
        answer(&mut world, 4000, (ACK, 0), &LARGE);
        for _ in 0..3 {
            answer(&mut world, 4000, (ACK, 0), &LARGE);
        }
        ask(&mut world, 4000, FIN_ACK, 3, b"");

        let samples = world.shared.gauges.samples();
        let [forward, reply] = samples.segments(BACKEND);
        let (sessions, segments) = (1, 1);
        assert_eq!(
            forward,
            SampledSegments {
                sessions,
                segments,
                ..SampledSegments::default()
            }
        );
        let (segments, resent, stuck) = (4, 3, 1);
        assert_eq!(
            reply,
            SampledSegments {
                sessions,
                segments,
                resent,
                stuck,
                ..SampledSegments::default()
            }
        );
        assert_eq!(samples.first_byte_us(BACKEND), 40_000);
        let times = samples.times(ServiceId(0));
        let unit = u64::from(SAMPLED_TIME_UNIT_US);
        for (times, us) in [(times.connect, 800), (times.first_byte, 40_000)] {
            assert_eq!(times.count(), 1);
            let told = times.quantile_us(0.5).expect("a time");
            assert!((us / unit..=us / unit * 5 / 4).contains(&told), "{told}");
        }
    }
}

#[test]
fn a_sampled_session_takes_the_fast_path_in_the_end() {
    let mut world = world(Settings::tcp(V4), 1);
    connect(&mut world, 4000);
    for n in 0..255 {
        ask(&mut world, 4000, ACK, n, b"?");
        assert_eq!(sampled(&world), [4000], "{n}");
    }
    ask(&mut world, 4000, ACK, 255, b"?");
    assert_eq!(sampled(&world), []);
    ask(&mut world, 4000, ACK, 256, b"?");
    let [forward, _] = world.shared.gauges.samples().segments(BACKEND);
    assert_eq!(forward.segments, 256);
}

/// What one backend's sessions showed is not the next one's.
#[test]
fn a_backend_starts_from_zero() {
    let mut world = world(Settings::tcp(V4), 1);
    connect(&mut world, 4000);
    ask(&mut world, 4000, ACK, 0, b"GET");
    answer(&mut world, 4000, (ACK, 0), b"200");
    let gauges = &world.shared.gauges;
    assert!(gauges.samples().first_byte_us(BACKEND) > 0);
    gauges.forget(BACKEND);
    assert_eq!(gauges.samples().first_byte_us(BACKEND), 0);
    assert_eq!(
        gauges.samples().segments(BACKEND),
        <[SampledSegments; 2]>::default()
    );
    gauges.samples().forget_service(ServiceId(0));
    assert_eq!(gauges.samples().times(ServiceId(0)), Default::default());
}
