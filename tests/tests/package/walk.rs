//! The walk through a package's life.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::RunningLoad;
use waxwing_tests::container::Container;
use waxwing_tests::load::{Load, UNTIL_STOPPED};
use waxwing_tests::process::run as run_here;
use waxwing_tests::topology::{VIP4, server4};
use waxwing_tests::{Layout, Status, Topology, actors, modules};

use crate::rights;

pub(crate) const NAME: &str = "the_package_installs_serves_upgrades_and_leaves_nothing";

pub(crate) const UNIT: &str = "waxwing.service";

/// The config's place in the container.
const CONFIG: &str = "/etc/waxwing/waxwing.toml";

/// As long as systemd may take to start a service again.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn run() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let package = package()?;
    let newer = newer(&package, topology.scratch.path())?;
    let container = Container::boot(&topology.balancer, &topology.scratch)?;
    fs::copy(package, container.path("/srv/this.deb"))?;
    fs::copy(newer, container.path("/srv/newer.deb"))?;

    installs_and_starts_nothing(&container)?;
    starts_when_it_is_configured(&container, &topology)?;
    rights::assert_least(&container)?;
    reloads_what_is_right_alone(&container, &topology)?;
    is_started_again_after_a_kill(&container, &topology)?;
    is_started_again_if_it_hangs(&container, &topology)?;
    is_restarted_with_its_ports(&container, &topology)?;
    is_upgraded_in_place(&container, &topology)?;
    rights::assert_least(&container)?;
    is_started_again_after_a_kill(&container, &topology)?;
    serves_on_if_the_new_version_refuses_the_config(&container, &topology)?;
    is_restarted_if_the_new_version_cannot_take_over(&container, &topology)?;
    is_removed_and_purged(&container, &topology)
}

fn installs_and_starts_nothing(container: &Container) -> Result<()> {
    container.run(&["dpkg", "--install", "/srv/this.deb"])?;
    let state = container.property(UNIT, "ActiveState")?;
    ensure!(state == "inactive", "it is {state} before it is configured");
    // The config is complete but for its ports and services.
    let refused = container.finish(&["waxwing", "check", "--config", CONFIG])?;
    ensure!(
        !refused.status.success(),
        "a config without a port is accepted"
    );
    let version = container.run(&["waxwing", "--version"])?;
    let known = format!("waxwing {}", env!("CARGO_PKG_VERSION"));
    ensure!(version.starts_with(&known), "{version}");
    for page in [
        "waxwing.1.gz",
        "waxwing-run.1.gz",
        "waxwing-backend-drain.1.gz",
    ] {
        let page = container.path(&format!("/usr/share/man/man1/{page}"));
        ensure!(page.is_file(), "{} is missing", page.display());
    }
    let completion = container.path("/usr/share/bash-completion/completions/waxwing");
    let completion = fs::read_to_string(completion)?;
    ensure!(completion.contains("drain"), "no completion of `drain`");
    let sdk = container.path("/usr/share/waxwing/sdk/Cargo.toml");
    ensure!(sdk.is_file(), "the SDK is missing");
    Ok(())
}

fn starts_when_it_is_configured(container: &Container, topology: &Topology) -> Result<()> {
    configure(container, 3)?;
    container.run(&["systemctl", "enable", "--now", UNIT])?;
    assert_served(topology, 3)?;
    let said = container.property(UNIT, "StatusText")?;
    ensure!(said == "serving", "it says {said:?}");
    let socket = "/run/waxwing/waxwing.sock";
    let access = container.run(&["stat", "--format=%a %U %G", socket])?;
    ensure!(access.trim() == "660 waxwing waxwing", "{socket}: {access}");
    wait_for("its health checks", || {
        let health = container.finish(&["waxwing", "health"])?;
        Ok(health.status.success())
    })
}

fn reloads_what_is_right_alone(container: &Container, topology: &Topology) -> Result<()> {
    let path = container.path(CONFIG);
    let good = fs::read_to_string(&path)?;
    fs::write(&path, good.clone() + "colour = \"red\"\n")?;
    let refused = container.finish(&["systemctl", "reload", UNIT])?;
    ensure!(
        !refused.status.success(),
        "a wrong config is reloaded in silence"
    );
    let said = container.property(UNIT, "StatusText")?;
    ensure!(
        said.contains("the running config stays") && said.contains("colour"),
        "it says {said:?}"
    );
    let log = container.run(&["journalctl", "--unit", UNIT, "--no-pager"])?;
    ensure!(
        log.contains("colour"),
        "the log does not name the error: {log}"
    );
    assert_served(topology, 3)?;

    configure(container, 2)?;
    container.run(&["systemctl", "reload", UNIT])?;
    let said = container.property(UNIT, "StatusText")?;
    ensure!(said.contains("-1 backend"), "it says {said:?}");
    // A module in the package's folder, read by the user `waxwing`.
    let module = modules::compile("waxwing-policy-maglev")?;
    fs::write(
        container.path("/etc/waxwing/modules/round_robin.wasm"),
        module,
    )?;
    container.run(&["systemctl", "reload", UNIT])?;
    let status = container.run(&["waxwing", "status"]);
    ensure!(
        status
            .as_ref()
            .is_ok_and(|text| text.contains("round_robin.wasm")),
        "the module in the folder does not serve: {status:?}"
    );
    assert_served(topology, 2)?;
    let state = container.property(UNIT, "ActiveState")?;
    ensure!(state == "active", "it is {state} after a reload");
    Ok(())
}

fn is_started_again_after_a_kill(container: &Container, topology: &Topology) -> Result<()> {
    is_started_again_after(container, topology, || {
        container.run(&["systemctl", "kill", "--signal=KILL", UNIT])
    })
}

fn is_started_again_after(
    container: &Container,
    topology: &Topology,
    what: impl FnOnce() -> Result<String>,
) -> Result<()> {
    let before = container.main_process(UNIT)?;
    what()?;
    wait_for("it to be started again", || {
        let is_new = container.main_process(UNIT).is_ok_and(|now| now != before);
        Ok(is_new && container.property(UNIT, "ActiveState")? == "active")
    })?;
    assert_served(topology, 2)
}

/// All of its threads stop, as if the kernel gave them no processor.
fn is_started_again_if_it_hangs(container: &Container, topology: &Topology) -> Result<()> {
    let drop_in = "/run/systemd/system/waxwing.service.d/watchdog.conf";
    let drop_in = container.path_by_process(drop_in);
    fs::create_dir_all(drop_in.parent().context("a folder")?)?;
    fs::write(&drop_in, "[Service]\nWatchdogSec=2\n")?;
    container.run(&["systemctl", "daemon-reload"])?;
    container.run(&["systemctl", "restart", UNIT])?;
    is_started_again_after(container, topology, || {
        container.run(&[
            "systemctl",
            "kill",
            "--kill-who=main",
            "--signal=STOP",
            UNIT,
        ])
    })?;
    let log = container.run(&["journalctl", "--unit", UNIT, "--no-pager"])?;
    ensure!(
        log.contains("Watchdog timeout"),
        "something else ended it: {log}"
    );
    fs::remove_file(drop_in)?;
    container.run(&["systemctl", "daemon-reload"])?;
    container.run(&["systemctl", "restart", UNIT]).map(drop)
}

/// systemd keeps the ports meanwhile, and closes its copies.
fn is_restarted_with_its_ports(container: &Container, topology: &Topology) -> Result<()> {
    container.run(&["systemctl", "restart", UNIT])?;
    let log = container.run(&["journalctl", "--unit", UNIT, "--no-pager"])?;
    let last = log.rsplit(" starts\n").next().unwrap_or_default();
    ensure!(
        last.contains("goes on with the ports that the service manager has kept"),
        "it attached its ports anew: {log}"
    );
    let kept = container.property(UNIT, "NFileDescriptorStore")?;
    ensure!(
        kept == "0",
        "systemd keeps {kept} descriptors of a running service"
    );
    assert_served(topology, 2)
}

/// Another process is the unit's, and no connection ends.
fn is_upgraded_in_place(container: &Container, topology: &Topology) -> Result<()> {
    let before = container.main_process(UNIT)?;
    let restarts = container.property(UNIT, "NRestarts")?;
    let edited = fs::read_to_string(container.path(CONFIG))?;
    let load = Load {
        clients: 20,
        keep_alive: true,
        rate: 200,
        timeout: Duration::from_secs(10),
        ..actors::connections(VIP4, 80, UNTIL_STOPPED)
    };
    let mut load = RunningLoad::start(&topology.client, load)?;
    let status = || -> Result<Status> {
        let status = container.finish(&["waxwing", "status", "--json"])?;
        Ok(Status(serde_json::from_str(&status.stdout)?))
    };
    wait_for("twenty connections", || Ok(status()?.sessions() >= 20))?;
    let said = container.run(&["dpkg", "--install", "/srv/newer.deb"])?;
    let now = container.main_process(UNIT)?;
    ensure!(now != before, "the old version still runs: {said}");
    ensure!(
        !said.contains("restarted"),
        "it was not upgraded in place: {said}"
    );
    ensure!(!load.has_ended()?, "the load ended before the upgrade");
    let opened = status()?.counted("sessions_opened");
    ensure!(opened == 0, "{opened} connections were opened again");
    load.stop()?;
    let tally = load.finish()?;
    ensure!(
        tally.failed() == 0 && tally.answers() > 0,
        "connections broke: {:?}",
        tally.failures
    );
    let state = container.property(UNIT, "ActiveState")?;
    ensure!(state == "active", "it is {state} after the upgrade");
    ensure!(
        container.property(UNIT, "NRestarts")? == restarts,
        "systemd has started it again"
    );
    let said = container.property(UNIT, "StatusText")?;
    ensure!(said.starts_with("serving"), "it says {said:?}");
    let config = fs::read_to_string(container.path(CONFIG))?;
    ensure!(
        config == edited,
        "the edited config was replaced:\n{config}"
    );
    assert_served(topology, 2)
}

fn serves_on_if_the_new_version_refuses_the_config(
    container: &Container,
    topology: &Topology,
) -> Result<()> {
    let before = container.main_process(UNIT)?;
    let path = container.path(CONFIG);
    let good = fs::read_to_string(&path)?;
    fs::write(&path, good.clone() + "colour = \"red\"\n")?;
    let said = container.run(&["dpkg", "--install", "/srv/newer.deb"])?;
    fs::write(&path, good)?;
    ensure!(
        said.contains("this version refuses the config"),
        "it does not say why: {said}"
    );
    ensure!(container.main_process(UNIT)? == before, "it was restarted");
    assert_served(topology, 2)
}

fn is_restarted_if_the_new_version_cannot_take_over(
    container: &Container,
    topology: &Topology,
) -> Result<()> {
    let before = container.main_process(UNIT)?;
    let path = container.path(CONFIG);
    let good = fs::read_to_string(&path)?;
    fs::write(&path, good.clone() + "[rings]\nsize = 1024\n")?;
    let said = container.run(&["dpkg", "--install", "/srv/newer.deb"])?;
    ensure!(
        said.contains("so it is restarted") && said.contains("rings.size: 2048"),
        "it does not say why: {said}"
    );
    ensure!(container.main_process(UNIT)? != before, "the old one runs");
    assert_served(topology, 2)?;
    fs::write(&path, good)?;
    container.run(&["systemctl", "restart", UNIT]).map(drop)
}

fn is_removed_and_purged(container: &Container, topology: &Topology) -> Result<()> {
    container.run(&["systemctl", "stop", UNIT])?;
    let result = container.property(UNIT, "Result")?;
    ensure!(result == "success", "it ended with {result}");
    for port in topology.ports() {
        let has_program = topology.balancer.has_xdp(port)?;
        ensure!(!has_program, "{port} still has an XDP program");
    }
    container.run(&["systemctl", "start", UNIT])?;
    container.run(&["dpkg", "--remove", "waxwing"])?;
    ensure!(
        container.main_process(UNIT).is_err(),
        "it runs after its removal"
    );
    ensure!(
        container.path(CONFIG).is_file(),
        "its removal took the config"
    );
    container.run(&["dpkg", "--purge", "waxwing"])?;
    for place in [
        CONFIG,
        "/usr/bin/waxwing",
        "/usr/share/waxwing",
        "/usr/lib/systemd/system/waxwing.service",
        "/etc/systemd/system/multi-user.target.wants/waxwing.service",
        "/var/lib/waxwing",
        "/var/cache/waxwing",
        "/run/waxwing",
    ] {
        let is_left = container.path(place).symlink_metadata().is_ok()
            || container.finish(&["test", "-e", place])?.status.success();
        ensure!(!is_left, "{place} is left");
    }
    Ok(())
}

/// Writes the package's config, with ports and one service of so many servers added.
fn configure(container: &Container, servers: u8) -> Result<()> {
    let path = container.path(CONFIG);
    let text = fs::read_to_string(&path)?;
    let (shipped, _) = text.split_once("\n[[port]]").unwrap_or((&text, ""));
    let backend = |number| {
        let address = server4(number);
        format!("[[service.backend]]\naddress = \"{address}\"\nport = 8080\n")
    };
    let backends: String = (1..=servers).map(backend).collect();
    let added = format!(
        "\n[[port]]\ninterface = \"front\"\n[[port]]\ninterface = \"back\"\n\
         [[service]]\nname = \"web\"\nvip = \"{VIP4}\"\nport = 80\nprotocol = \"tcp\"\n\
         policy = \"round_robin\"\n[[service.health]]\ncheck = \"tcp\"\n{backends}"
    );
    fs::write(&path, shipped.to_owned() + &added).context("cannot write the config")
}

/// Asserts that no connection fails and that so many servers answer.
fn assert_served(topology: &Topology, servers: usize) -> Result<()> {
    let load = Load {
        rate: 200,
        ..actors::connections(VIP4, 80, Duration::from_millis(500))
    };
    let tally = actors::load(&topology.client, load)?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    let answered = tally.servers.len();
    ensure!(
        answered == servers,
        "{answered} servers answered, not {servers}"
    );
    Ok(())
}

fn wait_for(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while !is()? {
        ensure!(Instant::now() < deadline, "waited {TIMEOUT:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The newest package that was packed.
fn package() -> Result<PathBuf> {
    let folder = modules::target_dir()?.join("package");
    let is_package = |path: &PathBuf| path.extension().is_some_and(|end| end == "deb");
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let packages = entries.map(|entry| entry.path()).filter(is_package);
    packages
        .max_by_key(|path| path.metadata().and_then(|data| data.modified()).ok())
        .with_context(|| {
            format!(
                "no package in {}: cargo xtask test package",
                folder.display()
            )
        })
}

/// The same package by a later version.
fn newer(package: &Path, work: &Path) -> Result<PathBuf> {
    let (tree, newer) = (work.join("newer"), work.join("newer.deb"));
    run_here(
        Command::new("dpkg-deb")
            .arg("--raw-extract")
            .arg(package)
            .arg(&tree),
    )?;
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let line = format!("Version: {}\n", env!("CARGO_PKG_VERSION"));
    ensure!(
        text.contains(&line),
        "the package has another version:\n{text}"
    );
    fs::write(&control, text.replace(&line, "Version: 99.0\n"))?;
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "-z1", "--build"]);
    run_here(pack.arg(&tree).arg(&newer))?;
    Ok(newer)
}
