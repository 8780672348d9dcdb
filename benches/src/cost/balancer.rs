//! The `waxwing` program in a namespace: memory and start-up over session capacity, a start with and without
//! kept machine code, a reload over services.

use std::cell::RefCell;
use std::fs;
use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use waxwing_report::Spread;
use waxwing_tests::{Config, HealthCheck, Layout, Service, Status, Topology, Waxwing};

use crate::Effort;
use crate::sections::{Cell, Report, Subject, interleave};

/// Runs per measurement; each takes seconds.
const RUNS: usize = 3;
/// The time after which all follow-up work of a reload is done.
const SETTLE: Duration = Duration::from_secs(2);
const SERVICES: [u16; 5] = [1, 10, 100, 1_000, 10_000];
/// Backends per service.
const BACKENDS: u8 = 2;

pub(crate) fn memory(effort: Effort, report: &mut Report) -> Result<()> {
    const COUNTS: [u32; 4] = [1_000, 100_000, 1_000_000, 8_000_000];
    let topology = Topology::new(Layout::default())?;
    let start = |sessions: u32| -> Result<(f64, f64)> {
        let mut config = Config::new(&topology).with(Service::v4("web", "tcp", (80, 8080), 3));
        config.sessions_max = sessions.into();
        let begun = Instant::now();
        let waxwing = Waxwing::start(&topology, &config)?;
        let seconds = begun.elapsed().as_secs_f64();
        let mebibytes = resident_kib(&waxwing.status()?)? / 1024.0;
        waxwing.stop()?;
        Ok((mebibytes, seconds))
    };
    let counts = COUNTS.iter().filter(|count| **count <= effort.sessions_max);
    let starts = RefCell::new(Vec::new());
    let (start, starts) = (&start, &starts);
    let cells = counts.clone().map(|count| {
        Cell::new("resident memory", *count, move || {
            let (mebibytes, took) = start(*count)?;
            starts.borrow_mut().push((*count, took));
            Ok(mebibytes)
        })
    });
    let figures = interleave(cells.collect(), RUNS)?;
    report.lines(
        &Subject {
            name: "memory",
            title: "Resident memory of the balancer, over the sessions it has room for",
            x: "sessions",
            y: "MiB",
            note: "The whole table is resident from the start. The base without sessions is the program, \
                   above all the Wasm compiler, its modules, and the frame memory of two ports with one \
                   queue each.",
        },
        figures,
    )?;
    for count in counts {
        let starts = starts.borrow();
        let of_count = starts.iter().filter(|(of, _)| of == count);
        let seconds: Vec<f64> = of_count.map(|(_, took)| *took).collect();
        report.say(&format!(
            "With room for {}: {} s from the start to the first answer to `waxwing status`.",
            waxwing_report::count((*count).into()),
            Spread::of(&seconds)
        ));
    }
    Ok(())
}

/// The policies of a start, and the health checks of each of their services.
const POLICIES: [&str; 8] = [
    "round_robin",
    "least_connections",
    "power_of_two",
    "least_latency",
    "maglev",
    "rendezvous",
    "ring_hash",
    "sticky_source",
];
const CHECKS: [&str; 2] = ["tcp", "http"];

pub(crate) fn start(_: Effort, report: &mut Report) -> Result<()> {
    /// Pairs of starts.
    const RUNS: usize = 7;
    let topology = Topology::new(Layout::default())?;
    let mut config = Config::new(&topology);
    for (port, policy) in (80..).zip(POLICIES) {
        let mut service = Service::v4(policy, "tcp", (port, 8080), 3);
        service.policy = policy.to_owned();
        service.health = CHECKS.map(HealthCheck::new).into();
        config = config.with(service);
    }
    let start = || -> Result<f64> {
        let waxwing = Waxwing::start(&topology, &config)?;
        // The last line of the start, after its first answer.
        waxwing.wait_log("serving after ")?;
        let log = waxwing.log();
        waxwing.stop()?;
        let ms = log.split("serving after ").nth(1);
        let ms = ms.and_then(|rest| rest.split(' ').next()?.parse().ok());
        ms.with_context(|| format!("the log does not say after how long it serves: {log}"))
    };
    let (mut first, mut next) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        match fs::remove_dir_all(topology.scratch.path().join("cache")) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        first.push(start()?);
        next.push(start()?);
    }
    report.say(&format!(
        "A start with {} policies and {} health checks, until it serves: {} ms if all are compiled, {} ms \
         with the machine code that an earlier start kept.",
        POLICIES.len(),
        CHECKS.len(),
        Spread::of(&first),
        Spread::of(&next)
    ));
    Ok(())
}

pub(crate) fn reload(_: Effort, report: &mut Report) -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let config = |services: u16, weight: u32| {
        let mut config = Config::new(&topology);
        config.services_max = Some(16_384);
        config.backends_max = Some(65_536);
        for number in 1..=services {
            let name = format!("service-{number}");
            let ports = (number, 20_000 + number);
            config = config.with(Service::v4(&name, "tcp", ports, BACKENDS));
        }
        // The setting that each reload changes.
        config.services[0].backends[0].weight = weight;
        config
    };
    let waxwing = Waxwing::start(&topology, &config(1, 1))?;
    let weight = RefCell::new(1);
    let change = |services: u16| -> Result<f64> {
        let next = *weight.borrow() % 100 + 1;
        *weight.borrow_mut() = next;
        let config = config(services, next);
        let begun = Instant::now();
        waxwing.reload(&config)?;
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    };
    let change = &change;
    let cells = SERVICES.iter().map(|services| {
        Cell::new("one backend's weight changes", *services, move || {
            // The first reload sets this cell's number of services. Removed services stay in the snapshot
            // until a later reload finds them without sessions: the second one.
            change(*services)?;
            change(*services)?;
            thread::sleep(SETTLE);
            change(*services)
        })
    });
    let figures = interleave(cells.collect(), RUNS)?;
    report.lines(
        &Subject {
            name: "reload",
            title: "A reload, over services",
            x: "services",
            y: "ms",
            note: "The duration of the command `waxwing reload`, its start included. It grows with the \
                   services, because the whole config is parsed, checked and turned into a snapshot, and \
                   the policy that all services share gets a new instance for all of them. Forwarding \
                   continues meanwhile; no packet waits.",
        },
        figures,
    )?;
    waxwing.stop()?;
    Ok(())
}

/// Reads the balancer's resident memory in KiB.
fn resident_kib(status: &Status) -> Result<f64> {
    let pid = status.0["pid"].as_u64().context("the status has no pid")?;
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
    kib.with_context(|| format!("no VmRSS in {text}"))
}
