//! The guest's side: as the kernel's first process, this program mounts the file systems, loads the modules
//! and runs the scenarios that the host requests.
//!
//! Invariant: [`serve`] never returns. It switches the machine off when the host closes the serial port. If
//! this process ends in another way, the kernel panics and the machine ends.

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

/// The serial port to the host.
const HOST: &str = "/dev/ttyS1";

/// Kernel modules that nothing loads automatically: the cards' driver, and that of `/dev/net/tun`.
const MODULES: &[&str] = &["virtio_net", "tun"];

/// A scenario that the guest can run.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The name, unique in a program.
    pub name: &'static str,
    /// The function that runs it.
    pub run: fn(&Report) -> Result<()>,
}

/// A running scenario's output to the host.
#[derive(Debug)]
pub struct Report(RefCell<File>);

impl Report {
    /// Sends a line of text.
    pub fn say(&self, text: impl Display) {
        self.send(&Word::Said(text.to_string()));
    }

    /// Sends a measurement's name and value.
    pub fn measured(&self, what: &str, value: f64) {
        self.send(&Word::Measured(what.to_owned(), value));
    }

    fn send(&self, word: &Word) {
        let line = serde_json::to_string(word).unwrap_or_default();
        // Writing fails only if the host has closed the port; it is then ending the machine.
        drop(writeln!(self.0.borrow_mut(), "{line}"));
    }
}

/// Whether this process is the kernel's first process (process id 1).
pub fn is_guest() -> bool {
    std::process::id() == 1
}

/// Runs the scenarios that the host requests, then switches the machine off.
pub fn serve(scenarios: &[Scenario]) -> ! {
    if let Err(error) = try_serve(scenarios) {
        eprintln!("the guest stops serving: {error:#}");
    }
    loop {
        // It returns only on an error; this process runs as root and has the privilege.
        let _ = reboot(RebootMode::RB_POWER_OFF);
        thread::sleep(Duration::from_secs(1));
    }
}

fn try_serve(scenarios: &[Scenario]) -> Result<()> {
    mount_all()?;
    let (names, report) = open_host().context("cannot open the serial port to the host")?;
    report.say("the kernel has booted");
    for module in MODULES {
        process::run(Command::new("modprobe").arg(module))?;
    }
    report.send(&Word::Ready);
    for name in names.lines() {
        let name = name?;
        eprintln!("--- {name}");
        let scenario = scenarios.iter().find(|scenario| scenario.name == name);
        let outcome = scenario
            .with_context(|| format!("the guest has no scenario `{name}`"))
            .and_then(|scenario| (scenario.run)(&report));
        report.send(&match outcome {
            Ok(()) => Word::Passed,
            Err(error) => Word::Failed(format!("{error:#}")),
        });
    }
    Ok(())
}

/// Mounts the file systems that an init process must mount.
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

/// Opens the serial port in raw mode: no echo, and no conversion of line ends.
fn open_host() -> io::Result<(BufReader<File>, Report)> {
    let port = File::options().read(true).write(true).open(HOST)?;
    let mut attributes = tcgetattr(&port)?;
    cfmakeraw(&mut attributes);
    tcsetattr(&port, SetArg::TCSANOW, &attributes)?;
    let report = Report(RefCell::new(port.try_clone()?));
    Ok((BufReader::new(port), report))
}
