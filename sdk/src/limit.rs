//! A limit on the sessions of each client, over all workers.
//!
//! Invariant: memory and time do not depend on the number of clients. Clients are counted in a sketch of
//! shared cells; in a window with fewer sessions than a row has cells, no client gets more than the limit:
//! what a worker may give before it hears of the others is dealt out.

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
/// What is added in one period is known to all workers at the end of the next.
const PERIOD_MS: u64 = 64;
/// The periods for which a worker is dealt the same place.
const PERIODS_OF_PLACE: u64 = 8;

/// Limits the sessions that each client begins in a window of time.
///
/// Windows use two halves of the cells in turn. While a half is idle each worker notes its sums, and what is
/// added to them in the next window counts.
///
/// A worker hears of the others' sessions some milliseconds late. So what is left of a client's limit is
/// dealt out to the workers one by one, as cards are, and each gives no more than its own until it has heard
/// of theirs. All together never give more than the limit, unless the host leaves a worker no turn for
/// 64 milliseconds.
///
/// The price: if fewer sessions are left than there are workers, only some workers may give one, others every
/// half second. A client's last sessions may have to try again, as TCP clients do by themselves. So choose a
/// limit of several times the number of workers.
///
/// A new instance, as after a fault of the module, begins its window anew; a canary of a new build counts on
/// its own, from 0.
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
    /// The latest window for which `before` is noted; `None` until the time is known.
    noted: Option<u64>,
    /// What this worker gave lately, by cell of a window.
    recent: Box<[Recent]>,
}

/// What a worker added to a cell in the latest period in which it added, and in the one before that.
#[derive(Clone, Copy, Default, Debug)]
struct Recent {
    period: u64,
    here: u32,
    before: u32,
}

impl Recent {
    /// Returns what was added in this period and in the one before it.
    const fn count(self, period: u64) -> u64 {
        (match period.saturating_sub(self.period) {
            0 => self.here + self.before,
            1 => self.here,
            _ => 0,
        }) as u64
    }

    const fn add(&mut self, period: u64) {
        *self = match period.saturating_sub(self.period) {
            0 => *self,
            1 => Self {
                period,
                here: 0,
                before: self.here,
            },
            _ => Self {
                period,
                here: 0,
                before: 0,
            },
        };
        self.here += 1;
    }
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
        let shared = backends.shared();
        Self {
            sessions,
            window_ms: window_ms.max(Self::WINDOW_MS_MIN),
            before: (0..Self::CELLS).map(|cell| shared.sum(cell)).collect(),
            // The host sets the time before the first pick or tick.
            noted: None,
            recent: vec![Recent::default(); WINDOW].into(),
        }
    }

    /// Returns whether the client of this hash may begin a session now, and counts it if so.
    ///
    /// # Panics
    /// Panics if the policy has fewer shared cells than [`SessionLimit::CELLS`].
    pub fn admit(&mut self, client: u64, backends: &Backends<'_>) -> bool {
        let window = self.window(backends);
        if window > *self.noted.get_or_insert(window) {
            self.note(window, backends);
        }
        let shared = backends.shared();
        let Range { start, end } = half(window);
        let all = end - 1;
        let cells = rows(start, client);
        let used = |cell: usize| shared.sum(cell).wrapping_sub(self.before[cell]);
        let all_used = used(all);
        let period = backends.now_ms() / PERIOD_MS;
        let place = place(client, period, backends);
        let is_free = |cell: usize| {
            let others = all_used.saturating_sub(used(cell)) / (COLUMNS as u64 - 1);
            let own = self.recent[cell - start].count(period);
            let left = (self.sessions + others).saturating_sub(used(cell).saturating_sub(own));
            own < dealt(left, place, backends)
        };
        let admitted = cells.into_iter().any(is_free);
        if admitted {
            for cell in cells {
                shared.add(cell, 1);
                self.recent[cell - start].add(period);
            }
            shared.add(all, 1);
        }
        admitted
    }

    /// Prepares the next window. Call it in [`Policy::tick`](crate::Policy::tick).
    pub fn tick(&mut self, backends: &Backends<'_>) {
        let window = self.window(backends);
        let noted = *self.noted.get_or_insert(window);
        if noted < window {
            self.note(window, backends);
        }
        // All workers' additions of the window before have arrived by then.
        let is_settled = backends.now_ms() % self.window_ms >= self.window_ms / 2;
        if is_settled && noted <= window {
            self.note(window + 1, backends);
        }
    }

    const fn window(&self, backends: &Backends<'_>) -> u64 {
        backends.now_ms() / self.window_ms
    }

    /// Notes the sums from which a window counts.
    fn note(&mut self, window: u64, backends: &Backends<'_>) {
        self.noted = Some(window);
        let shared = backends.shared();
        for cell in half(window) {
            self.before[cell] = shared.sum(cell);
        }
    }
}

/// Returns the cells of a window.
const fn half(window: u64) -> Range<usize> {
    let start = if window % 2 == 0 { 0 } else { WINDOW };
    start..start + WINDOW
}

/// Returns a worker's place among those to whom a client's sessions are dealt. It changes, so that the last
/// session of a client is not for ever that of one worker; in the period of a change all are the last.
const fn place(client: u64, period: u64, backends: &Backends<'_>) -> u64 {
    let workers = backends.workers() as u64;
    if period % PERIODS_OF_PLACE == 0 {
        return workers - 1;
    }
    let start = hash::mix(client ^ hash::mix(period / PERIODS_OF_PLACE)) % workers;
    (start + backends.worker() as u64) % workers
}

/// Returns how many of `left` sessions are dealt to the worker at this place.
const fn dealt(left: u64, place: u64, backends: &Backends<'_>) -> u64 {
    left.saturating_sub(place)
        .div_ceil(backends.workers() as u64)
}

/// Returns a client's cells.
#[expect(clippy::cast_possible_truncation, reason = "a remainder is enough")]
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

    /// Ten sessions of an address in a window.
    struct Ten<const WINDOW_MS: u64>(SessionLimit);

    impl<const WINDOW_MS: u64> Policy for Ten<WINDOW_MS> {
        type Config = NoConfig;
        const SHARED: usize = SessionLimit::CELLS;
        const TICK_MS: u32 = SessionLimit::TICK_MS;

        fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
            Ok(Self(SessionLimit::new(10, WINDOW_MS, backends)))
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

    fn workers<const WINDOW_MS: u64>(count: u16) -> Vec<Driver<Ten<WINDOW_MS>>> {
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
    fn pass<P: Policy>(workers: &mut [Driver<P>]) {
        workers.iter_mut().for_each(|worker| worker.tick(10));
        testing::share(workers);
    }

    /// Returns how many of the client's sessions are served when the workers get them in turn.
    fn served<P: Policy>(
        workers: &mut [Driver<P>],
        client: u32,
        sessions: usize,
        together: usize,
    ) -> usize {
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
                let mut workers = workers::<60_000>(count);
                let mut one = served(&mut workers, 1, 40, together);
                assert!(one <= 10, "{one} of {count} workers, {together}");
                // The last ones wait until it is the turn of the worker that they come to.
                for _ in 0..100 {
                    one += if one < 10 {
                        served(&mut workers, 1, 10, 1)
                    } else {
                        0
                    };
                }
                one += served(&mut workers, 1, 10, 1);
                assert_eq!(one, 10, "{count} workers, {together} at once");
            }
        }
    }

    /// Each worker has its turns at times of its own, up to 20 milliseconds apart; the client comes at random
    /// times to random workers, or to one.
    #[test]
    fn no_order_of_turns_gives_more_than_the_limit() {
        for seed in 0..300_u64 {
            let random = |of: u64, what: u64| hash::mix(seed ^ hash::mix(of) ^ what << 56);
            let count = random(0, 1) % 8 + 1;
            let mut workers = workers::<60_000>(u16::try_from(count).unwrap());
            for worker in &mut workers {
                worker.host_mut().now_ms = random(0, 4) % (PERIOD_MS * PERIODS_OF_PLACE);
            }
            let mut totals = vec![0; SessionLimit::CELLS];
            let (busy, one_alone) = (random(0, 2) % 4 == 0, random(0, 3) % 4 == 0);
            let mut due = vec![0; workers.len()];
            let mut served = 0;
            for ms in 0..1500 {
                for (at, worker) in workers.iter_mut().enumerate() {
                    worker.host_mut().now_ms += 1;
                    if ms >= due[at] {
                        worker.share_with(&mut totals);
                        due[at] = ms + 10 + random(ms, at as u64) % 11;
                    }
                }
                let comes = busy || random(ms, 20) % 10 == 0;
                for syn in 0..if comes { 4 } else { 0 } {
                    let to = if one_alone {
                        0
                    } else {
                        random(ms, 30 + syn) % count
                    };
                    let picks = workers[usize::try_from(to).unwrap()].pick(&[from(7)]);
                    served += u64::from(picks == [Pick::Backend(0)]);
                }
                assert!(served <= 10, "{served} with seed {seed} at {ms} ms");
            }
            assert!(served >= 6, "only {served} with seed {seed}");
        }
    }

    #[test]
    fn each_window_has_the_limit_again() {
        let mut workers = workers::<2000>(2);
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
        let mut workers = workers::<2000>(2);
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
