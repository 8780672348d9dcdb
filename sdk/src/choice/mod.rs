//! Choices among backends, at random by weight and by load.
//!
//! Invariant: a choice has a bounded cost for any number of backends, and never returns a backend
//! without weight.

use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::random::Random;
use crate::{Backend, Backends, hash};

/// Chooses backends at random in proportion to their weights, in log n per choice. Build a new one
/// when the backends change. Takes 16 bytes per backend.
///
/// ```
/// use waxwing_sdk::choice::WeightedRandom;
/// use waxwing_sdk::random::Random;
/// use waxwing_sdk::{Backends, ConfigError, Flow, NoConfig, Pick, Policy};
///
/// struct AtRandom {
///     backends: WeightedRandom,
///     random: Random,
/// }
///
/// impl Policy for AtRandom {
///     type Config = NoConfig;
///
///     fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
///         Ok(Self {
///             backends: WeightedRandom::new(backends.available()),
///             random: Random::new(backends.seed()),
///         })
///     }
///
///     fn pick(&mut self, _: &Flow<'_>, _: &Backends<'_>) -> Pick {
///         let index = self.backends.pick(self.random.next());
///         index.map_or(Pick::Fallback, Pick::Backend)
///     }
///
///     fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
///         self.backends = WeightedRandom::new(backends.available());
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct WeightedRandom {
    parts: Vec<Part>,
}

/// A backend's part of the sum of all weights: from the end of the previous part to `end`.
#[derive(Clone, Copy, Debug)]
struct Part {
    end: u64,
    index: usize,
}

impl WeightedRandom {
    /// Most backends that [`WeightedRandom::least`] compares all of: about as many as cost no more than
    /// drawing two.
    pub const COMPARED_MAX: usize = 16;

    /// Makes the choice among those of the backends that have weight.
    #[must_use]
    pub fn new<'a>(backends: impl IntoIterator<Item = Backend<'a>>) -> Self {
        let mut end = 0;
        let with_weight = backends.into_iter().filter(|backend| backend.weight() > 0);
        let parts = with_weight.map(|backend| {
            end += u64::from(backend.weight());
            let index = backend.index();
            Part { end, index }
        });
        Self {
            parts: parts.collect(),
        }
    }

    /// Returns the index of the backend that a random number selects; `None` if there are no
    /// backends.
    #[must_use]
    pub fn pick(&self, random: u64) -> Option<usize> {
        let at = self.at(hash::below(random, self.total()));
        self.parts.get(at).map(|part| part.index)
    }

    /// Returns the indices of two different backends: the first as in [`WeightedRandom::pick`], the
    /// second in the same way among the others. Both are the same if there is only one backend.
    #[must_use]
    pub fn pick_two(&self, random: (u64, u64)) -> Option<(usize, usize)> {
        let first = self.at(hash::below(random.0, self.total()));
        let part = self.parts.get(first)?;
        let start = first.checked_sub(1).map_or(0, |at| self.parts[at].end);
        let weight = part.end - start;
        // A point in the range without the first backend's part.
        let point = hash::below(random.1, self.total() - weight);
        let second = self.at(if point < start { point } else { point + weight });
        let second = self.parts.get(second).unwrap_or(part);
        Some((part.index, second.index))
    }

    /// Returns the less loaded backend, as [`WeightedRandom::least`] does by [`Load::of`].
    pub fn less_loaded<'a>(
        &self,
        random: &mut Random,
        backends: &Backends<'a>,
    ) -> Option<Backend<'a>> {
        self.least(random, backends, Load::of)
    }

    /// Returns the backend with the lowest cost; `None` if there are no backends.
    ///
    /// Up to [`WeightedRandom::COMPARED_MAX`] backends are all compared. Of more, two are drawn with
    /// [`WeightedRandom::pick_two`] and compared. Backends of equal cost are chosen at random by weight.
    pub fn least<'a, C: PartialOrd>(
        &self,
        random: &mut Random,
        backends: &Backends<'a>,
        mut cost: impl FnMut(&Backend<'a>) -> C,
    ) -> Option<Backend<'a>> {
        if self.parts.len() <= Self::COMPARED_MAX {
            return self.least_of_all(random, backends, cost);
        }
        let (first, second) = self.pick_two((random.next(), random.next()))?;
        let (first, second) = (backends.get(first)?, backends.get(second)?);
        // The first one on a tie: it was drawn by weight alone.
        Some(if cost(&second) < cost(&first) {
            second
        } else {
            first
        })
    }

    fn least_of_all<'a, C: PartialOrd>(
        &self,
        random: &mut Random,
        backends: &Backends<'a>,
        mut cost: impl FnMut(&Backend<'a>) -> C,
    ) -> Option<Backend<'a>> {
        let mut least: Option<(C, Backend<'a>)> = None;
        let (mut start, mut weight_of_equals) = (0, 0);
        for part in &self.parts {
            let weight = part.end - start;
            start = part.end;
            let Some(backend) = backends.get(part.index) else {
                continue;
            };
            let cost = cost(&backend);
            let order = match &least {
                None => Some(Ordering::Less),
                Some((least, _)) => cost.partial_cmp(least),
            };
            let is_chosen = match order {
                Some(Ordering::Less) => {
                    weight_of_equals = weight;
                    true
                }
                // Each of the equals so far keeps its probability (reservoir sampling).
                Some(Ordering::Equal) => {
                    weight_of_equals += weight;
                    random.below(weight_of_equals) < weight
                }
                _ => false,
            };
            if is_chosen {
                least = Some((cost, backend));
            }
        }
        least.map(|(_, backend)| backend)
    }

    fn total(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.end)
    }

    fn at(&self, point: u64) -> usize {
        self.parts.partition_point(|part| part.end <= point)
    }
}

/// The load of a backend: sessions per unit of weight. Loads compare exactly, without division.
///
/// ```
/// use waxwing_sdk::choice::Load;
///
/// assert!(Load::new(3, 2) > Load::new(4, 3));
/// assert!(Load::new(2, 2) == Load::new(3, 3));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Load {
    sessions: u64,
    weight: u32,
}

impl Load {
    /// Returns the load of `sessions` (at most 2^32) for this weight. A weight of 0 counts as 1.
    #[must_use]
    pub const fn new(sessions: u64, weight: u32) -> Self {
        let weight = if weight == 0 { 1 } else { weight };
        Self { sessions, weight }
    }

    /// Returns the load of [`Backend::load`].
    #[must_use]
    pub fn of(backend: &Backend<'_>) -> Self {
        Self::new(u64::from(backend.load()), backend.weight())
    }

    /// Returns the load that the backend would have with one session more.
    #[must_use]
    pub fn with_one_more(backend: &Backend<'_>) -> Self {
        Self::new(u64::from(backend.load()) + 1, backend.weight())
    }
}

impl Ord for Load {
    fn cmp(&self, other: &Self) -> Ordering {
        let this = self.sessions.saturating_mul(u64::from(other.weight));
        this.cmp(&other.sessions.saturating_mul(u64::from(self.weight)))
    }
}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Load {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Load {}

/// Finds the available backend with the lowest key, examining at most [`Scan::MAX`] of them.
///
/// Of more backends it examines a window that moves on with every choice: the best of a few, chosen
/// evenly, is nearly as good as the best of all (Mitzenmacher 2001). Takes 2 bytes per backend.
///
/// ```
/// use waxwing_sdk::choice::Scan;
/// use waxwing_sdk::{Backend, Backends, ConfigError, Flow, NoConfig, Pick, Policy};
///
/// struct Fewest(Scan);
///
/// impl Policy for Fewest {
///     type Config = NoConfig;
///
///     fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
///         Ok(Self(Scan::new(backends)))
///     }
///
///     fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
///         self.0.least(backends, Backend::load).into()
///     }
///
///     fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
///         self.0.update(backends);
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Scan {
    /// Indices of the available backends.
    candidates: Vec<u16>,
    /// The candidate at which the next window starts.
    next: usize,
}

impl Scan {
    /// Most backends that one choice examines: 64 choices of 128 take about 10 microseconds.
    pub const MAX: usize = 128;

    /// Makes a scan of the backends that are available now.
    #[must_use]
    pub fn new(backends: &Backends<'_>) -> Self {
        let candidates = candidates(backends);
        // Workers that all started with the same backend would send it their first sessions.
        let random = usize::try_from(backends.seed() >> 40).unwrap_or(0);
        let next = random % candidates.len().max(1);
        Self { candidates, next }
    }

    /// Goes on with changed backends from where it was.
    pub fn update(&mut self, backends: &Backends<'_>) {
        let next = self.candidates.get(self.next).copied().unwrap_or_default();
        self.candidates = candidates(backends);
        let at = self.candidates.partition_point(|index| *index < next);
        self.next = at % self.candidates.len().max(1);
    }

    /// Returns the backend with the lowest key; `None` if none is available. Of equal ones the
    /// first in the window wins and the next window starts after it, so equal backends take turns.
    pub fn least<'a, K: Ord>(
        &mut self,
        backends: &Backends<'a>,
        mut key: impl FnMut(&Backend<'a>) -> K,
    ) -> Option<Backend<'a>> {
        let (before, from_next) = self.candidates.split_at(self.next);
        let window = from_next.iter().chain(before).take(Self::MAX);
        let (offset, least) = window
            .enumerate()
            .filter_map(|(offset, index)| Some((offset, backends.get(usize::from(*index))?)))
            .min_by_key(|(_, backend)| key(backend))?;
        self.next = (self.next + offset + 1) % self.candidates.len();
        Some(least)
    }
}

fn candidates(backends: &Backends<'_>) -> Vec<u16> {
    let index = |backend: Backend<'_>| u16::try_from(backend.index()).ok();
    backends.available().filter_map(index).collect()
}

#[cfg(test)]
mod tests;
