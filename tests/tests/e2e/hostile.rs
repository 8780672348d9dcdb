//! Hostile files in the module folder of a balancer under load: each gets its verdict, and no request fails.

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{self, RunningLoad, connections};
use waxwing_tests::check_wat::CheckWat;
use waxwing_tests::hostile::{self, Hostile, Verdict, checks};
use waxwing_tests::load::UNTIL_STOPPED;
use waxwing_tests::moody_server::Mood;
use waxwing_tests::topology::VIP4;
use waxwing_tests::wat::Wat;
use waxwing_tests::waxwing::Copy;
use waxwing_tests::{Config, Layout, Load, Server, Service, Status, Topology, Waxwing};

use crate::health::{quick, three, wait_web};
use crate::traffic::assert_served;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(no_file_in_the_module_folder_fails_a_request).heavy(),
    scenario!(
        after_a_kill_the_last_good_build_serves_for_a_bad_file,
        "curl"
    ),
    scenario!(modules_that_compile_for_long_delay_no_start).heavy(),
    scenario!(hostile_checks_make_no_other_check_late).alone(),
];

/// Number of services, each with its own module, and so the number of files copied at once.
const SERVICES: u16 = 8;

/// Body of a pick function that always picks the first backend.
const FIRST: &str = "(i32.store (i32.const 0x4000) (i32.const 0)) (local.get 1)";

fn policy(number: u16) -> String {
    format!("policy-{number}")
}

fn file(policy: &str) -> String {
    format!("{policy}.wasm")
}

/// Returns services on ports 80 and up, each with its own policy, and writes the policies to the folder.
fn services(topology: &Topology, count: u16) -> Result<Config> {
    let mut config = Config::new(topology);
    config.canary.time = "300ms";
    fs::create_dir_all(&config.modules)?;
    for number in 0..count {
        let policy = policy(number);
        fs::write(config.modules.join(file(&policy)), Wat::GOOD.bytes())?;
        let name = format!("web{number}");
        let mut service = Service::v4(&name, "tcp", (80 + number, 8080), 3);
        service.policy = policy;
        // A policy learns of a session's end when its slot is freed.
        service.timeouts.insert("tcp_closing", "1s");
        config = config.with(service);
    }
    Ok(config)
}

/// A hostile module in a policy's file, and the policy's status before.
struct Dropped<'a> {
    policy: String,
    module: &'a Hostile,
    serving: Option<String>,
    refused: Option<String>,
}

impl<'a> Dropped<'a> {
    fn new(
        waxwing: &Waxwing<'_>,
        policy: String,
        module: &'a Hostile,
        was: &Status,
    ) -> Result<Self> {
        waxwing.drop_in(&file(&policy), &module.bytes, Copy::Atomic)?;
        Ok(Self {
            serving: was.module_hash(&policy).map(str::to_owned),
            refused: was.module_refused(&policy),
            policy,
            module,
        })
    }

    /// Whether the status shows the verdict. After a refusal or quarantine the previous module serves.
    fn is_judged(&self, status: &Status) -> bool {
        let (stage, why) = match self.module.verdict {
            Verdict::Refused(stage, why) => (stage, why),
            // The trial with recent flows may already show the violation.
            Verdict::Cut(_, why) => ("", why),
            Verdict::Serves => {
                let serving = status.module_hash(&self.policy);
                return serving != self.serving.as_deref() && !status.has_canary(&self.policy);
            }
        };
        let refused = status.module_refused(&self.policy);
        let said = refused
            .as_ref()
            .is_some_and(|r| r.contains(stage) && r.contains(why));
        let is_new = refused != self.refused && !status.has_canary(&self.policy);
        said && is_new && status.module_hash(&self.policy) == self.serving.as_deref()
    }
}

/// Replaces the policies' files, and waits for all verdicts.
fn judge(waxwing: &Waxwing<'_>, modules: &[Hostile]) -> Result<()> {
    let was = waxwing.status()?;
    let dropped = (0..)
        .zip(modules)
        .map(|(number, module)| Dropped::new(waxwing, policy(number), module, &was))
        .collect::<Result<Vec<_>>>()?;
    for one in &dropped {
        let what = format!("the verdict on a module that {}", one.module.what);
        waxwing
            .wait_status(&what, |status| one.is_judged(status))
            .with_context(|| format!("{:?}", one.module.verdict))?;
    }
    Ok(())
}

/// Writes unrelated files, and entries that are not regular files.
fn write_invalid_files(config: &Config) -> Result<()> {
    for number in 0..1000 {
        fs::write(config.modules.join(format!("invalid-{number}.wasm")), b"x")?;
    }
    let place = |name: &str| config.modules.join(name);
    fs::create_dir(place("folder.wasm"))?;
    symlink("circle.wasm", place("circle.wasm"))?;
    symlink("/dev/zero", place("device.wasm"))?;
    fs::File::create(place("sparse.wasm"))?.set_len(100_000_000)?;
    nix::unistd::mkfifo(&place("pipe.wasm"), nix::sys::stat::Mode::S_IRWXU)?;
    fs::write(place("\u{1b}[2J.wasm"), b"x")?;
    // A folder with a policy's file name.
    fs::remove_file(place(&file(&policy(0))))?;
    fs::create_dir(place(&file(&policy(0))))?;
    Ok(())
}

fn no_file_in_the_module_folder_fails_a_request() -> Result<()> {
    let topology = Topology::new(Layout::with_queues(2))?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = services(&topology, SERVICES)?;
    let waxwing = Waxwing::start(&topology, &config)?;
    let load = |number| Load {
        clients: 4,
        rate: 60,
        ..connections(VIP4, 80 + number, UNTIL_STOPPED)
    };
    let mut loads = (0..SERVICES)
        .map(|number| RunningLoad::start(&topology.client, load(number)))
        .collect::<Result<Vec<_>>>()?;

    let modules = hostile::all();
    for modules in modules.chunks(usize::from(SERVICES)) {
        judge(&waxwing, modules)?;
    }
    let status = waxwing.status()?;
    let quarantined: usize = (0..SERVICES)
        .map(|number| status.module_quarantined(&policy(number)).len())
        .sum();
    let is_cut = |module: &&Hostile| matches!(module.verdict, Verdict::Cut(..));
    let cut = modules.iter().filter(is_cut).count();
    // A client's packet triggers one of the violations: if the trial has that packet, the build is refused
    // instead.
    ensure!(
        quarantined == cut || quarantined == cut - 1,
        "{quarantined} builds are quarantined, {cut} violate a rule while serving: {status}"
    );

    write_invalid_files(&config)?;
    waxwing.wait_status(
        "the folder with a policy's file name to be refused",
        |status| {
            let refused = status.module_refused(&policy(0));
            refused.is_some_and(|refused| refused.contains("not a regular file"))
        },
    )?;
    fs::remove_dir(config.modules.join(file(&policy(0))))?;
    for number in 0..SERVICES {
        let policy = policy(number);
        let before = waxwing.status()?.module_hash(&policy).map(str::to_owned);
        waxwing.drop_in(&file(&policy), &Wat::picking(FIRST).bytes(), Copy::Atomic)?;
        let status = waxwing.wait_status("the good build to serve", |status| {
            status.module_hash(&policy) != before.as_deref() && !status.has_canary(&policy)
        })?;
        ensure!(status.module_refused(&policy).is_none(), "{status}");
        let steps = status.module_steps(&policy);
        ensure!(steps.last() == Some(&"serves on all workers"), "{steps:?}");
    }

    for load in &mut loads {
        ensure!(!load.has_ended()?, "the load ended before the last module");
        load.stop()?;
    }
    for load in loads {
        let tally = load.finish()?;
        ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
        ensure!(tally.answers() > 100, "{} answers", tally.answers());
    }
    waxwing.stop().map(drop)
}

fn after_a_kill_the_last_good_build_serves_for_a_bad_file() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = services(&topology, 1)?;
    let policy = policy(0);
    let mut waxwing = Waxwing::start(&topology, &config)?;
    let good = waxwing.status()?.module_hash(&policy).map(str::to_owned);
    waxwing.drop_in(&file(&policy), b"half a fi", Copy::Atomic)?;
    waxwing.wait_status("the bad file to be refused", |status| {
        status.module_refused(&policy).is_some()
    })?;

    waxwing.kill();
    waxwing.restart()?;
    let status = waxwing.status()?;
    ensure!(status.module_hash(&policy) == good.as_deref(), "{status}");
    let source = status.module_source(&policy).unwrap_or_default();
    ensure!(source.contains("/state/policies/last-good/"), "{status}");
    ensure!(status.module_refused(&policy).is_some(), "{status}");
    assert_served(&topology, VIP4)?;
    waxwing.stop().map(drop)
}

/// Four modules take the compiler's whole time, ten seconds each. Their last good builds serve at once; the
/// modules are refused later, and at the next start at once.
fn modules_that_compile_for_long_delay_no_start() -> Result<()> {
    const BOMBS: u16 = 4;
    const START_MAX: Duration = Duration::from_secs(9);
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = services(&topology, BOMBS)?;
    let mut waxwing = Waxwing::start(&topology, &config)?;
    waxwing.kill();
    for number in 0..BOMBS {
        let bomb = hostile::compile_bomb(&number.to_string());
        fs::write(config.modules.join(file(&policy(number))), bomb)?;
    }
    let took = waxwing.restart()?;
    ensure!(took < START_MAX, "it started after {took:?}");
    assert_served(&topology, VIP4)?;
    let reason = "cannot be compiled";
    let is_refused = |status: &Status, number| {
        let refused = status.module_refused(&policy(number));
        refused.is_some_and(|refused| refused.contains(reason))
    };
    waxwing.wait_status("the refusals", |status| {
        (0..BOMBS).all(|number| is_refused(status, number))
    })?;
    assert_served(&topology, VIP4)?;

    waxwing.kill();
    let again = waxwing.restart()?;
    eprintln!("it started after {took:?}, then after {again:?}");
    let status = waxwing.status()?;
    for number in 0..BOMBS {
        ensure!(is_refused(&status, number), "compiled again: {status}");
    }
    assert_served(&topology, VIP4)?;
    waxwing.stop().map(drop)
}

/// All hostile checks run at once, each on its own service, beside a service that is checked every 300 ms.
/// That service's backends stay up.
fn hostile_checks_make_no_other_check_late() -> Result<()> {
    const SECONDS: u64 = 6;
    let topology = Topology::new(Layout::default())?;
    let (servers, mut config) = three(&topology)?;
    let flood = Server::moody(&topology, 1, 9100..=9100)?;
    flood.set_mood(&Mood::Flooding)?;
    fs::create_dir_all(&config.modules)?;
    let hostile = checks::at_work();
    for (number, check) in (0..).zip(&hostile) {
        fs::write(config.modules.join(file(check.name)), &check.bytes)?;
        let service = Service::v4(check.name, "tcp", (1000 + number, 9100), 1);
        config = config.with(service.checked(quick(check.name)));
    }
    fs::write(
        config.modules.join(file("elsewhere")),
        CheckWat::GOOD.bytes(),
    )?;
    let service = Service::v4("elsewhere", "tcp", (2000, 9100), 1);
    config = config.with(service.checked(quick("elsewhere")));
    let waxwing = Waxwing::start(&topology, &config)?;
    for check in &hostile {
        let what = format!("the backend of {} to be down", check.name);
        let status =
            waxwing.wait_status(&what, |status| status.health(check.name, 0).state == "down")?;
        let reason = status.health(check.name, 0).reason;
        eprintln!("{}: {reason}", check.name);
        ensure!(!reason.is_empty(), "{} has no reason", check.name);
    }
    let before = wait_web(&waxwing, ["up"; 3])?;
    thread::sleep(Duration::from_secs(SECONDS));
    let after = waxwing.status()?;
    for number in 1..=servers.len() {
        let server = format!("server-{number}");
        let [was, is] = [&before, &after].map(|status| status.health("web", server.as_str()));
        ensure!(
            is.state == "up" && is.history == was.history,
            "{server} was not up all the time: {is:#?}"
        );
    }
    let times = after.punctuality();
    eprintln!(
        "beside hostile checks, checks are late by {} ms (p99), {} ms (most) of 300 ms",
        times.late_p99_ms, times.late_max_ms
    );

    // A module with an import that checks may not use is refused; the previous build serves.
    waxwing.drop_in(
        &file("elsewhere"),
        &checks::connecting_elsewhere(),
        Copy::Atomic,
    )?;
    waxwing.wait_status("the refusal of a check that connects elsewhere", |status| {
        let refused = status.module_refused("elsewhere");
        refused.is_some_and(|refused| refused.contains("connect_to"))
    })?;
    ensure!(
        waxwing.status()?.health("elsewhere", 0).state == "up",
        "the previous check does not serve"
    );
    waxwing.stop().map(drop)
}
