//! The balance benchmark: how load policies share a load among servers of unequal speed, beside HAProxy's
//! `leastconn`.
//!
//! Runs as root by `cargo xtask bench balance`.
//!
//! Invariant: every contender gets the same requests at the same times, on new servers in a new network.
//! None is told the servers' speeds: all weights are 1.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use waxwing_report::{Bar, Bars, Group, Output, Spread, Table, figure};
use waxwing_tests::http_server::Capacity;
use waxwing_tests::{Config, Load, Service, Tally, Waxwing, actors, netns};

use crate::contender::proxy;
use crate::cpu::Cores;
use crate::network::{self, Network, Offloads, Protocol, VIP};
use crate::outcome::order_of;

/// The servers, fastest first: 400, 200, 100 and 25 requests a second.
const SERVERS: [Capacity; 4] = [capacity(5), capacity(10), capacity(20), capacity(80)];

/// Requests a second, each on a connection of its own: 55 % of what the servers can do together, and four
/// times what the slowest one could take of an equal share.
const RATE: u32 = 400;

/// Clients; each sends a request every second, so that a slow answer delays few others.
const CLIENTS: u32 = 400;

/// Longest time of a request; one that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A policy's p99 may be so many times that of HAProxy's algorithm of its kind.
const P99_RATIO_MAX: f64 = 1.1;

const SERVICE: network::Service = network::Service {
    name: "web",
    protocol: Protocol::Tcp,
    port: 80,
    backend_port: 8080,
};

/// A row of the table.
struct Contender {
    name: &'static str,
    program: Program,
}

enum Program {
    /// HAProxy, with a balancing algorithm.
    Haproxy(&'static str),
    /// Waxwing, with a policy.
    Waxwing {
        policy: &'static str,
        config: &'static str,
        /// The contender whose p99 the verdict compares its own with.
        like: Option<&'static str>,
    },
}

const LEASTCONN: &str = "HAProxy, leastconn";
const BOUNDED_HASH: &str = "HAProxy, bounded hash";

/// HAProxy first: its `leastconn` is what all are compared with.
const CONTENDERS: &[Contender] = &[
    haproxy(LEASTCONN, "leastconn"),
    haproxy("HAProxy, random(2)", "random(2)"),
    haproxy(
        BOUNDED_HASH,
        "hash src_port\n  hash-type consistent\n  hash-balance-factor 125",
    ),
    policy("least_connections", "", Some(LEASTCONN)),
    policy("shortest_expected_delay", "", Some(LEASTCONN)),
    policy("power_of_two", "", Some(LEASTCONN)),
    policy("least_latency", "", Some(LEASTCONN)),
    policy("overflow", "sessions_per_weight = 2", Some(LEASTCONN)),
    policy("ring_hash", "bound = 1.25", Some(BOUNDED_HASH)),
    policy("round_robin", "", None),
];

const fn haproxy(name: &'static str, algorithm: &'static str) -> Contender {
    Contender {
        name,
        program: Program::Haproxy(algorithm),
    }
}

const fn policy(
    policy: &'static str,
    config: &'static str,
    like: Option<&'static str>,
) -> Contender {
    Contender {
        name: policy,
        program: Program::Waxwing {
            policy,
            config,
            like,
        },
    }
}

const NOTES: &str = "\
Four servers answer an HTTP request after 5, 10, 20 and 80 ms and work on two at a time; others wait. \
Clients send 400 requests a second, evenly spaced, each on a connection of its own. All weights are 1, \
so a contender learns the speeds from the load alone. `overflow` has the two fast servers as its first \
group, full at two sessions a server. Latency is the client's: connecting, the request and its answer. \
Every round runs each contender once, with new servers in a new network; load and contender have a CPU \
each.

Policies that are free in their choice are judged by HAProxy's `leastconn`. `ring_hash` keeps a flow's \
server while that has room, so it is judged by HAProxy's hash of that kind with the same bound: \
`balance hash src_port`, `hash-type consistent`, `hash-balance-factor 125`. With a handful of sessions, \
as here, either hash pays for its affinity with a longer tail than `leastconn`. Up to 16 servers \
`power_of_two` compares all of them; HAProxy's `random(2)`, which draws two of any number, is shown \
beside it. `round_robin` ignores the load, for comparison.";

#[derive(Args)]
pub(crate) struct Arguments {
    /// Runs of each contender
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each run
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// One round of four seconds
    #[arg(long)]
    quick: bool,
    /// Cargo's target directory; results go to `bench/balance` in it
    #[arg(long, default_value = "target")]
    target: PathBuf,
}

/// The runs of one contender.
#[derive(Serialize)]
struct Outcome {
    name: String,
    runs: Vec<Sample>,
}

/// One run.
#[derive(Serialize)]
struct Sample {
    /// Each server's share of the answers, 0 to 1.
    shares: [f64; SERVERS.len()],
    p50_ms: f64,
    p99_ms: f64,
    failed: u64,
}

const fn capacity(service_ms: u32) -> Capacity {
    Capacity {
        service_ms,
        places: 2,
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    netns::remove_leftovers()?;
    netns::remove_own_on_signal(|| {})?;
    let cores = Cores::find()?;
    Cores::pin_to(cores.load)?;
    let (rounds, seconds) = match arguments.quick {
        true => (1, 4),
        false => (arguments.rounds, arguments.seconds),
    };
    let mut output = Output::begin(&arguments.target, "balance", "Shares under load")?;
    output.say(NOTES);
    let outcome = |contender: &Contender| Outcome {
        name: contender.name.to_owned(),
        runs: Vec::new(),
    };
    let mut outcomes: Vec<Outcome> = CONTENDERS.iter().map(outcome).collect();
    for round in 0..usize::try_from(rounds)? {
        for turn in order_of(round, outcomes.len()) {
            let outcome = &mut outcomes[turn];
            let duration = Duration::from_secs(seconds.into());
            let sample = measure(cores, &CONTENDERS[turn].program, duration);
            let sample = sample.with_context(|| outcome.name.clone())?;
            println!(
                "   round {}, {}: p99 {:.0} ms",
                round + 1,
                outcome.name,
                sample.p99_ms
            );
            outcome.runs.push(sample);
        }
    }
    write(&mut output, &outcomes)?;
    output.end(&outcomes)?;
    Ok(())
}

/// Runs one contender.
fn measure(cores: Cores, program: &Program, duration: Duration) -> Result<Sample> {
    let servers = u8::try_from(SERVERS.len())?;
    let network = Network::pinned(cores, servers, Offloads::Off)?;
    let _servers = (1..)
        .zip(&network.topology.servers)
        .zip(SERVERS)
        .map(|((number, server), capacity): ((u8, _), _)| {
            let name = number.to_string();
            actors::slow_http_server(server, SERVICE.backend_port, &name, capacity)
        })
        .collect::<Result<Vec<_>>>()?;
    let load = Load {
        target: (VIP, SERVICE.port).into(),
        clients: CLIENTS,
        keep_alive: false,
        rate: RATE,
        duration,
        interval: Duration::from_millis(500),
        timeout: TIMEOUT,
    };
    let tally = match program {
        Program::Haproxy(algorithm) => {
            let _haproxy = proxy::haproxy(&network, &[SERVICE], algorithm)?;
            actors::load(&network.topology.client, load)?
        }
        Program::Waxwing { policy, config, .. } => {
            let waxwing = start(&network, policy, config)?;
            let tally = actors::load(&network.topology.client, load)?;
            waxwing.stop()?;
            tally
        }
    };
    Ok(Sample::of(&tally))
}

fn start<'a>(network: &'a Network, policy: &str, policy_config: &str) -> Result<Waxwing<'a>> {
    let ports = (SERVICE.port, SERVICE.backend_port);
    let mut service = Service::v4(SERVICE.name, "tcp", ports, network.servers());
    service.policy = policy.to_owned();
    service.policy_config = toml::from_str(policy_config)?;
    for (number, backend) in (0..).zip(&mut service.backends) {
        backend.tag = 1 + number / 2;
    }
    let config = Config::new(&network.topology).with(service);
    network.as_contender(|| Waxwing::start(&network.topology, &config))
}

impl Sample {
    fn of(tally: &Tally) -> Self {
        let ms = |quantile| tally.latency(quantile).as_secs_f64() * 1e3;
        Self {
            shares: std::array::from_fn(|index| tally.share(&(index + 1).to_string())),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            failed: tally.failed(),
        }
    }
}

impl Outcome {
    fn spread(&self, value: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(&self.runs.iter().map(value).collect::<Vec<_>>())
    }

    fn failed(&self) -> u64 {
        self.runs.iter().map(|run| run.failed).sum()
    }

    /// The ratio of its p99 to the reference's, round by round.
    fn p99_to(&self, reference: &Self) -> Spread {
        let of =
            |outcome: &Self| -> Vec<f64> { outcome.runs.iter().map(|run| run.p99_ms).collect() };
        Spread::of_ratio(&of(self), &of(reference))
    }
}

fn write(output: &mut Output, outcomes: &[Outcome]) -> Result<()> {
    let reference = outcomes.first().context("nothing was measured")?;
    let shares = SERVERS.map(|server| format!("{} ms server, %", server.service_ms));
    let mut table = Table::new(
        std::iter::once("contender".to_owned())
            .chain(shares)
            .chain(["p50, ms", "p99, ms", "p99 to leastconn's", "failed"].map(str::to_owned)),
    );
    for outcome in outcomes {
        let mut row = vec![outcome.name.clone()];
        row.extend((0..SERVERS.len()).map(|server| {
            let share = outcome.spread(|run| 100.0 * run.shares[server]);
            format!("{:.1}", share.median)
        }));
        row.push(outcome.spread(|run| run.p50_ms).to_string());
        row.push(outcome.spread(|run| run.p99_ms).to_string());
        row.push(figure(outcome.p99_to(reference).median));
        row.push(outcome.failed().to_string());
        table.row(row);
    }
    output.table(&table);
    let chart = Bars {
        title: "p99 under the same load".to_owned(),
        y: "ms".to_owned(),
        groups: vec![Group {
            name: String::new(),
            bars: outcomes
                .iter()
                .filter(|outcome| outcome.name != "round_robin")
                .map(|outcome| Bar::new(&outcome.name, outcome.spread(|run| run.p99_ms)))
                .collect(),
        }],
    };
    let svg = chart.svg().map_err(|error| anyhow::anyhow!("{error}"))?;
    output.chart("p99", &chart.title, &svg)?;
    output.say(&verdict(outcomes));
    Ok(())
}

/// Which policies are within the bound of HAProxy's algorithm of their kind, and which are not.
fn verdict(outcomes: &[Outcome]) -> String {
    let of = |name: &str| outcomes.iter().find(|outcome| outcome.name == name);
    let (mut met, mut missed) = (Vec::new(), Vec::new());
    for contender in CONTENDERS {
        let Program::Waxwing {
            policy,
            like: Some(like),
            ..
        } = contender.program
        else {
            continue;
        };
        let (Some(outcome), Some(reference)) = (of(contender.name), of(like)) else {
            continue;
        };
        let ratio = outcome.p99_to(reference).median;
        let is_met = ratio <= P99_RATIO_MAX && outcome.failed() == 0;
        let text = format!("{policy} ({} to {like})", figure(ratio));
        if is_met { &mut met } else { &mut missed }.push(text);
    }
    let list = |texts: Vec<String>| match texts.is_empty() {
        true => "none".to_owned(),
        false => texts.join("; "),
    };
    format!(
        "p99 at most {P99_RATIO_MAX} times that of HAProxy's algorithm of the same kind: {}. Not: {}.",
        list(met),
        list(missed)
    )
}
