//! The cases whose instructions are counted.

use std::hint::black_box;

use waxwing_bench_core::{AddressPlan, Frames, Size, Testbed, WorkerDriver, open_sessions};
use waxwing_dataplane::session::TableError;
use waxwing_dataplane::{BATCH, FrameIo as _, PortId};
use waxwing_packet::parse;
use waxwing_testkit::memory::MemoryIo;
use waxwing_xdp::Options;

use kernel::worker;

#[path = "../../../runtime/xdp/tests/fuzz/kernel.rs"]
#[expect(dead_code, reason = "the test of the rings uses the rest")]
mod kernel;

/// Batches per case.
const TURNS: u32 = 64;
/// Sessions of cases with established packets.
const SESSIONS: u32 = 1024;

/// A case: one row of the table.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    plan: AddressPlan,
    batch: u32,
    work: Work,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// The parser alone.
    Parse,
    /// The ports in memory without a balancer: receive, send on the other port.
    PassThrough,
    /// As [`Work::PassThrough`], by the ports of AF_XDP; their rings are in memory, without a kernel.
    Xdp,
    /// A turn without a frame.
    EmptyTurn,
    /// A client's packet of an established session.
    Request,
    /// A backend's packet of an established session.
    Reply,
    /// A packet that opens a session; the native fallback picks.
    NewSession,
}

/// The frames of a full batch.
const FULL: u32 = 64;

const fn case(name: &'static str, plan: AddressPlan, batch: u32, work: Work) -> Case {
    Case {
        name,
        plan,
        batch,
        work,
    }
}

/// All cases.
pub(crate) const CASES: &[Case] = &[
    case(PASS_THROUGH, AddressPlan::V4, FULL, Work::PassThrough),
    case("io_xdp", AddressPlan::V4, FULL, Work::Xdp),
    case("io_xdp_batch_of_8", AddressPlan::V4, 8, Work::Xdp),
    case("io_xdp_alone", AddressPlan::V4, 1, Work::Xdp),
    case("empty_turn", AddressPlan::V4, 1, Work::EmptyTurn),
    case("parse_v4", AddressPlan::V4, FULL, Work::Parse),
    case("parse_v6", AddressPlan::V6, FULL, Work::Parse),
    case("hit_v4_tcp_request", AddressPlan::V4, FULL, Work::Request),
    case("hit_v4_tcp_reply", AddressPlan::V4, FULL, Work::Reply),
    case(
        "hit_v4_udp_request",
        AddressPlan::V4_UDP,
        FULL,
        Work::Request,
    ),
    case("hit_v4_udp_reply", AddressPlan::V4_UDP, FULL, Work::Reply),
    case("hit_v6_tcp_request", AddressPlan::V6, FULL, Work::Request),
    case("hit_v6_tcp_reply", AddressPlan::V6, FULL, Work::Reply),
    case(
        "hit_v6_udp_request",
        AddressPlan::V6_UDP,
        FULL,
        Work::Request,
    ),
    case("hit_v6_udp_reply", AddressPlan::V6_UDP, FULL, Work::Reply),
    case(
        "hit_v4_vlan_request",
        AddressPlan::V4_VLAN,
        FULL,
        Work::Request,
    ),
    case("hit_v4_vlan_reply", AddressPlan::V4_VLAN, FULL, Work::Reply),
    case("hit_v4_tcp_batch_of_8", AddressPlan::V4, 8, Work::Request),
    case("hit_v4_tcp_alone", AddressPlan::V4, 1, Work::Request),
    case("miss_v4_tcp", AddressPlan::V4, FULL, Work::NewSession),
    case("miss_v4_udp", AddressPlan::V4_UDP, FULL, Work::NewSession),
    case("miss_v6_tcp", AddressPlan::V6, FULL, Work::NewSession),
];

/// The case that measures the share of the ports in memory in each forwarded packet.
pub(crate) const PASS_THROUGH: &str = "io_in_memory";

impl Case {
    /// The packets that the count covers; for the empty turn, the turns.
    pub(crate) const fn packets(&self) -> u64 {
        (TURNS * self.batch) as u64
    }

    /// Whether the count includes the ports in memory.
    pub(crate) fn has_io(&self) -> bool {
        matches!(self.work, Work::Request | Work::Reply | Work::NewSession)
    }

    /// Runs the counted work [`TURNS`] times.
    pub(crate) fn run(&self) -> Result<(), TableError> {
        match self.work {
            Work::Parse => self.parse(),
            Work::PassThrough => self.pass_through(),
            Work::Xdp => self.xdp(),
            Work::EmptyTurn | Work::Request | Work::Reply => return self.hit(),
            Work::NewSession => return self.miss(),
        }
        Ok(())
    }

    fn parse(&self) {
        let mut frames = Frames::new(self.plan, 1);
        for turn in 0..TURNS {
            let batch: Vec<Vec<u8>> = self
                .clients(turn)
                .map(|client| frames.established(client).to_vec())
                .collect();
            counted(|| {
                for frame in &batch {
                    let _ = black_box(parse(black_box(frame)));
                }
            });
        }
    }

    fn pass_through(&self) {
        let mut frames = Frames::new(self.plan, 1);
        let mut io = MemoryIo::new(2, 4 * BATCH);
        io.recycle_sent();
        let mut received = Vec::with_capacity(BATCH);
        for turn in 0..TURNS {
            for client in self.clients(turn) {
                assert!(io.inject(PortId(0), frames.established(client)));
            }
            counted(|| {
                io.receive(&mut received);
                for frame in received.drain(..) {
                    let _ = black_box(io.send(PortId(1), frame));
                }
                io.flush();
            });
        }
    }

    fn xdp(&self) {
        let mut frames = Frames::new(self.plan, 1);
        let options = Options::default();
        let chunks = 2 * options.frames_per_queue;
        let (sockets, mut kernels) = worker(2, chunks, &options, 0).expect("memory");
        let mut io = sockets.into_io();
        let mut received = Vec::with_capacity(BATCH);
        let ports = [PortId(1); BATCH];
        // Fills the fill rings.
        for _ in 0..options.ring_size {
            io.receive(&mut received);
        }
        for turn in 0..TURNS {
            for client in self.clients(turn) {
                assert!(kernels[0].receive(&[frames.established(client)]));
            }
            kernels[0].deliver();
            kernels[0].release_fill();
            let mut turn = || {
                io.receive(&mut received);
                let ports = &ports[..received.len()];
                io.send_batch(&mut received, ports, |_, _| panic!("the ring is full"));
                io.flush();
            };
            counted(&mut turn);
            let mut sent = 0;
            while kernels[1].transmit().is_some() {
                sent += 1;
            }
            assert_eq!(sent, self.batch, "each frame was sent");
            kernels[1].release_transmit();
            kernels[1].complete(BATCH);
        }
    }

    fn hit(&self) -> Result<(), TableError> {
        let testbed = Testbed::new(
            self.plan,
            Size {
                sessions_max: SESSIONS,
                ..Size::default()
            },
        )?;
        let backends = open_sessions(&testbed, SESSIONS);
        let mut driver = WorkerDriver::new(&testbed, 0, Vec::new());
        let mut frames = testbed.frames();
        let mut sent = 0;
        for turn in 0..TURNS {
            for client in self.clients(turn).map(|client| client % SESSIONS) {
                match self.work {
                    Work::Request => driver.inject_request(frames.established(client)),
                    Work::Reply => {
                        let backend = backends[client as usize].into();
                        driver.inject_reply(frames.reply(backend, client));
                    }
                    _ => continue,
                }
                sent += 1;
            }
            let now = driver.next_turn();
            counted(|| driver.run_turn(now));
        }
        assert_eq!(driver.sent(), sent, "each packet was forwarded");
        assert_eq!(
            testbed.sessions(),
            SESSIONS as usize,
            "no packet opened a session"
        );
        Ok(())
    }

    fn miss(&self) -> Result<(), TableError> {
        let testbed = Testbed::new(
            self.plan,
            Size {
                sessions_max: 2 * TURNS * self.batch,
                ..Size::default()
            },
        )?;
        let mut driver = WorkerDriver::new(&testbed, 0, Vec::new());
        let mut frames = testbed.frames();
        for turn in 0..TURNS {
            for client in self.clients(turn) {
                driver.inject_request(frames.opening(client));
            }
            let now = driver.next_turn();
            counted(|| driver.run_turn(now));
        }
        assert_eq!(
            testbed.sessions() as u64,
            self.packets(),
            "each packet opened a session"
        );
        Ok(())
    }

    fn clients(&self, turn: u32) -> std::ops::Range<u32> {
        turn * self.batch..(turn + 1) * self.batch
    }
}

/// Runs `work`. Callgrind counts this function and all that it calls.
#[inline(never)]
fn counted<R>(work: impl FnOnce() -> R) -> R {
    black_box(work())
}
