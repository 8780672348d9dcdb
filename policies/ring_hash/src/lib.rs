//! A consistent hash ring with bounded loads: backends have points on a ring, a flow goes to the
//! first point after its hash whose backend has room, and a backend has room for `bound` times its
//! share of the sessions (Karger et al., STOC 1997; Mirrokni, Thorup, Zadimoghaddam, "Consistent
//! Hashing with Bounded Loads", SODA 2018; HAProxy's `hash-balance-factor`).
//!
//! Room is whole sessions. As in HAProxy (`chash_server_is_eligible`), the sum of all room is `bound` times
//! the sessions, rounded up once, and at least one session has room on each backend. Rounding up for each
//! backend would let few sessions pile up on one.
//!
//! Use it when flows should find their backend again but no backend may be overloaded: when
//! sessions differ in length, or a few clients have most of them. Flows without room go on to the
//! next backend on the ring, always the same one. The fewer sessions there are, the more often this
//! happens; use `maglev` when every flow must stay in place.
//!
//! Invariant: the ring depends only on the available backends' keys and weights and on the config.
//! So balancers agree on a flow's first choice, and removing a backend changes the first choice of
//! its own flows only. A pick examines at most [`WALK_MAX`] points.

use serde::Deserialize;
use waxwing_sdk::choice::Load;
use waxwing_sdk::random::Random;
use waxwing_sdk::{Backend, Backends, ConfigError, Flow, Pick, Policy, export_policy};

/// `policy_config = { points = 100, bound = 1.25 }`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Points on the ring per unit of weight, 1 to 1000. More points make the shares more even: the
    /// first choices have a standard deviation of `1 / sqrt(points * weight)`.
    points: u32,
    /// Most sessions of a backend, as a multiple of its share; more than 1.
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

/// Most points of a ring, 2 MiB. For more, each backend has half as many, or a fourth, and so on.
pub const RING_MAX: u64 = 1 << 18;

/// Most points that one pick examines. If all of them are full, the least loaded of their backends
/// is picked.
pub const WALK_MAX: usize = 128;

/// The ring, and the session count that the bound refers to.
pub struct RingHash {
    config: Config,
    /// Points in ring order: 48 bits of position, 16 bits of backend index.
    ring: Vec<u64>,
    /// The sum of the weights of the available backends up to each one, by index.
    weights_up_to: Vec<f64>,
    /// Active and half-open sessions of all available backends at the start of the batch, and the picks
    /// since then.
    sessions: u64,
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
                "policy_config.bound = {}: expected more than 1, like 1.25 for at most a quarter more than \
                 a backend's share",
                config.bound
            ).into());
        }
        let mut ring_hash = Self {
            config,
            ring: Vec::new(),
            weights_up_to: weights_up_to(backends),
            sessions: 0,
            counted_ms: 0,
        };
        ring_hash.count(backends);
        place(&mut ring_hash.ring, ring_hash.config.points, backends);
        Ok(ring_hash)
    }

    fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
        // Counting examines all backends; once a millisecond is enough.
        if self.counted_ms != backends.now_ms() {
            self.count(backends);
        }
        self.sessions += 1;
        let backend = self.first_with_room(flow.hash(), backends);
        backend.into()
    }
}

impl RingHash {
    fn count(&mut self, backends: &Backends<'_>) {
        self.sessions = backends.available().map(|b| u64::from(b.load())).sum();
        self.counted_ms = backends.now_ms();
    }

    fn first_with_room<'a>(&self, hash: u64, backends: &Backends<'a>) -> Option<Backend<'a>> {
        let start = self.ring.partition_point(|point| *point < hash);
        let (before, behind) = self.ring.split_at(start);
        let walk = behind.iter().chain(before).take(WALK_MAX);
        let walk = walk.filter_map(|point| backends.get((point & 0xffff) as usize));
        let room = (self.config.bound * self.sessions as f64).ceil();
        let weight = self.weights_up_to.last().copied().unwrap_or_default();
        let per_weight = room / weight;
        let has_room = |backend: &Backend<'_>| {
            let end = self.weights_up_to.get(backend.index());
            let end = end.copied().unwrap_or_default();
            let start = end - f64::from(backend.weight());
            // Rounded at the borders between backends, so that the sum stays.
            let slots = (end * per_weight).floor() - (start * per_weight).floor();
            f64::from(backend.load()) < slots.max(1.0)
        };
        walk.clone()
            .find(has_room)
            .or_else(|| walk.min_by_key(Load::of))
    }
}

fn weights_up_to(backends: &Backends<'_>) -> Vec<f64> {
    let mut sum = 0.0;
    let add = |backend: Backend<'_>| {
        if backend.is_available() {
            sum += f64::from(backend.weight());
        }
        sum
    };
    backends.iter().map(add).collect()
}

/// Places the points. A backend's points are the first ones of a random sequence, so another number
/// of points only adds or removes some.
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
