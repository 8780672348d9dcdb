//! `cargo xtask simulate`: world after world, until it is interrupted, has seen enough, or finds
//! an invariant that does not hold.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use waxwing_dataplane::DropReason;
use waxwing_simulator::{Tally, besiege, corpus, simulate};

const USAGE: &str = "\
--seed N      begin with this world; a failure names its own (by the clock)
--packets N   end after so many packets in all (never)
--world N     packets of each world, before it comes to rest (100000)
--siege       worlds of another kind: a thousand transfers under attack for ten minutes
";

/// How often it says where it is.
const REPORT: Duration = Duration::from_secs(2);

struct Options {
    seed: u64,
    packets: u64,
    world: u64,
    siege: bool,
}

fn options() -> Result<Options, String> {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let mut options = Options {
        seed: since.as_secs(),
        packets: u64::MAX,
        world: 100_000,
        siege: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let place = match name.as_str() {
            "--siege" => {
                options.siege = true;
                continue;
            }
            "--seed" => &mut options.seed,
            "--packets" => &mut options.packets,
            "--world" => &mut options.world,
            other => return Err(format!("no option `{other}`\n\n{USAGE}")),
        };
        let value = arguments
            .next()
            .and_then(|text| text.replace('_', "").parse().ok());
        *place = value.ok_or_else(|| format!("{name} takes a number\n\n{USAGE}"))?;
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
    let corpus = corpus()?;
    let mut packets = 0;
    for seed in options.seed.. {
        let siege = besiege(seed, &corpus).map_err(|failure| {
            format!("{failure}\nagain: cargo xtask simulate --siege --seed {seed}")
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
        let tally = simulate(seed, options.world).map_err(|failure| {
            format!(
                "{failure}\nagain: cargo xtask simulate --seed {seed} --world {}",
                options.world
            )
        })?;
        all.add(&tally);
        let over = all.packets >= options.packets;
        if over || reported.elapsed() >= REPORT {
            reported = Instant::now();
            println!(
                "seeds {} to {seed}, {:.0} s: {}",
                options.seed,
                start.elapsed().as_secs_f64(),
                told(&all)
            );
        }
        if over {
            break;
        }
    }
    let drops = DropReason::ALL
        .iter()
        .zip(&all.drops)
        .filter(|(_, n)| **n > 0);
    println!("no violation; dropped by reason:");
    for (reason, n) in drops {
        println!("  {:<20} {n}", reason.label());
    }
    Ok(())
}

fn told(all: &Tally) -> String {
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
