//! The parameters of a simulated world: sizes, and the rates of events and faults.
//!
//! Invariant: the seed determines all of them.

use crate::random::Random;

/// The simulated time of a siege's attacks, in microseconds.
pub(crate) const SIEGE_US: u64 = 600 * 1_000_000;
/// The longest time until all transfers of a siege are accepted, in microseconds.
pub(crate) const SIEGE_OPENING_US: u64 = 30 * 1_000_000;

/// The faults of the network, each per thousand frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) damaged: u64,
    /// The longest delay of a frame, in microseconds. Delays are random, so frames may overtake each other.
    pub(crate) delay_us: u64,
}

/// The parameters of a world. Fields in `_us` of recurring events are mean intervals; 0: never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) workers: usize,
    pub(crate) sessions_max: u32,
    pub(crate) network: Network,
    /// Whether frames are distributed to workers at random instead of by flow.
    pub(crate) scattered: bool,
    /// The longest delay of a worker with waiting frames, in microseconds.
    pub(crate) turn_us: u64,
    /// Client addresses of each family.
    pub(crate) clients: u64,
    /// Ports of each client address.
    pub(crate) client_ports: u64,
    pub(crate) connect_us: u64,
    pub(crate) datagram_us: u64,
    pub(crate) attack_us: u64,
    /// The most frames of a flood.
    pub(crate) flood: u64,
    pub(crate) change_us: u64,
    pub(crate) jump_us: u64,
    pub(crate) fail_over_us: u64,
    /// Losses of sessions, as when a node ends and another one, which knows none, goes on.
    pub(crate) loss_us: u64,
    /// Whether services that have servers of their own adopt replies.
    pub(crate) adopts: bool,
    /// Whether some clients get source NAT addresses.
    pub(crate) source_nat: bool,
    /// In a siege: the number of long transfers; there are no other connections.
    pub(crate) transfers: Option<usize>,
    /// Ports of each source NAT address.
    pub(crate) source_ports: u16,
    /// Session timeouts in seconds: half-open, established, closing, UDP.
    pub(crate) timeouts_s: [u64; 4],
    /// Whether the fast path is switched off.
    pub(crate) without_fast_path: bool,
}

impl Plan {
    pub(crate) fn new(random: &mut Random) -> Self {
        // A third of all worlds has no network faults, so that long sequences of events complete there.
        let harsh = random.below(3);
        let rate = |random: &mut Random, most: u64| random.below(most * harsh / 2 + 1);
        Self {
            workers: random.between(1, 3) as usize,
            sessions_max: random.one(&[8, 32, 64, 128, 256, 512, 2048]),
            network: Network {
                lost: rate(random, 60),
                duplicated: rate(random, 60),
                damaged: rate(random, 30),
                delay_us: random.one(&[20, 200, 2_000, 50_000]),
            },
            scattered: random.chance(300),
            turn_us: random.one(&[5, 50, 500, 5_000]),
            clients: random.between(2, 12),
            client_ports: random.between(2, 12),
            connect_us: random.one(&[300, 1_000, 5_000]),
            datagram_us: random.one(&[300, 2_000, 20_000]),
            attack_us: random.one(&[0, 2_000, 10_000]),
            flood: random.one(&[4, 64, 600]),
            change_us: random.one(&[0, 20_000, 200_000, 2_000_000]),
            jump_us: random.one(&[0, 500_000, 5_000_000]),
            fail_over_us: 0,
            loss_us: 0,
            adopts: false,
            source_nat: true,
            transfers: None,
            timeouts_s: random.one(&[[240, 7440, 240, 120], [5, 60, 5, 10], [1, 4, 1, 2]]),
            source_ports: random.one(&[4, 30, 1_000]),
            without_fast_path: false,
        }
    }

    /// The parameters of a world whose balancer loses sessions. All else is as adopted replies need it: no
    /// source NAT, a consistent policy, and no damaged frame, which would name another session.
    pub(crate) fn forgetful(random: &mut Random, adopts: bool) -> Self {
        let drawn = Self::new(random);
        Self {
            sessions_max: 2_048,
            network: Network {
                damaged: 0,
                ..drawn.network
            },
            attack_us: 0,
            change_us: 0,
            jump_us: 0,
            loss_us: random.one(&[10_000, 50_000, 500_000]),
            adopts,
            source_nat: false,
            timeouts_s: [240, 7440, 240, 120],
            ..drawn
        }
    }

    /// The parameters of a siege. The network has no faults, so only attackers can break a connection. The
    /// table has little more room than the transfers need.
    pub(crate) const fn siege() -> Self {
        Self {
            workers: 2,
            sessions_max: 1_200,
            network: Network {
                lost: 0,
                duplicated: 0,
                damaged: 0,
                delay_us: 200,
            },
            scattered: false,
            turn_us: 500,
            clients: 30,
            client_ports: 30,
            connect_us: 1_000,
            datagram_us: 0,
            attack_us: 6_000,
            flood: 16,
            change_us: 0,
            jump_us: 0,
            fail_over_us: 1_000_000,
            loss_us: 0,
            adopts: false,
            source_nat: true,
            transfers: Some(1_000),
            timeouts_s: [240, 7440, 240, 120],
            source_ports: 1_000,
            without_fast_path: false,
        }
    }
}
