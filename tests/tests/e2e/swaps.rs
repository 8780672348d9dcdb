//! A thousand module swaps under load: effects on requests, memory and batch times.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{self, RunningLoad, connections};
use waxwing_tests::load::UNTIL_STOPPED;
use waxwing_tests::topology::VIP4;
use waxwing_tests::waxwing::Copy;
use waxwing_tests::{Config, Layout, Load, Service, Status, Topology, Waxwing, modules};

use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] =
    &[scenario!(a_thousand_swaps_fail_no_request_and_leak_no_memory).alone()];

/// Number of services, each with its own module, and of swaps of each module.
const SERVICES: u16 = 20;
const ROUNDS: usize = 50;

/// Memory is compared with its size after this round, when it has settled.
const WARM_UP: usize = 10;

fn config(topology: &Topology) -> Config {
    let mut config = Config::new(topology);
    config.canary.time = "0s";
    for n in 0..SERVICES {
        let mut service = Service::v4(&format!("web{n}"), "tcp", (80 + n, 8080), 3);
        service.policy = module(n);
        config.services.push(service);
    }
    config
}

fn module(n: u16) -> String {
    format!("policy{n}")
}

/// Starts new connections on one service, and keep-alive connections on another.
fn start_load(topology: &Topology, duration: Duration) -> Result<[RunningLoad; 2]> {
    let short = Load {
        rate: 400,
        ..connections(VIP4, 80, duration)
    };
    let staying = Load {
        keep_alive: true,
        clients: 64,
        rate: 1000,
        ..connections(VIP4, 81, duration)
    };
    Ok([
        RunningLoad::start(&topology.client, short)?,
        RunningLoad::start(&topology.client, staying)?,
    ])
}

fn finish(loads: [RunningLoad; 2]) -> Result<u64> {
    let mut answers = 0;
    for load in loads {
        let tally = load.finish()?;
        ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
        answers += tally.answers();
    }
    Ok(answers)
}

/// Replaces each module by a build and waits until all serve.
fn swap_all(waxwing: &Waxwing<'_>, build: &[u8], hash: &str) -> Result<()> {
    for n in 0..SERVICES {
        waxwing.drop_in(&format!("{}.wasm", module(n)), build, Copy::Atomic)?;
    }
    waxwing.wait_status("the next build to serve everywhere", |status| {
        (0..SERVICES).all(|n| status.module_hash(&module(n)) == Some(hash))
    })?;
    Ok(())
}

/// Returns the balancer's resident memory, in kilobytes.
fn resident(status: &Status) -> Result<u64> {
    let pid = status.0["pid"].as_u64().context("no pid in the status")?;
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
    kilobytes.with_context(|| format!("no VmRSS in {text}"))
}

fn a_thousand_swaps_fail_no_request_and_leak_no_memory() -> Result<()> {
    const BASE: Duration = Duration::from_secs(5);
    let builds = [
        modules::compile("waxwing-policy-round-robin")?,
        modules::compile("favourite")?,
    ];
    let topology = Topology::new(Layout::with_queues(2))?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = config(&topology);
    fs::create_dir_all(&config.modules)?;
    for n in 0..SERVICES {
        fs::write(config.modules.join(module(n) + ".wasm"), &builds[0])?;
    }
    let waxwing = Waxwing::start(&topology, &config)?;
    let mut hashes = [
        waxwing.status()?.module_hash(&module(0)).map(str::to_owned),
        None,
    ];

    let answers = finish(start_load(&topology, BASE)?)?;
    let base = waxwing.status()?;
    eprintln!(
        "without swaps: {answers} answers, batches {}",
        base.batch_times()
    );

    let mut loads = start_load(&topology, UNTIL_STOPPED)?;
    let mut memory = 0;
    for round in 1..=ROUNDS {
        let build = round % 2;
        if hashes[build].is_none() {
            waxwing.drop_in(&(module(0) + ".wasm"), &builds[build], Copy::Atomic)?;
            let other = hashes[0].clone();
            let status = waxwing.wait_status("the other build", |status| {
                status.module_hash(&module(0)) != other.as_deref()
            })?;
            hashes[build] = status.module_hash(&module(0)).map(str::to_owned);
        }
        let hash = hashes[build].clone().context("no hash")?;
        swap_all(&waxwing, &builds[build], &hash)?;
        if round == WARM_UP {
            memory = resident(&waxwing.status()?)?;
        }
    }
    let status = waxwing.status()?;
    let after = resident(&status)?;
    for load in &mut loads {
        ensure!(!load.has_ended()?, "the load ended before the last swap");
        load.stop()?;
    }
    let answers = finish(loads)?;
    let swaps = ROUNDS * usize::from(SERVICES);
    eprintln!(
        "{swaps} swaps: {answers} answers, batches {}, memory {memory} kB after {WARM_UP} rounds, \
         {after} kB at the end",
        status.batch_times_since(&base)
    );
    ensure!(
        after <= memory + memory / 100,
        "memory grew from {memory} to {after} kB"
    );
    waxwing.stop().map(drop)
}
