//! The whole core in a world of its own: clients, servers and attackers, a network that loses,
//! doubles, delays and damages, workers in any order, changes of the config, and time that passes as
//! the world wants it.
//!
//! Invariant: a world follows from its seed alone. What is checked at each turn of a worker is in
//! `oracle`, `translation` and `ledger`, and at each byte that reaches its peer in `tcp` and `hosts`.
//!
//! The worlds differ: see `plan`. Each ends in rest: all is well again, and every connection that was
//! established and that nobody harmed has to come to its good end.

#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers are drawn from ranges that fit, or are cut to draw them"
)]

mod attacker;
mod audit;
mod balancer;
mod config;
mod hosts;
mod ledger;
mod network;
mod oracle;
mod pin;
mod plan;
mod policy;
mod random;
mod schedule;
mod siege;
mod tally;
mod tcp;
mod translation;
mod view;
mod wire;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use siege::{Siege, corpus};
pub use tally::Tally;
use world::World;

/// An invariant that does not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The world that it happened in.
    pub seed: u64,
    /// The events up to it.
    pub step: u64,
    /// Which it is.
    pub what: String,
    /// What the world is like, and what came before.
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

/// Lives through a world until its workers took so many packets, and then to its rest.
///
/// # Errors
/// The first [`Failure`], told with its trace.
pub fn simulate(seed: u64, packets: u64) -> Result<Tally, Box<Failure>> {
    attempt(
        seed,
        |tracing| World::new(seed, tracing),
        |world| {
            world.run(packets)?;
            world.rest()?;
            Ok(world.tally())
        },
    )
}

/// Lives through a siege, whose attackers know these frames too.
///
/// # Errors
/// The first [`Failure`], told with its trace: of an invariant, or of a transfer that was harmed.
pub fn besiege(seed: u64, corpus: &[Vec<u8>]) -> Result<Siege, Box<Failure>> {
    let world = |tracing| World::besieged(seed, corpus, tracing);
    attempt(seed, world, World::endure)
}

/// A failure is lived through once more to be told: to keep a trace takes most of the time.
fn attempt<T>(
    seed: u64,
    world: impl Fn(bool) -> World,
    live: impl Fn(&mut World) -> Result<T, String>,
) -> Result<T, Box<Failure>> {
    lived(seed, world(false), &live).or_else(|_| lived(seed, world(true), &live))
}

fn lived<T>(
    seed: u64,
    mut world: World,
    live: impl Fn(&mut World) -> Result<T, String>,
) -> Result<T, Box<Failure>> {
    let what = match catch_unwind(AssertUnwindSafe(|| live(&mut world))) {
        Ok(Ok(came_to)) => return Ok(came_to),
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
