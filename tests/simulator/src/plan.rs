//! What a seed's world is like: how many of everything, and how often what goes wrong.
//!
//! Invariant: all of it follows from the seed.

use crate::random::Random;

/// A network's ways, each so often in a thousand frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) damaged: u64,
    /// How long a frame takes at most, in microseconds; what left later may so come earlier.
    pub(crate) delay_us: u64,
}

/// What happens in a world, each once in so many microseconds on average; 0 is never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) workers: usize,
    pub(crate) sessions_max: u32,
    pub(crate) network: Network,
    /// Each frame comes to a worker by chance, and not by its flow.
    pub(crate) scattered: bool,
    /// The longest wait of a worker that has frames to do, in microseconds.
    pub(crate) turn_us: u64,
    /// Addresses of each family, and ports of each.
    pub(crate) clients: u64,
    pub(crate) client_ports: u64,
    pub(crate) connect_us: u64,
    pub(crate) datagram_us: u64,
    pub(crate) attack_us: u64,
    pub(crate) flood: u64,
    pub(crate) change_us: u64,
    pub(crate) jump_us: u64,
    pub(crate) fail_over_us: u64,
    /// So many long transfers and no other connection, all of them under siege.
    pub(crate) transfers: Option<usize>,
    /// The ports of each source address.
    pub(crate) source_ports: u16,
    /// What sessions may be idle for: half-open, established, closing, UDP, in seconds.
    pub(crate) timeouts_s: [u64; 4],
}

impl Plan {
    pub(crate) fn new(random: &mut Random) -> Self {
        // A third of all worlds is kind, so that what is rare elsewhere goes its whole way here.
        let harsh = random.below(3);
        let rate = |random: &mut Random, most: u64| random.below(most * harsh / 2 + 1);
        Self {
            workers: random.between(1, 3) as usize,
            sessions_max: random.one(&[8, 32, 64, 128, 256, 512, 2048]),
            network: Network {
                lost: rate(random, 60),
                doubled: rate(random, 60),
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
            transfers: None,
            timeouts_s: random.one(&[[240, 7440, 240, 120], [5, 60, 5, 10], [1, 4, 1, 2]]),
            source_ports: random.one(&[4, 30, 1_000]),
        }
    }

    /// A siege: the network is kind, so that whatever breaks was broken by somebody. The table has
    /// little more room than the transfers take.
    pub(crate) const fn siege() -> Self {
        Self {
            workers: 2,
            sessions_max: 1_200,
            network: Network {
                lost: 0,
                doubled: 0,
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
            transfers: Some(1_000),
            timeouts_s: [240, 7440, 240, 120],
            source_ports: 1_000,
        }
    }
}
