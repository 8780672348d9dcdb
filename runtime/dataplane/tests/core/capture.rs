//! Captured packets: the same leaves as without a capture, and each packet's story is its own.

use std::net::IpAddr;

use crate::frames::{ACK, SYN, establish, reply, request, request_to};
use crate::world::{BACK, FRONT, SERVICE_PORT, Settings, V4, World};
use waxwing_dataplane::capture::{Capture, CaptureFilter, CaptureReader, Captured, Fate};
use waxwing_dataplane::{BATCH, BackendId, DropReason, Pick, PortId, ServiceId};
use waxwing_packet::{Address, Prefix};

const CLIENT_PORT: u16 = 4000;

const ALL: CaptureFilter = CaptureFilter {
    client: None,
    services: None,
    backends: None,
    dropped: false,
    opens: false,
    bytes_max: 1500,
};

impl World {
    fn capture(&mut self, filter: CaptureFilter) -> CaptureReader {
        let (capture, reader) = Capture::new(filter);
        self.worker(0).set_capture(Some(capture));
        reader
    }
}

fn world() -> World {
    let world = World::new(Settings::default());
    world.script().picks = vec![Pick::Backend(0), Pick::Backend(1), Pick::Drop];
    world
}

/// A handshake, its answer, one packet that the policy drops, one to no service, one of another session.
fn packets() -> Vec<(PortId, Vec<u8>)> {
    vec![
        (FRONT, request(V4, CLIENT_PORT, SYN)),
        (BACK, reply(V4, 0, CLIENT_PORT, SYN | ACK)),
        (FRONT, request(V4, CLIENT_PORT, ACK)),
        (FRONT, request(V4, CLIENT_PORT + 1, SYN)),
        (FRONT, request(V4, CLIENT_PORT + 2, SYN)),
        (FRONT, request_to(V4, CLIENT_PORT, SERVICE_PORT + 9, SYN)),
    ]
}

/// What leaves when the packets arrive, those of one port in one batch.
fn sent(world: &mut World) -> Vec<(PortId, Vec<u8>)> {
    let packets = packets();
    let batches = packets.chunk_by(|(one, _), (other, _)| one == other);
    let batches = batches.map(|batch| (batch[0].0, batch.iter().map(|(_, packet)| packet)));
    batches
        .flat_map(|(port, batch)| world.batch(port, batch))
        .collect()
}

#[test]
fn the_same_leaves_and_each_packet_tells_its_own_end() {
    let mut plain = world();
    let expected = sent(&mut plain);
    let mut world = world();
    let reader = world.capture(ALL);
    let left = sent(&mut world);
    assert_eq!(left, expected);
    assert_eq!(world.drops(), plain.drops());
    assert_eq!(world.sessions().len(), plain.sessions().len());

    let captured: Vec<Captured> = reader.packets.try_iter().collect();
    let came: Vec<_> = captured
        .iter()
        .map(|it| (it.arrived.port, it.arrived.bytes.to_vec()))
        .collect();
    assert_eq!(came, packets());
    let copies = captured.iter().flat_map(|it| &it.left);
    let copies: Vec<_> = copies.map(|it| (it.port, it.bytes.to_vec())).collect();
    assert_eq!(copies, expected);
    let fates: Vec<Fate> = captured.iter().map(|it| it.fate).collect();
    let expected = [
        Fate::Forwarded,
        Fate::Forwarded,
        Fate::Forwarded,
        Fate::Forwarded,
        Fate::Dropped(DropReason::Policy),
        Fate::Dropped(DropReason::NoService),
    ];
    assert_eq!(fates, expected);
    let opens: Vec<bool> = captured.iter().map(|it| it.opens).collect();
    assert_eq!(opens, [true, false, false, true, false, false]);
    let replies: Vec<bool> = captured.iter().map(|it| it.is_reply).collect();
    assert_eq!(replies, [false, true, false, false, false, false]);
    let service = Some(ServiceId(0));
    let services: Vec<_> = captured.iter().map(|it| it.service).collect();
    assert_eq!(
        services,
        [service, service, service, service, service, None]
    );
    assert_eq!(reader.missed(), 0);
}

#[test]
fn a_filter_takes_what_passes_all_of_it() {
    let network = |text: &str, len| {
        let address: IpAddr = text.parse().expect("an address");
        Some(Prefix::new(Address::from(address), len))
    };
    let rows: [(CaptureFilter, &[usize]); 7] = [
        (
            CaptureFilter {
                dropped: true,
                ..ALL
            },
            &[4, 5],
        ),
        (CaptureFilter { opens: true, ..ALL }, &[0, 3]),
        (
            CaptureFilter {
                backends: Some(vec![BackendId(1)]),
                ..ALL
            },
            &[3],
        ),
        (
            CaptureFilter {
                services: Some(vec![ServiceId(0)]),
                ..ALL
            },
            &[0, 1, 2, 3, 4],
        ),
        (
            CaptureFilter {
                services: Some(vec![ServiceId(0)]),
                dropped: true,
                ..ALL
            },
            &[4],
        ),
        (
            CaptureFilter {
                client: network("203.0.113.77", 32),
                ..ALL
            },
            &[],
        ),
        (
            CaptureFilter {
                client: Some(Prefix::new(V4.client, 32)),
                ..ALL
            },
            &[0, 1, 2, 3, 4, 5],
        ),
    ];
    for (filter, expected) in rows {
        let mut world = world();
        let shown = format!("{filter:?}");
        let reader = world.capture(filter);
        sent(&mut world);
        let all = packets();
        let place = |it: Captured| {
            let came = (it.arrived.port, it.arrived.bytes.to_vec());
            all.iter()
                .position(|packet| *packet == came)
                .expect("one of them")
        };
        let places: Vec<usize> = reader.packets.try_iter().map(place).collect();
        assert_eq!(places, expected, "{shown}");
    }
}

#[test]
fn what_cannot_pass_the_filter_takes_no_place() {
    let mut world = World::new(Settings {
        second_service: true,
        ..Settings::default()
    });
    let reader = world.capture(CaptureFilter {
        services: Some(vec![ServiceId(0)]),
        ..ALL
    });
    let other = |n: usize| request_to(V4, CLIENT_PORT + n as u16, SERVICE_PORT + 1, SYN);
    let mut batch: Vec<_> = (0..BATCH - 1).map(other).collect();
    batch.push(request(V4, CLIENT_PORT, SYN));
    world.batch(FRONT, batch);
    let captured: Vec<Captured> = reader.packets.try_iter().collect();
    assert_eq!((captured.len(), reader.missed()), (1, 0));
}

#[test]
fn what_there_is_no_time_for_is_missed_and_still_forwarded() {
    let mut world = world();
    world.script().picks = vec![Pick::Backend(0)];
    establish(&mut world, CLIENT_PORT, 0);
    let reader = world.capture(CaptureFilter {
        bytes_max: 20,
        ..ALL
    });
    let batch = BATCH as u64;
    let left = world.batch(FRONT, vec![request(V4, CLIENT_PORT, ACK); BATCH]);
    assert_eq!(left.len() as u64, batch);
    let captured = reader
        .packets
        .try_iter()
        .inspect(|it| assert_eq!(it.arrived.bytes.len(), 20));
    let captured = captured.count() as u64;
    assert!(captured > 0 && captured < batch);
    assert_eq!(captured + reader.missed(), batch);
    // The reader's end is the end of the capture: all workers' ends are gone.
    world.worker(0).set_capture(None);
    assert!(reader.packets.recv().is_err());
}
