//! How many new sessions each network of clients opens a second, and which network opens too many.
//!
//! Invariant: a fixed amount of memory, whatever sources an attacker forges. A count-min sketch (Cormode and
//! Muthukrishnan): a network's rate is the least of its cells', so others can only make it look higher, and
//! only if they share all of its cells. Each cell is a leaky bucket, which empties by itself: a flood of many
//! forged sources leaves each cell with a share of it that is far below any sensible limit.

use std::sync::atomic::{AtomicU64, Ordering};

use waxwing_packet::{Address, Family, Prefix, Protocol};

use crate::Now;
use crate::atomics::copy_u64;
use crate::session::{Key, Tuple};

/// Cells that each network has.
const ROWS: usize = 4;
/// Cells of a row. A flood from a million sources a second adds 61 to each: 512 KiB in all.
const WIDTH: usize = 1 << 14;
const WIDTH_BITS: usize = WIDTH.trailing_zeros() as usize;
const _: () = assert!(ROWS * WIDTH_BITS <= 64, "a hash has bits for all rows");

/// The most new sessions of one network of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceLimit {
    /// New sessions a second, on average; a second's worth may come at once.
    pub sessions_per_s: u32,
    /// The length of an IPv4 network's prefix in bits.
    pub prefix_v4: u8,
    /// The length of an IPv6 network's prefix in bits.
    pub prefix_v6: u8,
}

impl SourceLimit {
    /// The client's network.
    #[must_use]
    pub fn network(&self, client: Address) -> Prefix {
        let bits = match client.family() {
            Family::V4 => self.prefix_v4,
            Family::V6 => self.prefix_v6,
        };
        Prefix::new(client, bits)
    }
}

/// The new sessions of all networks, as all workers see them.
pub struct SourceRates {
    key: Key,
    /// By row and place: when the bucket is empty again, in microseconds (generic cell rate algorithm, ITU-T
    /// I.371).
    cells: Box<[AtomicU64]>,
}

impl SourceRates {
    /// `seed` keys the hash: draw it at random at each start.
    #[must_use]
    pub fn new(seed: [u64; 4]) -> Self {
        Self {
            key: Key::new(seed),
            cells: (0..ROWS * WIDTH).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// These rates, as they are now.
    pub(crate) fn copy(&self) -> Self {
        Self {
            key: self.key.clone(),
            cells: self.cells.iter().map(copy_u64).collect(),
        }
    }

    /// Counts a new session of this client; `false` if its network has opened too many.
    #[must_use]
    pub fn admit(&self, limit: &SourceLimit, client: Address, now: Now) -> bool {
        let now_ns = now.nanos();
        let interval_ns = SECOND_NS / u64::from(limit.sessions_per_s.max(1));
        let cells = self.cells_of(limit.network(client).network());
        let empty_at = cells.map(|cell| cell.load(Ordering::Relaxed));
        let ahead_ns = empty_at.iter().map(|at| at.saturating_sub(now_ns)).min();
        let ahead_ns = ahead_ns.unwrap_or(0);
        if ahead_ns + interval_ns > SECOND_NS {
            return false;
        }
        // A cell that others have filled further is not filled more (conservative update).
        for cell in cells {
            cell.fetch_max(now_ns + ahead_ns + interval_ns, Ordering::Relaxed);
        }
        true
    }

    fn cells_of(&self, network: Address) -> [&AtomicU64; ROWS] {
        let alone = Tuple {
            source: network,
            destination: Address::default(),
            source_port: 0,
            destination_port: 0,
            protocol: Protocol::Tcp,
        };
        let hash = self.key.hash(&alone).bits();
        std::array::from_fn(|row| {
            let place = hash >> (row * WIDTH_BITS) & (WIDTH as u64 - 1);
            #[expect(clippy::cast_possible_truncation, reason = "a place is below WIDTH")]
            let place = place as usize;
            &self.cells[row * WIDTH + place]
        })
    }
}

const SECOND_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMIT: SourceLimit = SourceLimit {
        sessions_per_s: 1000,
        prefix_v4: 32,
        prefix_v6: 64,
    };

    fn at(us: u64) -> Now {
        Now::from_start(Duration::from_micros(us))
    }

    /// How many new sessions a client may open at once.
    fn at_once(rates: &SourceRates, client: Address, us: u64) -> usize {
        (0..10_000)
            .take_while(|_| rates.admit(&LIMIT, client, at(us)))
            .count()
    }

    #[test]
    fn a_network_has_a_seconds_worth_at_once_and_then_its_rate() {
        let rates = SourceRates::new([1, 2, 3, 4]);
        let client = Address::v4([192, 0, 2, 1]);
        for (us, admitted) in [
            (0, 1000),
            (999, 0),
            (1000, 1),
            (11_000, 10),
            (9_000_000, 1000),
        ] {
            assert_eq!(at_once(&rates, client, us), admitted, "at {us} us");
        }
        let neighbour = Address::v4([192, 0, 2, 2]);
        assert_eq!(at_once(&rates, neighbour, 9_000_000), 1000);
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let rates = SourceRates::new([1, 2, 3, 4]);
        let client =
            |net: u128, host: u128| Address::from_bits(0x2001_0db8 << 96 | net << 64 | host);
        assert_eq!(at_once(&rates, client(1, 1), 0), 1000);
        assert_eq!(at_once(&rates, client(1, 2), 0), 0);
        assert_eq!(at_once(&rates, client(2, 1), 0), 1000);
    }

    /// A flood from forged sources fills nothing: its cells empty by themselves.
    #[test]
    fn a_flood_from_everywhere_takes_nothing_from_others() {
        let rates = SourceRates::new([1, 2, 3, 4]);
        let mut refused = 0;
        for n in 0..2_000_000_u32 {
            let us = u64::from(n);
            let forged = Address::v4(n.wrapping_mul(0x9e37_79b9).to_be_bytes());
            refused += u32::from(!rates.admit(&LIMIT, forged, at(us)));
            if n % 2000 == 0 {
                let client = Address::v4([192, 0, 2, (n / 2000 % 200) as u8]);
                assert!(rates.admit(&LIMIT, client, at(us)), "{n}");
            }
        }
        assert_eq!(refused, 0);
    }
}
