//! Many backends with slow checks do not delay the checks of other services.

use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::check_wat::CheckWat;
use waxwing_tests::topology::server4;
use waxwing_tests::{Backend, HealthCheck, Layout, Service, Topology, Waxwing};

use crate::health::{quick, three, wait_web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(a_hundred_checks_that_loop_make_no_other_late).alone(),
    scenario!(six_hundred_silent_backends_make_no_other_check_late, "nft").alone(),
];

/// Returns a service of many backends on the second server. Its checks are scheduled before those of `web`.
fn crowd(name: &str, backends: u16, check: HealthCheck) -> Service {
    let mut service = Service::v4(name, "tcp", (1000, 0), 0);
    let ports = 10_000..10_000 + backends;
    service.backends = ports.map(|port| Backend::new(server4(2), port)).collect();
    service.checked(check)
}

/// Returns a service of many backends in a rack without power, which refuses no connection: each check waits
/// for its whole timeout of ten seconds.
pub(crate) fn silent_rack(topology: &Topology, name: &str, backends: u16) -> Result<Service> {
    let last = 10_000 + backends - 1;
    let rules = format!(
        "add table inet rack; \
         add chain inet rack input {{ type filter hook input priority filter; }}; \
         add rule inet rack input tcp dport 10000-{last} drop"
    );
    topology.servers[1].run("nft", &[&rules])?;
    let check = HealthCheck {
        interval: Some("1s"),
        fast_interval: Some("1s"),
        timeout: Some("10s"),
        ..quick("tcp")
    };
    Ok(crowd(name, backends, check))
}

/// Observes for five seconds that the backends of `web`, which are checked every 300 ms, stay up and that the
/// last check of each is recent. The status has times in seconds, rounded down.
fn assert_on_time(waxwing: &Waxwing<'_>) -> Result<()> {
    const LOOKED: Duration = Duration::from_secs(5);
    // Long enough for the slowest machine.
    const AGO_MAX: Duration = Duration::from_secs(10);
    let before = wait_web(waxwing, ["up"; 3])?;
    let end = Instant::now() + LOOKED;
    let mut longest = 0.0_f64;
    let mut status = before.clone();
    while Instant::now() < end {
        status = waxwing.status()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        for number in 1..=3 {
            let server = format!("server-{number}");
            let [was, is] = [&before, &status].map(|it| it.health("web", server.as_str()));
            ensure!(
                is.state == "up" && is.history == was.history,
                "{server} was not up all the time: {is:#?}"
            );
            let last = is.checks.first().and_then(|check| check.last_at);
            longest = longest.max(now - last.context("up without a check result")?);
        }
        thread::sleep(Duration::from_millis(100));
    }
    let (before, after) = (before.punctuality(), status.punctuality());
    eprintln!(
        "the last check was {longest:.1} s ago at most; {} checks in total, {} running, late by {} ms \
         (p99), {} ms (most)",
        after.runs.saturating_sub(before.runs),
        after.running,
        after.late_p99_ms,
        after.late_max_ms
    );
    ensure!(
        longest < AGO_MAX.as_secs_f64(),
        "checks are due every 300 ms, but the last one was {longest:.1} s ago"
    );
    Ok(())
}

/// Until the module's quarantine, its 100 looping checks need five seconds of processor time each second.
fn a_hundred_checks_that_loop_make_no_other_late() -> Result<()> {
    const NAME: &str = "looping";
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    let module = CheckWat::checking("(loop $on (br $on)) (unreachable)");
    fs::create_dir_all(&config.modules)?;
    fs::write(config.modules.join(format!("{NAME}.wasm")), module.bytes())?;
    let check = HealthCheck {
        interval: Some("1s"),
        fast_interval: Some("1s"),
        // On a slow machine too, each uses up its processor time first.
        timeout: Some("30s"),
        ..quick(NAME)
    };
    config.services.insert(0, crowd(NAME, 100, check));
    // Looping checks run for a millisecond each in turn, and a check of `web` needs a few turns.
    config.service_mut("web")?.health[0].timeout = Some("1s");
    let waxwing = Waxwing::start(&topology, &config)?;
    assert_on_time(&waxwing)?;
    let status = waxwing.wait_status("the module's quarantine", |status| {
        !status.module_quarantined(NAME).is_empty()
    })?;
    eprintln!(
        "{} faults: {:?}; a backend of its service: {:?}",
        status.module_faults(NAME),
        status.module_quarantined(NAME),
        status.health(NAME, 0).reason
    );
    waxwing.stop().map(drop)
}

fn six_hundred_silent_backends_make_no_other_check_late() -> Result<()> {
    const NAME: &str = "rack";
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    config
        .services
        .insert(0, silent_rack(&topology, NAME, 600)?);
    let waxwing = Waxwing::start(&topology, &config)?;
    assert_on_time(&waxwing)?;
    let reason = waxwing.status()?.health(NAME, 0).reason;
    ensure!(
        !reason.contains("refused"),
        "the rack refuses connections: {reason}"
    );
    waxwing.stop().map(drop)
}
