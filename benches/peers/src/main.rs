//! Measures Waxwing and its peers under the same load.
//!
//! `cargo xtask bench wire` runs the contenders in network namespaces of this host ([`wire`]); `cargo xtask
//! bench vm` runs them in a virtual machine whose network cards support zero-copy ([`vm`]); `cargo xtask
//! bench balance` compares how policies share a load ([`balance`]), `cargo xtask bench floods` how clients
//! fare under floods ([`floods`]). All use the same [`contender`]s, [`network`] and [`wrk`], and report
//! [`outcome`]s by [`page`].
//!
//! Invariant: however it ends, it leaves no namespace, process or setting behind, and it touches only
//! interfaces that it created.

mod balance;
mod contender;
mod cpu;
mod floods;
mod network;
mod outcome;
mod page;
mod sample;
mod vm;
mod wire;
mod wrk;

use std::thread;

use anyhow::Result;
use clap::{Parser, Subcommand};
use waxwing_tests::netns;

/// Measures Waxwing and its peers.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Waxwing, a bare AF_XDP forwarder, nftables, HAProxy and nginx in network namespaces
    Wire(wire::Arguments),
    /// Load policies beside HAProxy's `leastconn`, on servers of unequal speed
    Balance(balance::Arguments),
    /// New connections and transfers under floods, beside nftables
    Floods(floods::Arguments),
    /// Waxwing with zero-copy, IPVS and nftables in a virtual machine
    Vm(vm::Arguments),
}

fn main() -> Result<()> {
    vm::serve_if_guest();
    let outcome = match Arguments::parse().bench {
        Bench::Wire(arguments) => wire::run(&arguments),
        Bench::Balance(arguments) => balance::run(&arguments),
        Bench::Floods(arguments) => floods::run(&arguments),
        Bench::Vm(arguments) => vm::run(&arguments),
    };
    while netns::is_ending() {
        // The signal handler is removing the namespaces and then exits; it also caused any error here.
        thread::park();
    }
    outcome
}
