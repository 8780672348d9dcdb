//! The session table: look up, insert, update, remove.
//!
//! Invariant: this file keeps the order of steps that the invariants of [`super`] rest on.

use std::sync::atomic::AtomicU64;

use waxwing_packet::VlanTags;

use super::connects::Connects;
use super::handshakes::ServerSequences;
use super::hash::{Draws, Key};
use super::hop_moves::{HopMove, HopMoves, Judged};
use super::index::Index;
use super::line::Line;
use super::memory::allocate;
use super::pool::{Pool, SlotCache};
use super::reader::Reader;
use super::samples::Samples;
use super::stored::{MOVING, SAMPLED};
use super::sync::{Arc, AtomicUsize, Ordering, Stripes};
use super::words::{high, low};
use super::{
    Candidate, Direction, FlowHash, Observed, Removed, Segment, Session, SessionRef, Stored,
    TcpState, Tuple,
};
use crate::{NextHop, Now, Tick};

/// The largest table.
pub const SESSIONS_MAX: u32 = 1 << 28;

/// Why a table could not be created.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TableError {
    #[error("sessions_max = {0} is out of range: write a number from 1 to {SESSIONS_MAX}")]
    OutOfRange(u32),
    #[error(
        "no memory for a table of {0} sessions (112 bytes each): lower sessions_max, \
         or give the process more memory"
    )]
    OutOfMemory(u32),
}

/// The result of [`SessionTable::insert`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Insert {
    Created(SessionRef),
    /// The flow has this session already: another thread was faster.
    Exists(SessionRef, Session),
    /// This other session has the reply tuple: the backend could not tell the two apart.
    Clash(SessionRef, Session),
    /// No free slot; [`SessionTable::evict`] may free one.
    Full,
}

/// All sessions, shared by all workers.
pub struct SessionTable {
    key: Key,
    index: Index,
    pub(super) lines: Box<[Line]>,
    /// Each session's bytes by slot, if a policy wants them. Apart from the lines, which packets only read.
    /// Plain atomics in the loom model too, since they order nothing.
    bytes: Box<[AtomicU64]>,
    connects: Connects,
    server_sequences: ServerSequences,
    draws: Draws,
    hop_moves: HopMoves,
    samples: Samples,
    /// An insert holds those of its two tuples' hashes.
    tuple_locks: Stripes,
    /// By slot: held while a return hop is written and while a session is removed.
    slot_locks: Stripes,
    pool: Arc<Pool>,
    cursors: Cursors,
}

/// What workers write, on a cache line apart from what they only read.
#[repr(align(64))]
#[derive(Default)]
pub(super) struct Cursors {
    /// Where the next [`SessionTable::sweep`] and [`SessionTable::evict`] start.
    pub(super) sweep: AtomicUsize,
    pub(super) evict: AtomicUsize,
}

impl SessionTable {
    /// A table for `sessions_max` sessions. Allocates and touches all of its memory at once.
    ///
    /// `seed` keys the hash: draw it at random at each start.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn new(sessions_max: u32, seed: [u64; 4]) -> Result<Self, TableError> {
        if sessions_max == 0 || sessions_max > SESSIONS_MAX {
            return Err(TableError::OutOfRange(sessions_max));
        }
        let no_memory = |_| TableError::OutOfMemory(sessions_max);
        let mut slots = Vec::new();
        slots
            .try_reserve_exact(sessions_max as usize)
            .map_err(no_memory)?;
        slots.extend((0..sessions_max).rev());
        Ok(Self {
            key: Key::new(seed),
            index: Index::new(sessions_max).map_err(no_memory)?,
            lines: allocate(sessions_max as usize).map_err(no_memory)?,
            bytes: allocate(sessions_max as usize).map_err(no_memory)?,
            connects: Connects::new(sessions_max).map_err(no_memory)?,
            server_sequences: ServerSequences::new(sessions_max).map_err(no_memory)?,
            draws: Draws::new(seed),
            hop_moves: HopMoves::new(),
            samples: Samples::new(),
            tuple_locks: Stripes::new(),
            slot_locks: Stripes::new(),
            pool: Arc::new(Pool::new(slots)),
            cursors: Cursors::default(),
        })
    }

    /// An empty table with the same hash and draws.
    ///
    /// # Errors
    /// [`TableError`].
    pub(crate) fn empty_like(&self, sessions_max: u32) -> Result<Self, TableError> {
        Ok(Self {
            key: self.key.clone(),
            draws: self.draws.clone(),
            ..Self::new(sessions_max, [0; 4])?
        })
    }

    /// A worker's cache of free slots.
    #[must_use]
    pub fn slot_cache(&self) -> SlotCache {
        SlotCache::new(self.pool.clone(), self.slots())
    }

    #[inline]
    #[must_use]
    pub fn hash(&self, tuple: &Tuple) -> FlowHash {
        self.key.local(tuple)
    }

    /// A number drawn by a hash, which others may see: it shows nothing of the hash.
    #[must_use]
    pub fn draw(&self, hash: FlowHash) -> u64 {
        self.draws.of(hash)
    }

    /// To look up the flows of a batch.
    #[inline(always)]
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader {
            key: &self.key,
            buckets: self.index.buckets(),
            lines: &self.lines,
        }
    }

    /// The session that the slot holds now, which may be another flow's.
    #[inline(always)]
    #[must_use]
    pub fn read(&self, Candidate(slot): Candidate) -> Option<(SessionRef, Stored)> {
        let stored = self.lines.get(slot as usize)?.read()?;
        let version = stored.version();
        Some((SessionRef { slot, version }, stored))
    }

    /// The session under a hash for which `matches` holds. The caller compares the whole tuple.
    #[inline]
    #[must_use]
    pub fn find(
        &self,
        hash: FlowHash,
        matches: impl Fn(&Session) -> bool,
    ) -> Option<(SessionRef, Session)> {
        self.index.find_map(hash, |slot| {
            let (at, stored) = self.read(Candidate(slot))?;
            let session = stored.session();
            matches(&session).then_some((at, session))
        })
    }

    /// Inserts a session under both hashes, unless one of its tuples is taken: `same_forward` and
    /// `same_reply` compare them. They run under a lock: keep them short, and do not call this table from
    /// them.
    pub fn insert(
        &self,
        pool: &mut SlotCache,
        forward: FlowHash,
        reply: FlowHash,
        session: &Session,
        same_forward: impl Fn(&Session) -> bool,
        same_reply: impl Fn(&Session) -> bool,
    ) -> Insert {
        debug_assert!(pool.is_of(&self.pool), "the cache belongs to another table");
        let _locks = self.tuple_locks.lock_both(stripe(forward), stripe(reply));
        if let Some((at, session)) = self.find(forward, same_forward) {
            return Insert::Exists(at, session);
        }
        if let Some((at, session)) = self.find(reply, same_reply) {
            return Insert::Clash(at, session);
        }
        let Some(slot) = pool.take() else {
            return Insert::Full;
        };
        let Some(positions) = self.link(forward, reply, slot) else {
            pool.give(slot);
            return Insert::Full;
        };
        self.bytes[slot as usize].store(0, Ordering::Relaxed);
        let version = self.lines[slot as usize].publish(session, positions);
        Insert::Created(SessionRef { slot, version })
    }

    /// Removes a session. Of several concurrent callers exactly one gets it, and counts its end.
    pub fn remove(&self, pool: &mut SlotCache, at: SessionRef) -> Option<Removed> {
        self.remove_if(pool, at, None)
    }

    /// Removes a session, but only in TCP state `tcp` if that is given.
    pub(crate) fn remove_if(
        &self,
        pool: &mut SlotCache,
        at: SessionRef,
        tcp: Option<TcpState>,
    ) -> Option<Removed> {
        debug_assert!(pool.is_of(&self.pool), "the cache belongs to another table");
        let line = self.lines.get(at.slot as usize)?;
        let (session, positions) = {
            let _lock = self.slot_locks.lock(at.slot as usize);
            line.claim(at.version, tcp)?
        };
        for position in positions {
            self.index.unlink(position);
        }
        let bytes = self.bytes[at.slot as usize].load(Ordering::Relaxed);
        pool.give(at.slot);
        Some(Removed { session, bytes })
    }

    /// Updates the last-seen tick and returns the previous one; `None` if the session has ended. Once per
    /// tick is enough: call it only if [`Session::seen`] is older.
    #[inline]
    pub fn touch(&self, at: SessionRef, now: Tick) -> Option<Tick> {
        self.line(at).map(|line| line.touch(now))
    }

    /// Counts bytes of the session. This writes a cache line that workers share, so call it only if a policy
    /// wants the bytes. Bytes added while the session ends may be lost, or counted for the slot's next
    /// session.
    #[inline]
    pub fn add_bytes(&self, at: SessionRef, n: u64) {
        if self.line(at).is_some() {
            self.bytes[at.slot as usize].fetch_add(n, Ordering::Relaxed);
        }
    }

    /// The bytes counted so far; `None` if the session has ended.
    pub(crate) fn bytes(&self, at: SessionRef) -> Option<u64> {
        self.line(at)?;
        Some(self.bytes[at.slot as usize].load(Ordering::Relaxed))
    }

    /// Starts to measure the connect time: the client's first SYN was seen.
    pub fn begin_connect(&self, at: SessionRef, now: Now) {
        self.connects.begin(at, now);
    }

    /// Cancels the measurement: the client's SYN was seen again, and it is unknown which of the two will be
    /// answered (Karn's algorithm, RFC 6298 section 3). A SYN with the first one's time (same batch) changes
    /// nothing.
    pub fn repeat_connect(&self, at: SessionRef, now: Now) {
        self.connects.repeat(at, now);
    }

    /// The microseconds since the client's SYN, at the server's SYN-ACK. `None` if the measurement was
    /// cancelled, or overwritten by another session's.
    #[must_use]
    pub fn connect_us(&self, at: SessionRef, now: Now) -> Option<u32> {
        self.connects.elapsed_us(at, now)
    }

    /// Records the sequence number of the server's SYN, for [`SessionTable::is_acknowledged`].
    pub fn expect_acknowledgment(&self, at: SessionRef, sequence: u32) {
        if self.line(at).is_some() {
            self.server_sequences.set(at.slot, sequence);
        }
    }

    /// The number that [`SessionTable::expect_acknowledgment`] recorded last.
    pub(super) fn server_sequence(&self, at: SessionRef) -> u32 {
        self.server_sequences.get(at.slot)
    }

    /// Whether a client that acknowledges this number has seen the server's SYN.
    #[must_use]
    pub fn is_acknowledged(&self, at: SessionRef, acknowledgment: u32) -> bool {
        self.server_sequences
            .are_acknowledged(at.slot, acknowledgment)
    }

    /// Replaces the return hop. Takes a lock: call it only if the hop changed.
    pub fn set_hop(&self, at: SessionRef, hop: NextHop, tags: VlanTags) {
        let _lock = self.slot_locks.lock(at.slot as usize);
        if let Some(line) = self.line(at) {
            line.set_hop(hop, &tags);
        }
    }

    /// Asks for another return hop: its server's next packets decide ([`SessionTable::judge_hop_move`]).
    pub fn ask_hop_move(&self, at: SessionRef, to: HopMove) {
        let _lock = self.slot_locks.lock(at.slot as usize);
        if let Some(line) = self.line(at) {
            self.hop_moves.note(at, to);
            line.set_flag(MOVING, true);
        }
    }

    /// Whether a move of the return hop waits for the server.
    #[inline]
    #[must_use]
    pub fn is_hop_moving(&self, at: SessionRef) -> bool {
        self.has_flag(at, MOVING)
    }

    #[inline]
    #[must_use]
    pub fn is_sampled(&self, at: SessionRef) -> bool {
        self.has_flag(at, SAMPLED)
    }

    /// Whether one of the two holds, so that no packet of the session may take the fast path.
    #[inline]
    #[must_use]
    pub fn is_watched(&self, at: SessionRef) -> bool {
        self.has_flag(at, MOVING | SAMPLED)
    }

    /// Replaces the return hop if the packet that asked for it fits a packet of the server, which ends at
    /// `sequence` and acknowledges `acknowledgment`.
    pub fn judge_hop_move(&self, at: SessionRef, sequence: u32, acknowledgment: u32) {
        let _lock = self.slot_locks.lock(at.slot as usize);
        let Some(line) = self.line(at) else {
            return;
        };
        match self.hop_moves.judge(at, sequence, acknowledgment) {
            Judged::Waits => return,
            Judged::Moves(to) => line.set_hop(to.hop, &to.tags),
            Judged::Stays => {}
        }
        line.set_flag(MOVING, false);
    }

    /// Of so many new TCP sessions of a backend one is sampled from now on: looked at until it ends, or for a
    /// few hundred segments. 0 for none, as at first.
    pub fn set_sampling(&self, each: u32) {
        self.samples.set_each(each);
    }

    /// Samples a session that has just been opened, if it is one of those: `before` others of its backend
    /// came before it.
    #[inline]
    pub(crate) fn begin_sample(&self, at: SessionRef, before: u64) {
        if self.samples.takes(before) {
            self.watch_sample(at);
        }
    }

    #[cold]
    fn watch_sample(&self, at: SessionRef) {
        let _lock = self.slot_locks.lock(at.slot as usize);
        if let Some(line) = self.line(at) {
            self.samples.begin(at);
            line.set_flag(SAMPLED, true);
        }
    }

    /// Whether this is a sampled session's first SYN-ACK.
    pub(crate) fn sample_connect(&self, at: SessionRef) -> bool {
        self.samples.connect(at)
    }

    /// What a sampled session's segment shows.
    pub(crate) fn observe(
        &self,
        at: SessionRef,
        direction: Direction,
        segment: Segment,
        now: Now,
    ) -> Observed {
        let observed = self.samples.observe(at, direction, segment, now.micros());
        if observed.is_last {
            let _lock = self.slot_locks.lock(at.slot as usize);
            if let Some(line) = self.line(at) {
                line.set_flag(SAMPLED, false);
            }
        }
        observed
    }

    /// Applies `f` to the TCP state and returns the states before and after; `None` if the session has ended.
    /// Writes only if `f` changes the state; calls `f` again if another worker changed it meanwhile.
    #[inline]
    pub fn update_tcp(
        &self,
        at: SessionRef,
        f: impl Fn(TcpState) -> TcpState,
    ) -> Option<(TcpState, TcpState)> {
        self.lines.get(at.slot as usize)?.update_tcp(at.version, f)
    }

    /// The session as it is now; `None` if it has ended.
    #[inline]
    #[must_use]
    pub fn get(&self, at: SessionRef) -> Option<Session> {
        self.stored(at).map(|stored| stored.session())
    }

    /// Like [`SessionTable::get`], in the packed form of its line.
    #[inline]
    #[must_use]
    pub fn stored(&self, at: SessionRef) -> Option<Stored> {
        let (now, stored) = self.read(Candidate(at.slot))?;
        (now == at).then_some(stored)
    }

    /// The number of sessions; those that begin and end meanwhile may be counted or not. Takes a lock.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pool.in_use()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The largest possible number of sessions.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.lines.len()
    }

    /// Its memory in bytes, all of it resident from the start.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(&*self.lines)
            + size_of_val(&*self.bytes)
            + self.connects.memory_bytes()
            + self.server_sequences.memory_bytes()
            + self.index.memory_bytes()
            + self.capacity() * size_of::<u32>()
            + 2 * Stripes::memory_bytes()
            + HopMoves::memory_bytes()
            + Samples::memory_bytes()
    }

    pub(super) fn cursors(&self) -> &Cursors {
        &self.cursors
    }

    /// Returns how many slots, counted from the first, ever held a session, or may soon.
    #[must_use]
    pub fn slots_taken(&self) -> usize {
        self.pool.taken()
    }

    #[inline]
    fn has_flag(&self, at: SessionRef, flags: u64) -> bool {
        self.line(at).is_some_and(|line| line.has_flag(flags))
    }

    fn slots(&self) -> u32 {
        u32::try_from(self.lines.len()).unwrap_or(SESSIONS_MAX)
    }

    /// The session's line, unless the session has ended.
    #[inline]
    fn line(&self, at: SessionRef) -> Option<&Line> {
        self.lines.get(at.slot as usize).filter(|line| line.is(at))
    }

    /// Links a slot under both hashes, or under neither.
    fn link(&self, forward: FlowHash, reply: FlowHash, slot: u32) -> Option<[u32; 2]> {
        let first = self.index.link(forward, slot, Direction::Forward)?;
        let Some(second) = self.index.link(reply, slot, Direction::Reply) else {
            self.index.unlink(first);
            return None;
        };
        Some([first, second])
    }
}

/// The lock stripe of a hash.
const fn stripe(FlowHash(hash): FlowHash) -> usize {
    (high(hash) ^ low(hash)) as usize
}
