//! The host's side: QEMU, and what it hears from the guest.
//!
//! Invariant: every wait is bounded, and a guest that fails, falls silent or ends is told of with the
//! last lines of its console.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::image::{INIT, Image};
use super::kernel::Kernel;
use super::{HOST_TOOLS, Word};
use crate::process::Process;
use crate::scratch::Scratch;

/// How long the guest may take until it is ready: it boots in some seconds on an idle machine.
const BOOT_TIMEOUT: Duration = Duration::from_secs(90);

/// Lines of the console that a failure shows.
const CONSOLE_TAIL: usize = 60;

/// Processors and memory of the guest.
const PROCESSORS: &str = "2";
const MEMORY: &str = "1536M";

/// What makes virtio cards fit for zero-copy: their memory is reached by the DMA interface, which
/// the kernel maps UMEM by; and frames are whole, with checksums, and within the MTU.
const CARD: &str = "virtio-net-pci,iommu_platform=on,disable-legacy=on,csum=off,guest_csum=off,\
                    guest_tso4=off,guest_tso6=off,guest_ufo=off,romfile=";

/// The guest's cards by number, and how two of them share a hub: 0 with 2, 1 with 3.
const CARDS: u8 = 4;
const HUBS: u8 = 2;

/// The MAC address of a card.
#[must_use]
pub fn card_mac(number: u8) -> String {
    format!("02:77:78:00:00:{number:02x}")
}

/// A guest that runs.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    console: PathBuf,
    _scratch: Scratch,
}

impl Machine {
    /// Boots this program as the guest's first one, and waits until it is ready, for `limit` at
    /// most; `say` gets how far it is.
    ///
    /// # Errors
    /// Something that it needs is missing, or it does not get ready; the text has the console's end.
    pub fn boot(
        kernel: &Kernel,
        image: &Image,
        limit: Duration,
        say: impl Fn(&str),
    ) -> Result<Self> {
        let scratch = Scratch::new()?;
        let archive = scratch.path().join("initramfs");
        let console = scratch.path().join("console");
        let release = kernel.release();
        image.write(kernel, &archive)?;
        let megabytes = fs::metadata(&archive)?.len() >> 20;
        say(&format!(
            "Linux {release}, {megabytes} MiB of programs: QEMU begins"
        ));
        let begun = Instant::now();
        let mut machine = Self {
            process: Process::spawn_asked("qemu", &qemu(kernel, &archive, &console))?,
            console,
            _scratch: scratch,
        };
        let after = |what: &str| {
            say(&format!(
                "{what} after {:.1} s",
                begun.elapsed().as_secs_f64()
            ))
        };
        machine.listen(limit.min(BOOT_TIMEOUT), Word::Ready, after)?;
        after("ready");
        // It has unpacked the archive; memory is dearer than a look at it afterwards.
        fs::remove_file(archive)?;
        Ok(machine)
    }

    /// Runs a scenario to its end; `say` gets what it says for people. Returns what it measured.
    ///
    /// # Errors
    /// It failed, or did not end within `limit`; the text has the console's end.
    pub fn run(
        &mut self,
        scenario: &str,
        limit: Duration,
        say: impl FnMut(&str),
    ) -> Result<BTreeMap<String, f64>> {
        self.process.ask(scenario)?;
        self.listen(limit, Word::Passed, say)
    }

    /// Hears the guest until it says `end`, for `limit` at most.
    fn listen(
        &mut self,
        limit: Duration,
        end: Word,
        mut say: impl FnMut(&str),
    ) -> Result<BTreeMap<String, f64>> {
        let deadline = Instant::now() + limit;
        let mut measured = BTreeMap::new();
        loop {
            match self.hear(deadline)? {
                Word::Said(text) => say(&text),
                Word::Measured(what, value) => drop(measured.insert(what, value)),
                Word::Failed(why) => bail!("{why}\n{}", self.console_tail()),
                word if word == end => return Ok(measured),
                word => bail!("the guest said {word:?}\n{}", self.console_tail()),
            }
        }
    }

    /// Whether it still runs and answers.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// The next thing that the guest says.
    fn hear(&mut self, deadline: Instant) -> Result<Word> {
        loop {
            // Asked before the line is looked for: its last words come before its end.
            let ended = self.process.try_wait()?;
            if let Some(line) = self.process.take_line() {
                return serde_json::from_str(line.trim())
                    .with_context(|| format!("the guest said `{line}`"));
            }
            let why = match ended {
                Some(status) => format!("the machine ended ({status}): {}", self.process.stderr()),
                None if Instant::now() >= deadline => {
                    // What it does from here on is of no use to anybody.
                    self.process.kill();
                    "the guest took too long and was switched off".to_owned()
                }
                None => {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
            };
            bail!("{why}\n{}", self.console_tail());
        }
    }

    /// The last lines of its console.
    fn console_tail(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(CONSOLE_TAIL)..];
        format!("--- the guest's console:\n{}\n---", tail.join("\n"))
    }
}

fn qemu(kernel: &Kernel, archive: &Path, console: &Path) -> Command {
    let mut command = Command::new(HOST_TOOLS[0]);
    // Emulated also where the processor could help: the same machine everywhere.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]);
    command.args(["-smp", PROCESSORS, "-m", MEMORY]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
    command.args(["-display", "none", "-serial"]);
    command.arg(format!("file:{}", console.display()));
    command.args(["-serial", "stdio"]);
    for number in 0..CARDS {
        let (hub, mac) = (number % HUBS, card_mac(number));
        command.arg("-netdev");
        command.arg(format!("hubport,id=wire{number},hubid={hub}"));
        command.arg("-device");
        command.arg(format!("{CARD},netdev=wire{number},mac={mac}"));
    }
    command.arg("-kernel").arg(kernel.image());
    command.arg("-initrd").arg(archive);
    // What the kernel does not know it hands to the first process as environment.
    command.arg("-append").arg(format!(
        "console=ttyS0 quiet panic=-1 rdinit={INIT} mitigations=off PATH=/sbin"
    ));
    command
}
