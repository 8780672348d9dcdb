//! Maglev, weighted: a table that gives each backend its share of entries and changes little when
//! backends come or go (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4).
//!
//! Invariant: a table depends on nothing but its backends' keys and weights and its own size, so
//! every worker and every balancer of a cluster finds the same backend for a hash, and so does one
//! that was restarted.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::turns::{Turn, Turns};
use crate::{Backend, hash};

/// Backends by hash: one look-up each. Build it anew when the backends change.
///
/// ```
/// use waxwing_sdk::maglev::Table;
/// use waxwing_sdk::{Backends, Flow, NoConfig, Pick, Policy, hash};
///
/// /// A client's connections go to one backend, of those with the client's parity as their tag.
/// struct ByClient([Table; 2]);
///
/// impl Policy for ByClient {
///     type Config = NoConfig;
///
///     fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, String> {
///         let part = |tag| Table::new(backends.available().filter(move |b| b.tag() == tag), 5003);
///         Ok(Self([part(0)?, part(1)?]))
///     }
///
///     fn pick(&mut self, flow: &Flow<'_>, _: &Backends<'_>) -> Pick {
///         let client = flow.source_octets();
///         let table = &self.0[usize::from(client[15] % 2)];
///         table.get(hash::bytes(client)).map_or(Pick::Fallback, Pick::Backend)
///     }
///
///     fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), String> {
///         *self = Self::new(NoConfig {}, backends)?;
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Backend indices; none if there are no backends.
    entries: Vec<u16>,
}

/// An entry of a table being filled that is nobody's yet.
const FREE: u16 = u16::MAX;

impl Table {
    /// The largest table, 2 MiB: a hundred entries for each of ten thousand backends.
    pub const SIZE_MAX: u32 = 1_048_573;

    /// A table of these backends, leaving out those without weight, with `size` entries of two bytes
    /// each: a prime, and for shares within a percent or two at least a hundred times the number of
    /// backends (section 5.3 of the paper). It takes some 100 nanoseconds an entry.
    ///
    /// # Errors
    /// That the size is no prime, or is less than the number of backends, and what to write instead:
    /// to put behind the name of the key that it comes from.
    pub fn new<'a>(
        backends: impl IntoIterator<Item = Backend<'a>>,
        size: u32,
    ) -> Result<Self, String> {
        if size > Self::SIZE_MAX || !is_prime(size) {
            return Err(format!(
                "{size} entries; expected a prime up to {}, like 251 (few backends, many services), \
                 65537 (most services) or 655373 (thousands of backends)",
                Self::SIZE_MAX
            ));
        }
        let with_weight = |backend: &Backend<'_>| backend.weight() > 0;
        let backends: Vec<_> = backends.into_iter().filter(with_weight).collect();
        let count = backends.len();
        if count > size as usize {
            return Err(format!(
                "{size} is fewer entries than the {count} backends; expected a prime of at least {}",
                count * 100
            ));
        }
        Ok(Self {
            entries: fill(backends, size),
        })
    }

    /// The index of the backend that a hash belongs to; `None` if there are no backends.
    #[inline]
    #[must_use]
    pub fn get(&self, hash: u64) -> Option<usize> {
        // The upper half of the hash, scaled to the table: a multiplication, not a division.
        let entry = ((hash >> 32) * self.entries.len() as u64) >> 32;
        let entry = usize::try_from(entry).ok()?;
        self.entries.get(entry).map(|index| usize::from(*index))
    }
}

/// A backend's permutation of the entries, of which it claims the first that is free.
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
            // From 1 to size - 1: as the size is a prime, the steps visit every entry.
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

/// The paper's backends claim an entry each in every round; these take turns by weight, which is
/// the same where the weights are.
fn fill(mut backends: Vec<Backend<'_>>, size: u32) -> Vec<u16> {
    // By key, since the order in which backends claim must not hang on the order in the config.
    backends.sort_unstable_by_key(|backend| (backend.key(), backend.id()));
    let claims = backends
        .iter()
        .filter_map(|backend| Claims::new(backend, size));
    let mut claims: Vec<_> = claims.collect();
    if claims.is_empty() {
        return Vec::new();
    }
    // From the middle of the first stride on, so that shares are rounded, not cut.
    let turn = |(at, claims): (usize, &Claims)| Turn::new(at, claims.weight, 1 << 63);
    let turns = Turns::of(claims.iter().enumerate().filter_map(turn));
    let mut entries = vec![FREE; size as usize];
    for turn in turns.take(size as usize) {
        claims[turn].claim(&mut entries, size);
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

    fn table(records: &[BackendRecord], size: u32) -> Result<Table, String> {
        let host = HostFields::default();
        Table::new(Backends::new(records, &host).iter(), size)
    }

    fn shares(table: &Table, n: usize) -> Vec<usize> {
        let mut counts = vec![0; n];
        for index in &table.entries {
            counts[usize::from(*index)] += 1;
        }
        counts
    }

    #[test]
    fn every_entry_belongs_to_a_backend_by_weight() {
        let table = table(&testing::backends(&[1, 0, 2, 5]), 8011).unwrap();
        assert_eq!(shares(&table, 4), [1001, 0, 2003, 5007]);
    }

    #[test]
    fn a_light_backend_among_heavy_ones_costs_no_time() {
        let mut weights = [1; 4096];
        weights[17] = u32::MAX;
        let table = table(&testing::backends(&weights), 65_537).unwrap();
        assert_eq!(shares(&table, 4096)[17], 65_537);
    }

    #[test]
    fn a_part_of_the_backends_has_a_table_of_its_own() {
        let records = testing::backends(&[1; 6]);
        let host = HostFields::default();
        let backends = Backends::new(&records, &host);
        let even = Table::new(backends.iter().filter(|b| b.index() % 2 == 0), 251).unwrap();
        assert!((0..1000).all(|n| even.get(hash::mix(n)).unwrap() % 2 == 0));
    }

    #[test]
    fn a_hash_finds_the_entry_it_falls_on() {
        let table = table(&testing::backends(&[1, 1]), 2).unwrap();
        let (low, high) = (table.get(0), table.get(u64::MAX));
        assert_ne!(low, high);
        assert_eq!(table.get(u64::MAX / 2), low);
        assert_eq!(table.get(u64::MAX / 2 + 1), high);
    }

    #[test]
    fn sizes_that_do_not_serve_are_refused() {
        let three = testing::backends(&[1, 1, 1]);
        for size in [0, 1, 4, 65_536, 1_048_583] {
            let error = table(&three, size).unwrap_err();
            assert!(error.contains("expected a prime"), "{size}: {error}");
        }
        let error = table(&three, 2).unwrap_err();
        assert!(
            error.contains("2 is fewer entries than the 3 backends"),
            "{error}"
        );
        assert_eq!(table(&[], 2).unwrap().get(0), None);
        assert!(table(&three, 3).is_ok());
    }
}
