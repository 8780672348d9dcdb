//! What a reader must know to judge the figures.
//!
//! Invariant: what is said here is what the bed and the contenders are built from.

use std::fs;
use std::process::Command;

use crate::cases::{Bench, POLICIES};
use crate::contender::{Poll, SESSIONS_MAX};
use crate::packets::FLOWS;

/// The notes, as Markdown.
pub(crate) fn notes(bench: &Bench) -> String {
    let Bench {
        cores,
        poll,
        rounds,
        seconds,
    } = *bench;
    let (load, contender) = (cores.load, cores.contender);
    let poll = match poll {
        Poll::Adaptive => "adaptive (they look for frames for 50 us, then sleep)",
        Poll::Busy => "busy (they never sleep: preferred busy polling)",
    };
    let policies = POLICIES.join(" and ");
    format!(
        "{}\n\n\
         - **Runs**: {rounds} rounds of {seconds} s; in each round every contender of a case has one run, in \
         turns, on a network of its own. A table shows the median (lowest to highest).\n\
         - **Network**: veth pairs between namespaces; client, balancer, a bridge, two servers behind it. AF_XDP \
         is in copy mode there, as veth has no zero-copy.\n\
         - **Processors**: CPU {load} has the generator, clients and servers; CPU {contender} has the contender, all \
         of its threads, and the sink, whose cost is the same for all. Softirqs are placed by receive packet \
         steering: what arrives at the balancer is handled by CPU {contender}, all else by CPU {load}. What a NIC's own processor would do is done by CPU {load} for all: \
         the poll of the wire that the frames arrive on (the XDP program and the copy to the socket's \
         memory for AF_XDP; making a kernel buffer for the others), whose cost no contender has.\n\
         - **CPU** is the busy part of a processor's time (/proc/stat), softirqs included, of the \
         run; one that spins is busy. The kernel looks at its ticks what a processor does, so of one that is idle most \
         of the time this is an estimate.\n\
         - **Generator**: the kernel's live-frame test run puts frames of 64 bytes on the client's wire, 64 to \
         a batch, with right checksums; sources 10.64.0.0/10, 1024 ports each, {FLOWS} flows in turns or each \
         packet one of its own. A run is within one call of the kernel. It sends more than any contender takes; \
         what passed is counted behind the contender, before the bridge, and its checksums are looked at there.\n\
         - **Latency of packets** is that of every packet, from the generator's clock read to the sink's. The \
         generator sends at an even pace, 8 to a batch at most; where it was itself kept from that for 50 us it begins \
         its pace anew. Beside what it was to send a second stands what it sent and what passed.\n\
         - **Offloads** are off on all interfaces, as AF_XDP needs them (GRO on the balancer's side of the \
         client's wire is on: without XDP the wire is not polled otherwise). In the bulk case, nftables and \
         the proxies are also measured with all of them on.\n\
         - **AF_XDP**: rings of 2048, batches of 64, need-wakeup on; they wait {poll}, for the bare \
         forwarder as for Waxwing.\n\
         - **Waxwing**: release build, one worker, policies as WebAssembly ({policies}), room for {SESSIONS_MAX} \
         sessions.\n\
         - **bare forwarder**: same program, rings and I/O code; it changes MAC addresses and sends out of \
         the other port, all to one server.\n\
         - **nftables**: `dnat` by `numgen inc mod 2`, no other rule; connection tracking with room for \
         {SESSIONS_MAX} sessions and a bucket for each four.\n\
         - **Proxies**: {}, one thread; {}, one worker; both end the TCP connection and make another.\n\
         - **HTTP**: wrk, one thread, 32 connections (requests a second); a paced client of ours, 32 \
         connections (latencies). It shares CPU {load} with two nginx servers and with the clients' and servers' TCP, \
         which are the limit where contenders are equal: see the contender's CPU beside. A paced client sends a \
         request on each of its connections in turn, and none on one that waits for an answer: a pause shows \
         once for each connection. Its timers are good for a millisecond, so requests leave in small bursts.",
        machine(),
        version("haproxy", "HAProxy"),
        version("nginx", "nginx stream"),
    )
}

fn machine() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.unwrap_or("an unknown processor");
    // What a distributor or a host adds to the version says nothing to others.
    let version = kernel.trim().split('-').next().unwrap_or_default();
    format!(
        "On Linux {version}, {}.",
        model.trim_start_matches([' ', '\t', ':'])
    )
}

/// A program's name with its version, as far as it tells it.
fn version(program: &str, name: &str) -> String {
    let output = Command::new(program).arg("-v").output();
    let said = output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
    );
    let is_version = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
    let words = said.split([' ', '/', '\n']);
    let version = words.filter(|word| word.contains('.')).find(is_version);
    format!("{name} {}", version.unwrap_or(""))
}
