//! A soak: a real balancer under steady traffic while its config, its modules, its network and its process's
//! environment change at random.
//!
//! Invariant: a seed determines the events and their order. What breaks is printed at once and counted; the
//! soak goes on unless the balancer has ended.

mod events;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use clap::Parser;
use waxwing_tests::actors::{self, RunningLoad, connections};
use waxwing_tests::echo::{Echo, Pinger};
use waxwing_tests::log_pipe::LogPipe;
use waxwing_tests::pids_limit::PidsLimit;
use waxwing_tests::topology::{VIP4, server4};
use waxwing_tests::{
    Config, HealthCheck, Layout, Load, Service, Status, Topology, Waxwing, modules, netns,
};

/// How long the balancer may take to be right again after an event, on a busy machine.
const SETTLE: Duration = Duration::from_secs(20);

/// The VIP that comes and goes.
const SPARE_VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 11));

/// The most characters that say what broke.
const WHAT_MAX: usize = 400;

/// The queues of each port at start.
const QUEUES: u32 = 2;

/// The most queues of a port.
const QUEUES_MAX: u32 = 4;

/// The UDP flows.
const FLOWS: u64 = 4;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    /// How long events happen.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Replays the events of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// Only events whose names contain one of these words; can be repeated.
    #[arg(long)]
    only: Vec<String>,
    /// No events whose names contain one of these words; can be repeated.
    #[arg(long)]
    without: Vec<String>,
}

fn main() -> ExitCode {
    match soak(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many things broke.
fn soak(arguments: &Arguments) -> Result<usize> {
    netns::remove_own_on_signal(|| {})?;
    netns::remove_leftovers()?;
    let named =
        |words: &[String], name: &str| words.iter().any(|word| name.contains(word.as_str()));
    let events = events::ALL.iter().filter(|(name, _)| {
        (arguments.only.is_empty() || named(&arguments.only, name))
            && !named(&arguments.without, name)
    });
    let events: Vec<&events::Event> = events.collect();
    ensure!(!events.is_empty(), "no event is left to happen");
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = arguments.seed.unwrap_or(now.as_secs());
    let minutes = arguments.minutes;
    println!(
        "seed {seed}: {minutes} min of {} kinds of events",
        events.len()
    );

    let topology = Topology::new(Layout {
        queues_max: QUEUES_MAX,
        ..Layout::with_queues(QUEUES)
    })?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let echoes = topology.servers.iter().map(|server| Echo::start(server, 7));
    let _echoes: Vec<Echo> = echoes.collect::<Result<_>>()?;
    let mut soak = Soak::start(&topology, seed)?;
    let end = soak.begun + Duration::from_secs(60 * minutes);
    let mut told = Instant::now();
    while Instant::now() < end && !soak.waxwing.has_ended()? {
        let choice = soak.random(events.len() as u64);
        let (name, event) = events[usize::try_from(choice)?];
        soak.happen(name, *event)?;
        if told.elapsed() >= Duration::from_secs(60) {
            told = Instant::now();
            soak.tell_progress();
        }
    }
    soak.end()
}

/// The running soak.
struct Soak<'a> {
    topology: &'a Topology,
    begun: Instant,
    seed: u64,
    waxwing: Waxwing<'a>,
    group: PidsLimit,
    log: LogPipe,
    builds: [Vec<u8>; 2],
    /// New and kept connections to what is never taken away.
    loads: Vec<(&'static str, RunningLoad)>,
    /// Connections to what comes and goes, which may fail.
    spare_load: RunningLoad,
    flows: Vec<Pinger>,
    has_server: bool,
    has_vip: bool,
    /// Of `front` and `back`.
    queues: [u32; 2],
    pings: u64,
    answers: u64,
    events: u64,
    found: Vec<String>,
}

impl<'a> Soak<'a> {
    fn start(topology: &'a Topology, seed: u64) -> Result<Self> {
        let packages = ["waxwing-policy-round-robin", "waxwing-policy-maglev"];
        let [first, second] = packages.map(modules::compile);
        let builds = [first?, second?];
        let config = config(topology, true, true)?;
        fs::create_dir_all(&config.modules)?;
        fs::write(config.modules.join("own.wasm"), &builds[0])?;
        topology
            .client
            .ip(&format!("route add {SPARE_VIP}/32 dev eth0\n"))?;
        // IPv6 addresses survive a port that is down.
        topology
            .balancer
            .sysctl(&["net.ipv6.conf.all.keep_addr_on_down=1"])?;
        let group = PidsLimit::new("soak")?;
        let log = LogPipe::new(topology.scratch.path())?;
        let script = format!("{}; {}", log.script(), group.script());
        let waxwing = Waxwing::start_under(topology, &config, &["sh", "-c", &script])?;
        let load = |address, keep_alive| {
            let load = Load {
                keep_alive,
                rate: 100,
                interval: Duration::from_secs(1),
                // TCP repeats a lost SYN after 1, 3 and 7 seconds.
                timeout: Duration::from_secs(20),
                ..connections(address, 80, Duration::from_secs(24 * 3600))
            };
            RunningLoad::start(&topology.client, load)
        };
        let echo = SocketAddr::new(VIP4, 7);
        let flow = |_| {
            topology
                .client
                .enter(|| Pinger::new(echo, Duration::from_secs(1)))
        };
        let flows = (0..FLOWS).map(flow);
        let mut soak = Self {
            topology,
            begun: Instant::now(),
            seed,
            waxwing,
            group,
            log,
            builds,
            loads: vec![("new", load(VIP4, false)?), ("kept", load(VIP4, true)?)],
            spare_load: load(SPARE_VIP, true)?,
            flows: flows.map(|flow| Ok(flow??)).collect::<Result<_>>()?,
            has_server: true,
            has_vip: true,
            queues: [QUEUES; 2],
            pings: 0,
            answers: 0,
            events: 0,
            found: Vec::new(),
        };
        soak.settle("start");
        Ok(soak)
    }

    /// Returns a number below `bound` (SplitMix64).
    fn random(&mut self, bound: u64) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.seed;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }

    /// Waits a random time: nothing is awaited, so that events meet every state.
    fn pause(&mut self, ms_max: u64) {
        let ms = self.random(ms_max);
        thread::sleep(Duration::from_millis(ms));
    }

    fn happen(&mut self, name: &str, event: fn(&mut Self) -> Result<()>) -> Result<()> {
        self.events += 1;
        let (before, begun) = (self.found.len(), Instant::now());
        if let Err(error) = event(self) {
            self.find(name, &format!("{error:#}"));
        }
        self.settle(name);
        if self.waxwing.has_ended()? {
            self.find(name, "the balancer has ended");
        }
        let verdict = if self.found.len() > before {
            "BROKEN"
        } else {
            "ok"
        };
        let (at, took) = (self.begun.elapsed().as_secs_f32(), begun.elapsed());
        println!("{at:7.1} s  {name}: {verdict}, {:.1} s", took.as_secs_f32());
        self.pause(1500);
        Ok(())
    }

    fn find(&mut self, event: &str, what: &str) {
        let what: String = what.chars().take(WHAT_MAX).collect();
        println!("    after `{event}`: {what}");
        self.found.push(format!("{event}: {what}"));
    }

    /// Waits until all is right again: status, traffic.
    fn settle(&mut self, event: &str) {
        let begun = Instant::now();
        let mut wrong = String::from("no status");
        while begun.elapsed() < SETTLE {
            wrong = match self.waxwing.status() {
                Ok(status) => self.wrong(&status),
                Err(error) => format!("no status: {error:#}"),
            };
            if wrong.is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        if !wrong.is_empty() {
            self.find(event, &format!("after {SETTLE:?}: {wrong}"));
            println!("    its threads: {}", self.waxwing.threads());
        }
        self.check_flows(event);
        self.check_loads(event);
    }

    /// Returns what of a status is not as it must be while nothing is wrong.
    fn wrong(&self, status: &Status) -> String {
        let mut wrong = Vec::new();
        if let Some(problems) = status.0["problems"].as_array() {
            wrong.extend(problems.iter().map(ToString::to_string));
        }
        let services = |value: &serde_json::Value| -> BTreeSet<String> {
            let services = value.as_array().into_iter().flatten();
            let backends = |service: &serde_json::Value| {
                let count = service["backends"].as_array().map_or(0, Vec::len);
                format!("{}/{count}", service["name"].as_str().unwrap_or_default())
            };
            services.map(backends).collect()
        };
        let found = services(&status.0["services"]);
        let mut expected = BTreeSet::from(["web/2", "echo/2"].map(str::to_owned));
        if self.has_vip {
            let servers = if self.has_server { 3 } else { 2 };
            expected.insert(format!("spare/{servers}"));
        }
        if found != expected {
            wrong.push(format!("services {found:?}, expected {expected:?}"));
        }
        for service in ["web", "echo"] {
            for server in 1..=2 {
                let hop = &status.next_hop(service, server4(server))["resolved"];
                if hop != true {
                    wrong.push(format!("server {server} of {service} has no next hop"));
                }
            }
        }
        let states = (0..2).map(|at| status.health("web", at));
        wrong.extend(
            states
                .filter(|health| health.state != "up")
                .map(|health| format!("a backend is {}: {}", health.state, health.reason)),
        );
        wrong.join("; ")
    }

    /// Each UDP flow gets an answer, at the second attempt at the latest.
    fn check_flows(&mut self, event: &str) {
        for flow in 0..self.flows.len() {
            let mut ask = || {
                self.pings += 1;
                let flow = &self.flows[flow];
                flow.send(self.pings).and_then(|()| flow.wait(self.pings))
            };
            if let Err(error) = ask().or_else(|_| ask()) {
                self.find(event, &format!("UDP flow {flow}: {error}"));
            }
        }
    }

    fn check_loads(&mut self, event: &str) {
        let mut found = Vec::new();
        for (kind, load) in &mut self.loads {
            match load.take_samples() {
                Ok(samples) => {
                    for sample in samples {
                        self.answers += sample.servers.values().sum::<u64>();
                        if !sample.failures.is_empty() {
                            found.push(format!("{kind} connections: {:?}", sample.failures));
                        }
                    }
                }
                Err(error) => found.push(format!("{kind} connections: {error:#}")),
            }
        }
        for what in found {
            self.find(event, &what);
        }
        // Nothing is expected of it.
        drop(self.spare_load.take_samples());
    }

    fn tell_progress(&self) {
        let minutes = self.begun.elapsed().as_secs() / 60;
        let (events, answers, found) = (self.events, self.answers, self.found.len());
        println!("---- {minutes} min: {events} events, {answers} answers, {found} broken");
    }

    /// Stops the balancer, and returns how many things broke.
    fn end(mut self) -> Result<usize> {
        if self.waxwing.has_ended()? {
            println!("--- the log's end:\n{}---", self.log.tail());
        } else {
            for (_, load) in &mut self.loads {
                load.stop()?;
            }
            let begun = Instant::now();
            let has_ended = |load: &mut RunningLoad| load.has_ended().unwrap_or(true);
            while !self.loads.iter_mut().all(|(_, load)| has_ended(load))
                && begun.elapsed() < SETTLE
            {
                thread::sleep(Duration::from_millis(50));
            }
            self.check_loads("end");
            if let Err(error) = self.waxwing.stop_without_log() {
                self.found.push(format!("end: {error:#}"));
            }
        }
        let (events, answers) = (self.events, self.answers);
        println!(
            "{events} events, {answers} answers, {} broken",
            self.found.len()
        );
        for what in &self.found {
            println!("    {what}");
        }
        Ok(self.found.len())
    }

    fn config(&self) -> Result<Config> {
        config(self.topology, self.has_server, self.has_vip)
    }
}

/// Returns the config: `web` and `echo`, from which nothing is taken away, and `spare`.
fn config(topology: &Topology, has_server: bool, has_vip: bool) -> Result<Config> {
    let check = HealthCheck {
        interval: Some("300ms"),
        timeout: Some("300ms"),
        // An event shorter than 3 s takes no backend down.
        fall: Some(10),
        ..HealthCheck::new("http")
    };
    let mut web = Service::v4("web", "tcp", (80, 8080), 2).checked(check);
    web.policy = "own".to_owned();
    let mut config = Config::new(topology).with(web);
    config = config.with(Service::v4("echo", "udp", (7, 7), 2));
    if has_vip {
        let servers = if has_server { 3 } else { 2 };
        let mut spare = Service::v4("spare", "tcp", (80, 8080), servers);
        spare.vip = SPARE_VIP;
        spare.backends[0].name = Some("spare-1".to_owned());
        config = config.with(spare);
    }
    Ok(config)
}
