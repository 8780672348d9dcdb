//! Cells that the instances of all workers add to and read.
//!
//! Invariant: what a worker adds is visible to itself at once, and to the others after the host's next turns
//! (every 10 ms, on an idle worker every 20 ms). No addition is lost or counted twice.

use core::cell::Cell;

/// A service's shared cells: [`Backends::shared`](crate::Backends::shared).
///
/// Cells start at 0, with each build and each config. Sums wrap around, so adding `u64::MAX` subtracts 1.
///
/// ```
/// # let mut backends = waxwing_sdk::testing::backends(&[1]);
/// use waxwing_sdk::{Backends, ConfigError, Flow, NoConfig, Pick, Policy};
///
/// /// Serves a hundred sessions, whatever the number of workers.
/// struct Hundred;
///
/// impl Policy for Hundred {
///     type Config = NoConfig;
///     const SHARED: usize = 1;
///
///     fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, ConfigError> {
///         Ok(Self)
///     }
///
///     fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
///         if backends.shared().sum(0) >= 100 {
///             return Pick::Drop;
///         }
///         backends.shared().add(0, 1);
///         backends.by_hash(flow.hash()).into()
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a> {
    totals: &'a [Cell<u64>],
    added: &'a [Cell<u64>],
}

impl<'a> Shared<'a> {
    /// Views a region: all totals, then all additions.
    pub(crate) fn new(region: &'a [Cell<u64>]) -> Self {
        let (totals, added) = region.split_at(region.len() / 2);
        Self { totals, added }
    }

    /// Returns the number of cells, [`Policy::SHARED`](crate::Policy::SHARED).
    #[must_use]
    pub const fn len(&self) -> usize {
        self.totals.len()
    }

    /// Returns whether there are no cells.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.totals.is_empty()
    }

    /// Returns a cell's sum: all workers' additions of which this worker knows, and its own.
    ///
    /// # Panics
    /// Panics if there is no such cell; so do the other functions.
    #[must_use]
    pub fn sum(&self, cell: usize) -> u64 {
        self.totals[cell].get().wrapping_add(self.added[cell].get())
    }

    /// Returns what this worker has added to a cell and the other workers do not know yet.
    #[must_use]
    pub fn added(&self, cell: usize) -> u64 {
        self.added[cell].get()
    }

    /// Adds to a cell.
    pub fn add(&self, cell: usize, more: u64) {
        let added = &self.added[cell];
        added.set(added.get().wrapping_add(more));
    }
}
