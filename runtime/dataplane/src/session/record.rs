//! A session as it outlives its process: without slots and hashes.
//!
//! Invariant: a version only adds fields at a record's end. So an older reader skips what it does not know,
//! and a newer one sees that a field is missing.

use waxwing_packet::{Address, Mac, VlanTag, VlanTags};

use super::{Candidate, Session, SessionTable, Stored, TcpState};
use crate::{BackendId, NextHop, PortId, SourceId, Tick};

/// The ids are those of the process that wrote it; whoever reads it has to know what they stood for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionRecord {
    pub client: Address,
    pub client_port: u16,
    pub service_port: u16,
    pub source: SourceId,
    pub source_port: u16,
    pub worker: u8,
    pub backend: BackendId,
    pub hop: NextHop,
    pub tags: VlanTags,
    /// For how many ticks it was idle.
    pub idle: u32,
    /// Its age in ticks.
    pub age: u32,
    pub tcp: TcpState,
    /// See [`SessionTable::add_bytes`].
    pub bytes: u64,
    /// See [`SessionTable::expect_acknowledgment`].
    pub server_sequence: u32,
}

/// The bytes of a record, all numbers in network byte order.
pub const RECORD_LEN: usize = 68;

/// Takes a record's bytes apart, front to back.
struct Fields<'a>(&'a [u8; RECORD_LEN], usize);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let at = self.1;
        self.1 += N;
        std::array::from_fn(|i| self.0[at + i])
    }

    fn u8(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }
}

impl SessionRecord {
    fn new(session: &Session, bytes: u64, server_sequence: u32, now: Tick) -> Self {
        Self {
            client: session.client,
            client_port: session.client_port,
            service_port: session.service_port,
            source: session.source,
            source_port: session.source_port,
            worker: session.worker,
            backend: session.backend,
            hop: session.hop,
            tags: session.tags,
            idle: now.since(session.seen),
            age: now.since(session.created),
            tcp: session.tcp,
            bytes,
            server_sequence,
        }
    }

    /// Appends its bytes.
    pub fn write(&self, to: &mut Vec<u8>) {
        let before = to.len();
        to.extend(self.client.octets());
        to.extend(self.client_port.to_be_bytes());
        to.extend(self.service_port.to_be_bytes());
        to.extend(self.source_port.to_be_bytes());
        to.extend([self.source.0, self.worker]);
        to.extend(self.backend.0.to_be_bytes());
        to.extend(self.hop.mac.0);
        to.extend([self.hop.port.0, self.tags.count]);
        for tag in self.tags.tags {
            to.extend(tag.tpid.to_be_bytes());
            to.extend(tag.tci.to_be_bytes());
        }
        to.extend(self.idle.to_be_bytes());
        to.extend(self.age.to_be_bytes());
        to.extend(self.bytes.to_be_bytes());
        to.extend(self.server_sequence.to_be_bytes());
        to.extend([self.tcp.bits(), 0, 0, 0]);
        debug_assert_eq!(to.len() - before, RECORD_LEN);
    }

    /// Reads a record, of this version or a later one; `None` if it is too short. Its values may be any:
    /// they are checked when it is restored.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes.first_chunk()?, 0);
        Some(Self {
            client: Address::v6(fields.take()),
            client_port: fields.u16(),
            service_port: fields.u16(),
            source_port: fields.u16(),
            source: SourceId(fields.u8()),
            worker: fields.u8(),
            backend: BackendId(fields.u32()),
            hop: NextHop {
                mac: Mac(fields.take()),
                port: PortId(fields.u8()),
            },
            tags: VlanTags {
                count: fields.u8().min(2),
                tags: [(); 2].map(|()| VlanTag {
                    tpid: fields.u16(),
                    tci: fields.u16(),
                }),
            },
            idle: fields.u32(),
            age: fields.u32(),
            bytes: u64::from_be_bytes(fields.take()),
            server_sequence: fields.u32(),
            tcp: TcpState::from_bits(fields.u8()),
        })
    }
}

/// The sessions as they were when they were last copied, by slot.
#[derive(Default)]
pub struct CopiedSessions(Vec<Option<Stored>>);

/// How much longer a session may have been idle in a copy: it is less than any timeout.
const IDLE_CHANGE_MIN: u32 = 50;

impl SessionTable {
    /// Passes what has changed since the last copy to `changed`: records, and whether the session has ended.
    /// The first copy has all sessions.
    pub fn copy(
        &self,
        copied: &mut CopiedSessions,
        now: Tick,
        mut changed: impl FnMut(SessionRecord, bool),
    ) {
        copied.0.resize(self.slots_taken(), None);
        for (slot, before) in (0..).zip(&mut copied.0) {
            let found = self.read(Candidate(slot));
            let after = found.map(|(_, stored)| stored);
            let is_same = |old: &Stored| after.is_some_and(|new| is_alike(old, &new));
            if before.as_ref().is_some_and(is_same) || (before.is_none() && after.is_none()) {
                continue;
            }
            let is_another = |old: &Stored| after.is_none_or(|new| new.version() != old.version());
            if let Some(old) = before.filter(is_another) {
                changed(SessionRecord::new(&old.session(), 0, 0, now), true);
            }
            if let Some((at, stored)) = found {
                let bytes = self.bytes(at).unwrap_or_default();
                let sequence = self.server_sequence(at);
                changed(
                    SessionRecord::new(&stored.session(), bytes, sequence, now),
                    false,
                );
            }
            *before = after;
        }
    }

    /// The records of all sessions. May be called from any thread; see [`SessionTable::iter`].
    pub fn records(&self, now: Tick) -> impl Iterator<Item = SessionRecord> + '_ {
        self.iter().filter_map(move |(at, session)| {
            let bytes = self.bytes(at)?;
            Some(SessionRecord::new(
                &session,
                bytes,
                self.server_sequence(at),
                now,
            ))
        })
    }
}

/// Whether a session is the same, but for a little time.
fn is_alike(old: &Stored, new: &Stored) -> bool {
    let seen = new.seen();
    new.seen().since(old.seen()) < IDLE_CHANGE_MIN
        && Stored {
            seen: seen.0,
            ..*old
        } == *new
}
