//! Modules copied to the module folder of a balancer under load.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use waxwing_tests::actors::{self, RunningLoad, connections};
use waxwing_tests::topology::{VIP4, server4};
use waxwing_tests::wat::Wat;
use waxwing_tests::waxwing::Copy;
use waxwing_tests::{Layout, Load, Status, Topology, Waxwing, modules, query};

use crate::consequences::{WEB, ask};
use crate::traffic::{start_wrk, web, wrk_result};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(a_module_swap_loses_no_request, "nginx", "wrk").heavy(),
    scenario!(a_module_swap_changes_the_distribution),
    scenario!(a_broken_module_is_refused_and_the_last_good_one_serves),
    scenario!(a_canary_that_drops_every_flow_is_taken_back),
    scenario!(a_quarantine_is_lifted_and_odd_files_are_named),
    scenario!(a_rate_limit_goes_on_over_changes_of_weights),
    scenario!(a_clients_limit_holds_over_all_workers),
    scenario!(a_signal_steers_without_a_reload),
    scenario!(a_policy_sees_latency_rates_and_failures),
];

/// Returns the hash of the serving module of `round_robin`.
fn hash(waxwing: &Waxwing<'_>) -> Result<String> {
    let status = waxwing.status()?;
    let hash = status.module_hash("round_robin").map(str::to_owned);
    hash.with_context(|| format!("no module round_robin in {status}"))
}

fn wait_swap(waxwing: &Waxwing<'_>, from: &str) -> Result<String> {
    waxwing.wait_status("another module", |status| {
        status
            .module_hash("round_robin")
            .is_some_and(|hash| hash != from)
    })?;
    hash(waxwing)
}

fn a_module_swap_loses_no_request() -> Result<()> {
    // Longer than six swaps with a canary of a second each need: the load is stopped after the last swap.
    const SECONDS: u32 = 90;
    let [one, other] = [
        modules::compile("favourite")?,
        modules::compile("waxwing-policy-maglev")?,
    ];
    let topology = Topology::new(Layout::with_queues(2))?;
    let _servers = actors::nginx_servers(&topology, 8080, 0)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let mut wrks = [
        start_wrk(&topology.client, VIP4, SECONDS, &[])?,
        start_wrk(&topology.client, VIP4, SECONDS, &["Connection: close"])?,
    ];
    let mut serving = hash(&waxwing)?;
    for (turn, module) in [&one, &other].into_iter().cycle().take(6).enumerate() {
        let copy = if turn % 3 == 2 {
            Copy::Slow
        } else {
            Copy::Atomic
        };
        waxwing.drop_in("round_robin.wasm", module, copy)?;
        serving = wait_swap(&waxwing, &serving)?;
    }
    for wrk in &mut wrks {
        ensure!(wrk.try_wait()?.is_none(), "wrk ended before the last swap");
        wrk.signal(Signal::SIGINT)?;
    }
    for wrk in wrks {
        wrk_result(wrk, SECONDS)?;
    }
    waxwing.stop().map(drop)
}

fn a_module_swap_changes_the_distribution() -> Result<()> {
    let favourite = modules::compile("favourite")?;
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let load = Load {
        rate: 600,
        ..connections(VIP4, 80, Duration::from_secs(2))
    };
    // Round robin is exact, except for a few requests at either end.
    let assert_shares = |expected: [f64; 3]| {
        let tally = actors::load(&topology.client, load)?;
        ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
        let shares = ["1", "2", "3"].map(|server| tally.share(server));
        let close = shares
            .iter()
            .zip(expected)
            .all(|(share, e)| (share - e).abs() < 0.02);
        ensure!(close, "shares are {shares:?}, not {expected:?}");
        Ok(())
    };
    assert_shares([1.0 / 3.0; 3])?;
    let before = hash(&waxwing)?;
    let copied = Instant::now();
    waxwing.drop_in("round_robin.wasm", &favourite, Copy::Atomic)?;
    wait_swap(&waxwing, &before)?;
    eprintln!(
        "a new build answers on all workers {:?} after its copy",
        copied.elapsed()
    );
    assert_shares([0.6, 0.2, 0.2])?;
    waxwing.stop().map(drop)
}

fn a_broken_module_is_refused_and_the_last_good_one_serves() -> Result<()> {
    let good = modules::compile("favourite")?;
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let shipped = hash(&waxwing)?;
    waxwing.drop_in("round_robin.wasm", &good, Copy::Slow)?;
    let serving = wait_swap(&waxwing, &shipped)?;

    let load = Load {
        rate: 500,
        ..connections(VIP4, 80, Duration::from_secs(8))
    };
    let running = RunningLoad::start(&topology.client, load)?;
    let mut refused = None;
    for broken in modules::broken(&good) {
        waxwing.drop_in("round_robin.wasm", &broken.bytes, Copy::Atomic)?;
        let what = format!("`{}` to be refused", broken.what);
        let status = waxwing.wait_status(&what, |status| {
            let now = status.module_refused("round_robin");
            now.is_some() && now != refused
        })?;
        refused = status.module_refused("round_robin");
        ensure!(
            status.module_hash("round_robin") == Some(&serving),
            "{} was accepted",
            broken.what
        );
    }
    let tally = running.finish()?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    let share = tally.share("1");
    ensure!(
        (share - 0.6).abs() < 0.02,
        "the favourite has {share} of the sessions, not 0.6"
    );
    waxwing.stop().map(drop)
}

fn a_canary_that_drops_every_flow_is_taken_back() -> Result<()> {
    const DROP: &str = "(local $i i32)
      (loop $next
        (i32.store (i32.add (i32.const 0x4000) (i32.shl (local.get $i) (i32.const 2))) (i32.const -1))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $i) (local.get 1))))
      (local.get 1)";
    let topology = Topology::new(Layout {
        queues: 2,
        ..Layout::default()
    })?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    config.canary.time = "2s";
    let waxwing = Waxwing::start(&topology, &config)?;
    let shipped = hash(&waxwing)?;
    let load = Load {
        // A client whose SYN is dropped opens no other connection for a while.
        clients: 300,
        rate: 200,
        ..connections(VIP4, 80, Duration::from_secs(6))
    };
    let running = RunningLoad::start(&topology.client, load)?;
    waxwing.drop_in(
        "round_robin.wasm",
        &Wat::picking(DROP).bytes(),
        Copy::Atomic,
    )?;
    let status = waxwing.wait_status("the quarantine", |status| {
        let reason = &status.0["modules"][0]["quarantined"][0]["reason"];
        let reason = reason.as_str().unwrap_or_default();
        reason.starts_with("failed on its first worker: web: drops 100 % of")
    })?;
    running.finish()?;
    ensure!(
        status.module_hash("round_robin") == Some(&shipped),
        "{status}"
    );
    let shares = shares(&topology)?;
    ensure!(shares.iter().all(|share| *share > 0.3), "{shares:?}");
    ensure!(
        waxwing.log().contains("drops 100 % of"),
        "{}",
        waxwing.log()
    );
    waxwing.stop().map(drop)
}

fn a_quarantine_is_lifted_and_odd_files_are_named() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = web(&topology);
    let waxwing = Waxwing::start(&topology, &config)?;
    let shipped = hash(&waxwing)?;
    // Answers the test flows, and traps when it ticks.
    let ticks = Wat {
        section: "kind=policy\\0aabi=1.0\\0aname=test\\0atick=10\\0a",
        more: "(func (export \"waxwing_tick\") (param i32) unreachable)",
        ..Wat::GOOD
    };
    waxwing.drop_in("round_robin.wasm", &ticks.bytes(), Copy::Atomic)?;
    let module = |status: &Status| status.0["modules"][0].clone();
    let status = waxwing.wait_status("the quarantine", |status| {
        module(status)["quarantined"][0]["reason"].is_string()
    })?;
    let fault = module(&status)["last_fault"]["text"].clone();
    let fault = fault.as_str().unwrap_or_default();
    ensure!(
        fault.starts_with("service web, worker 0: trapped"),
        "{fault}"
    );
    let text = waxwing.ask(&["status"])?.stdout;
    let instead = format!("{shipped} (shipped) serves instead");
    ensure!(
        text.contains(&instead) && text.contains("last fault"),
        "{text}"
    );

    let lift = || waxwing.ask(&["module", "lift", "round_robin"]);
    let refused = waxwing.ask(&["module", "lift", "round_robin", "0000"])?;
    ensure!(
        refused.stderr.contains("its quarantined builds: "),
        "{}",
        refused.stderr
    );
    let first = module(&status)["steps"].clone();
    let lifted = lift()?;
    ensure!(
        lifted.status.success() && lifted.stdout.len() > 64,
        "{}",
        lifted.stderr
    );
    // It is tried again, and fails again.
    waxwing.wait_status("the second quarantine", |status| {
        let now = module(status);
        now["steps"] != first && now["quarantined"][0]["reason"].is_string()
    })?;
    ensure!(lift()?.status.success());

    waxwing.drop_in("my policy.wasm", b"anything", Copy::Atomic)?;
    waxwing.drop_in("nothing.wasm", b"", Copy::Atomic)?;
    let texts = [
        "my policy.wasm: no service can name this file",
        "nothing.wasm is empty",
        "cannot read the folder",
    ];
    let told = |text: &str| -> Result<()> {
        waxwing.wait_status(text, |status| {
            status.0["module_files"].to_string().contains(text)
        })?;
        waxwing.wait_log(text)?;
        Ok(())
    };
    told(texts[0])?;
    told(texts[1])?;
    std::fs::remove_dir_all(&config.modules)?;
    told(texts[2])?;
    // The folder is looked at four times a second.
    thread::sleep(Duration::from_secs(1));
    let log = waxwing.log();
    for text in texts {
        ensure!(log.matches(text).count() == 1, "not once `{text}`:\n{log}");
    }
    waxwing.stop().map(drop)
}

fn a_rate_limit_goes_on_over_changes_of_weights() -> Result<()> {
    // Gives the first ten flows to server 1, and drops all others. It needs no call when backends change.
    let limit = Wat {
        section: "kind=policy\\0aabi=1.0\\0aname=limit\\0akeep=1\\0a",
        ..Wat::picking(
            "(i32.store (i32.const 0x4000) (select (i32.const 0) (i32.const -1)
               (i32.lt_u (i32.load (i32.const 32)) (i32.const 10))))
             (i32.store (i32.const 32) (i32.add (i32.load (i32.const 32)) (i32.const 1)))
             (local.get 1)",
        )
    };
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    config.service_mut("web")?.policy = "limit".to_owned();
    std::fs::create_dir_all(&config.modules)?;
    std::fs::write(config.modules.join("limit.wasm"), limit.bytes())?;
    let waxwing = Waxwing::start(&topology, &config)?;
    let connect = || topology.client.enter(|| query::connect(WEB));
    let third = format!("{}:8080", server4(3));
    for turn in 0..10 {
        connect()?.with_context(|| format!("connection {turn}"))?;
        let (state, takes_new) = match turn % 2 {
            0 => ("drain", false),
            _ => ("enable", true),
        };
        ask(&waxwing, &["backend", state, "web", &third])?;
        waxwing.wait_status("the new weight", |status| {
            status.takes_new("web")[2] == takes_new
        })?;
    }
    ensure!(connect()?.is_err(), "an eleventh connection was let in");
    waxwing.stop().map(drop)
}

/// Returns the servers' shares of a second's requests.
fn shares(topology: &Topology) -> Result<[f64; 3]> {
    let load = Load {
        rate: 600,
        ..connections(VIP4, 80, Duration::from_secs(1))
    };
    let tally = actors::load(&topology.client, load)?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    Ok(["1", "2", "3"].map(|server| tally.share(server)))
}

fn a_signal_steers_without_a_reload() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    let service = config.service_mut("web")?;
    service.policy = "least_signal".to_owned();
    service.signals = vec!["queue"];
    // Requests end at once, so that sessions must not count as queue length.
    let keys = [("max", 100), ("per_session", 0)];
    service.policy_config = keys
        .map(|(key, value)| (key.to_owned(), value.into()))
        .into();
    let waxwing = Waxwing::start(&topology, &config)?;
    let set = |server: u8, value: u32| {
        let (backend, signal) = (
            format!("{}:8080", server4(server)),
            format!("queue={value}"),
        );
        let finished = waxwing.ask(&["backend", "signal", "web", &backend, &signal])?;
        ensure!(finished.status.success(), "refused: {}", finished.stderr);
        Ok(())
    };
    let generation = |status: &Status| status.0["config"]["generation"].as_u64();
    let before = generation(&waxwing.status()?);
    let even = shares(&topology)?;
    ensure!(even.iter().all(|share| *share > 0.2), "uneven: {even:?}");

    // Server 2 reports a queue over the bound, then the other two do.
    set(2, 100)?;
    let without_2 = shares(&topology)?;
    ensure!(
        without_2[1] == 0.0 && without_2[0] > 0.3 && without_2[2] > 0.3,
        "{without_2:?}"
    );
    set(2, 0)?;
    set(1, 100)?;
    set(3, 100)?;
    let only_2 = shares(&topology)?;
    // A pick compares a few random pairs; sometimes server 2 is in none of them.
    ensure!(only_2[1] > 0.9, "{only_2:?}");
    ensure!(
        generation(&waxwing.status()?) == before,
        "the config was reloaded"
    );
    let refused = waxwing.ask(&["backend", "signal", "web", "10.9.9.9:1", "queue=1"])?;
    ensure!(
        refused.stderr.contains("has no backend \"10.9.9.9:1\""),
        "{}",
        refused.stderr
    );
    waxwing.stop().map(drop)
}

/// A client may begin ten sessions. It sends forty SYNs at once, to both workers; a SYN that is dropped is
/// sent again. Without the workers' common count it gets twenty.
fn a_clients_limit_holds_over_all_workers() -> Result<()> {
    let topology = Topology::new(Layout::with_queues(2))?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    let service = config.service_mut("web")?;
    service.policy = "client_limit".to_owned();
    service.policy_config = [("sessions", 10), ("window_s", 3600)]
        .map(|(key, value)| (key.to_owned(), value.into()))
        .into();
    let waxwing = Waxwing::start(&topology, &config)?;
    let opened = topology.client.enter(|| {
        thread::scope(|scope| {
            let connect = || TcpStream::connect_timeout(&WEB, Duration::from_secs(8)).ok();
            let all: Vec<_> = (0..40).map(|_| scope.spawn(connect)).collect();
            all.into_iter().filter_map(|one| one.join().ok()?).count()
        })
    })?;
    let status = waxwing.wait_status("the count", |status| {
        status.0["services"][0]["counters"]["limited"].as_u64() > Some(0)
    })?;
    let by_worker = [0, 1].map(|at| status.0["workers"][at]["sessions_opened"].as_u64());
    eprintln!("{opened} of 40 are served, by worker {by_worker:?}");
    ensure!(opened == 10, "{opened} are served: {status}");
    ensure!(
        by_worker.iter().all(|sessions| *sessions > Some(0)),
        "one worker got all: {status}"
    );
    waxwing.stop().map(drop)
}

/// The balancer measures latency, rates and failures from packets; the status shows them and a module's
/// counters.
fn a_policy_sees_latency_rates_and_failures() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    config.service_mut("web")?.policy = "sticky_source".to_owned();
    let waxwing = Waxwing::start(&topology, &config)?;
    let tally = actors::load(
        &topology.client,
        Load {
            rate: 300,
            ..connections(VIP4, 80, Duration::from_secs(3))
        },
    )?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    // All requests come from one client, so that one server answers all.
    let status = waxwing.wait_status("the counters", |status| {
        status.0["services"][0]["counters"]["new"] == 1
    })?;
    let service = &status.0["services"][0];
    let hits = service["counters"]["hits"].as_u64().unwrap_or(0);
    ensure!(hits + 1 == tally.answers(), "{hits} hits: {status}");
    ensure!(service["gauges"]["clients"] == 1, "clients: {status}");
    let busy = (0..3).map(|at| &service["backends"][at]);
    let busy = busy.max_by_key(|backend| backend["sessions"].as_u64());
    let busy = busy.context("no backend")?;
    for number in ["latency_us", "sessions_per_s"] {
        ensure!(busy[number].as_u64() > Some(0), "no {number}: {status}");
    }

    // Without servers, connections are refused: the status counts them and has their rate.
    drop(servers);
    let load = Load {
        rate: 50,
        ..connections(VIP4, 80, Duration::from_secs(3))
    };
    let tally = actors::load(&topology.client, load)?;
    ensure!(tally.answers() == 0, "a server answered");
    let status = waxwing.status()?;
    let backends = (0..3).map(|at| &status.0["services"][0]["backends"][at]);
    let sum = |key: &str| {
        backends
            .clone()
            .filter_map(|b| b[key].as_u64())
            .sum::<u64>()
    };
    ensure!(sum("refused") > 50, "{status}");
    ensure!(sum("failures_ppm") > 0, "{status}");
    waxwing.stop().map(drop)
}
