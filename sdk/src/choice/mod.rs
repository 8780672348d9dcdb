//! Choices among backends at random by weight, and by load.
//!
//! Invariant: each has a bounded cost however many backends there are, and none gives a backend
//! without weight.

use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::{Backend, Backends, hash};

/// Backends to choose from at random, each in proportion to its weight: log n a choice. Build it
/// anew when the backends change; it takes 16 bytes a backend.
///
/// ```
/// use waxwing_sdk::choice::Weighted;
/// use waxwing_sdk::random::Random;
/// use waxwing_sdk::{Backends, Flow, NoConfig, Pick, Policy};
///
/// struct AtRandom {
///     backends: Weighted,
///     random: Random,
/// }
///
/// impl Policy for AtRandom {
///     type Config = NoConfig;
///
///     fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, String> {
///         Ok(Self {
///             backends: Weighted::new(backends.available()),
///             random: Random::new(backends.seed()),
///         })
///     }
///
///     fn pick(&mut self, _: &Flow<'_>, _: &Backends<'_>) -> Pick {
///         let index = self.backends.pick(self.random.next());
///         index.map_or(Pick::Fallback, Pick::Backend)
///     }
///
///     fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), String> {
///         self.backends = Weighted::new(backends.available());
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Weighted {
    parts: Vec<Part>,
}

/// A backend's part of the sum of all weights: from the end of the part before it to its own end.
#[derive(Clone, Copy, Debug)]
struct Part {
    end: u64,
    index: usize,
}

impl Weighted {
    /// Of these backends, leaving out those without weight.
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

    /// The index of the backend that a random number falls on; `None` if there are no backends.
    #[must_use]
    pub fn pick(&self, random: u64) -> Option<usize> {
        let at = self.at(hash::below(random, self.total()));
        self.parts.get(at).map(|part| part.index)
    }

    /// Two different backends: the first as by [`Weighted::pick`], the second likewise of the others.
    /// The second is the first where there is only one.
    #[must_use]
    pub fn pick_two(&self, random: (u64, u64)) -> Option<(usize, usize)> {
        let first = self.at(hash::below(random.0, self.total()));
        let part = self.parts.get(first)?;
        let start = first.checked_sub(1).map_or(0, |at| self.parts[at].end);
        let weight = part.end - start;
        // A point in what is left when the first backend's part is cut out.
        let point = hash::below(random.1, self.total() - weight);
        let second = self.at(if point < start { point } else { point + weight });
        let second = self.parts.get(second).unwrap_or(part);
        Some((part.index, second.index))
    }

    fn total(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.end)
    }

    fn at(&self, point: u64) -> usize {
        self.parts.partition_point(|part| part.end <= point)
    }
}

/// How loaded a backend is for its weight. Loads compare exactly, without division.
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
    /// So many sessions (at most 2^32) for this weight. A weight of 0 counts as 1.
    #[must_use]
    pub const fn new(sessions: u64, weight: u32) -> Self {
        let weight = if weight == 0 { 1 } else { weight };
        Self { sessions, weight }
    }

    /// Of the sessions that a backend has.
    #[must_use]
    pub fn of(backend: &Backend<'_>) -> Self {
        Self::new(u64::from(backend.active()), backend.weight())
    }

    /// Of the sessions that a backend would have with one more.
    #[must_use]
    pub fn with_one_more(backend: &Backend<'_>) -> Self {
        Self::new(u64::from(backend.active()) + 1, backend.weight())
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

/// The least of the available backends by a measure, looking at [`Scan::MAX`] of them at most. Of
/// more than that it looks at a window that moves on with every choice: the least of a few chosen
/// evenly is nearly as good as the least of all (Mitzenmacher 2001). Build it anew when the
/// backends change; it takes 2 bytes a backend.
///
/// ```
/// use waxwing_sdk::choice::Scan;
/// use waxwing_sdk::{Backend, Backends, Flow, NoConfig, Pick, Policy};
///
/// struct Fewest(Scan);
///
/// impl Policy for Fewest {
///     type Config = NoConfig;
///
///     fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, String> {
///         Ok(Self(Scan::new(backends)))
///     }
///
///     fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
///         self.0.least(backends, Backend::active).into()
///     }
///
///     fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), String> {
///         self.0 = Scan::new(backends);
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Scan {
    /// The available backends' indices.
    candidates: Vec<u16>,
    /// Which candidate the next window begins at.
    next: usize,
}

impl Scan {
    /// The most backends that one choice looks at: 64 choices of 128 take some 10 microseconds.
    pub const MAX: usize = 128;

    /// Of the backends that are available now.
    #[must_use]
    pub fn new(backends: &Backends<'_>) -> Self {
        let index = |backend: Backend<'_>| u16::try_from(backend.index()).ok();
        let candidates: Vec<_> = backends.available().filter_map(index).collect();
        // Workers that all started at the same backend would send it their first sessions.
        let random = usize::try_from(backends.seed() >> 40).unwrap_or(0);
        let next = random % candidates.len().max(1);
        Self { candidates, next }
    }

    /// The backend that measures least. The first of equals wins and the next window begins behind
    /// it, so ties take turns.
    pub fn least<'a, K: Ord>(
        &mut self,
        backends: &Backends<'a>,
        mut measure: impl FnMut(&Backend<'a>) -> K,
    ) -> Option<Backend<'a>> {
        let (before, from_next) = self.candidates.split_at(self.next);
        let window = from_next.iter().chain(before).take(Self::MAX);
        let (offset, least) = window
            .enumerate()
            .filter_map(|(offset, index)| Some((offset, backends.get(usize::from(*index))?)))
            .min_by_key(|(_, backend)| measure(backend))?;
        self.next = (self.next + offset + 1) % self.candidates.len();
        Some(least)
    }
}

#[cfg(test)]
mod tests;
