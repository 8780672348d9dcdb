//! Weighted Maglev hashing: a table that gives each backend its share of entries, and changes
//! little when backends come or go (Eisenbud et al., "Maglev: A Fast and Reliable Software Network
//! Load Balancer", NSDI 2016, section 3.4).
//!
//! Invariant: a table depends only on its backends' keys and weights and on its size. So all
//! workers and balancers of a cluster find the same backend for a hash, also after a restart.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use crate::round_robin::{Entry, WeightedRoundRobin};
use crate::{Backend, ConfigError, hash};

/// Maps hashes to backends, one lookup each. Build a new table when the backends change.
///
/// ```
/// use waxwing_sdk::maglev::Table;
/// use waxwing_sdk::{Backends, ConfigError, Flow, NoConfig, Pick, Policy, hash};
///
/// /// A client's connections go to one backend, of those with the client's parity as their tag.
/// struct ByClient([Table; 2]);
///
/// impl Policy for ByClient {
///     type Config = NoConfig;
///
///     fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
///         let part = |tag| Table::new(backends.available().filter(move |b| b.tag() == tag), 5003);
///         Ok(Self([part(0)?, part(1)?]))
///     }
///
///     fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
///         let client = flow.source_octets();
///         let table = &self.0[usize::from(client[15] % 2)];
///         table.get(hash::bytes(client)).map_or(Pick::Fallback, Pick::Backend)
///     }
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Backend indices; empty if there are no backends.
    entries: Vec<u16>,
}

/// Marks an entry without a backend while the table is filled.
const FREE: u16 = u16::MAX;

impl Table {
    /// Largest table, 2 MiB: a hundred entries for each of ten thousand backends.
    pub const SIZE_MAX: u32 = 1_048_573;

    /// Builds a table of the backends with weight. `size` is the number of entries of two bytes: a
    /// prime, and for shares within one or two percent at least a hundred times the number of
    /// backends (section 5.3 of the paper). Takes about 100 nanoseconds per entry.
    ///
    /// # Errors
    /// Fails if the size is not prime, too large, or less than the number of backends. Put the
    /// config key in front with [`ConfigError::at`].
    pub fn new<'a>(
        backends: impl IntoIterator<Item = Backend<'a>>,
        size: u32,
    ) -> Result<Self, ConfigError> {
        if size > Self::SIZE_MAX || !is_prime(size) {
            return Err(format!(
                "{size} entries; expected a prime up to {}, like 251 (few backends, many services), \
                 65537 (most services) or 655373 (thousands of backends)",
                Self::SIZE_MAX
            ).into());
        }
        let with_weight = |backend: &Backend<'_>| backend.weight() > 0;
        let backends: Vec<_> = backends.into_iter().filter(with_weight).collect();
        let count = backends.len();
        if count > size as usize {
            return Err(format!(
                "{size} entries for {count} backends; expected a prime of at least {}",
                count * 100
            )
            .into());
        }
        Ok(Self {
            entries: fill(backends, size),
        })
    }

    /// Returns the index of the backend for a hash; `None` if there are no backends.
    #[inline]
    #[must_use]
    pub fn get(&self, hash: u64) -> Option<usize> {
        // Scales the upper half of the hash to the table: a multiplication instead of a division.
        let entry = ((hash >> 32) * self.entries.len() as u64) >> 32;
        let entry = usize::try_from(entry).ok()?;
        self.entries.get(entry).map(|index| usize::from(*index))
    }
}

/// A backend's permutation of the entries. It claims the first free ones.
struct Claims {
    index: u16,
    weight: u32,
    next: u32,
    skip: u32,
}

impl Claims {
    fn new(backend: &Backend<'_>, size: u32) -> Option<Self> {
        let below = |limit: u32, random: u64| {
            u32::try_from(hash::below(random, u64::from(limit))).unwrap_or(0)
        };
        Some(Self {
            index: u16::try_from(backend.index()).ok()?,
            weight: backend.weight(),
            next: below(size, hash::mix(backend.key())),
            // From 1 to size - 1. The size is prime, so the steps visit every entry.
            skip: 1 + below(size - 1, hash::mix(!backend.key())),
        })
    }

    fn claim(&mut self, entries: &mut [u16], size: u32) {
        while entries[self.next as usize] != FREE {
            self.step(size);
        }
        entries[self.next as usize] = self.index;
        self.step(size);
    }

    fn step(&mut self, size: u32) {
        self.next += self.skip;
        if self.next >= size {
            self.next -= size;
        }
    }
}

/// Fills the entries. In the paper each backend claims one entry per round; here backends take
/// turns by weight, which is the same if the weights are equal.
fn fill(mut backends: Vec<Backend<'_>>, size: u32) -> Vec<u16> {
    // Sorted by key, so that the order in the config does not matter.
    backends.sort_unstable_by_key(|backend| (backend.key(), backend.id()));
    let claims = backends
        .iter()
        .filter_map(|backend| Claims::new(backend, size));
    let mut claims: Vec<_> = claims.collect();
    if claims.is_empty() {
        return Vec::new();
    }
    // Starts in the middle of the first stride, so that shares are rounded instead of truncated.
    let entry = |(at, claims): (usize, &Claims)| Entry::new(at, claims.weight, 1 << 63);
    let order = WeightedRoundRobin::from_entries(claims.iter().enumerate().filter_map(entry));
    let mut entries = vec![FREE; size as usize];
    for at in order.take(size as usize) {
        claims[at].claim(&mut entries, size);
    }
    entries
}

fn is_prime(n: u32) -> bool {
    n >= 2 && (2..=n.isqrt()).all(|divisor| n % divisor != 0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;
    use crate::Backends;
    use crate::abi::{BackendRecord, HostFields};
    use crate::testing;

    fn table(records: &[BackendRecord], size: u32) -> Result<Table, ConfigError> {
        let host = HostFields::default();
        Table::new(Backends::without_live(records, &host).iter(), size)
    }

    fn shares(table: &Table, n: usize) -> Vec<usize> {
        let mut counts = vec![0; n];
        for index in &table.entries {
            counts[usize::from(*index)] += 1;
        }
        counts
    }

    #[test]
    fn entries_are_shared_by_weight() {
        let table = table(&testing::backends(&[1, 0, 2, 5]), 8011).unwrap();
        assert_eq!(shares(&table, 4), [1001, 0, 2003, 5007]);
    }

    #[test]
    fn extreme_weights_fill_quickly() {
        let mut weights = [1; 4096];
        weights[17] = u32::MAX;
        let table = table(&testing::backends(&weights), 65_537).unwrap();
        assert_eq!(shares(&table, 4096)[17], 65_537);
    }

    #[test]
    fn a_table_may_have_some_of_the_backends() {
        let records = testing::backends(&[1; 6]);
        let host = HostFields::default();
        let backends = Backends::without_live(&records, &host);
        let even = Table::new(backends.iter().filter(|b| b.index() % 2 == 0), 251).unwrap();
        assert!((0..1000).all(|n| even.get(hash::mix(n)).unwrap() % 2 == 0));
    }

    #[test]
    fn the_hash_range_maps_evenly_to_entries() {
        let table = table(&testing::backends(&[1, 1]), 2).unwrap();
        let (low, high) = (table.get(0), table.get(u64::MAX));
        assert_ne!(low, high);
        assert_eq!(table.get(u64::MAX / 2), low);
        assert_eq!(table.get(u64::MAX / 2 + 1), high);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let three = testing::backends(&[1, 1, 1]);
        for size in [0, 1, 4, 65_536, 1_048_583] {
            let error = table(&three, size).unwrap_err();
            assert!(
                error.reason().contains("expected a prime"),
                "{size}: {error}"
            );
        }
        let error = table(&three, 2).unwrap_err();
        assert!(
            error.reason().contains("2 entries for 3 backends"),
            "{error}"
        );
        assert_eq!(table(&[], 2).unwrap().get(0), None);
        assert!(table(&three, 3).is_ok());
    }
}
