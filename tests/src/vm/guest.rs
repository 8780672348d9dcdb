//! The guest's side: the kernel's first process makes the place habitable, and runs the scenarios
//! that the host asks for.
//!
//! Invariant: it never returns: the machine is switched off when the host has no more to ask, and
//! the kernel does so where this process ends in any other way.

use std::cell::RefCell;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use super::Word;
use crate::process;

/// Where the host listens and asks.
const HOST: &str = "/dev/ttyS1";

/// Modules that nothing asks for by itself: the cards' driver, and the one behind `/dev/net/tun`.
const MODULES: &[&str] = &["virtio_net", "tun"];

/// A scenario that the guest can run.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name, unique in a program.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&Report) -> Result<()>,
}

/// What a scenario tells the host while it runs.
#[derive(Debug)]
pub struct Report(RefCell<File>);

impl Report {
    /// Says something for people.
    pub fn say(&self, text: impl Display) {
        self.send(&Word::Said(text.to_string()));
    }

    /// Gives the host a value.
    pub fn measured(&self, what: &str, value: f64) {
        self.send(&Word::Measured(what.to_owned(), value));
    }

    fn send(&self, word: &Word) {
        let line = serde_json::to_string(word).unwrap_or_default();
        // Where the host does not listen any more, the machine is about to end.
        drop(writeln!(self.0.borrow_mut(), "{line}"));
    }
}

/// Whether this process is a kernel's first one.
#[must_use]
pub fn is_guest() -> bool {
    std::process::id() == 1
}

/// Runs the scenarios that the host asks for, until it asks for no more.
pub fn serve(scenarios: &[Scenario]) -> ! {
    if let Err(error) = try_serve(scenarios) {
        eprintln!("the guest gives up: {error:#}");
    }
    loop {
        // It returns only where this process may not, and it is root's.
        let _ = reboot(RebootMode::RB_POWER_OFF);
        thread::sleep(Duration::from_secs(1));
    }
}

fn try_serve(scenarios: &[Scenario]) -> Result<()> {
    mount_all()?;
    let (asked, report) = open_host().context("the serial port to the host")?;
    report.say("the kernel runs");
    for module in MODULES {
        process::run(Command::new("modprobe").arg(module))?;
    }
    report.send(&Word::Ready);
    for name in asked.lines() {
        let name = name?;
        eprintln!("--- {name}");
        let scenario = scenarios.iter().find(|scenario| scenario.name == name);
        let outcome = scenario
            .with_context(|| format!("the guest knows no scenario `{name}`"))
            .and_then(|scenario| (scenario.run)(&report));
        report.send(&match outcome {
            Ok(()) => Word::Passed,
            Err(error) => Word::Failed(format!("{error:#}")),
        });
    }
    Ok(())
}

/// What a system's own first process does before any other.
fn mount_all() -> Result<()> {
    let none = None::<&str>;
    for (kind, path) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
    ] {
        mount(Some(kind), path, Some(kind), MsFlags::empty(), none)
            .with_context(|| format!("cannot mount {path}"))?;
    }
    Ok(())
}

/// The port as it is: no echo, and no other line ends than ours.
fn open_host() -> io::Result<(BufReader<File>, Report)> {
    let port = File::options().read(true).write(true).open(HOST)?;
    let mut attributes = tcgetattr(&port)?;
    cfmakeraw(&mut attributes);
    tcsetattr(&port, SetArg::TCSANOW, &attributes)?;
    let report = Report(RefCell::new(port.try_clone()?));
    Ok((BufReader::new(port), report))
}
