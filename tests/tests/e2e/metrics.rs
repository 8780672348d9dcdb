//! Prometheus scrapes a live balancer, and its numbers are those of the traffic.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use waxwing_tests::process::{retry, run, run_with_input};
use waxwing_tests::topology::VIP4;
use waxwing_tests::{HealthCheck, Layout, Load, Process, Topology, Waxwing, actors};

use crate::traffic::web;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(
        prometheus_counts_what_was_sent,
        "prometheus",
        "promtool",
        "curl"
    ),
    scenario!(alert_rules_hold, "promtool"),
];

/// Where the balancer and Prometheus listen, in the balancer's namespace.
const METRICS: &str = "127.0.0.1:9117";
const PROMETHEUS: &str = "127.0.0.1:9090";

/// How long Prometheus may take to have scraped.
const SCRAPED_MAX: Duration = Duration::from_secs(30);

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/monitoring")
}

/// A Prometheus that scrapes the balancer every second, with the example's rules.
struct Prometheus<'a> {
    topology: &'a Topology,
    _process: Process,
}

impl<'a> Prometheus<'a> {
    fn start(topology: &'a Topology) -> Result<Self> {
        let rules = monitoring().join("alerts.yml");
        let example = std::fs::read_to_string(monitoring().join("prometheus.yml"))?;
        ensure!(
            example.contains(METRICS),
            "the example scrapes another port"
        );
        let config = example
            .replace("15s", "1s")
            .replace("- alerts.yml", &format!("- {}", rules.display()));
        let config = topology.scratch.write("prometheus.yml", config)?;
        let data = topology.scratch.path().join("prometheus");
        let args = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", data.display()),
            format!("--web.listen-address={PROMETHEUS}"),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut process = topology.balancer.spawn("prometheus", &args)?;
        actors::wait_listening(&topology.balancer, &mut process, 9090)?;
        Ok(Self {
            topology,
            _process: process,
        })
    }

    /// Asks its API.
    fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let url = format!("http://{PROMETHEUS}/api/v1/{path}");
        let parameters: Vec<String> = parameters.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut args = vec!["-sS", "--get", "--max-time", "10", &*url];
        for parameter in &parameters {
            args.extend(["--data-urlencode", parameter]);
        }
        let answer: Value = serde_json::from_str(&self.topology.balancer.run("curl", &args)?)?;
        ensure!(
            answer["status"] == "success",
            "{path} {parameters:?}: {answer}"
        );
        Ok(answer["data"].clone())
    }

    /// Returns the values of an expression, in no order.
    fn query(&self, expression: &str) -> Result<Vec<f64>> {
        let data = self.ask("query", &[("query", expression)])?;
        let samples = data["result"].as_array().context("a list of samples")?;
        let value = |sample: &Value| sample["value"][1].as_str()?.parse().ok();
        let values: Option<Vec<f64>> = samples.iter().map(value).collect();
        values.with_context(|| format!("{expression}: {data}"))
    }

    /// Waits until an expression has this one value.
    fn expect(&self, expression: &str, expected: f64) -> Result<()> {
        retry(SCRAPED_MAX, || {
            let values = self.query(expression)?;
            ensure!(
                values == [expected],
                "{expression} is {values:?}, not {expected}"
            );
            Ok(())
        })
    }
}

fn page(topology: &Topology) -> Result<String> {
    let url = format!("http://{METRICS}/metrics");
    topology.balancer.run("curl", &["-sS", "--fail", &url])
}

fn prometheus_counts_what_was_sent() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    config.metrics = Some(METRICS);
    config
        .service_mut("web")?
        .health
        .push(HealthCheck::new("tcp"));
    let waxwing = Waxwing::start(&topology, &config)?;
    let first = page(&topology)?;
    run_with_input(
        std::process::Command::new("promtool").args(["check", "metrics"]),
        &first,
    )
    .context("promtool check metrics")?;
    let prometheus = Prometheus::start(&topology)?;
    prometheus.expect("up{job=\"waxwing\"}", 1.0)?;
    let web = "waxwing_service_sessions_total{service=\"web\"}";
    prometheus.expect(web, 0.0)?;

    let connections = actors::connections(VIP4, 80, Duration::from_millis(1500));
    let load = Load {
        rate: 100,
        ..connections
    };
    let tally = actors::load(&topology.client, load)?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    let sent = exact(tally.answers());
    prometheus.expect(web, sent)?;
    prometheus.expect("sum(waxwing_backend_sessions_total{service=\"web\"})", sent)?;
    agrees_with_the_traffic(&prometheus, &topology, sent)?;
    dashboard(&prometheus, &page(&topology)?)?;

    // A removed backend's counts stay with its service, and a refused reload is seen.
    config.service_mut("web")?.backends.remove(0);
    waxwing.reload(&config)?;
    prometheus.expect("waxwing_config_reloads_total{result=\"success\"}", 1.0)?;
    prometheus.expect(web, sent)?;
    let load = Load {
        rate: 100,
        ..connections
    };
    let more = exact(actors::load(&topology.client, load)?.answers());
    prometheus.expect(web, sent + more)?;
    waxwing.write_config("nonsense = 1\n")?;
    waxwing.ask(&["reload"])?;
    prometheus.expect(
        "ALERTS{alertname=\"WaxwingReloadRefused\",alertstate=\"firing\"}",
        1.0,
    )?;
    for kind in ["sessions_total", "packets_total", "bytes_total"] {
        let falls = format!("max(resets(waxwing_service_{kind}[5m]))");
        prometheus.expect(&falls, 0.0)?;
    }
    waxwing.stop().map(drop)
}

/// Backends have equal shares of the sessions, and packets and bytes are as many as so many requests take.
fn agrees_with_the_traffic(
    prometheus: &Prometheus<'_>,
    topology: &Topology,
    sent: f64,
) -> Result<()> {
    for server in ["10.2.0.11:8080", "10.2.0.12:8080"] {
        let by = format!("waxwing_backend_sessions_total{{service=\"web\",backend=\"{server}\"}}");
        let values = prometheus.query(&by)?;
        let share = sent / f64::from(topology.layout().servers);
        ensure!(
            values.len() == 1 && (values[0] - share).abs() <= 2.0,
            "{by} is {values:?} of {sent}"
        );
    }
    // The client's SYN, ACK, request and FIN at least, and as much back.
    for direction in ["forward", "reply"] {
        let of = format!("{{service=\"web\",direction=\"{direction}\"}}");
        let packets = prometheus.query(&format!("waxwing_service_packets_total{of}"))?;
        let bytes = prometheus.query(&format!("waxwing_service_bytes_total{of}"))?;
        ensure!(
            (4.0 * sent..=12.0 * sent).contains(&packets[0]),
            "{packets:?} packets {direction} for {sent} requests"
        );
        ensure!(
            bytes[0] > 54.0 * packets[0],
            "{bytes:?} bytes of {packets:?} packets"
        );
    }
    prometheus.expect("sum(waxwing_worker_sessions_opened_total)", sent)?;
    prometheus.expect("sum(waxwing_service_sessions{service=\"web\"})", sent)
}

/// Every expression of the dashboard is valid and has a value, and every metric that it or a rule names is on
/// the page.
fn dashboard(prometheus: &Prometheus<'_>, page: &str) -> Result<()> {
    let rules = prometheus.ask("rules", &[])?;
    let rules = rules["groups"][0]["rules"]
        .as_array()
        .context("the rules")?;
    ensure!(rules.len() > 10, "only {} rules are loaded", rules.len());
    for rule in rules {
        ensure!(
            rule["health"] == "ok" || rule["health"] == "unknown",
            "{rule}"
        );
    }
    let text = std::fs::read_to_string(monitoring().join("dashboard.json"))?;
    let board: Value = serde_json::from_str(&text)?;
    let panels = board["panels"].as_array().context("the panels")?;
    let mut ids = BTreeSet::new();
    let mut used = text.clone() + &std::fs::read_to_string(monitoring().join("alerts.yml"))?;
    used.retain(|c| c != '\\');
    for panel in panels {
        ensure!(
            ids.insert(panel["id"].as_u64()),
            "two panels have {}",
            panel["id"]
        );
        ensure!(
            panel["title"].is_string() && panel["gridPos"]["w"].is_u64(),
            "{panel}"
        );
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().context("an expression")?;
            let filled = expression
                .replace("$__rate_interval", "1m")
                .replace("$instance", ".*")
                .replace("$service", ".*");
            let has_value = !prometheus.query(&filled)?.is_empty();
            ensure!(
                has_value || filled.ends_with("> 0"),
                "{filled} has no value"
            );
        }
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = used.split(|c| !is_name(c));
    for word in words.filter(|word| word.starts_with("waxwing_") || word.starts_with("process_")) {
        let name = word.trim_end_matches("_bucket");
        ensure!(
            page.contains(&format!("# TYPE {name} ")),
            "there is no metric {name}"
        );
    }
    Ok(())
}

fn alert_rules_hold() -> Result<()> {
    let promtool = |args: &[&str]| {
        let mut command = std::process::Command::new("promtool");
        run(command.args(args).current_dir(monitoring()))
    };
    promtool(&["check", "rules", "alerts.yml"])?;
    promtool(&["check", "config", "prometheus.yml"])?;
    promtool(&["test", "rules", "alerts_test.yml"])?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a float holds 2^53 of them")]
fn exact(count: u64) -> f64 {
    count as f64
}
