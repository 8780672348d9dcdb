//! What can end or freeze a process (its log, and limits of threads, processes and open files) ends and
//! freezes no balancer.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::log_pipe::{LogPipe, Reader};
use waxwing_tests::pids_limit::PidsLimit;
use waxwing_tests::process::retry;
use waxwing_tests::topology::VIP4;
use waxwing_tests::waxwing::Copy;
use waxwing_tests::{Config, Layout, Status, Topology, Waxwing};
use waxwing_tests::{actors, modules};

use crate::crowd::silent_rack;
use crate::health::{three, wait_web};
use crate::refused::{assert_says, run_in_vain};
use crate::traffic::{assert_served, web};
use crate::{PIDS_CONTROLLER, Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(a_log_that_cannot_be_written_ends_nothing),
    scenario!(a_log_that_nobody_reads_freezes_nothing),
    scenario!(
        without_a_thread_or_process_to_be_had_it_runs_on,
        PIDS_CONTROLLER
    ),
    scenario!(without_threads_enough_it_does_not_start, PIDS_CONTROLLER),
    scenario!(checks_leave_open_files_to_the_rest, "nft"),
];

/// Longer than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asserts that the config is reloaded, health is published and traffic is served.
fn assert_works(topology: &Topology, waxwing: &Waxwing<'_>, config: &Config) -> Result<()> {
    waxwing.reload(config)?;
    let backend = &config.services[0].backends[0];
    let backend = format!("{}:{}", backend.address, backend.port.unwrap_or_default());
    for (command, drains) in [("drain", true), ("enable", false)] {
        let asked = waxwing.ask(&["backend", command, "web", &backend])?;
        ensure!(asked.status.success(), "{command}: {}", asked.stderr);
        let drains_now = |status: &Status| status.health("web", 0).state == "draining";
        waxwing.wait_status(command, |status| drains_now(status) == drains)?;
    }
    assert_served(topology, VIP4)
}

fn a_log_that_cannot_be_written_ends_nothing() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = web(&topology);
    let wrapper = ["sh", "-c", "exec \"$0\" \"$@\" 2>/dev/full"];
    let waxwing = Waxwing::start_under(&topology, &config, &wrapper)?;
    assert_works(&topology, &waxwing, &config)?;
    let status = waxwing.status()?;
    let dropped = status.0["log"]["lines_dropped"].as_u64();
    ensure!(dropped > Some(3), "{}", status.0["log"]);
    let problems = status.0["problems"].to_string();
    ensure!(problems.contains("No space left on device"), "{problems}");
    waxwing.stop_without_log()
}

/// The log goes to a pipe whose reader stops, goes away and comes back.
fn a_log_that_nobody_reads_freezes_nothing() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = web(&topology);
    let log = LogPipe::new(topology.scratch.path())?;
    let script = format!("{}; exec \"$0\" \"$@\"", log.script());
    let waxwing = Waxwing::start_under(&topology, &config, &["sh", "-c", &script])?;
    wait_tail(&log, "serving after")?;

    log.set(Reader::Sleeps)?;
    fill(&waxwing)?;
    assert_works(&topology, &waxwing, &config)?;

    log.set(Reader::Gone)?;
    waxwing.wait_status("the reader to be missed", |status| {
        status.0["problems"].to_string().contains("Broken pipe")
    })?;
    assert_works(&topology, &waxwing, &config)?;

    log.set(Reader::Reads)?;
    waxwing.reload(&config)?;
    wait_tail(&log, "log lines were dropped: Broken pipe")?;
    waxwing.wait_status("the problem to end", |status| {
        !status.0["problems"].to_string().contains("Broken pipe")
    })?;

    // It also ends while nobody reads.
    log.set(Reader::Sleeps)?;
    fill(&waxwing)?;
    waxwing.stop_without_log()
}

/// Waits for a text in the log.
fn wait_tail(log: &LogPipe, text: &str) -> Result<()> {
    retry(PATIENCE, || {
        let tail = log.tail();
        ensure!(
            tail.contains(text),
            "waited for `{text}` in the log:\n{tail}"
        );
        Ok(())
    })
}

/// Has the balancer log more than a small pipe holds.
fn fill(waxwing: &Waxwing<'_>) -> Result<()> {
    waxwing.write_config("colour = \"red\"\n")?;
    for _ in 0..40 {
        let asked = waxwing.ask(&["reload"])?;
        ensure!(!asked.status.success(), "a bad config was accepted");
    }
    Ok(())
}

/// Returns the words of a shell that enters the group.
fn entering(script: &str) -> [&str; 3] {
    ["sh", "-c", script]
}

fn without_a_thread_or_process_to_be_had_it_runs_on() -> Result<()> {
    const NAME: &str = "own";
    let [first, second] =
        ["waxwing-policy-round-robin", "waxwing-policy-maglev"].map(modules::compile);
    let (first, second) = (first?, second?);
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    config.service_mut("web")?.policy = NAME.to_owned();
    fs::create_dir_all(&config.modules)?;
    fs::write(config.modules.join("own.wasm"), &first)?;
    let group = PidsLimit::new("threads")?;
    let script = group.script();
    let waxwing = Waxwing::start_under(&topology, &config, &entering(&script))?;
    wait_web(&waxwing, ["up"; 3])?;
    let threads = group.count()?;
    group.set(Some(threads))?;

    // The compiler's process cannot be started.
    waxwing.drop_in("own.wasm", &second, Copy::Atomic)?;
    let reason = "the compiler's process failed: Resource temporarily unavailable";
    waxwing.wait_status("the build's refusal", |status| {
        let refused = status.module_refused(NAME);
        refused.is_some_and(|why| why.contains(reason))
    })?;
    assert_works(&topology, &waxwing, &config)?;
    let asked = waxwing.ask(&["session", "list"])?;
    let said = "cannot start a thread to write sessions";
    ensure!(
        !asked.status.success() && asked.stderr.contains(said),
        "{asked:?}"
    );

    // It can be started, but no thread beside it: none is needed.
    group.set(Some(threads + 1))?;
    assert_works(&topology, &waxwing, &config)?;
    waxwing.wait_status("the build to serve", |status| {
        status.module_refused(NAME).is_none()
    })?;
    let found = group.count()?;
    ensure!(
        found == threads,
        "{threads} threads at start, {found} later"
    );

    group.set(None)?;
    let asked = waxwing.ask(&["session", "list"])?;
    ensure!(asked.status.success(), "{asked:?}");
    let log = waxwing.stop()?;
    ensure!(!log.contains("panicked"), "it panicked");
    Ok(())
}

fn without_threads_enough_it_does_not_start() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, config) = three(&topology)?;
    let group = PidsLimit::new("start")?;
    let script = group.script();
    let waxwing = Waxwing::start_under(&topology, &config, &entering(&script))?;
    wait_web(&waxwing, ["up"; 3])?;
    let threads = group.count()?;
    waxwing.stop()?;
    let text = config.to_toml()?;
    for max in 1..threads {
        // The kernel forgets a process a moment after its end.
        retry(PATIENCE, || {
            let count = group.count()?;
            ensure!(count == 0, "{count} processes are left");
            Ok(())
        })?;
        group.set(Some(max))?;
        let finished = run_in_vain(&topology, &text, &entering(&script))?;
        assert_says(&finished, &["thread"]).with_context(|| format!("at most {max} threads"))?;
    }
    Ok(())
}

/// Checks that wait leave open files to everything else.
fn checks_leave_open_files_to_the_rest() -> Result<()> {
    const FILES: u64 = 160;
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    config
        .services
        .insert(0, silent_rack(&topology, "rack", 300)?);
    let script = format!("ulimit -n {FILES}; exec \"$0\" \"$@\"");
    let waxwing = Waxwing::start_under(&topology, &config, &["sh", "-c", &script])?;
    // The rack takes half of the places, and leaves the others free for other services.
    let status = waxwing.wait_status("the rack to take its places", |status| {
        status.punctuality().running >= FILES / 4
    })?;
    ensure!(status.punctuality().running_max == FILES / 2, "{status}");
    // Nor do clients of the admin socket that stall.
    let stalled = (0..FILES).map(|_| UnixStream::connect(config.socket()));
    let _stalled = stalled.collect::<std::io::Result<Vec<_>>>()?;
    wait_web(&waxwing, ["up"; 3])?;
    waxwing.reload(&config)?;
    assert_served(&topology, VIP4)?;
    let log = waxwing.stop()?;
    ensure!(
        !log.contains("no open file left"),
        "it ran out of open files"
    );
    Ok(())
}
