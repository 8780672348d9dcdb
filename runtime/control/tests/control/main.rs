//! The control side as a whole: config, modules, epochs, steering, signals and the admin socket,
//! with threads that take up epochs as workers do and steering that is written down.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod admin;
mod balancer;
#[path = "../bed/mod.rs"]
mod bed;
mod changes;
mod policies;

use std::process::ExitCode;

use crate::admin::{sessions, signals, socket};
use crate::changes::{checks, larger_mtu, order, reload, retired, stuck};
use crate::policies::{backend_signals, canary, modules};

fn main() -> ExitCode {
    let tests: &[(&str, fn())] = &[
        ("what is wrong with a config is found in one go", checks),
        (
            "backends' rules go before the workers, services' follow them",
            order,
        ),
        (
            "a reload adds and removes; a bad one changes nothing",
            reload,
        ),
        (
            "a removed service keeps its rules until its sessions end",
            retired,
        ),
        (
            "a module in the folder takes over; a bad one is refused",
            modules,
        ),
        ("a new module serves on one worker first", canary),
        (
            "signals are set by name, all of a request or none",
            backend_signals,
        ),
        (
            "a worker that does not take a change up holds back the next",
            stuck,
        ),
        ("sessions are listed, all or one service's", sessions),
        (
            "the admin socket is private, unique and replaces a stale one",
            socket,
        ),
        ("an MTU that is raised is a problem", larger_mtu),
        ("SIGHUP reloads and SIGTERM ends", signals),
    ];
    // Signals reach every control side of the process.
    bed::run(libtest_mimic::Arguments::from_args(), tests, true)
}
