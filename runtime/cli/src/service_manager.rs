//! What the service manager (systemd) is told: datagrams to the socket that `NOTIFY_SOCKET` names, in the
//! protocol of sd_notify(3).
//!
//! Invariant: the watchdog is fed by the task that runs the control loop, and only if every worker has turned
//! its loop since it was fed before. A thread that hangs therefore ends the process, and the service manager
//! starts it again.
//!
//! An upgrade goes on with the service manager of the process that it takes over: that one names the new
//! process as the service's, which alone is heard from then on.

use std::convert::Infallible;
use std::env;
use std::future::pending;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr,
};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use waxwing_control::publish::reloads::Reload;

/// How long a datagram may wait for the service manager to read those before it.
const SEND_MAX: Duration = Duration::from_secs(1);

/// How long it may take to read what it was sent.
const READ_MAX: Duration = Duration::from_secs(2);

/// How the names of the descriptors begin that it keeps; their numbers follow.
const KEPT: &str = "waxwing-";

/// How often the watchdog is fed within its time: a worker that is late once does not matter.
const FED_WITHIN: u32 = 4;

/// The service manager that started this process, if one did.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager(OnceLock<Channel>);

#[derive(Debug)]
struct Channel {
    socket: UnixDatagram,
    /// Its socket, by address: it may be made again while this process lives.
    address: SocketAddrUnix,
    contact: Contact,
}

/// How to reach a service manager.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Contact {
    /// As in `NOTIFY_SOCKET`.
    socket: String,
    /// It ends the process if it hears nothing for this long, in microseconds.
    watchdog_us: Option<u64>,
}

impl ServiceManager {
    /// Reads what the service manager has set in the environment.
    ///
    /// # Errors
    /// `NOTIFY_SOCKET` is not the address of a socket, or the kernel gives no socket.
    pub(crate) fn from_environment() -> Result<Self> {
        let manager = Self::default();
        let Ok(socket) = env::var("NOTIFY_SOCKET") else {
            return Ok(manager);
        };
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        // The variables may be meant for the process that started this one.
        let own = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog_us = number("WATCHDOG_USEC").filter(|micros| own && *micros > 0);
        let contact = Contact {
            socket,
            watchdog_us,
        };
        manager.connect(contact)?;
        Ok(manager)
    }

    /// Connects, unless it is connected. An upgrade does so with what the old process has sent.
    ///
    /// # Errors
    /// There is no such socket, or the kernel gives none.
    pub(crate) fn connect(&self, contact: Contact) -> Result<()> {
        let channel = Channel::new(contact)?;
        // If it fails, this process has one of its own.
        let _ = self.0.set(channel);
        Ok(())
    }

    /// Returns how to reach it, for another process.
    pub(crate) fn contact(&self) -> Option<Contact> {
        self.0.get().map(|channel| channel.contact.clone())
    }

    /// The balancer serves.
    pub(crate) fn serving(&self) {
        self.send("READY=1\nSTATUS=serving");
    }

    /// A reload begins or has ended.
    pub(crate) fn reload(&self, step: Reload<'_>) {
        match step {
            Reload::Begins => {
                let now = clock_gettime(ClockId::Monotonic);
                let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
                self.send(&format!(
                    "RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the config again"
                ));
            }
            Reload::Ended(status) => {
                let outcome = match &status.error {
                    None => format!("serving; config reloaded, {}", status.changes),
                    Some(why) => format!(
                        "serving; config not reloaded, the running config stays: {}",
                        first_error(why)
                    ),
                };
                self.send(&format!("READY=1\nSTATUS={outcome}"));
            }
        }
    }

    /// Another process is the service's from now on.
    pub(crate) fn succeeded_by(&self, process: u32) {
        self.send(&format!("MAINPID={process}\nWATCHDOG=1"));
    }

    /// The balancer ends.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=ending");
    }

    /// Feeds the watchdog, if there is one, forever. `turns` returns a value for each worker that changes
    /// with every turn of its loop.
    pub(crate) async fn watch(&self, turns: impl Fn() -> Vec<u64>) -> Infallible {
        let watchdog = self.0.get().and_then(|it| it.contact.watchdog_us);
        let Some(watchdog) = watchdog.map(Duration::from_micros) else {
            return pending().await;
        };
        let mut fed_at = turns();
        loop {
            tokio::time::sleep(watchdog / FED_WITHIN).await;
            let now = turns();
            match fed_at.iter().zip(&now).position(|(then, now)| then == now) {
                None => {
                    fed_at = now;
                    self.send("WATCHDOG=1");
                }
                Some(worker) => tracing::error!(
                    "worker {worker} hangs, so the watchdog is not fed; the service manager ends waxwing \
                     if it goes on hanging"
                ),
            }
        }
    }

    fn send(&self, text: &str) {
        if let Err(error) = self.post(text, &[]) {
            tracing::warn!("the service manager cannot be told {text:?}: {error}");
        }
    }

    /// Has it keep descriptors until the service starts again, and waits until it has them. One without a
    /// store for this service closes them; so do all when the service stays stopped.
    ///
    /// # Errors
    /// It does not read its socket, or the kernel gives no pipe.
    pub(crate) fn keep(&self, descriptors: &[OwnedFd]) -> io::Result<()> {
        for (number, descriptor) in descriptors.iter().enumerate() {
            // Without `FDPOLL=0` it drops a socket that reports an error.
            let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={KEPT}{number}");
            self.post(&text, &[descriptor.as_fd()])?;
        }
        self.wait_read()
    }

    /// Has it close what [`ServiceManager::keep`] of an earlier process gave it by these numbers, and waits
    /// until it has.
    ///
    /// # Errors
    /// As [`ServiceManager::keep`].
    pub(crate) fn forget(&self, numbers: impl Iterator<Item = usize>) -> io::Result<()> {
        for number in numbers {
            self.post(&format!("FDSTOREREMOVE=1\nFDNAME={KEPT}{number}"), &[])?;
        }
        self.wait_read()
    }

    /// Waits until the service manager has read all that it was sent.
    fn wait_read(&self) -> io::Result<()> {
        let (ours, its) = io::pipe()?;
        self.post("BARRIER=1", &[its.as_fd()])?;
        drop(its);
        let timeout = Timespec::try_from(READ_MAX).ok();
        match poll(&mut [PollFd::new(&ours, PollFlags::IN)], timeout.as_ref())? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    fn post(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(Channel {
            socket, address, ..
        }) = self.0.get()
        else {
            return Ok(());
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            rights.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let text = [IoSlice::new(text.as_bytes())];
        sendmsg_addr(socket, address, &text, &mut rights, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// A descriptor with its place among those that [`ServiceManager::keep`] was given.
pub(crate) type Kept = (usize, OwnedFd);

/// Returns what the service manager has kept of an earlier process of the service, in its order. Call it
/// before anything else.
pub(crate) fn kept() -> Vec<Kept> {
    let number = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
    let own = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").and_then(|count| u16::try_from(count).ok());
    let descriptors = waxwing_xdp::inherited_descriptors(count.filter(|_| own).unwrap_or(0));
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let named = names.split(':').zip(descriptors.into_iter().flatten());
    let mut kept: Vec<Kept> = named
        .filter_map(|(name, it)| Some((name.strip_prefix(KEPT)?.parse().ok()?, it)))
        .collect();
    kept.sort_by_key(|(number, _)| *number);
    kept
}

impl Channel {
    fn new(contact: Contact) -> Result<Self> {
        let name = &contact.socket;
        let connect = || -> io::Result<_> {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
                _ => SocketAddrUnix::new(name.as_str())?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(SEND_MAX))?;
            Ok((socket, address))
        };
        let (socket, address) = connect().with_context(|| {
            format!(
                "cannot use NOTIFY_SOCKET {name}; unset it if no service manager started waxwing"
            )
        })?;
        Ok(Self {
            socket,
            address,
            contact,
        })
    }
}

/// Returns the first error of a config's problems: a field is one line. The log has all of them.
fn first_error(problems: &str) -> &str {
    let mut errors = problems
        .lines()
        .filter_map(|line| line.strip_prefix("error: "));
    errors
        .next()
        .or(problems.lines().next())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::SocketAddr;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    use waxwing_control::admin::status::ReloadStatus;

    use super::*;

    /// A service manager's socket, and the balancer's end.
    fn manager(watchdog: Option<Duration>) -> (UnixDatagram, ServiceManager, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let patience = Some(Duration::from_secs(10));
        socket.set_read_timeout(patience).expect("a time-out");
        let manager = connected(&path.to_string_lossy(), watchdog);
        (socket, manager, folder)
    }

    fn connected(socket: &str, watchdog: Option<Duration>) -> ServiceManager {
        let manager = ServiceManager::default();
        let socket = socket.to_owned();
        let watchdog_us = watchdog.and_then(|span| span.as_micros().try_into().ok());
        let connected = manager.connect(Contact {
            socket,
            watchdog_us,
        });
        connected.expect("its address");
        manager
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1024];
        let length = socket.recv(&mut bytes).expect("a datagram in time");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn each_step_is_one_datagram() {
        let (socket, manager, _folder) = manager(None);
        manager.serving();
        assert_eq!(heard(&socket), "READY=1\nSTATUS=serving");
        manager.reload(Reload::Begins);
        let begun = heard(&socket);
        assert!(begun.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{begun}");
        let refused = ReloadStatus {
            error: Some(
                "warning: odd\n\nerror: no such key\n  --> lb.toml:3:1\nREADY=0".to_owned(),
            ),
            ..ReloadStatus::default()
        };
        manager.reload(Reload::Ended(&refused));
        assert_eq!(
            heard(&socket),
            "READY=1\nSTATUS=serving; config not reloaded, the running config stays: no such key"
        );
        manager.succeeded_by(7);
        assert_eq!(heard(&socket), "MAINPID=7\nWATCHDOG=1");
        manager.stopping();
        assert_eq!(heard(&socket), "STOPPING=1\nSTATUS=ending");
    }

    #[test]
    fn an_abstract_address_is_found() {
        let name = format!("waxwing-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        connected(&format!("@{name}"), None).serving();
        assert_eq!(heard(&socket), "READY=1\nSTATUS=serving");
    }

    #[test]
    fn the_watchdog_is_fed_only_while_every_worker_turns() {
        static TURN: AtomicU64 = AtomicU64::new(1);
        static HANGS: AtomicBool = AtomicBool::new(false);
        let turns = || {
            let turn = TURN.fetch_add(1, Ordering::SeqCst);
            let other = if HANGS.load(Ordering::SeqCst) {
                0
            } else {
                turn
            };
            vec![turn, other]
        };
        let asked_again = || {
            let enough = TURN.load(Ordering::SeqCst) + 3;
            while TURN.load(Ordering::SeqCst) < enough {
                thread::sleep(Duration::from_millis(1));
            }
        };
        let (socket, manager, _folder) = manager(Some(Duration::from_millis(20)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        // It ends with the test's process.
        thread::spawn(move || runtime.block_on(manager.watch(turns)));
        assert_eq!(heard(&socket), "WATCHDOG=1");
        HANGS.store(true, Ordering::SeqCst);
        asked_again();
        socket.set_nonblocking(true).expect("a flag");
        while socket.recv(&mut [0; 64]).is_ok() {}
        asked_again();
        assert!(
            socket.recv(&mut [0; 64]).is_err(),
            "fed while a worker hangs"
        );
        HANGS.store(false, Ordering::SeqCst);
        socket.set_nonblocking(false).expect("a flag");
        assert_eq!(heard(&socket), "WATCHDOG=1");
    }
}
