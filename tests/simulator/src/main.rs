//! `cargo xtask simulate`: simulates world after world until it is interrupted, has handled enough packets,
//! or finds a violated invariant.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use waxwing_dataplane::DropReason;
use waxwing_simulator::{Tally, besiege, corpus, forget, simulate};

const USAGE: &str = "\
--seed N      start with this seed; a failure prints its own (default: the current time)
--packets N   stop after so many packets in all (default: never)
--world N     packets per world before it settles (default: 100000)
--forgetful   simulate a balancer that loses sessions and adopts servers' replies
--siege       simulate sieges: a thousand transfers, attacked for ten minutes of simulated time
";

/// The time between two progress reports.
const REPORT: Duration = Duration::from_secs(2);

struct Options {
    seed: u64,
    packets: u64,
    world: u64,
    siege: bool,
    forgetful: bool,
}

fn options() -> Result<Options, String> {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let mut options = Options {
        seed: since.as_secs(),
        packets: u64::MAX,
        world: 100_000,
        siege: false,
        forgetful: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let place = match name.as_str() {
            "--siege" => {
                options.siege = true;
                continue;
            }
            "--forgetful" => {
                options.forgetful = true;
                continue;
            }
            "--seed" => &mut options.seed,
            "--packets" => &mut options.packets,
            "--world" => &mut options.world,
            other => return Err(format!("unknown option `{other}`\n\n{USAGE}")),
        };
        let value = arguments
            .next()
            .and_then(|text| text.replace('_', "").parse().ok());
        *place = value.ok_or_else(|| format!("{name} needs a number\n\n{USAGE}"))?;
    }
    Ok(options)
}

fn main() -> ExitCode {
    match options().and_then(|options| options.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn run(&self) -> Result<(), String> {
        if self.siege {
            sieges(self)
        } else {
            worlds(self)
        }
    }
}

fn sieges(options: &Options) -> Result<(), String> {
    let corpus = corpus().map_err(|error| error.to_string())?;
    let mut packets = 0;
    for seed in options.seed.. {
        let siege = besiege(seed, &corpus).map_err(|failure| {
            format!("{failure}\nreproduce by: cargo xtask simulate --siege --seed {seed}")
        })?;
        println!("seed {seed}: {siege}");
        packets += siege.tally.packets;
        if packets >= options.packets {
            break;
        }
    }
    Ok(())
}

fn worlds(options: &Options) -> Result<(), String> {
    let (start, mut reported) = (Instant::now(), Instant::now());
    let mut all = Tally::default();
    for seed in options.seed.. {
        let (outcome, flag) = match options.forgetful {
            true => (forget(seed, options.world, true), "--forgetful "),
            false => (simulate(seed, options.world), ""),
        };
        let tally = outcome.map_err(|failure| {
            format!(
                "{failure}\nreproduce by: cargo xtask simulate {flag}--seed {seed} --world {}",
                options.world
            )
        })?;
        all.add(&tally);
        let is_over = all.packets >= options.packets;
        if is_over || reported.elapsed() >= REPORT {
            reported = Instant::now();
            println!(
                "seeds {} to {seed}, {:.0} s: {}",
                options.seed,
                start.elapsed().as_secs_f64(),
                summary(&all)
            );
        }
        if is_over {
            break;
        }
    }
    let drops = DropReason::ALL
        .iter()
        .zip(&all.drops)
        .filter(|(_, n)| **n > 0);
    println!("no violation; drops by reason:");
    for (reason, n) in drops {
        println!("  {:<20} {n}", reason.label());
    }
    Ok(())
}

fn summary(all: &Tally) -> String {
    format!(
        "{} packets, {} sessions ({} expired, {} evicted), {} exchanges completed, {} changes, \
         {} dropped",
        all.packets,
        all.sessions,
        all.expired,
        all.evicted,
        all.completed,
        all.changes,
        all.drops.iter().sum::<u64>()
    )
}
