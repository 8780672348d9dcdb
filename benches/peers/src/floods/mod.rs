//! The floods benchmark: legitimate new connections and established transfers during floods from forged
//! sources, through Waxwing and through the kernel's NAT.
//!
//! Runs as root by `cargo xtask bench floods`. [`rows`] lists the floods.
//!
//! Invariant: both contenders get the same packets at the same rates, with tables and pools of the same size,
//! and the floods of a field follow one another, so that a flood meets what the one before left behind.

mod balancers;
mod clients;
mod generator;
mod page;
mod rows;

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use waxwing_report::Output;
use waxwing_tests::echo::Echo;
use waxwing_tests::{Namespace, actors, netns};

use self::balancers::{Contender, PORT_COUNT, Running, SERVER_ECHO, SERVER_WEB};
use self::clients::{Exchanges, Transfers};
use self::generator::Generator;
use self::rows::{FIELDS, FULL_RATE, Field, Flood, Row};
use crate::cpu::Cores;
use crate::network::{Network, Offloads, wait_idle};
use crate::wire::{BUSY, conntrack};

/// More than a transfer reads during a field.
const TRANSFER_LEN: usize = 128 << 20;
/// The share of the room that counts as full, in percent.
const FULL_PERCENT: u64 = 95;
/// The longest time until the room is full, beyond what the rate needs.
const FILL_EXTRA: Duration = Duration::from_secs(3);
/// From the room being full to the first connection: the status counts by the second.
const SETTLE: Duration = Duration::from_secs(1);
/// Sessions of a quick run's fields, at most.
const QUICK_SESSIONS: u64 = 100_000;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Seconds of each flood, once the table is full
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Two seconds of each flood, and small tables
    #[arg(long)]
    quick: bool,
    /// Cargo's target directory; results go to `bench/floods` in it
    #[arg(long, default_value = "target")]
    target: PathBuf,
}

/// A row as measured.
#[derive(Serialize)]
struct Outcome {
    flood: &'static str,
    sessions_max: u64,
    waxwing: Sample,
    nftables: Sample,
}

/// One flood at one contender.
#[derive(Debug, Serialize)]
struct Sample {
    exchanges: Exchanges,
    /// Packets of the flood a second.
    offered_per_s: f64,
    /// Sessions in the table at the end.
    sessions: u64,
    /// What all transfers read, and how many have broken since the field began.
    transfers_mb_per_s: f64,
    transfers_broken: u64,
    /// What the status says.
    problem: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    netns::remove_leftovers()?;
    netns::remove_own_on_signal(conntrack::restore)?;
    let cores = Cores::find()?;
    Cores::pin_to(cores.load)?;
    let mut output = Output::begin(&arguments.target, "floods", "New connections under floods")?;
    output.say(&page::notes());
    if !wait_idle(cores)? {
        output.say(BUSY);
    }
    let seconds = if arguments.quick {
        2
    } else {
        arguments.seconds
    };
    let mut outcomes = Vec::new();
    for field in FIELDS {
        let sessions = match arguments.quick {
            true => field.sessions.min(QUICK_SESSIONS),
            false => field.sessions,
        };
        let field = Field { sessions, ..*field };
        let measured = Contender::ALL.map(|contender| {
            measure(cores, contender, &field, seconds).with_context(|| contender.label())
        });
        let [waxwing, nftables] = measured;
        let samples = waxwing?.into_iter().zip(nftables?);
        for (row, (waxwing, nftables)) in field.rows.iter().zip(samples) {
            outcomes.push(Outcome {
                flood: row.name,
                sessions_max: sessions,
                waxwing,
                nftables,
            });
        }
    }
    page::add(&mut output, &outcomes);
    output.end(&outcomes)?;
    Ok(())
}

/// Measures the floods of a field at one contender.
fn measure(cores: Cores, contender: Contender, field: &Field, seconds: u32) -> Result<Vec<Sample>> {
    let _restore = conntrack::make_room(field.sessions)?;
    let network = Network::pinned(cores, 1, Offloads::Off)?;
    let topology = &network.topology;
    let _nginx = actors::nginx(topology, 1, SERVER_WEB, TRANSFER_LEN)?;
    let _echo = Echo::start(&topology.servers[0], SERVER_ECHO)?;
    let running = contender.start(&network, field)?;
    let mut generator = Generator::new(&topology.client, topology.balancer.mac("front")?)?;
    let transfers = Transfers::new();
    let measure_all = || {
        let rows = field.rows.iter();
        rows.map(|row| {
            let site = Site {
                client: &topology.client,
                running: &running,
                transfers: &transfers,
                field,
            };
            let sample = site.measure(&mut generator, row, seconds)?;
            println!(
                "   {:<9} {:<55} {}",
                contender.label(),
                row.name,
                page::in_short(&sample)
            );
            Ok(sample)
        })
        .collect()
    };
    let samples = transfers.during(&topology.client, measure_all)?;
    running.stop()?;
    Ok(samples)
}

/// Where a flood is measured.
struct Site<'a> {
    client: &'a Namespace,
    running: &'a Running<'a>,
    transfers: &'a Transfers,
    field: &'a Field,
}

impl Site<'_> {
    fn measure(&self, generator: &mut Generator<'_>, row: &Row, seconds: u32) -> Result<Sample> {
        let filling = Flood {
            rate: row.flood.rate.map(|rate| rate * row.filling),
            ..row.flood
        };
        generator.during(filling, |control| {
            self.wait_full(filling)?;
            control.set(row.flood)?;
            thread::sleep(SETTLE);
            let (begun, sent) = (Instant::now(), control.sent()?);
            let (read, _) = self.transfers.so_far();
            let exchanges = Exchanges::run(self.client, seconds)?;
            let took = begun.elapsed().as_secs_f64();
            let (read_after, transfers_broken) = self.transfers.so_far();
            Ok(Sample {
                exchanges,
                offered_per_s: float(control.sent()? - sent) / took,
                sessions: self.running.sessions()?,
                transfers_mb_per_s: float(read_after - read) / 1e6 / took,
                transfers_broken,
                problem: self.running.problem()?,
            })
        })
    }

    /// Waits until the table, or the pool, is full; not for ever: some packets open no session everywhere.
    fn wait_full(&self, flood: Flood) -> Result<()> {
        let room = match self.field.few_ports {
            true => PORT_COUNT,
            false => self.field.sessions,
        };
        let needed = Duration::from_secs_f64(float(room) / flood.rate.unwrap_or(FULL_RATE));
        let deadline = Instant::now() + 2 * needed + FILL_EXTRA;
        while Instant::now() < deadline {
            if self.running.sessions()? * 100 >= room * FULL_PERCENT {
                break;
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "the counts are far below 2^52")]
const fn float(count: u64) -> f64 {
    count as f64
}
