//! What a reader must know to judge the figures of the wire benchmark.
//!
//! Invariant: the notes describe what the network, the load and the contenders are built from; change both
//! together.

use std::fs;
use std::process::Command;

use super::cases::Bench;
use super::packets::FLOWS;
use super::run::SESSIONS_MAX;
use crate::contender::{Poll, Variant};

/// The notes, as Markdown.
pub(super) fn notes(bench: &Bench) -> String {
    let parts = [
        machine(),
        String::new(),
        setup(bench),
        load(),
        contenders(bench.run.poll),
        HTTP.replace("{load}", &bench.run.cores.load.to_string()),
    ];
    parts.join("\n")
}

/// The notes on runs, network and CPUs.
fn setup(bench: &Bench) -> String {
    let Bench { run, rounds } = *bench;
    let (seconds, load, contender) = (run.seconds, run.cores.load, run.cores.contender);
    format!(
        "- **Runs**: {rounds} rounds of {seconds} s. Each round runs every contender of a case once, on a \
         new network; each round starts with another contender. Tables show the median (lowest to \
         highest).\n\
         - **Network**: veth pairs between namespaces: client, balancer, a bridge, two servers behind the \
         bridge. veth has no zero-copy, so AF_XDP runs in copy mode.\n\
         - **Processors**: CPU {load} runs the generator, the clients and the servers. CPU {contender} \
         runs the contender with all of its threads, and the sink, whose cost is the same for all. \
         Receive packet steering places the softirqs: CPU {contender} handles what arrives at the \
         balancer, CPU {load} everything else. For every contender, CPU {load} does what a NIC's own \
         processor would do: it polls the link on which frames arrive (for AF_XDP: the XDP program and \
         the copy to the socket's memory; for the others: allocating a kernel buffer). No contender is \
         charged for that.\n\
         - **CPU** is the busy share of a CPU during the run, softirqs included (/proc/stat). A CPU that \
         spins is busy. The kernel samples at its ticks, so the figure of a mostly idle CPU is an \
         estimate."
    )
}

/// The notes on packet load and latency.
fn load() -> String {
    format!(
        "- **Generator**: the kernel's live-frame test run sends frames of 64 bytes from the client, 64 \
         to a batch, with correct checksums. Sources are in 10.64.0.0/10, with 1024 ports each; the load \
         has {FLOWS} flows in turn, or a new flow for each packet. A run is within one system call. The \
         generator sends more than any contender forwards; the sink counts what passed behind the \
         contender, before the bridge, and verifies checksums.\n\
         - **Latency of packets** is measured for every packet, from the generator's clock reading to the \
         sink's. The generator sends at an even pace, at most 8 frames to a batch; after a delay of its \
         own of 50 us it restarts its pace. The tables show the rate that it sent and the rate that \
         passed beside the rate that was asked for.\n\
         - **Offloads** are off on all interfaces, as AF_XDP requires. (GRO is on at the balancer's side \
         of the client's link: without XDP, veth uses NAPI only with GRO.) The bulk case also measures \
         nftables and the proxies with all offloads on."
    )
}

/// The notes on each contender.
fn contenders(poll: Poll) -> String {
    let policies = [Variant::RoundRobin, Variant::Maglev]
        .map(Variant::policy)
        .join(" and ");
    let poll = match poll {
        Poll::Adaptive => "adaptive polling (spin for 50 us, then sleep)",
        Poll::Busy => "preferred busy polling (never sleep)",
    };
    format!(
        "- **AF_XDP**: rings of 2048, batches of 64, need-wakeup on, {poll}; the same for the bare \
         forwarder and for Waxwing.\n\
         - **Waxwing**: release build, one worker, policies as WebAssembly ({policies}), room for \
         {SESSIONS_MAX} sessions.\n\
         - **bare forwarder**: the XDP program, rings and I/O code of Waxwing; it replaces MAC addresses \
         and sends every frame out of the other port, to one server.\n\
         - **nftables**: `dnat` by `numgen inc mod 2` and no other rule; connection tracking has room for \
         {SESSIONS_MAX} sessions and one bucket per four.\n\
         - **Proxies**: {}, one thread; {}, one worker. Both terminate the client's TCP connection and \
         open another.",
        version("haproxy", "HAProxy"),
        version("nginx", "nginx stream"),
    )
}

const HTTP: &str = "\
- **HTTP**: wrk, one thread, 32 connections (requests a second); a paced client of our own, 32 connections \
(latencies). The client shares CPU {load} with two nginx servers and with the TCP stacks of clients and \
servers. Where contenders are equal, that CPU is the limit: see the contender's CPU use. The paced client \
sends on its connections in turn and skips one that waits for an answer, so a pause counts once per \
connection. Its timers have a resolution of 1 ms, so requests leave in small bursts.";

fn machine() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.unwrap_or("an unknown processor");
    // The suffix of a distribution or a host means nothing to others.
    let version = kernel.trim().split('-').next().unwrap_or_default();
    format!(
        "On Linux {version}, {}.",
        model.trim_start_matches([' ', '\t', ':'])
    )
}

/// A program's name and, if the program prints it, version.
fn version(program: &str, name: &str) -> String {
    let output = Command::new(program).arg("-v").output();
    let text = output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
    );
    let is_version = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
    let words = text.split([' ', '/', '\n']);
    let version = words.filter(|word| word.contains('.')).find(is_version);
    format!("{name} {}", version.unwrap_or(""))
}
