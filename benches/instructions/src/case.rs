//! What is counted.

use std::hint::black_box;

use waxwing_bed::{Frames, Lane, Plan, Size, World};
use waxwing_dataplane::session::TableError;
use waxwing_dataplane::{BATCH, FrameIo as _, PortId};
use waxwing_packet::parse;
use waxwing_testkit::memory::MemoryIo;

use crate::counted;

/// Batches of each case.
const TURNS: u32 = 64;
/// Sessions of a case of packets that have one.
const SESSIONS: u32 = 1024;

/// One row of the table.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    plan: Plan,
    batch: u32,
    work: Work,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// The parser alone.
    Parse,
    /// The ports in memory, without a balancer: receive, send on the other port.
    PassThrough,
    /// A turn without a frame.
    Nothing,
    /// A packet of a client whose session is established.
    Request,
    /// Likewise, of its backend.
    Reply,
    /// A packet that opens a session; the native fallback chooses.
    Opening,
}

/// A whole batch.
const FULL: u32 = 64;

const fn case(name: &'static str, plan: Plan, batch: u32, work: Work) -> Case {
    Case {
        name,
        plan,
        batch,
        work,
    }
}

/// All rows.
pub(crate) const CASES: &[Case] = &[
    case(PASS_THROUGH, Plan::V4, FULL, Work::PassThrough),
    case("empty_turn", Plan::V4, 1, Work::Nothing),
    case("parse_v4", Plan::V4, FULL, Work::Parse),
    case("parse_v6", Plan::V6, FULL, Work::Parse),
    case("hit_v4_tcp_request", Plan::V4, FULL, Work::Request),
    case("hit_v4_tcp_reply", Plan::V4, FULL, Work::Reply),
    case("hit_v4_udp_request", Plan::V4_UDP, FULL, Work::Request),
    case("hit_v4_udp_reply", Plan::V4_UDP, FULL, Work::Reply),
    case("hit_v6_tcp_request", Plan::V6, FULL, Work::Request),
    case("hit_v6_tcp_reply", Plan::V6, FULL, Work::Reply),
    case("hit_v6_udp_request", Plan::V6_UDP, FULL, Work::Request),
    case("hit_v6_udp_reply", Plan::V6_UDP, FULL, Work::Reply),
    case("hit_v4_tcp_batch_of_8", Plan::V4, 8, Work::Request),
    case("hit_v4_tcp_alone", Plan::V4, 1, Work::Request),
    case("miss_v4_tcp", Plan::V4, FULL, Work::Opening),
    case("miss_v4_udp", Plan::V4_UDP, FULL, Work::Opening),
    case("miss_v6_tcp", Plan::V6, FULL, Work::Opening),
];

/// What the ports in memory take of each packet that is forwarded.
pub(crate) const PASS_THROUGH: &str = "io_in_memory";

impl Case {
    /// The packets that its count is of; of an empty turn, the turns.
    pub(crate) const fn packets(&self) -> u64 {
        (TURNS * self.batch) as u64
    }

    /// Whether the ports in memory are part of its count.
    pub(crate) fn has_io(&self) -> bool {
        matches!(self.work, Work::Request | Work::Reply | Work::Opening)
    }

    /// Does what is to be counted, [`TURNS`] times.
    pub(crate) fn run(&self) -> Result<(), TableError> {
        match self.work {
            Work::Parse => self.parse(),
            Work::PassThrough => self.pass_through(),
            Work::Nothing | Work::Request | Work::Reply => return self.hit(),
            Work::Opening => return self.miss(),
        }
        Ok(())
    }

    fn parse(&self) {
        let mut frames = Frames::new(self.plan, 1);
        for turn in 0..TURNS {
            let batch: Vec<Vec<u8>> = self
                .clients(turn)
                .map(|client| frames.later(client).to_vec())
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
                assert!(io.inject(PortId(0), frames.later(client)));
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

    fn hit(&self) -> Result<(), TableError> {
        let world = World::new(
            self.plan,
            Size {
                sessions_max: SESSIONS,
                ..Size::default()
            },
        )?;
        let backends = world.open(SESSIONS);
        let mut lane = Lane::new(&world, 0, Vec::new());
        let mut frames = world.frames();
        let mut sent = 0;
        for turn in 0..TURNS {
            for client in self.clients(turn).map(|client| client % SESSIONS) {
                match self.work {
                    Work::Request => lane.put_request(frames.later(client)),
                    Work::Reply => {
                        let backend = backends[client as usize].into();
                        lane.put_reply(frames.reply(backend, client));
                    }
                    _ => continue,
                }
                sent += 1;
            }
            let now = lane.next_turn();
            counted(|| lane.handle(now));
        }
        assert_eq!(lane.sent(), sent, "each was forwarded");
        assert_eq!(world.sessions(), SESSIONS as usize, "none opened another");
        Ok(())
    }

    fn miss(&self) -> Result<(), TableError> {
        let world = World::new(
            self.plan,
            Size {
                sessions_max: 2 * TURNS * self.batch,
                ..Size::default()
            },
        )?;
        let mut lane = Lane::new(&world, 0, Vec::new());
        let mut frames = world.frames();
        for turn in 0..TURNS {
            for client in self.clients(turn) {
                lane.put_request(frames.opening(client));
            }
            let now = lane.next_turn();
            counted(|| lane.handle(now));
        }
        assert_eq!(world.sessions() as u64, self.packets(), "each opened one");
        Ok(())
    }

    fn clients(&self, turn: u32) -> std::ops::Range<u32> {
        turn * self.batch..(turn + 1) * self.batch
    }
}
