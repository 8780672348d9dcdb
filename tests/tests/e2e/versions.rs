//! What one version keeps for the next one, or passes to it, is read by another version: a newer one has
//! fields that this one does not know, an older one lacks fields.
//!
//! The other version is this one behind a stranger's hands, which change what it writes.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use waxwing_tests::{Config, Layout, Topology, Waxwing, actors};

use crate::restart::{kept_alive, stop};
use crate::traffic::web;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(another_versions_file_is_read),
    scenario!(another_version_takes_over).heavy(),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    /// It knows more fields than this one, in JSON and in records.
    Newer,
    /// It knows only what this one cannot do without.
    Older,
}

/// What the first version did not have; each has a default.
const ADDED: &[&str] = &["sources", "signals", "manager", "stopped_us"];

impl Version {
    /// Changes JSON to what this version writes.
    fn json(self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.values_mut().for_each(|value| self.json(value));
                match self {
                    Self::Newer => {
                        fields.insert("later".to_owned(), json!({ "unknown": [1, null, {}] }));
                    }
                    Self::Older => fields.retain(|name, _| !ADDED.contains(&&**name)),
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.json(value)),
            _ => {}
        }
    }

    fn json_bytes(self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut value = serde_json::from_slice(bytes)?;
        self.json(&mut value);
        Ok(serde_json::to_vec(&value)?)
    }

    /// Changes sessions' records.
    fn records(self, bytes: &[u8], len: usize) -> Vec<u8> {
        let more: &[u8] = match self {
            Self::Newer => &[0xaa; 9],
            Self::Older => &[],
        };
        let record = |record: &[u8]| [record, more].concat();
        bytes.chunks_exact(len).flat_map(record).collect()
    }

    /// Changes a state, as a file or as a message: a mark, the head's length, the head, records, SHA-256.
    /// Returns the length of its records before, too.
    fn state(self, bytes: &[u8]) -> Result<(Vec<u8>, usize)> {
        let (mark, rest) = bytes.split_at(8);
        let (len, rest) = rest.split_first_chunk().context("no length")?;
        let (head, rest) = rest.split_at(usize::try_from(u64::from_be_bytes(*len))?);
        let (records, _) = rest.split_at(rest.len() - 32);
        let mut head: Value = serde_json::from_slice(head)?;
        let record_len = usize::try_from(head["record_len"].as_u64().context("no length")?)?;
        self.json(&mut head);
        if self == Self::Newer {
            head["version"] = json!(99);
            head["record_len"] = json!(record_len + 9);
        }
        let head = serde_json::to_vec(&head)?;
        let len = (head.len() as u64).to_be_bytes();
        let records = self.records(records, record_len);
        let mut state = [mark, &len, &head, &records].concat();
        state.extend(Sha256::digest(&state));
        Ok((state, record_len))
    }
}

fn another_versions_file_is_read() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = web(&topology);
    let file = config.state.join("sessions.state");
    let mut waxwing = Waxwing::start(&topology, &config)?;
    let load = kept_alive(&topology, 9, Duration::from_secs(10))?;
    waxwing.wait_status("nine connections", |status| status.sessions() == 9)?;
    for version in [Version::Newer, Version::Older] {
        stop(&mut waxwing)?;
        let (state, _) = version.state(&fs::read(&file)?)?;
        fs::write(&file, state)?;
        waxwing.restart()?;
        waxwing.wait_log("9 sessions go on")?;
    }
    let tally = load.finish()?;
    ensure!(tally.failed() == 0, "they broke: {:?}", tally.failures);
    waxwing.stop().map(drop)
}

/// To a newer version and to an older one.
fn another_version_takes_over() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = web(&topology);
    let mut waxwing = Waxwing::start(&topology, &config)?;
    let asked = waxwing.ask(&["backend", "drain", "web", "10.2.0.11:8080"])?;
    ensure!(asked.status.success(), "{}", asked.stderr);
    let load = kept_alive(&topology, 20, Duration::from_secs(20))?;
    waxwing.wait_status("the connections", |status| status.sessions() == 20)?;
    for version in [Version::Newer, Version::Older, Version::Newer] {
        let between = between(&config, version)?;
        waxwing.upgrade()?;
        let changed = between.join().ok().context("a thread has panicked")??;
        ensure!(changed >= 4, "only {changed} messages passed");
        let status = waxwing.status()?;
        let opened = status.counted("sessions_opened");
        ensure!(opened == 0, "{opened} connections were opened again");
        ensure!(status.states("web")[0] == "draining", "{status}");
    }
    let tally = load.finish()?;
    ensure!(tally.failed() == 0, "they broke: {:?}", tally.failures);
    waxwing.stop().map(drop)
}

/// Comes between the running process and the one that is to take over, and has each see the other as this
/// version. Returns the number of messages in the end.
fn between(config: &Config, version: Version) -> Result<JoinHandle<Result<usize>>> {
    let socket = PathBuf::from(format!("{}.upgrade", config.socket().display()));
    let real = socket.with_extension("real");
    fs::rename(&socket, &real)?;
    let listener = UnixListener::bind(&socket)?;
    Ok(thread::spawn(move || {
        let (new, _) = listener.accept()?;
        pass_on(&new, &real, version)
    }))
}

fn pass_on(new: &UnixStream, real: &Path, version: Version) -> Result<usize> {
    let old = UnixStream::connect(real)?;
    fs::remove_file(real)?;
    thread::scope(|scope| {
        let forth = scope.spawn(|| {
            let mut count = 0;
            while let Some((bytes, descriptors)) = receive(new)? {
                // `Hello` has no field that the first version did not have.
                let is_hello = count == 0 && version == Version::Newer;
                let bytes = if is_hello {
                    version.json_bytes(&bytes)?
                } else {
                    bytes
                };
                send(&old, &bytes, &descriptors)?;
                count += 1;
            }
            anyhow::Ok(count)
        });
        let (mut count, mut record_len) = (0, 1);
        while let Some((bytes, descriptors)) = receive(&old)? {
            let bytes = match count {
                1 => {
                    let (state, len) = version.state(&bytes)?;
                    record_len = len;
                    state
                }
                2 => version.json_bytes(&bytes)?,
                3.. => version.records(&bytes, record_len),
                _ => bytes,
            };
            send(new, &bytes, &descriptors)?;
            count += 1;
        }
        // The old one has closed its end.
        new.shutdown(std::net::Shutdown::Both)?;
        let forth = forth.join().ok().context("a thread has panicked")?;
        Ok(count + forth?)
    })
}

/// Sends a message: its length, the number of its descriptors, its bytes, and a byte with the descriptors.
fn send(mut to: &UnixStream, bytes: &[u8], descriptors: &[RawFd]) -> Result<()> {
    to.write_all(&(bytes.len() as u64).to_be_bytes())?;
    to.write_all(&u32::try_from(descriptors.len())?.to_be_bytes())?;
    to.write_all(bytes)?;
    if !descriptors.is_empty() {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let byte = [IoSlice::new(&[0])];
        sendmsg::<()>(to.as_raw_fd(), &byte, &rights, MsgFlags::empty(), None)?;
        for descriptor in descriptors {
            nix::unistd::close(*descriptor)?;
        }
    }
    Ok(())
}

/// Receives a message, with few descriptors; `None` at the end.
fn receive(mut from: &UnixStream) -> Result<Option<(Vec<u8>, Vec<RawFd>)>> {
    let (mut len, mut count) = ([0; 8], [0; 4]);
    match from.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    }
    from.read_exact(&mut count)?;
    let mut bytes = vec![0; usize::try_from(u64::from_be_bytes(len))?];
    from.read_exact(&mut bytes)?;
    if u32::from_be_bytes(count) == 0 {
        return Ok(Some((bytes, Vec::new())));
    }
    let mut space = nix::cmsg_space!([RawFd; 200]);
    let mut byte = [0];
    let mut into = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(from.as_raw_fd(), &mut into, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(group) = message {
            descriptors.extend(group);
        }
    }
    Ok(Some((bytes, descriptors)))
}
