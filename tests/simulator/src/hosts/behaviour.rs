//! What the applications at both ends of a connection do.

use crate::plan::{Plan, SIEGE_OPENING_US, SIEGE_US};
use crate::random::Random;

/// Bytes that a siege's transfer sends at a time.
const PART_LEN: u32 = 16;

/// An application's behaviour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    /// The number of bytes that it sends.
    pub(crate) total: u32,
    /// The most bytes per segment.
    pub(crate) segment: u32,
    /// The most unacknowledged segments.
    pub(crate) flight: u32,
    /// It closes when it has sent all, without waiting for the other end to close.
    pub(crate) closes_first: bool,
    /// It resets the connection once more than this number of bytes was acknowledged.
    pub(crate) resets_at: Option<u32>,
    pub(crate) pause: Option<Pause>,
    /// It first answers a SYN with a SYN without ACK (simultaneous open).
    pub(crate) opens_simultaneously: bool,
}

/// An idle time before byte `at`; repeated every `every` bytes unless that is 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    pub(crate) at: u32,
    pub(crate) wait_us: u64,
    pub(crate) every: u32,
}

/// Draws the behaviour of one end.
pub(super) fn any_behaviour(random: &mut Random, plan: &Plan) -> Behaviour {
    let total = random.one(&[0, 1, 100, 700, 3_000, 12_000]);
    let idle_us = plan.timeouts_s[1] * 1_300_000;
    Behaviour {
        total,
        segment: random.one(&[1, 100, 536, 1_400]).max(total / 60).max(1),
        flight: random.between(1, 8) as u32,
        closes_first: random.chance(500),
        resets_at: random
            .chance(80)
            .then(|| random.below(u64::from(total) + 2) as u32),
        pause: random.chance(200).then(|| Pause {
            at: 1 + random.below(u64::from(total) + 1) as u32,
            wait_us: random.below(idle_us),
            every: 0,
        }),
        opens_simultaneously: random.chance(50),
    }
}

/// Draws the behaviour of both ends of a siege's transfer. One sends a little every few seconds for somewhat
/// longer than the siege; the other sends a little once and closes last.
pub(super) fn transfer_behaviour(random: &mut Random) -> [Behaviour; 2] {
    let wait_us = random.between(5_000_000, 8_000_000);
    let parts = (SIEGE_OPENING_US + SIEGE_US).div_ceil(wait_us) as u32 + 1;
    let sender = Behaviour {
        total: parts * PART_LEN,
        segment: PART_LEN,
        flight: 1,
        closes_first: true,
        resets_at: None,
        pause: Some(Pause {
            at: 1 + PART_LEN,
            wait_us,
            every: PART_LEN,
        }),
        opens_simultaneously: false,
    };
    let receiver = Behaviour {
        total: 100,
        segment: 100,
        closes_first: false,
        pause: None,
        ..sender
    };
    if random.chance(500) {
        [sender, receiver]
    } else {
        [receiver, sender]
    }
}
