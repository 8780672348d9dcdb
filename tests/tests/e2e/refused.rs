//! Starts that must fail: each ends with a clear error, and changes nothing.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use waxwing_tests::actors::{self, built_program};
use waxwing_tests::config::Ports;
use waxwing_tests::process::Finished;
use waxwing_tests::topology::VIP4;
use waxwing_tests::{
    Config, HealthCheck, Layout, Process, Scratch, Topology, Waxwing, process, tools,
};

use crate::traffic::{assert_served, web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(bad_configs_are_refused_with_their_place),
    scenario!(a_missing_interface_is_named),
    scenario!(check_tries_the_modules_and_their_configs),
    scenario!(zero_copy_is_refused_where_the_driver_has_none),
    scenario!(without_privilege_the_error_names_the_capability),
    scenario!(a_port_with_another_program_is_left_alone),
    scenario!(transparent_mode_names_the_commands_for_its_bridge),
    scenario!(
        the_schema_takes_the_examples_and_refuses_mistakes,
        "schemathesis"
    ),
];

/// Prints how many mistakes the JSON on standard input has by the schema in a file. The validator is one that
/// schemathesis brings along.
const VALIDATE: &str = "
import json, sys, jsonschema_rs
validator = jsonschema_rs.Draft202012Validator(json.load(open(sys.argv[1])))
print(sum(1 for _ in validator.iter_errors(json.load(sys.stdin))))
";

/// Runs the balancer, and asserts that it exits with an error and leaves no XDP program attached. `wrapper`
/// is a command line that runs before it.
pub(crate) fn run_in_vain(topology: &Topology, config: &str, wrapper: &[&str]) -> Result<Finished> {
    let path = topology.scratch.write("refused.toml", config)?;
    let mut command = topology.balancer_command(wrapper)?;
    command.args(["run", "--config"]).arg(path);
    let finished = Process::spawn("waxwing", &command)?.finish(Duration::from_secs(10))?;
    ensure!(
        !finished.status.success(),
        "it exited without an error:\n{}",
        finished.stderr
    );
    for port in topology.ports() {
        ensure!(
            !topology.balancer.has_xdp(port)?,
            "{port} has an XDP program"
        );
    }
    Ok(finished)
}

pub(crate) fn assert_says(finished: &Finished, words: &[&str]) -> Result<()> {
    let said = format!("{}{}", finished.stdout, finished.stderr);
    for word in words {
        ensure!(said.contains(word), "the output lacks `{word}`:\n{said}");
    }
    ensure!(!said.contains("panicked"), "it panicked:\n{said}");
    Ok(())
}

fn the_schema_takes_the_examples_and_refuses_mistakes() -> Result<()> {
    let folder = Scratch::new()?;
    let schema = process::run(Command::new(built_program("waxwing")?).args(["config", "schema"]))?;
    let schema = folder.write("schema.json", schema)?;
    let python = tools::find("schemathesis")?.with_file_name("python3");
    let mistakes = |config: &str| -> Result<u32> {
        let json = serde_json::to_string(&toml::from_str::<toml::Table>(config)?)?;
        let mut validate = Command::new(&python);
        validate.args(["-c", VALIDATE]).arg(&schema);
        Ok(process::run_with_input(&validate, &json)?.trim().parse()?)
    };
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let read = |name: &str| fs::read_to_string(examples.join(name));
    for name in ["full.toml", "minimal.toml", "transparent.toml"] {
        ensure!(mistakes(&read(name)?)? == 0, "{name}");
    }
    let full = read("full.toml")?;
    for (right, wrong) in [
        ("policy = \"maglev\"", "polcy = \"maglev\""),
        ("poll = \"adaptive\"", "poll = \"sometimes\""),
        ("module_share = 10", "module_share = 101"),
        ("interval = \"2s\"", "interval = true"),
        ("backup = false", "backup = \"no\""),
        ("port = 80\n", "port = 80_000\n"),
        ("cpus = [0, 1]", "cpus = [\"0\"]"),
    ] {
        let wrong = full.replacen(right, wrong, 1);
        ensure!(wrong != full && mistakes(&wrong)? > 0, "{right} {wrong}");
    }
    Ok(())
}

fn bad_configs_are_refused_with_their_place() -> Result<()> {
    let topology = Topology::new(Layout::with_servers(1))?;
    let good = web(&topology);
    let with = |change: fn(&mut Config)| {
        let mut config = good.clone();
        change(&mut config);
        config.to_toml()
    };
    for (text, words) in [
        (
            good.to_toml()? + "\ncolour = \"red\"\n",
            &["refused.toml:", "colour"][..],
        ),
        (
            with(|config| config.services[1] = config.services[0].clone())?,
            &["web", "203.0.113.10"],
        ),
        (
            with(|config| config.services[0].policy = "nonesuch".into())?,
            &["nonesuch", "round_robin"],
        ),
    ] {
        assert_says(&run_in_vain(&topology, &text, &[])?, words)?;
    }
    // `check` reports all errors of a file at once, the same errors as `run`.
    let mut broken = good.clone();
    broken.services[0].protocol = "sctp";
    broken.services[0].policy = "nonesuch".into();
    broken.services[1].port = Ports::One(0);
    broken.services[1].policy = "nothing".into();
    let path = topology.scratch.write("refused.toml", broken.to_toml()?)?;
    let mut check = topology.balancer_command(&[])?;
    check.args(["check", "--config"]).arg(path);
    let finished = Process::spawn("waxwing", &check)?.finish(Duration::from_secs(10))?;
    ensure!(!finished.status.success(), "`waxwing check` accepted it");
    let words = [
        "refused.toml:",
        "sctp",
        "\"nonesuch\"",
        "port",
        "\"nothing\"",
    ];
    assert_says(&finished, &words)
}

/// The shipped `round_robin` would serve in place of a bad file, but `check` is asked about the file.
fn check_tries_the_modules_and_their_configs() -> Result<()> {
    let topology = Topology::new(Layout::with_servers(1))?;
    let config = web(&topology);
    fs::create_dir_all(&config.modules)?;
    let check = |text: String| -> Result<Finished> {
        let path = topology.scratch.write("checked.toml", text)?;
        let mut check = topology.balancer_command(&[])?;
        check.args(["check", "--config"]).arg(path);
        Process::spawn("waxwing", &check)?.finish(Duration::from_secs(60))
    };
    let good = check(config.to_toml()?)?;
    ensure!(good.status.success(), "{}{}", good.stdout, good.stderr);

    fs::write(config.modules.join("round_robin.wasm"), "no module")?;
    let bad = check(config.to_toml()?)?;
    ensure!(!bad.status.success(), "a bad module passed: {}", bad.stdout);
    assert_says(
        &bad,
        &["not a WebAssembly module", "round_robin", "checked.toml:"],
    )?;
    fs::remove_file(config.modules.join("round_robin.wasm"))?;

    let mut config = config;
    config.services[0]
        .health
        .push(HealthCheck::new("http").with("status = 'ok'"));
    let bad = check(config.to_toml()?)?;
    ensure!(!bad.status.success(), "a bad config passed: {}", bad.stdout);
    assert_says(&bad, &["config.status", "checked.toml:"])?;
    // It points at the key, not at the whole table.
    let said = format!("{}{}", bad.stdout, bad.stderr);
    let marks = |line: &str| line.trim_start_matches([' ', '|']) == "^^^^^^";
    ensure!(said.lines().any(marks), "not at `status`:\n{said}");
    Ok(())
}

fn zero_copy_is_refused_where_the_driver_has_none() -> Result<()> {
    let topology = Topology::new(Layout::with_servers(1))?;
    let config = format!("zero_copy = \"require\"\n{}", web(&topology).to_toml()?);
    assert_says(
        &run_in_vain(&topology, &config, &[])?,
        &["zero-copy", "queue 0"],
    )
}

fn a_missing_interface_is_named() -> Result<()> {
    let topology = Topology::new(Layout::with_servers(1))?;
    let mut config = web(&topology);
    config.ports[1].interface = "nonesuch0".into();
    assert_says(
        &run_in_vain(&topology, &config.to_toml()?, &[])?,
        &["nonesuch0"],
    )
}

fn without_privilege_the_error_names_the_capability() -> Result<()> {
    let topology = Topology::new(Layout::with_servers(1))?;
    // User `nobody` can read the files, so that only the capabilities are missing.
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all",
    ];
    let finished = run_in_vain(&topology, &web(&topology).to_toml()?, &nobody)?;
    assert_says(&finished, &["CAP_"])
}

/// The port's XDP program belongs to another balancer, which has its own admin socket and is named.
fn a_port_with_another_program_is_left_alone() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    waxwing.start_second(&web(&topology))?;
    assert_served(&topology, VIP4)?;
    waxwing.stop().map(drop)
}

/// Starts with two ports outside a bridge, and follows the commands in the errors until the balancer runs.
fn transparent_mode_names_the_commands_for_its_bridge() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let mut config = web(&topology);
    config.mode = Some("transparent");
    let text = config.to_toml()?;
    let asks_for = |words: &[&str]| assert_says(&run_in_vain(&topology, &text, &[])?, words);
    let balancer = &topology.balancer;
    asks_for(&[
        "front is not in a bridge",
        "back is not in a bridge",
        "`ip link add br0 type bridge`",
        "`ip link set back master br0`",
    ])?;
    balancer.ip("link add br0 type bridge\nlink set br0 up\nlink set front master br0\n")?;
    asks_for(&["`ip link set back master br0`"])?;
    balancer
        .ip("link set back master br0\nlink add tap3 type veth peer name tap4\nlink set tap3 master br0\n")?;
    asks_for(&["br0 has a third port, tap3"])?;
    // The host's addresses are still on the ports, so that its routes to the servers bypass the bridge: a
    // warning, because routes change.
    balancer.ip("link set tap3 nomaster\n")?;
    let waxwing = Waxwing::start(&topology, &config)?;
    for words in [
        "10.2.0.1 is on back",
        "move it to br0",
        "not through the bridge br0",
    ] {
        waxwing.wait_log(words)?;
    }
    waxwing.stop()?;
    balancer.ip("addr flush dev front\naddr flush dev back\n\
         addr add 10.2.0.5/24 dev br0\naddr add fd00:2::5/64 dev br0 nodad\n\
         link set br0 type bridge stp_state 1\n")?;
    let waxwing = Waxwing::start(&topology, &config)?;
    waxwing.wait_log("`ip link set br0 type bridge stp_state 0`")?;
    // The status reports faults that occur later.
    balancer.ip("link set back nomaster\n")?;
    waxwing.wait_status("the port's absence to be reported", |status| {
        let problems = status.0["problems"].to_string();
        problems.contains("`ip link set back master br0`")
    })?;
    waxwing.stop().map(drop)
}
