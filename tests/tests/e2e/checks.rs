//! Single health checks: TLS verification, weights from an agent, a metric as a signal, and a custom check.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use waxwing_tests::check_wat::CheckWat;
use waxwing_tests::config::Tls;
use waxwing_tests::moody_server::Mood;
use waxwing_tests::servers::{TLS_NAME, TLS_PORT};
use waxwing_tests::waxwing::Copy;
use waxwing_tests::{
    Config, HealthCheck, Kind, Layout, Server, Service, Topology, Waxwing, certificate, modules,
};

use crate::health::{quick, start_all_up, three, wait_web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(an_https_check_verifies_roots_and_name, "nginx", "openssl"),
    scenario!(an_agent_check_sets_the_weight),
    scenario!(a_metric_of_a_page_becomes_a_signal),
    scenario!(a_custom_check_detects_a_long_queue),
    scenario!(what_a_check_logs_is_in_the_status),
];

/// Four checks of one TLS server differ in the expected server name, the trusted roots and the verification.
fn an_https_check_verifies_roots_and_name() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let server = Server::start(&topology, 1, Kind::Nginx)?;
    let strange = certificate::make(topology.scratch.path(), TLS_NAME)?;
    let tls = |roots: &Path, name, verify| Tls {
        roots: Some(roots.to_owned()),
        server_name: Some(name),
        verify,
    };
    let mut config = Config::new(&topology);
    let cases = [
        ("good", tls(&server.certificate(), TLS_NAME, None), "up"),
        (
            "another",
            tls(&server.certificate(), "b.test", None),
            "down",
        ),
        ("strange", tls(&strange, TLS_NAME, None), "down"),
        ("trusting", tls(&strange, "b.test", Some(false)), "up"),
    ];
    for (port, (name, tls, _)) in (443..).zip(cases.clone()) {
        let check = HealthCheck {
            tls: Some(tls),
            timeout: Some("1s"),
            ..quick("http").with("path = '/healthz'\ntls = true")
        };
        let service = Service::v4(name, "tcp", (port, TLS_PORT), 1);
        config = config.with(service.checked(check));
    }
    let waxwing = Waxwing::start(&topology, &config)?;
    for (name, _, state) in cases {
        let status = waxwing.wait_status(&format!("{name} to be {state}"), |status| {
            status.health(name, 0).state == state
        })?;
        let reason = status.health(name, 0).reason;
        eprintln!("{name}: {state}: {reason}");
        ensure!(
            state == "up" || reason.contains("certificate"),
            "{name} is down for another reason: {reason}"
        );
    }
    waxwing.stop().map(drop)
}

fn an_agent_check_sets_the_weight() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (servers, mut config) = three(&topology)?;
    config.service_mut("web")?.health = vec![quick("agent")];
    let say = |word: &str| servers[0].set_mood(&Mood::Saying(format!("{word}\n")));
    for server in &servers {
        server.set_mood(&Mood::Saying("up\n".to_owned()))?;
    }
    let waxwing = start_all_up(&topology, &config)?;
    say("up 25%")?;
    waxwing.wait_status("a quarter of its weight", |status| {
        status.health("web", "server-1").weight_percent == 25
    })?;
    say("drain")?;
    wait_web(&waxwing, ["draining", "up", "up"])?;
    say("down")?;
    wait_web(&waxwing, ["down", "up", "up"])?;
    say("up 100%")?;
    wait_web(&waxwing, ["up"; 3])?;
    waxwing.stop().map(drop)
}

fn a_metric_of_a_page_becomes_a_signal() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (servers, mut config) = three(&topology)?;
    let web = config.service_mut("web")?;
    web.signals = vec!["queue"];
    web.health = vec![quick("metrics").with("metric = 'queue_length'\nsignal = 'queue'")];
    let show = |server: &Server<'_>, length: u32| {
        let page = format!("# TYPE queue_length gauge\nqueue_length {length}\n");
        let bytes = page.len();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length:";
        server.set_mood(&Mood::Saying(format!("{head} {bytes}\r\n\r\n{page}")))
    };
    servers.iter().try_for_each(|server| show(server, 3))?;
    let waxwing = start_all_up(&topology, &config)?;
    let wait_queues = |queues: [u32; 3]| {
        let what = format!("the queues to be {queues:?}");
        waxwing.wait_status(&what, |status| {
            let backends = &status.0["services"][0]["backends"];
            let queue = |place: usize| &backends[place]["signals"]["queue"];
            (0..3).all(|place| *queue(place) == queues[place])
        })
    };
    wait_queues([3; 3])?;
    show(&servers[1], 1000)?;
    wait_queues([3, 1000, 3])?;
    waxwing.stop().map(drop)
}

/// The tutorial's module, copied to the module folder, checks servers that report their queue's length.
fn a_custom_check_detects_a_long_queue() -> Result<()> {
    let module = modules::compile("queue-check")?;
    let topology = Topology::new(Layout::default())?;
    let (servers, mut config) = three(&topology)?;
    let check = quick("queue_check").with("depth_max = 100");
    config.service_mut("web")?.health = vec![check];
    let say = |server: &Server<'_>, depth: u32, state: &str| {
        server.set_mood(&Mood::Saying(format!("PONG depth={depth} state={state}\n")))
    };
    servers
        .iter()
        .try_for_each(|server| say(server, 3, "ready"))?;
    fs::create_dir_all(&config.modules)?;
    fs::write(config.modules.join("queue_check.wasm"), &module)?;
    let waxwing = start_all_up(&topology, &config)?;
    say(&servers[0], 5, "leaving")?;
    wait_web(&waxwing, ["draining", "up", "up"])?;
    say(&servers[0], 5, "ready")?;
    wait_web(&waxwing, ["up"; 3])?;
    say(&servers[1], 1000, "ready")?;
    let status = wait_web(&waxwing, ["up", "down", "up"])?;
    let health = status.health("web", "server-2");
    ensure!(health.reason.contains("1000"), "{health:#?}");
    say(&servers[1], 3, "ready")?;
    wait_web(&waxwing, ["up"; 3])?;
    // Copying the same build again while the folder is watched takes no backend down.
    waxwing.drop_in("queue_check.wasm", &module, Copy::Slow)?;
    thread::sleep(Duration::from_secs(2));
    wait_web(&waxwing, ["up"; 3])?;
    waxwing.stop().map(drop)
}

fn what_a_check_logs_is_in_the_status() -> Result<()> {
    const LINE: &str = "twelve waiting";
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    let data = format!(
        "{}(data (i32.const 0x3000) \"{LINE}\")",
        CheckWat::GOOD.more
    );
    let module = CheckWat {
        more: data.leak(),
        ..CheckWat::checking(
            "(call $log (i32.const 0x3000) (i32.const 14)) (call $say (i32.const 7))",
        )
    };
    fs::create_dir_all(&config.modules)?;
    fs::write(config.modules.join("talks.wasm"), module.bytes())?;
    config.service_mut("web")?.health = vec![quick("talks")];
    let waxwing = start_all_up(&topology, &config)?;
    let status = waxwing.status()?;
    let check = &status.0["services"][0]["backends"][0]["health"]["checks"][0];
    ensure!(check["log"] == serde_json::json!([LINE]), "{check}");
    let text = waxwing.ask(&["status"])?.stdout;
    ensure!(text.contains(&format!("log of talks: {LINE}")), "{text}");
    waxwing.stop().map(drop)
}
