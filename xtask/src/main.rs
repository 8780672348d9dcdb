//! `cargo xtask`: one command for each chore of the project.
//!
//! Invariant: it builds with the Rust toolchain alone, so that it can install what the other crates need
//! to build.

mod arm64;
mod bench;
mod ci;
mod container;
mod figures;
mod fuzz;
mod machine;
mod package;
mod packages;
mod programs;
mod run;
mod services;
mod setup;
mod simulate;
mod stopwatch;
mod tests;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  setup                 install what building and testing need (Debian, Ubuntu), and name each package
  demo [OPTIONS]        three servers and one VIP, live: policy modules are swapped under traffic
      --seconds N         length of the demo (30)
      --report FILE.json  write the measurements
      --plain             lines instead of the live view
      --record FILE.svg   write the live view as an animated picture
  test [FILTER]         all tests: unit, property, model, doc, end to end in network namespaces, zero-copy
                        in a virtual machine (its kernel is fetched from Debian), the package in a container;
                        prints a table of times
  test e2e [FILTER]     only the end-to-end scenarios
  test zerocopy [FILTER]
                        only the scenarios in the virtual machine
  test package [FILTER] only the package on a real systemd, in a container (its system is fetched once)
  test quick [FILTER]   for the inner loop: no doc tests, loom, ThreadSanitizer or virtual machine, and
                        seven of the end-to-end scenarios
  ci                    what CI runs: formatting, lints, all tests, 20 s of fuzzing per target, docs, licences
  simulate [OPTIONS]    the core in simulated networks, one after another, until interrupted
      --seed N            begin with this network
      --packets N         stop after this many packets in all
      --world N           packets per network (100000)
      --forgetful         a balancer that loses sessions and adopts servers' replies
      --siege             a thousand transfers under attack for ten minutes, in each network
  soak [OPTIONS]        a real balancer under steady traffic while its config, modules, network and process
                        limits change at random; fails if it ends, loses a session or reports what is untrue
      --minutes N         how long (30)
      --seed N            replays the events of an earlier run
      --only WORD         only events whose names contain it; can be repeated
      --without WORD      no such events; can be repeated
  package [--binary PATH | --target arm64]
                        the Debian package, in target/package; of a program that is built already, or else of
                        one built in release mode
  fuzz [--seconds N]    coverage-guided fuzzing of the hot path, the rings and the module loader, N seconds
                        per target (600); installs cargo-fuzz if missing
  bench [FILTER]        the criterion benches, and a table of what each policy's pick costs
  bench instructions [--keep | PART]
                        instructions per packet, beside those in benches/instructions.md; `--keep` writes
                        them there, PART counts only the rows whose names contain it
  bench cost [--keep | [--quick] [PART]]
                        cost over the number of sessions, services, backends and workers; a table, charts and
                        JSON in target/bench/cost
      --quick             fewer and shorter runs, to see that it works
      --keep              also replace benches/results/cost
  bench balance [OPTIONS]
                        load policies beside HAProxy's leastconn, on servers of unequal speed: shares and
                        latency; a table, a chart and JSON in target/bench/balance
      --quick             one round of four seconds, to see that it works
      --rounds N          measurements of each contender (3)
      --seconds N         length of each measurement (15)
      --keep              also replace benches/results/balance; not with --quick
  bench floods [OPTIONS]
                        new connections and established transfers under floods from forged sources, beside
                        nftables; a table and JSON in target/bench/floods
      --seconds N         of each flood once the table is full (default 6)
      --quick             2 s of each, and small tables
      --keep              also replace benches/results/floods; not with --quick
  bench vm [OPTIONS]    Waxwing in zero-copy mode beside IPVS and nftables, in a virtual machine; a table,
                        charts and JSON in target/bench/vm
      --rounds N          measurements of each contender (5)
      --keep              also replace benches/results/vm
  bench wire [OPTIONS]  Waxwing beside its peers in network namespaces: packets and requests per second,
                        latency, processor use; a table, charts and JSON in target/bench/wire
      --quick             one round of one second, to see that it works
      --rounds N          measurements of each contender in each case (5)
      --seconds N         length of each measurement (2)
      --only CASE,..      established, new-sessions, packet-latency, short-connections, keep-alive,
                          light-latency, half-latency, bulk
      --poll busy         AF_XDP workers that never sleep (adaptive)
      --keep              also replace benches/results/wire; not with --quick or --only
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    let outcome = match command {
        "setup" => setup::for_tests(),
        "demo" => setup::everything().and_then(|()| demo(rest)),
        "test" => setup::for_tests().and_then(|()| tests::all(rest)),
        "ci" => setup::for_tests().and_then(|()| ci::all()),
        "fuzz" => fuzz::all(rest),
        "simulate" => simulate::forever(rest),
        "package" => package::command(rest),
        "soak" => setup::everything().and_then(|()| soak(rest)),
        "bench" => bench::any(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(format!("no command `{other}`\n\n{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo(arguments: &[String]) -> Result<(), String> {
    run::step("building the balancer and the demo");
    run::build()?;
    run::as_root(&run::built("waxwing-demo")?, arguments)
}

fn soak(arguments: &[String]) -> Result<(), String> {
    run::step("building the balancer and the soak");
    run::build()?;
    run::as_root(&run::built("waxwing-soak")?, arguments)
}
