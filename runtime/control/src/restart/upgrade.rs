//! One process takes over from another while traffic flows.
//!
//! The new one has checked its config, compiled its modules and loaded its program before it says hello.
//! Then:
//!
//! 1. the new one says hello, with the layout of its rings; the old one sends its state, with all sessions;
//! 2. the new one resolves next hops and fills its program's maps, and asks to take over;
//! 3. the old one stops its workers between two batches, and sends the descriptors of sockets, memory and
//!    links, the free chunks, and what has changed of the sessions;
//! 4. the new one starts its workers, has the links run its own program, and says that it serves; the old one
//!    tells the service manager so, and ends.
//!
//! Invariant: the old one makes no other change meanwhile. Unless the new one says that it serves, the old
//! one goes on: before step 3 as if nothing had been, after it with new sockets.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use waxwing_dataplane::session::{CopiedSessions, RECORD_LEN, SessionRecord};

use super::channel::Channel;
use super::file::StateFile;
use super::head::Head;
use super::{HEAD_MAX, KeptState};
use crate::admin::ports::GivenPorts;
use crate::publish::controller::Controller;

/// The version of the messages.
const VERSION: u32 = 1;

/// The longest message that is no state, in bytes.
const MESSAGE_MAX: u64 = 256 << 20;

/// How long the old process talks with the new one. Meanwhile its control loop does not turn, and a service
/// manager waits less than half a minute for that (`WatchdogSec=` of the unit, fed four times within it).
const CONVERSATION_MAX: Duration = Duration::from_secs(20);

/// How long a process takes to end whose sockets are closed, and how often it is looked at.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Returns the path of the socket for upgrades, beside the admin socket.
pub(crate) fn socket_beside(admin: &Path) -> PathBuf {
    let mut path = admin.as_os_str().to_owned();
    path.push(".upgrade");
    path.into()
}

/// The new process's first message.
#[derive(Serialize, Deserialize)]
struct Hello {
    version: u32,
    /// What must be alike.
    layout: Vec<(String, String)>,
}

/// The old process's answer; the state follows.
#[derive(Serialize, Deserialize)]
enum Answer {
    Welcome,
    Refused(String),
}

/// What the new process says later.
#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
enum Step {
    Take,
    Serves,
}

/// Why no other process could be taken over.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error(
        "no waxwing can be upgraded at {}: {source}; start one with `waxwing run`, with the same \
         `socket` under [admin]", path.display()
    )]
    Connect { path: PathBuf, source: io::Error },
    #[error("the running waxwing goes on, and says: {0}")]
    Refused(String),
    #[error("the running waxwing has waited too long for this one, and goes on")]
    GoesOn,
    #[error("the connection to the running waxwing failed: {0}")]
    Io(#[from] io::Error),
}

impl From<serde_json::Error> for UpgradeError {
    fn from(error: serde_json::Error) -> Self {
        Self::Io(error.into())
    }
}

/// What has changed of the sessions since [`KeptState`].
pub struct Changes {
    ended: Vec<u8>,
    changed: Vec<u8>,
    record_len: usize,
}

/// The running process, as the new one sees it.
pub struct Predecessor {
    channel: Channel,
    record_len: usize,
}

impl Predecessor {
    /// Connects to the process with this admin socket, and says hello. Returns its state.
    ///
    /// # Errors
    /// [`UpgradeError`].
    pub fn greet(
        admin: &Path,
        layout: Vec<(String, String)>,
        sessions_max: usize,
    ) -> Result<(Self, KeptState), UpgradeError> {
        let path = socket_beside(admin);
        let connected = UnixStream::connect(&path).and_then(Channel::new);
        let channel = connected.map_err(|source| UpgradeError::Connect { path, source })?;
        let hello = Hello {
            version: VERSION,
            layout,
        };
        channel.send(&serde_json::to_vec(&hello)?, &[])?;
        let (answer, _) = channel.receive(MESSAGE_MAX)?;
        if let Answer::Refused(why) = serde_json::from_slice(&answer)? {
            return Err(UpgradeError::Refused(why));
        }
        let (state, _) = channel.receive(HEAD_MAX + (4 * sessions_max * RECORD_LEN) as u64)?;
        let state = KeptState::new(StateFile::parse(state)?, None);
        let record_len = state.file.head.record_len;
        Ok((
            Self {
                channel,
                record_len,
            },
            state,
        ))
    }

    /// Has the old process stop. Returns what [`AttachedPorts::give`] of it returned.
    ///
    /// [`AttachedPorts::give`]: crate::admin::ports::AttachedPorts::give
    ///
    /// # Errors
    /// [`UpgradeError`].
    pub fn take(&self) -> Result<GivenPorts, UpgradeError> {
        self.channel.send(&serde_json::to_vec(&Step::Take)?, &[])?;
        let (text, descriptors) = self.channel.receive(MESSAGE_MAX)?;
        Ok(GivenPorts {
            text,
            descriptors,
            dropped_later: Vec::new(),
        })
    }

    /// Returns what has changed of the sessions, after [`Self::take`]. The old process collects it meanwhile.
    ///
    /// # Errors
    /// [`UpgradeError`].
    pub fn changes(&self) -> Result<Changes, UpgradeError> {
        let (ended, _) = self.channel.receive(u64::MAX)?;
        let (changed, _) = self.channel.receive(u64::MAX)?;
        Ok(Changes {
            ended,
            changed,
            record_len: self.record_len,
        })
    }

    /// Tells the old process that this one serves, and waits until it has dropped its [`Successor`]. If it
    /// has ended or hangs, which is logged, this one serves alone.
    ///
    /// # Errors
    /// [`UpgradeError::GoesOn`]: the old one did not wait for this word. This one has to end.
    pub fn serves(&self) -> Result<(), UpgradeError> {
        let Self { channel, .. } = self;
        let serves = serde_json::to_vec(&Step::Serves)?;
        let Err(error) = channel
            .send(&serves, &[])
            .and_then(|()| channel.wait_closed())
        else {
            return Ok(());
        };
        let is_closed = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        if is_closed.contains(&error.kind()) && lives(channel.peer()?) {
            return Err(UpgradeError::GoesOn);
        }
        warn!("the process that was taken over: {error}; this one serves");
        Ok(())
    }
}

/// Whether a process whose socket has been closed goes on. One that ends closes it some time before.
fn lives(process: u32) -> bool {
    let stat = PathBuf::from(format!("/proc/{process}/stat"));
    let goes_on = || {
        let stat = std::fs::read_to_string(&stat).unwrap_or_default();
        // Behind its name, which ends with the last bracket: proc_pid_stat(5).
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        !matches!(state, None | Some('Z' | 'X'))
    };
    for _ in 0..ENDS_WITHIN.as_millis() / ASK_EVERY.as_millis() {
        if !goes_on() {
            return false;
        }
        std::thread::sleep(ASK_EVERY);
    }
    goes_on()
}

/// The process that has taken over. It tells a service manager nothing until this is dropped.
pub struct Successor {
    /// Its process id.
    pub pid: u32,
    _channel: Channel,
}

impl Changes {
    pub(super) fn ended(&self) -> impl Iterator<Item = SessionRecord> + '_ {
        records(&self.ended, self.record_len)
    }

    pub(super) fn changed(&self) -> impl Iterator<Item = SessionRecord> + '_ {
        records(&self.changed, self.record_len)
    }
}

fn records(bytes: &[u8], len: usize) -> impl Iterator<Item = SessionRecord> + '_ {
    bytes.chunks_exact(len).filter_map(SessionRecord::read)
}

/// Hands over to the process at the other end. Returns it if it serves now; otherwise this one goes on, and
/// the reason is logged.
pub(crate) fn hand_over(controller: &Controller, stream: UnixStream) -> Option<Successor> {
    let mut has_given = false;
    let channel = Channel::new(stream).map(|channel| channel.within(CONVERSATION_MAX));
    let outcome = channel.and_then(|channel| {
        let pid = channel.peer()?;
        let serves = converse(controller, &channel, &mut has_given)?;
        let _channel = channel;
        Ok(serves.then_some(Successor { pid, _channel }))
    });
    match outcome {
        Ok(Some(successor)) => {
            info!("another process has taken over");
            return Some(successor);
        }
        Ok(None) => {}
        Err(error) => warn!("an upgrade failed, this process goes on: {error}"),
    }
    if has_given && let Err(error) = controller.port_report.take_back() {
        warn!("after the failed upgrade: {error}");
    }
    None
}

/// The old process's side. Returns whether the new one serves.
fn converse(controller: &Controller, channel: &Channel, has_given: &mut bool) -> io::Result<bool> {
    let (hello, _) = channel.receive(MESSAGE_MAX)?;
    let hello: Hello = serde_json::from_slice(&hello)?;
    if let Some(why) = refusal(&hello, &controller.port_report.layout()) {
        warn!("an upgrade is refused: {why}");
        channel.send(&serde_json::to_vec(&Answer::Refused(why))?, &[])?;
        return Ok(false);
    }
    channel.send(&serde_json::to_vec(&Answer::Welcome)?, &[])?;
    let mut copied = CopiedSessions::default();
    let (_, records) = copy(controller, &mut copied);
    let state = StateFile {
        head: Head::of(controller, controller.now(), controller.save_policies()),
        records,
    };
    state.write(|parts| channel.send(&parts.concat(), &[]))?;
    let (step, _) = channel.receive(MESSAGE_MAX)?;
    if serde_json::from_slice::<Step>(&step)? != Step::Take {
        return Err(io::Error::other(
            "the other process did not ask to take over",
        ));
    }
    *has_given = true;
    let given = controller.port_report.give()?;
    channel.send(&given.text, &given.descriptors)?;
    let (ended, changed) = copy(controller, &mut copied);
    channel.send(&ended, &[])?;
    channel.send(&changed, &[])?;
    let (step, _) = channel.receive(MESSAGE_MAX)?;
    Ok(serde_json::from_slice::<Step>(&step)? == Step::Serves)
}

/// Returns why the new process cannot take over.
fn refusal(hello: &Hello, own: &[(String, String)]) -> Option<String> {
    if hello.version != VERSION {
        let (other, own) = (hello.version, VERSION);
        return Some(format!(
            "it hands over by version {own}, not by {other}; stop it and start the other one"
        ));
    }
    let differs = difference(own, &hello.layout)?;
    Some(format!(
        "{differs}; to change that, stop it and start the other one"
    ))
}

/// Returns the first difference between the layouts of two processes' ports
/// ([`AttachedPorts::layout`](crate::admin::ports::AttachedPorts::layout)).
#[must_use]
pub fn difference(old: &[(String, String)], new: &[(String, String)]) -> Option<String> {
    let mut pairs = old.iter().zip(new);
    let ((name, old), (_, new)) = pairs.find(|(old, new)| old != new)?;
    Some(format!("its {name}: {old}; the new one's: {new}"))
}

/// Copies what has changed of the sessions: the records of those that have ended, and of the others.
fn copy(controller: &Controller, copied: &mut CopiedSessions) -> (Vec<u8>, Vec<u8>) {
    let (mut ended, mut changed) = (Vec::new(), Vec::new());
    let now = controller.now().tick();
    controller
        .shared
        .sessions
        .copy(copied, now, |record, has_ended| {
            record.write(if has_ended { &mut ended } else { &mut changed });
        });
    (ended, changed)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use std::process::Command;

    use super::*;

    /// The new process's end of a conversation with this process, and the old one's.
    fn pair() -> (Predecessor, UnixStream) {
        let (new, old) = UnixStream::pair().unwrap();
        let channel = Channel::new(new).unwrap();
        let record_len = RECORD_LEN;
        (
            Predecessor {
                channel,
                record_len,
            },
            old,
        )
    }

    #[test]
    fn the_old_process_decides_whether_the_new_one_serves() {
        let (new, old) = pair();
        let hears = std::thread::spawn(move || Channel::new(old).unwrap().receive(100).unwrap().0);
        new.serves().unwrap();
        assert_eq!(hears.join().unwrap(), b"\"Serves\"");

        // It has given up before, or before it has read the word.
        let (new, old) = pair();
        drop(old);
        assert!(matches!(new.serves(), Err(UpgradeError::GoesOn)));
        let (new, old) = pair();
        let gives_up = std::thread::spawn(move || {
            let mut byte = [0];
            while rustix::net::recv(&old, &mut byte, rustix::net::RecvFlags::PEEK)
                .unwrap()
                .1
                == 0
            {}
            drop(old);
        });
        assert!(matches!(new.serves(), Err(UpgradeError::GoesOn)));
        gives_up.join().unwrap();
    }

    #[test]
    fn a_process_that_has_ended_does_not_go_on() {
        assert!(lives(std::process::id()));
        let mut child = Command::new("true").spawn().unwrap();
        // Not waited for yet.
        assert!(!lives(child.id()));
        child.wait().unwrap();
        assert!(!lives(child.id()));
    }
}
