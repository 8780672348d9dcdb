//! Least load: the available backend with the lowest load. Three policies differ only in the key that
//! they compare:
//!
//! | module | key, the lowest wins | IPVS |
//! |---|---|---|
//! | `least_connections` | `active / weight` | `wlc` |
//! | `shortest_expected_delay` | `(active + 1) / weight` | `sed` |
//! | `never_queue` | `(active > 0, (active + 1) / weight)` | `nq` |
//!
//! Each is a module of its own, in a crate that exports the type from here.
//!
//! Invariant: a pick examines at most [`Scan::MAX`] backends, so the cost of a batch is bounded for any
//! number of backends.

use std::marker::PhantomData;

use waxwing_sdk::choice::{Load, Scan};
use waxwing_sdk::{Backend, Backends, ConfigError, Flow, NoConfig, Pick, Policy};

/// What backends are compared by.
pub trait Key: 'static {
    /// The compared value. The lowest wins; backends with equal values take turns.
    type Value: Ord;

    /// Returns the backend's value.
    fn of(backend: &Backend<'_>) -> Self::Value;
}

/// Picks the backend with the lowest key.
pub struct LeastLoad<K> {
    scan: Scan,
    key: PhantomData<K>,
}

impl<K: Key> Policy for LeastLoad<K> {
    type Config = NoConfig;

    fn new(_: NoConfig, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            scan: Scan::new(backends),
            key: PhantomData,
        })
    }

    fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        self.scan.least(backends, K::of).into()
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        self.scan.update(backends);
        Ok(())
    }
}

/// Weighted least connections (`net/netfilter/ipvs/ip_vs_wlc.c`).
///
/// Use it when sessions differ in length, or when a slow server should get fewer of them. Equally loaded
/// backends, such as idle ones, take turns regardless of weight; use [`ShortestExpectedDelay`] if a heavy
/// one should come first.
pub type LeastConnections = LeastLoad<Connections>;

/// Current sessions per unit of weight.
pub struct Connections;

impl Key for Connections {
    type Value = Load;

    fn of(backend: &Backend<'_>) -> Load {
        Load::of(backend)
    }
}

/// Shortest expected delay (`net/netfilter/ipvs/ip_vs_sed.c`; Weinrib, Shenker, "Greed is not enough",
/// INFOCOM 1988): the backend with the lowest load after it got this session.
///
/// Use it when weights state how fast the servers are and differ a lot: under low load the fast servers
/// take all sessions, and a slow one gets its first when they are as loaded as it would then be. With equal
/// weights it is [`LeastConnections`].
pub type ShortestExpectedDelay = LeastLoad<ExpectedDelay>;

/// Sessions per unit of weight with one session more.
pub struct ExpectedDelay;

impl Key for ExpectedDelay {
    type Value = Load;

    fn of(backend: &Backend<'_>) -> Load {
        Load::with_one_more(backend)
    }
}

/// Never queue (`net/netfilter/ipvs/ip_vs_nq.c`): an idle backend if there is one, otherwise
/// [`ShortestExpectedDelay`]. Of several idle backends the heaviest comes first (in IPVS the first of its
/// list).
///
/// Use it when weights differ, sessions are few, and each needs a server of its own: a slow idle server
/// answers sooner than a fast one with a queue. Under load it is [`ShortestExpectedDelay`].
pub type NeverQueue = LeastLoad<BusyThenExpectedDelay>;

/// Idle backends first, then by [`ExpectedDelay`].
pub struct BusyThenExpectedDelay;

impl Key for BusyThenExpectedDelay {
    type Value = (bool, Load);

    fn of(backend: &Backend<'_>) -> (bool, Load) {
        (backend.load() > 0, Load::with_one_more(backend))
    }
}

#[cfg(test)]
mod tests;
