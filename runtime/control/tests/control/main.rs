//! The control plane as a whole: config, modules, epochs, steering, signals and the admin socket. Threads
//! take epochs as workers do, and steering rules are recorded.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod admin;
mod balancer;
#[path = "../bed/mod.rs"]
mod bed;
mod changes;
mod explain;
mod metrics;
mod policies;
mod resources;
mod steer;

use std::process::ExitCode;

use crate::admin::{health, sessions, signals, socket, stalled_peers_delay_nobody};
use crate::changes::{
    checks, drained, larger_mtu, order, port_down, refused_modules, reload, retired, stuck,
};
use crate::policies::{backend_signals, canary, modules};

const TESTS: &[(&str, fn())] = &[
    ("all errors of a config are reported at once", checks),
    (
        "reply rules precede the epoch, service rules follow it",
        order,
    ),
    (
        "a reload adds and removes; a bad config changes nothing",
        reload,
    ),
    ("a port that is down stops no reload", port_down),
    (
        "a removed service keeps its rules until its sessions end",
        retired,
    ),
    (
        "a module in the folder replaces the built-in one; a bad one is refused",
        modules,
    ),
    ("a new module serves on one worker first", canary),
    (
        "signals are set by name, all of a request or none",
        backend_signals,
    ),
    (
        "a worker that does not take a change delays the next",
        stuck,
    ),
    ("sessions are listed, all or one service's", sessions),
    (
        "the admin socket is private, unique and replaces a stale one",
        socket,
    ),
    (
        "peers of the admin socket that stall delay nobody",
        stalled_peers_delay_nobody,
    ),
    (
        "a drained backend shows its weight, and is named alike in commands and API",
        drained,
    ),
    (
        "a bad module is refused by the check although another build can serve",
        refused_modules,
    ),
    (
        "health follows ports, next hops and checks, by service",
        health,
    ),
    (
        "metrics have zeros, states and one service's part, and survive removals",
        metrics::metrics,
    ),
    (
        "scrapers that stall delay nobody, and can change nothing",
        metrics::stalled_scrapes,
    ),
    (
        "resources are listed by page and filter, and errors are JSON",
        resources::resources,
    ),
    (
        "events are listed by severity, area and number, and followed",
        resources::events,
    ),
    (
        "a packet is explained, and nothing is sent or opened",
        explain::explain,
    ),
    (
        "a weight is set at run time, and stays over a reload",
        steer::weights,
    ),
    (
        "a backend is added and removed at run time, and stays over a reload",
        steer::added,
    ),
    ("a drain ends when the operator said", steer::drain_within),
    ("sessions are ended by filters", steer::kill),
    ("a module goes back to its build before", steer::roll_back),
    ("the log says who changed what", steer::recorded),
    (
        "a group may use the admin socket, and the read-only one changes nothing",
        access::read_socket,
    ),
    (
        "the TCP port wants its token, host and origin",
        access::tcp_port,
    ),
    (
        "groups, tokens and addresses that cannot be are refused",
        access::refused_access,
    ),
    (
        "a config is checked and applied by the API, if it was made from the one in effect",
        resources::applied,
    ),
    ("an MTU above the allocated memory is a problem", larger_mtu),
    ("SIGHUP reloads and SIGTERM ends", signals),
];

fn main() -> ExitCode {
    // One at a time: signals reach every control plane in the process.
    bed::run(libtest_mimic::Arguments::from_args(), TESTS, true)
}
