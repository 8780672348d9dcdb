//! Simulates the core with clients, servers and attackers, a network that loses, duplicates, delays and
//! damages frames, workers that run in any order, config changes, and virtual time.
//!
//! Invariant: the seed determines the whole run. `oracle` checks every turn of a worker, `hosts` every byte
//! that reaches its peer.
//!
//! Worlds differ: see `plan`. Each finally settles: all faults stop, and every established connection that
//! did not lose its session legitimately must complete.

#![expect(
    clippy::cast_possible_truncation,
    reason = "drawn numbers are in ranges that fit, or are truncated on purpose"
)]

mod addresses;
mod attack;
mod balancer;
mod hosts;
mod oracle;
mod plan;
mod random;
mod siege;
mod tally;
mod view;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use siege::{Siege, corpus};
pub use tally::Tally;
use world::World;

/// A violated invariant.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The world's seed.
    pub seed: u64,
    /// The number of the event.
    pub step: u64,
    /// The violation.
    pub what: String,
    /// The world's parameters and the last events.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "  {line}")?;
        }
        write!(f, "seed {}, step {}: {}", self.seed, self.step, self.what)
    }
}

impl std::error::Error for Failure {}

/// Runs a world until its workers received `packets` packets, and then until it settled.
pub fn simulate(seed: u64, packets: u64) -> Result<Tally, Box<Failure>> {
    attempt(
        seed,
        |tracing| World::new(seed, tracing),
        |world| {
            world.run(packets)?;
            world.settle()?;
            Ok(world.tally())
        },
    )
}

/// Runs a world like [`simulate`], with and without the fast path; returns for each a digest of all that left
/// the balancer, and of its sessions and counters at the end. The two are equal unless the paths differ.
///
/// # Errors
/// The first [`Failure`], with its trace.
pub fn digests(seed: u64, packets: u64) -> Result<[u64; 2], Box<Failure>> {
    let run = |world: &mut World| {
        world.run(packets)?;
        world.settle()?;
        Ok(world.digest())
    };
    Ok([
        attempt(seed, |tracing| World::new(seed, tracing), run)?,
        attempt(seed, |tracing| World::without_fast_path(seed, tracing), run)?,
    ])
}

/// Runs a world like [`simulate`], whose balancer loses sessions now and then. If it adopts replies, no
/// connection of a service that does may break.
///
/// # Errors
/// The first [`Failure`], with its trace.
pub fn forget(seed: u64, packets: u64, adopts: bool) -> Result<Tally, Box<Failure>> {
    attempt(
        seed,
        |tracing| World::forgetful(seed, adopts, tracing),
        |world| {
            world.run(packets)?;
            world.settle()?;
            Ok(world.tally())
        },
    )
}

/// Runs a siege, whose attackers also send these frames.
///
/// # Errors
/// The first [`Failure`], with its trace: a violated invariant, or a transfer that did not complete.
pub fn besiege(seed: u64, corpus: &[Vec<u8>]) -> Result<Siege, Box<Failure>> {
    let world = |tracing| World::besieged(seed, corpus, tracing);
    attempt(seed, world, World::run_siege)
}

/// Runs without a trace, and again with one after a failure: tracing takes most of the time.
fn attempt<T>(
    seed: u64,
    world: impl Fn(bool) -> World,
    run: impl Fn(&mut World) -> Result<T, String>,
) -> Result<T, Box<Failure>> {
    run_once(seed, world(false), &run).or_else(|_| run_once(seed, world(true), &run))
}

/// Runs a world; panics count as failures.
fn run_once<T>(
    seed: u64,
    mut world: World,
    run: impl Fn(&mut World) -> Result<T, String>,
) -> Result<T, Box<Failure>> {
    let what = match catch_unwind(AssertUnwindSafe(|| run(&mut world))) {
        Ok(Ok(result)) => return Ok(result),
        Ok(Err(what)) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            format!("the core panicked: {}", text.unwrap_or_default())
        }
    };
    let mut trace = vec![format!("{:?}", world.plan())];
    trace.extend(world.trace());
    Err(Box::new(Failure {
        seed,
        step: world.step,
        what,
        trace,
    }))
}
