//! A consistent hash ring with bounded loads: backends have points on a ring, a flow goes to the
//! first point behind its hash whose backend has room, and none has room for more than `bound` times
//! its share of the sessions (Karger et al., STOC 1997; Mirrokni, Thorup, Zadimoghaddam,
//! "Consistent Hashing with Bounded Loads", SODA 2018; HAProxy's `hash-balance-factor`).
//!
//! Use it when flows should find their backend again, and yet none may be overrun: where sessions
//! differ in length, or a few clients have most of them. Flows that find no room go on to the next
//! backend on the ring, the same one each time. The fewer sessions there are, the more often that
//! happens; where every flow must stay in place, take `maglev`.
//!
//! Invariant: the ring depends on the available backends' keys and weights and on the config alone,
//! so balancers agree on a flow's first choice, and a backend that goes changes those of its own
//! flows only; a pick looks at no more than [`WALK_MAX`] points.

use serde::Deserialize;
use waxwing_sdk::choice::Load;
use waxwing_sdk::random::Random;
use waxwing_sdk::{Backend, Backends, ConfigError, Flow, Pick, Policy, export_policy};

/// `policy_config = { points = 100, bound = 1.25 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Points on the ring for each unit of weight, 1 to 1000. More are more even: the shares of first
    /// choices have a standard deviation of `1 / sqrt(points * weight)`.
    points: u32,
    /// How many times its share of the sessions a backend may have, more than 1.
    bound: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            points: 100,
            bound: 1.25,
        }
    }
}

/// The most points of a ring, 2 MiB. Where there would be more, each backend has half as many, or a
/// fourth, and so on.
pub const RING_MAX: u64 = 1 << 18;

/// The most points that one pick looks at. Behind so many full ones the least loaded of them goes.
pub const WALK_MAX: usize = 128;

/// The points, and the sessions to share.
pub struct RingHash {
    config: Config,
    /// In the order of the ring: 48 bits of place, 16 of the backend's index.
    ring: Vec<u64>,
    /// Of all available backends.
    weight: u64,
    /// The sessions of all available backends as of the batch's start, and the picks since.
    active: u64,
    counted_ms: u64,
}

impl Policy for RingHash {
    type Config = Config;

    fn new(config: Config, backends: &Backends<'_>) -> Result<Self, ConfigError> {
        if !(1..=1000).contains(&config.points) {
            let points = config.points;
            return Err(format!("policy_config.points = {points}: expected 1 to 1000").into());
        }
        if config.bound <= 1.0 {
            return Err(format!(
                "policy_config.bound = {}: expected more than 1, like 1.25 for at most a quarter over \
                 a backend's share",
                config.bound
            ).into());
        }
        let mut ring_hash = Self {
            config,
            ring: Vec::new(),
            weight: 0,
            active: 0,
            counted_ms: 0,
        };
        ring_hash.backends_changed(backends)?;
        Ok(ring_hash)
    }

    fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        // Counting looks at all backends, so once a millisecond is enough.
        if self.counted_ms != backends.now_ms() {
            self.count(backends);
        }
        self.active += 1;
        let backend = self.first_with_room(flow.hash(), backends);
        backend.into()
    }

    fn backends_changed(&mut self, backends: &Backends<'_>) -> Result<(), ConfigError> {
        self.weight = backends.available().map(|b| u64::from(b.weight())).sum();
        self.count(backends);
        self.ring.clear();
        place(&mut self.ring, self.config.points, backends);
        Ok(())
    }
}

impl RingHash {
    fn count(&mut self, backends: &Backends<'_>) {
        self.active = backends.available().map(|b| u64::from(b.active())).sum();
        self.counted_ms = backends.now_ms();
    }

    fn first_with_room<'a>(&self, hash: u64, backends: &Backends<'a>) -> Option<Backend<'a>> {
        let start = self.ring.partition_point(|point| *point < hash);
        let (before, behind) = self.ring.split_at(start);
        let walk = behind.iter().chain(before).take(WALK_MAX);
        let walk = walk.filter_map(|point| backends.get((point & 0xffff) as usize));
        // Sessions for each unit of weight, the new one among them.
        let share = self.active as f64 / self.weight as f64;
        let bound = self.config.bound * share;
        let has_room = |backend: &Backend<'_>| {
            f64::from(backend.active()) < bound * f64::from(backend.weight())
        };
        walk.clone()
            .find(has_room)
            .or_else(|| walk.min_by_key(Load::of))
    }
}

/// A backend's points are the first so many of one random sequence, so another number of them moves
/// nothing but what those gain or lose that come or go.
fn place(ring: &mut Vec<u64>, points: u32, backends: &Backends<'_>) {
    let points_of = |backend: &Backend<'_>, halvings: u32| {
        let points = u64::from(points) * u64::from(backend.weight());
        (points >> halvings).max(1)
    };
    let total = |halvings| -> u64 { backends.available().map(|b| points_of(&b, halvings)).sum() };
    let fits = |halvings: &u32| total(*halvings) <= RING_MAX;
    let halvings = (0..64).find(fits).unwrap_or(63);
    ring.reserve_exact(usize::try_from(total(halvings)).unwrap_or(0));
    for backend in backends.available() {
        let mut random = Random::new(backend.key());
        let points = points_of(&backend, halvings);
        let index = backend.index() as u64;
        ring.extend((0..points).map(|_| random.next() & !0xffff | index));
    }
    ring.sort_unstable();
}

export_policy!(RingHash);

#[cfg(test)]
mod tests;
