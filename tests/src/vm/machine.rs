//! The host's side: runs QEMU and reads the guest's messages.
//!
//! Invariant: every wait is bounded. The error about a guest that fails, hangs or ends has the last lines of
//! its console.

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
use crate::netns::card_mac;
use crate::process::Process;
use crate::scratch::Scratch;

/// The longest that the guest may take to boot; an idle machine needs some seconds.
const BOOT_TIMEOUT: Duration = Duration::from_secs(90);

/// The most attempts to boot. Emulated with several processors (TCG, `thread=multi`), a kernel sometimes
/// crashes while it boots: after it patches its own code, another processor may still run the old
/// translation (seen with Debian's 6.18: `Oops: int3` in `sched_clock_cpu`). The emulation is at fault, and
/// no test has begun.
const BOOTS_MAX: usize = 3;

/// Lines of the console in an error.
const CONSOLE_TAIL: usize = 60;

/// Processors and memory of the guest.
const PROCESSORS: &str = "2";
const MEMORY: &str = "1536M";

/// Options that virtio cards need for zero-copy: the DMA API, by which the kernel maps UMEM, and frames with
/// complete checksums that fit the MTU.
const CARD: &str = "virtio-net-pci,iommu_platform=on,disable-legacy=on,csum=off,guest_csum=off,\
                    guest_tso4=off,guest_tso6=off,guest_ufo=off,romfile=";

/// The guest's cards by number; 0 and 2 share a hub, 1 and 3 the other.
const CARDS: u8 = 4;
const HUBS: u8 = 2;

/// A running guest.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    console: PathBuf,
    _scratch: Scratch,
}

impl Machine {
    /// Boots this program as the guest's first process, and waits until it is ready, for at most `limit`.
    /// `say` receives the progress. A kernel that crashes before this program's first message is booted
    /// again, up to three times in all.
    ///
    /// # Errors
    /// A requirement is missing, or the guest does not get ready; the text has the console's end.
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
            "starting QEMU: Linux {release}, {megabytes} MiB of programs"
        ));
        let qemu = qemu(kernel, &archive, &console);
        let deadline = Instant::now() + limit;
        let mut machine = Self {
            process: Process::spawn_asked("qemu", &qemu)?,
            console,
            _scratch: scratch,
        };
        for boot in 1.. {
            let Err(error) = machine.get_ready(deadline, &say) else {
                break;
            };
            if boot == BOOTS_MAX || !machine.ended_unheard() {
                return Err(error);
            }
            let why = telling(&machine.console()).to_owned();
            say(&format!("the kernel crashed and is booted again: {why}"));
            machine.process = Process::spawn_asked("qemu", &qemu)?;
        }
        // The guest has unpacked the archive; it may take memory here.
        fs::remove_file(archive)?;
        Ok(machine)
    }

    /// Waits until the guest is ready, until `deadline` at most.
    fn get_ready(&mut self, deadline: Instant, say: &impl Fn(&str)) -> Result<()> {
        let begun = Instant::now();
        let after = |what: &str| {
            let took = begun.elapsed().as_secs_f64();
            say(&format!("{what} after {took:.1} s"));
        };
        let limit = deadline.saturating_duration_since(begun).min(BOOT_TIMEOUT);
        self.listen(limit, &Word::Ready, after)?;
        after("ready");
        Ok(())
    }

    /// Whether QEMU exited with success before our program's first message, as when the guest's kernel
    /// restarts. A guest that exceeded its time was killed instead.
    fn ended_unheard(&mut self) -> bool {
        let ended = self.process.try_wait();
        matches!(ended, Ok(Some(status)) if status.success()) && self.process.stdout().is_empty()
    }

    /// Runs a scenario to its end and returns its measurements; `say` receives its output.
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
        self.listen(limit, &Word::Passed, say)
    }

    /// Reads messages until `end`, for at most `limit`.
    fn listen(
        &mut self,
        limit: Duration,
        end: &Word,
        mut say: impl FnMut(&str),
    ) -> Result<BTreeMap<String, f64>> {
        let deadline = Instant::now() + limit;
        let mut measured = BTreeMap::new();
        loop {
            match self.hear(deadline)? {
                Word::Said(text) => say(&text),
                Word::Measured(what, value) => drop(measured.insert(what, value)),
                Word::Failed(why) => bail!("{why}\n{}", self.console_tail()),
                word if word == *end => return Ok(measured),
                word => bail!(
                    "unexpected message of the guest: {word:?}\n{}",
                    self.console_tail()
                ),
            }
        }
    }

    /// Whether QEMU is running.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Returns the guest's next message.
    fn hear(&mut self, deadline: Instant) -> Result<Word> {
        loop {
            // Checked before the line is read, because the last message comes before the end.
            let ended = self.process.try_wait()?;
            if let Some(line) = self.process.take_line() {
                return serde_json::from_str(line.trim())
                    .with_context(|| format!("the guest sent no message but `{line}`"));
            }
            let why = match ended {
                Some(status) => format!("the machine ended ({status}): {}", self.process.stderr()),
                None if Instant::now() >= deadline => {
                    self.process.kill();
                    "the guest exceeded its time and was killed".to_owned()
                }
                None => {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
            };
            bail!("{why}\n{}", self.console_tail());
        }
    }

    /// Returns the last lines of its console.
    fn console_tail(&self) -> String {
        let text = self.console();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(CONSOLE_TAIL)..];
        format!("--- the guest's console:\n{}\n---", tail.join("\n"))
    }

    /// Returns its console so far; each boot overwrites it.
    fn console(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Returns the line of a console that explains the kernel's end: a crash's first line, otherwise the last.
fn telling(console: &str) -> &str {
    let is_crash = |line: &&str| line.contains("Oops") || line.contains("panic");
    let last = console.lines().rfind(|line| !line.trim().is_empty());
    let line = console.lines().find(is_crash).or(last);
    line.map_or("its console is empty", str::trim)
}

fn qemu(kernel: &Kernel, archive: &Path, console: &Path) -> Command {
    let mut command = Command::new(HOST_TOOLS[0]);
    // Emulation even where hardware support exists, so that the machine is the same everywhere.
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
    // The kernel passes unknown parameters to the first process as environment.
    command.arg("-append").arg(format!(
        "console=ttyS0 quiet panic=-1 rdinit={INIT} mitigations=off PATH=/sbin"
    ));
    command
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    /// Returns a machine with a shell command in place of QEMU, after the command ended or was killed.
    fn ended(line: &str, kill: bool) -> Machine {
        let scratch = Scratch::new().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        let mut process = Process::spawn_asked("a machine", &command).unwrap();
        if kill {
            process.kill();
        }
        while process.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_millis(5));
        }
        Machine {
            process,
            console: scratch.path().join("console"),
            _scratch: scratch,
        }
    }

    #[test]
    fn only_a_kernel_that_ended_by_itself_before_our_first_message_is_booted_again() {
        assert!(ended("exit 0", false).ended_unheard());
        assert!(!ended("exit 1", false).ended_unheard(), "QEMU failed");
        assert!(!ended("sleep 60", true).ended_unheard(), "it was killed");
        let mut heard = ended("echo a word", false);
        while heard.process.stdout().is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!heard.ended_unheard(), "our program had sent a message");
    }

    #[test]
    fn a_crash_is_reported_by_its_first_line_and_any_other_end_by_the_last() {
        let crash = "[    0.4] Oops: int3: 0000 [#1] SMP\r\n\
                     [    0.4] RIP: 0010:sched_clock_cpu+0x5/0x110\r\n\
                     [    0.5] Kernel panic - not syncing: Attempted to kill init!\r\n";
        assert_eq!(telling(crash), "[    0.4] Oops: int3: 0000 [#1] SMP");
        let silent = "early console\n[    0.1] something else\n\n";
        assert_eq!(telling(silent), "[    0.1] something else");
        assert_eq!(telling(""), "its console is empty");
    }
}
