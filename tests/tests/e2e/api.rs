//! The API on its TCP port keeps what its description promises, whatever it is asked.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use waxwing_tests::{Config, Layout, Process, Topology, Waxwing, tools};

use crate::consequences::assert_served_by;
use crate::health::three;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(
        every_request_gets_what_the_description_says,
        "schemathesis",
        "curl"
    )
    .heavy(),
    scenario!(the_read_socket_describes_what_it_answers, "curl"),
];

/// Where the balancer listens, in its own namespace.
const LISTEN: &str = "127.0.0.1:9118";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The most requests for each operation. They are the same in each run.
const REQUESTS: &str = "60";
const PATIENCE: Duration = Duration::from_secs(120);

/// What the generator need not try: a follower's answer never ends. What only the balancer can judge, such as
/// a client's network, is refused with 400, 409, 412 or 428; an integer that is written as 1.0 with 422.
const SETTINGS: &str = r#"
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "409", "412", "422", "428", "429"]
negative_data_rejection.expected-statuses = ["400", "404", "405", "409", "412", "415", "422", "428", "429"]

[[operations]]
include-path = "/v1/events"
parameters = { "query.follow" = false }

[[operations]]
include-path = "/v1/capture"
parameters = { "query.packets" = 0 }
"#;

fn every_request_gets_what_the_description_says() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, config) = three(&topology)?;
    let token = topology.scratch.write("token", TOKEN)?;
    let config = config.listening(LISTEN, token);
    let waxwing = Waxwing::start(&topology, &config)?;
    let url = format!("http://{LISTEN}/v1/openapi.json");
    let args = [
        "-sS",
        "--write-out",
        "%{http_code} %header{www-authenticate}",
        &url,
    ];
    let refused = topology.balancer.run("curl", &args)?;
    ensure!(
        refused.starts_with('{') && refused.ends_with("401 Bearer"),
        "without a token: {refused}"
    );

    let settings = topology.scratch.write("schemathesis.toml", SETTINGS)?;
    let settings = settings.to_string_lossy();
    let token = format!("Authorization:Bearer {TOKEN}");
    let args = [
        "--config-file",
        &settings,
        "run",
        &url,
        "--header",
        &token,
        "--max-examples",
        REQUESTS,
        "--seed",
        "1",
        "--generation-deterministic",
        "--continue-on-failure",
        "--no-color",
    ];
    let mut command = topology.balancer.command(tools::find("schemathesis")?);
    // It keeps what it finds where it runs.
    command.args(args).current_dir(topology.scratch.path());
    let tried = Process::spawn("schemathesis", &command)?;
    let tried = tried.finish(PATIENCE)?;
    ensure!(tried.status.success(), "{}{}", tried.stdout, tried.stderr);
    // It still serves, and says so.
    assert_served_by(&topology, &["1", "2", "3"])?;
    waxwing.stop().map(drop)
}

/// Returns the operations that a socket's description has, such as `get /v1/health`.
fn described(topology: &Topology, socket: &Path) -> Result<Vec<String>> {
    let socket = socket.to_string_lossy();
    let url = "http://waxwing/v1/openapi.json";
    let text = topology
        .balancer
        .run("curl", &["-sS", "--fail", "--unix-socket", &socket, url])?;
    let description: Value = serde_json::from_str(&text)?;
    let paths = description["paths"].as_object().context("no paths")?;
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().into_iter().flat_map(|it| it.keys());
        methods.map(move |method| format!("{method} {path}"))
    });
    Ok(operations.collect())
}

fn the_read_socket_describes_what_it_answers() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    let read_socket = config.add_read_socket();
    let mut waxwing = Waxwing::start(&topology, &config)?;
    assert_described(&topology, &config, &read_socket)?;
    // Both sockets are another process's then, in one folder.
    waxwing.upgrade()?;
    assert_described(&topology, &config, &read_socket)?;
    waxwing.stop().map(drop)
}

/// Asserts that the read socket describes all that reads, and the admin socket more.
fn assert_described(topology: &Topology, config: &Config, read_socket: &Path) -> Result<()> {
    let (all, reading) = (
        described(topology, config.socket())?,
        described(topology, read_socket)?,
    );
    // Packets have what clients send.
    let is_read =
        |operation: &&String| operation.starts_with("get ") && !operation.contains("capture");
    ensure!(
        all.iter().filter(is_read).eq(&reading),
        "{all:?}\n{reading:?}"
    );
    ensure!(all.len() > reading.len() + 5, "{all:?}");
    Ok(())
}
