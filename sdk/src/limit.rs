//! A limit on the sessions of each client, over all workers.
//!
//! Invariant: memory and time do not depend on the number of clients. Clients are counted in a sketch of
//! shared cells; in a window with fewer sessions than a row has cells, no client gets more than the limit
//! and, for each further worker, what is picked before the workers' counts have met.

use alloc::boxed::Box;
use alloc::vec;
use core::ops::Range;

use crate::{Backends, hash};

/// Each client is counted in a cell of each row; the row in which it shares its cell with the fewest others
/// decides.
const ROWS: usize = 4;
/// The cells of a row.
const COLUMNS: usize = 2048;
/// The cells of a window: the rows, and the sum of all clients.
const WINDOW: usize = ROWS * COLUMNS + 1;

/// Limits the sessions that each client begins in a window of time.
///
/// Windows use two halves of the cells in turn. While a half is idle each worker notes its sums, and what is
/// added to them in the next window counts. A client's sessions are dealt out fairly: a worker gives at most
/// its part of what is left before it hears of the others, so a burst does not get the limit from each
/// worker.
///
/// What other clients add to a client's cells is estimated and taken off. So a flood of forged addresses
/// makes the limit inexact, but does not use up everyone's.
///
/// ```
/// use waxwing_sdk::limit::SessionLimit;
/// use waxwing_sdk::{Backends, ConfigError, Flow, NoConfig, Pick, Policy, hash};
///
/// /// Ten sessions of an address a second, whatever the number of workers.
/// struct Tenth(SessionLimit);
///
/// impl Policy for Tenth {
///     type Config = NoConfig;
///     const SHARED: usize = SessionLimit::CELLS;
///     const TICK_MS: u32 = SessionLimit::TICK_MS;
///
///     fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
///         Ok(Self(SessionLimit::new(10, 1000, backends)))
///     }
///
///     fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
///         if self.0.admit(hash::bytes(flow.source_octets()), backends) {
///             backends.by_hash(flow.hash()).into()
///         } else {
///             Pick::Drop
///         }
///     }
///
///     fn tick(&mut self, backends: &Backends<'_>) {
///         self.0.tick(backends);
///     }
/// }
/// ```
#[derive(Debug)]
pub struct SessionLimit {
    sessions: u64,
    window_ms: u64,
    /// The sum of each cell before its window.
    before: Box<[u64]>,
    /// The latest window for which `before` is noted.
    noted: u64,
}

impl SessionLimit {
    /// The shared cells that it needs: the first ones of [`Policy::SHARED`](crate::Policy::SHARED).
    pub const CELLS: usize = 2 * WINDOW;
    /// The shortest window.
    pub const WINDOW_MS_MIN: u64 = 1000;
    /// How often [`SessionLimit::tick`] is needed: [`Policy::TICK_MS`](crate::Policy::TICK_MS) or less.
    pub const TICK_MS: u32 = 250;

    /// Makes a limit of `sessions` for each client and window; a window is at least
    /// [`SessionLimit::WINDOW_MS_MIN`].
    #[must_use]
    pub fn new(sessions: u64, window_ms: u64, backends: &Backends<'_>) -> Self {
        let mut limit = Self {
            sessions,
            window_ms: window_ms.max(Self::WINDOW_MS_MIN),
            before: vec![0; Self::CELLS].into(),
            noted: 0,
        };
        limit.note(limit.window(backends), backends);
        limit
    }

    /// Returns whether the client of this hash may begin a session now, and counts it if so.
    ///
    /// # Panics
    /// Panics if the policy has fewer shared cells than [`SessionLimit::CELLS`].
    pub fn admit(&mut self, client: u64, backends: &Backends<'_>) -> bool {
        let window = self.window(backends);
        if window > self.noted {
            self.note(window, backends);
        }
        let shared = backends.shared();
        let Range { start, end } = half(window);
        let all = end - 1;
        let cells = rows(start, client);
        let used = |cell: usize| shared.sum(cell).wrapping_sub(self.before[cell]);
        let all_used = used(all);
        let workers = u64::from(backends.workers());
        let is_free = |cell: usize| {
            let others = all_used.saturating_sub(used(cell)) / (COLUMNS as u64 - 1);
            let added = shared.added(cell);
            // What was left when the workers' counts met last.
            let left = (self.sessions + others).saturating_sub(used(cell).saturating_sub(added));
            added < left.div_ceil(workers)
        };
        let admitted = cells.into_iter().any(is_free);
        if admitted {
            cells.into_iter().for_each(|cell| shared.add(cell, 1));
            shared.add(all, 1);
        }
        admitted
    }

    /// Prepares the next window. Call it in [`Policy::tick`](crate::Policy::tick).
    pub fn tick(&mut self, backends: &Backends<'_>) {
        let next = self.window(backends) + 1;
        if self.noted + 1 < next {
            self.note(next - 1, backends);
        }
        // All workers' additions of the window before have arrived by then.
        let is_settled = backends.now_ms() % self.window_ms >= self.window_ms / 2;
        if is_settled && self.noted < next {
            self.note(next, backends);
        }
    }

    const fn window(&self, backends: &Backends<'_>) -> u64 {
        backends.now_ms() / self.window_ms
    }

    /// Notes the sums from which a window counts.
    fn note(&mut self, window: u64, backends: &Backends<'_>) {
        self.noted = window;
        let shared = backends.shared();
        for cell in half(window) {
            self.before[cell] = shared.sum(cell);
        }
    }
}

/// Returns the cells of a window.
const fn half(window: u64) -> Range<usize> {
    let start = if window.is_multiple_of(2) { 0 } else { WINDOW };
    start..start + WINDOW
}

/// Returns a client's cells.
fn rows(start: usize, client: u64) -> [usize; ROWS] {
    let mut bits = hash::mix(client);
    core::array::from_fn(|row| {
        let column = bits as usize % COLUMNS;
        bits >>= COLUMNS.ilog2();
        start + row * COLUMNS + column
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use alloc::vec::Vec;
    use core::net::IpAddr;

    use super::*;
    use crate::testing::{self, Driver, TestFlow};
    use crate::{ConfigError, Flow, NoConfig, Pick, Policy};

    /// Ten sessions of an address in two seconds.
    struct Ten(SessionLimit);

    impl Policy for Ten {
        type Config = NoConfig;
        const SHARED: usize = SessionLimit::CELLS;
        const TICK_MS: u32 = SessionLimit::TICK_MS;

        fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
            Ok(Self(SessionLimit::new(10, 2000, backends)))
        }

        fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
            let client = hash::bytes(flow.source_octets());
            match self.0.admit(client, backends) {
                true => Pick::Backend(0),
                false => Pick::Drop,
            }
        }

        fn tick(&mut self, backends: &Backends<'_>) {
            self.0.tick(backends);
        }
    }

    fn workers(count: u16) -> Vec<Driver<Ten>> {
        let worker = |number| {
            let backends = testing::backends(&[1]);
            Driver::start_on((number, count), "{}", &backends, u64::from(number)).unwrap()
        };
        (0..count).map(worker).collect()
    }

    fn from(client: u32) -> TestFlow {
        let flow = testing::flows(u64::from(client)).next().unwrap();
        flow.from_address(IpAddr::from(client.to_be_bytes()))
    }

    /// Lets 10 ms pass, in which the workers' counts meet.
    fn pass(workers: &mut [Driver<Ten>]) {
        workers.iter_mut().for_each(|worker| worker.tick(10));
        testing::share(workers);
    }

    /// Returns how many of the client's sessions are served when the workers get them in turn.
    fn served(workers: &mut [Driver<Ten>], client: u32, sessions: usize, together: usize) -> usize {
        let mut served = 0;
        for turn in 0..sessions {
            let at = turn % workers.len();
            served += usize::from(workers[at].pick(&[from(client)]) == [Pick::Backend(0)]);
            if (turn + 1) % together == 0 {
                pass(workers);
            }
        }
        served
    }

    #[test]
    fn ten_are_ten_with_any_number_of_workers() {
        for count in 1..=8 {
            for together in [1, 2, 7, 40] {
                let mut workers = workers(count);
                let one = served(&mut workers, 1, 40, together);
                // One each if fewer are left than there are workers, and their counts have not met.
                let most = 10
                    + if together == 1 {
                        0
                    } else {
                        usize::from(count) - 1
                    };
                assert!(
                    (10..=most).contains(&one),
                    "{one} of {count} workers, {together}"
                );
                assert_eq!(served(&mut workers, 2, 10, 1), 10, "another client's");
            }
        }
    }

    #[test]
    fn each_window_has_the_limit_again() {
        let mut workers = workers(2);
        for window in 0..5 {
            assert_eq!(served(&mut workers, 7, 40, 1), 10, "in window {window}");
            let now = workers[0].host_mut().now_ms;
            while workers[0].host_mut().now_ms / 2000 == now / 2000 {
                pass(&mut workers);
            }
        }
    }

    #[test]
    fn a_flood_of_addresses_does_not_use_up_a_clients_limit() {
        let mut workers = workers(2);
        for forged in 0..100_000 {
            workers[forged as usize % 2].pick(&[from(forged + 1000)]);
            if forged % 1000 == 0 {
                testing::share(&mut workers);
            }
        }
        testing::share(&mut workers);
        let served: usize = (1..=100)
            .map(|client| served(&mut workers, client, 5, 1))
            .sum();
        assert!(served > 450, "{served} of 500");
    }
}
