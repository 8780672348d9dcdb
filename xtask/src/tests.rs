//! Every test: unit, property and model tests, real servers and clients in network namespaces, and
//! zero-copy in a virtual machine.
//!
//! Invariant: all test programs are built once, before the first runs; loom and ThreadSanitizer, which
//! replace atomics or the standard library, have builds of their own.

use std::process::Command;

use crate::programs::{self, Program};
use crate::stopwatch::Stopwatch;
use crate::{container, machine, run, setup};

/// The suite in network namespaces.
const END_TO_END: &str = "e2e";

/// The suite in the virtual machine.
const ZERO_COPY: &str = "zerocopy";

/// The suite in a container with systemd.
const PACKAGE: &str = "package";

/// The programs that run for more than ten seconds.
const LONG: &[&str] = &["module", "control", "resolver", "wire", "siege", "worlds"];

/// The program that measures time: its modules are cut off at their time budget. It runs alone.
const TIMED: &str = "plugin";

/// The end-to-end scenarios that `test quick` runs: one of each kind of traffic, a reload, a module
/// swap, a health check, a crash.
const QUICK: &[&str] = &[
    "traffic::curl_reaches_nginx_on_both_families",
    "transparent::frames_to_another_owner_of_the_vip_pass",
    "reload::sighup_reloads",
    "modules::a_module_swap_changes_the_distribution",
    "consequences::the_health_command_reports_by_exit_code",
    "crafted::every_requirement_holds_frame_by_frame",
    "hostile::after_a_kill_the_last_good_build_serves_for_a_bad_file",
];

/// `test [quick | e2e | zerocopy | package] [FILTER]`, with a table of times at the end.
pub(crate) fn all(arguments: &[String]) -> Result<(), String> {
    timed(&mut Stopwatch::new(), arguments)
}

/// As [`all`], on a stopwatch of the caller's.
pub(crate) fn timed(stopwatch: &mut Stopwatch, arguments: &[String]) -> Result<(), String> {
    // As `cargo test` takes them: options of the test programs come behind `--`.
    let arguments: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|argument| *argument != "--")
        .collect();
    let (suite, filter) = match arguments.as_slice() {
        [
            suite @ ("quick" | END_TO_END | ZERO_COPY | PACKAGE),
            filter @ ..,
        ] => (Some(*suite), filter),
        filter => (None, filter),
    };
    if matches!(suite, None | Some(ZERO_COPY)) {
        machine::prepare();
    }
    let programs = stopwatch.time("building the tests", programs::build)?;
    if matches!(suite, None | Some(PACKAGE)) {
        stopwatch.time("packing for the test of the package", container::prepare)?;
    }
    match suite {
        Some("quick") => {
            fast(stopwatch, &programs, filter)?;
            // The suite takes one filter at a time.
            stopwatch.time("end to end, seven scenarios", || {
                QUICK
                    .iter()
                    .try_for_each(|name| run_suite(&programs, END_TO_END, &["--exact", name]))
            })
        }
        Some(END_TO_END) => end_to_end(stopwatch, &programs, filter),
        Some(PACKAGE) => package(stopwatch, &programs, filter),
        Some(_) => zero_copy(stopwatch, &programs, filter),
        None => {
            fast(stopwatch, &programs, filter)?;
            stopwatch.time("examples in the docs", || doc_tests(filter))?;
            end_to_end(stopwatch, &programs, filter)?;
            zero_copy(stopwatch, &programs, filter)?;
            package(stopwatch, &programs, filter)?;
            let loom_step = "the session table under every interleaving (loom)";
            stopwatch.time(loom_step, || loom(filter))?;
            let sanitizer_step = "the session table under ThreadSanitizer";
            stopwatch.time(sanitizer_step, || thread_sanitizer(filter))
        }
    }
}

/// All programs but the suites that need networks of their own, a machine or a container.
fn fast(stopwatch: &mut Stopwatch, programs: &[Program], filter: &[&str]) -> Result<(), String> {
    let is_fast =
        |program: &&Program| ![END_TO_END, ZERO_COPY, PACKAGE].contains(&&*program.target);
    // The long ones first, so that none of them is left to run by itself at the end.
    let (timed, mut others): (Vec<&Program>, Vec<&Program>) = programs
        .iter()
        .filter(is_fast)
        .partition(|program| program.target == TIMED);
    others.sort_by_key(|program| !LONG.contains(&&*program.target));
    stopwatch.time("unit, property, model and scenario tests", || {
        programs::run(timed, filter).and(programs::run_in_pairs(&others, filter))
    })
}

fn end_to_end(
    stopwatch: &mut Stopwatch,
    programs: &[Program],
    filter: &[&str],
) -> Result<(), String> {
    stopwatch.time("end to end, in network namespaces", || {
        run_suite(programs, END_TO_END, filter)
    })
}

fn zero_copy(
    stopwatch: &mut Stopwatch,
    programs: &[Program],
    filter: &[&str],
) -> Result<(), String> {
    stopwatch.time("zero-copy, in a virtual machine", || {
        run_suite(programs, ZERO_COPY, filter)
    })
}

fn package(stopwatch: &mut Stopwatch, programs: &[Program], filter: &[&str]) -> Result<(), String> {
    stopwatch.time("the package, on systemd in a container", || {
        run_suite(programs, PACKAGE, filter)
    })
}

fn run_suite(programs: &[Program], target: &str, filter: &[&str]) -> Result<(), String> {
    programs::run(programs.iter().filter(|it| it.target == target), filter)
}

fn doc_tests(filter: &[&str]) -> Result<(), String> {
    run::cargo(&[&["test", "--workspace", "--doc", "--"], filter].concat())
}
/// Loom replaces the atomics of the whole build.
fn loom(filter: &[&str]) -> Result<(), String> {
    let mut command = model("session_loom", "loom", "--cfg loom");
    run::command(command.arg("--").args(filter))
}

/// The sanitizer wants the standard library compiled with it, and so its source.
fn thread_sanitizer(filter: &[&str]) -> Result<(), String> {
    if !setup::has_library_source() {
        println!(
            "   skipped: the standard library's source (rustup's `rust-src`) cannot be installed here"
        );
        return Ok(());
    }
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = model("session_threads", "sanitizer", "-Zsanitizer=thread");
    command
        .args(["-Zbuild-std", "--target", &target, "--"])
        .args(filter)
        .env("RUSTC_BOOTSTRAP", "1");
    run::command(&mut command)
}

/// A test of the session table, optimised, with flags that need a target folder of their own. Without
/// link-time optimisation, which the release profile has for the balancer and which takes most of the
/// time that these builds would take.
fn model(test: &str, folder: &str, flags: &str) -> Command {
    let mut command = Command::new(run::cargo_path());
    command
        .args(["test", "--release", "--package", "waxwing-dataplane"])
        .args(["--test", test])
        .current_dir(run::root())
        .env("CARGO_TARGET_DIR", run::target().join(folder))
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("RUSTFLAGS", flags);
    command
}
