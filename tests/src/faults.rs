//! Faults of servers, injected and undone.
//!
//! Invariant: a fault is in force when [`Server::suffer`] returns. When [`Server::recover`] returns,
//! nothing of it is left; a restarted server has answered a query in its own namespace.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::moody_server::Mood;
use crate::server_kind::Kind;
use crate::servers::Server;

/// The longest time until a signal takes effect.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A fault of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Stopped cleanly: its port is closed.
    Stopped,
    /// Ended by `SIGKILL`, with all of its processes.
    Killed,
    /// `SIGSTOP` to all of its processes: the kernel still accepts connections.
    Paused,
    /// A firewall drops packets to its port.
    Dropped,
    /// A firewall rejects packets to its port: TCP by a reset, UDP by port unreachable.
    Rejected,
    /// It answers with status 500.
    Failing,
    /// It answers after [`crate::moody_server::LATE`].
    Late,
    /// It accepts connections and sends nothing.
    Hanging,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 8] = [
        Self::Stopped,
        Self::Killed,
        Self::Paused,
        Self::Dropped,
        Self::Rejected,
        Self::Failing,
        Self::Late,
        Self::Hanging,
    ];

    /// Whether a kind of server can have this fault.
    pub fn applies_to(self, kind: Kind) -> bool {
        match self {
            Self::Failing | Self::Late => matches!(kind, Kind::Nginx | Kind::Moody),
            Self::Hanging => kind == Kind::Moody,
            _ => true,
        }
    }
}

impl Server<'_> {
    /// Injects a fault.
    pub fn suffer(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Stopped => self.stop(),
            Fault::Killed => {
                self.signal_all(Signal::SIGKILL)?;
                // Reaps the first process; init reaps the others.
                self.process = None;
                Ok(())
            }
            Fault::Paused => self.signal_all(Signal::SIGSTOP),
            Fault::Dropped => self.firewall("drop", "drop"),
            Fault::Rejected => self.firewall(
                "reject with tcp reset",
                "reject with icmpx type port-unreachable",
            ),
            Fault::Failing => self.set_mood(&Mood::Failing),
            Fault::Late => self.set_mood(&Mood::Late),
            Fault::Hanging => self.set_mood(&Mood::Hanging),
        }
    }

    /// Undoes a fault.
    pub fn recover(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Stopped | Fault::Killed => self.run(),
            Fault::Paused => self.signal_all(Signal::SIGCONT),
            Fault::Dropped | Fault::Rejected => {
                let table = self.table();
                let done = self
                    .namespace
                    .run("nft", &["delete", "table", "inet", &table]);
                done.map(drop)
            }
            Fault::Failing | Fault::Late | Fault::Hanging => self.set_mood(&Mood::Well),
        }
    }

    fn signal_all(&self, signal: Signal) -> Result<()> {
        let process = self.process.as_ref().context("the server is not running")?;
        signal_tree(process.id(), signal)
    }

    /// Applies a verdict of nftables to packets for its port, also of established connections.
    fn firewall(&self, tcp: &str, udp: &str) -> Result<()> {
        let (table, port) = (self.table(), self.address().port());
        let rules = format!(
            "add table inet {table}\n\
             add chain inet {table} input {{ type filter hook input priority filter; }}\n\
             add rule inet {table} input tcp dport {port} {tcp}\n\
             add rule inet {table} input udp dport {port} {udp}\n"
        );
        self.namespace.run("nft", &[&rules]).map(drop)
    }

    fn table(&self) -> String {
        format!("fault{}", self.address().port())
    }
}

/// Sends a signal to a process and its descendants, parents first, because a stopped parent starts no more
/// children. Returns when the signal has taken effect on each.
pub(crate) fn signal_tree(root: u32, signal: Signal) -> Result<()> {
    let mut pending = vec![i32::try_from(root).context("a process id is positive")?];
    let mut done = Vec::new();
    while let Some(process) = pending.pop() {
        // A killed process's children can no longer be found.
        pending.extend(children(process)?);
        match kill(Pid::from_raw(process), signal) {
            Ok(()) => pending.extend(children(process)?),
            // It ended meanwhile, for example because its parent was killed.
            Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).context(format!("cannot send {signal} to {process}")),
        }
        done.push(process);
        pending.retain(|process| !done.contains(process));
    }
    let deadline = Instant::now() + TIMEOUT;
    for process in done {
        while !has_worked(process, signal) {
            ensure!(
                Instant::now() < deadline,
                "{signal} had no effect on {process} within {TIMEOUT:?}"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Whether a signal has taken effect: the process has ended (perhaps not reaped), is stopped, or is running
/// again.
fn has_worked(process: i32, signal: Signal) -> bool {
    let Some((state, _)) = stat(process) else {
        return true;
    };
    match signal {
        Signal::SIGKILL => matches!(state, 'Z' | 'X'),
        Signal::SIGSTOP => matches!(state, 'T' | 'Z' | 'X'),
        Signal::SIGCONT => state != 'T',
        _ => true,
    }
}

/// Returns a process's state and parent (proc(5), fields 3 and 4 of `stat`).
fn stat(process: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

fn children(parent: i32) -> Result<Vec<i32>> {
    let processes = fs::read_dir("/proc").context("cannot list processes")?;
    Ok(processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process| stat(*process).is_some_and(|(_, its)| its == parent))
        .collect())
}
