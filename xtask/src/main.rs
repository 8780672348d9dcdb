//! `cargo xtask`: everything one does with the project, in one command each.
//!
//! Invariant: it builds with the Rust toolchain alone, so that it can install what the rest needs
//! before the rest is built.

mod bench;
mod ci;
mod figures;
mod fuzz;
mod machine;
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

  setup                 install what building and testing need (Debian, Ubuntu), and say what
  demo [OPTIONS]        three servers, one VIP, live: modules swapped under traffic
      --seconds N         how long the story takes in all (30)
      --report FILE.json  write what was measured
      --plain             lines instead of the live view
      --record FILE.svg   write the live view as an animated picture
  test [FILTER]         every test: unit, property, model, end to end in network namespaces, and with zero-copy
                        in a virtual machine (`test zerocopy`), whose kernel is fetched from Debian
  ci                    what CI runs: formatting, lints, tests, some fuzzing, docs, licences
  simulate [OPTIONS]    the core in one simulated world after the other, until interrupted
      --seed N            begin with this world
      --packets N         end after so many packets in all
      --world N           packets of each world (100000)
      --siege             a thousand transfers under attack for ten minutes, in each world
  fuzz [--seconds N]    the packet's way under input that is led by coverage, each target for so long
                        (600); installs cargo-fuzz, where it is missing
  bench [FILTER]        the criterion benches, and the table of what each policy's pick costs
  bench instructions [--keep | PART]
                        instructions a packet, beside those in benches/instructions.md; `--keep` writes
                        them there, PART counts only what has it in its name and is not kept
  bench cost [--keep | [--quick] [PART]]
                        what work costs as it grows, over sessions, services, backends and workers; a table,
                        charts and JSON in target/bench/cost
      --quick             fewer and shorter runs, to see that it works
      --keep              also put the results in place of benches/results/cost
  bench vm [OPTIONS]    Waxwing in zero-copy mode beside IPVS and nftables, in a virtual machine; a table,
                        charts and JSON in target/bench/vm
      --rounds N          how often each is measured (5)
      --keep              also put the results in place of benches/results/vm
  bench wire [OPTIONS]  Waxwing beside its peers in network namespaces: packets a second, requests,
                        latencies, processor use; a table, charts and JSON in target/bench/wire
      --quick             one round of one second, to see that it works
      --rounds N          how often each contender is measured in each case (5)
      --seconds N         how long each time (2)
      --only CASE,..      established, new-sessions, packet-latency, short-connections, keep-alive,
                          light-latency, half-latency, bulk
      --poll busy         AF_XDP without sleep (adaptive)
      --keep              also put the results in place of benches/results/wire; not with --quick or --only
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    let outcome = match command {
        "setup" => setup::everything(),
        "demo" => setup::everything().and_then(|()| demo(rest)),
        "test" => setup::everything().and_then(|()| tests::all(rest)),
        "ci" => setup::everything().and_then(|()| ci::all()),
        "fuzz" => fuzz::all(rest),
        "simulate" => simulate::forever(rest),
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
