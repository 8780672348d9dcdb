//! The session table: look up, insert, change, remove.
//!
//! Invariant: see those of [`super`]; this file keeps the order of steps that they rest on.

use std::sync::atomic::AtomicU64;

use waxwing_packet::VlanTags;

use super::connects::Connects;
use super::hash::Key;
use super::index::Index;
use super::line::Line;
use super::memory::allocate;
use super::pool::{Pool, SlotCache};
use super::sync::{Arc, AtomicU32, AtomicUsize, Ordering, Stripes};
use super::words::{high, low};
use super::{Candidate, FlowHash, Removed, Session, SessionRef, Stored, TcpState, Tuple};
use crate::prefetch::prefetch;
use crate::{BackendId, NextHop, Now, Tick};

/// The most sessions that a table can be made for.
pub const SESSIONS_MAX: u32 = 1 << 28;

/// Why a table could not be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TableError {
    /// A number of sessions that no table can have.
    #[error("sessions_max = {0} is out of range: write a number from 1 to {SESSIONS_MAX}")]
    OutOfRange(u32),
    /// The memory for it could not be had.
    #[error(
        "no memory for a table of {0} sessions (108 bytes each): lower sessions_max, \
         or give the process more memory"
    )]
    OutOfMemory(u32),
}

/// What came of [`SessionTable::insert`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Insert {
    /// The session was made.
    Created(SessionRef),
    /// Another thread was faster: the flow has this session.
    Exists(SessionRef, Session),
    /// Another session, this one, owns the reply tuple: the backend could not tell the two apart.
    Clash(SessionRef, Session),
    /// There is no room; [`SessionTable::evict`] may make some.
    Full,
}

/// All sessions, shared by all workers.
pub struct SessionTable {
    key: Key,
    index: Index,
    pub(super) lines: Box<[Line]>,
    /// Each session's bytes, by slot, where they are counted. Apart from the lines, which packets
    /// only read; and plain atomics in the model too, since they order nothing.
    bytes: Box<[AtomicU64]>,
    connects: Connects,
    /// Held by an insert, by the hashes of its two tuples.
    tuple_locks: Stripes,
    /// Held while a route is written or a session's life ends, by slot.
    slot_locks: Stripes,
    pool: Arc<Pool>,
    shared: Shared,
}

/// What workers write in turn, apart from what they only read.
#[repr(align(64))]
#[derive(Default)]
pub(super) struct Shared {
    live: AtomicU32,
    /// Where the next [`SessionTable::sweep`] starts, and the next [`SessionTable::evict`].
    pub(super) sweep: AtomicUsize,
    pub(super) evict: AtomicUsize,
}

impl SessionTable {
    /// A table for `sessions_max` sessions. Allocates and touches all of its memory now.
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
            tuple_locks: Stripes::new(),
            slot_locks: Stripes::new(),
            pool: Arc::new(Pool::new(slots)),
            shared: Shared::default(),
        })
    }

    /// A worker's cache of free slots.
    #[must_use]
    pub fn slot_cache(&self) -> SlotCache {
        SlotCache::new(self.pool.clone(), self.slots())
    }

    /// The hash of a tuple in this table.
    #[inline]
    #[must_use]
    pub fn hash(&self, tuple: &Tuple) -> FlowHash {
        self.key.hash(tuple)
    }

    /// Has the index words of a hash fetched into the cache: call it for a whole batch before the
    /// first [`SessionTable::find`].
    #[inline]
    pub fn prefetch(&self, hash: FlowHash) {
        self.index.prefetch(hash);
    }

    /// Has the session's line fetched into the cache. A second pass over the batch, after
    /// [`SessionTable::prefetch`]: it waits for the index words, and hides the wait for the line. Where
    /// the session may be; `None` where there was none.
    #[inline(always)]
    pub fn prefetch_session(&self, hash: FlowHash) -> Option<Candidate> {
        let slot = self.index.first(hash)?;
        prefetch(self.lines.get(slot as usize)?);
        Some(Candidate(slot))
    }

    /// The backend of the session that may be in a place: to have its parts fetched into the cache, too. It may
    /// be another one by the time the session is read.
    #[inline(always)]
    #[must_use]
    pub fn guess_backend(&self, Candidate(slot): Candidate) -> Option<BackendId> {
        Some(self.lines.get(slot as usize)?.backend())
    }

    /// The session that is in a place now, whosever it is.
    #[inline(always)]
    #[must_use]
    pub fn read(&self, Candidate(slot): Candidate) -> Option<(SessionRef, Stored)> {
        let stored = self.lines.get(slot as usize)?.read()?;
        let version = stored.version();
        Some((SessionRef { slot, version }, stored))
    }

    /// The session under a hash for which `matches` holds: the caller compares the whole tuple.
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

    /// Makes a session, found from now on under both hashes, unless one of its two tuples is
    /// taken: `same_forward` and `same_reply` compare them. They are called under a lock: keep
    /// them short, and call nothing of this table in them.
    pub fn insert(
        &self,
        pool: &mut SlotCache,
        forward: FlowHash,
        reply: FlowHash,
        session: &Session,
        same_forward: impl Fn(&Session) -> bool,
        same_reply: impl Fn(&Session) -> bool,
    ) -> Insert {
        debug_assert!(pool.is_of(&self.pool), "the cache is of another table");
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
        // Counted before it can be removed, so that the count never falls below zero.
        self.shared.live.fetch_add(1, Ordering::Relaxed);
        self.bytes[slot as usize].store(0, Ordering::Relaxed);
        let version = self.lines[slot as usize].publish(session, positions);
        Insert::Created(SessionRef { slot, version })
    }

    /// Removes a session. Of several callers one gets it, and so counts its end.
    pub fn remove(&self, pool: &mut SlotCache, at: SessionRef) -> Option<Removed> {
        self.remove_if(pool, at, None)
    }

    /// Removes a session that still has this TCP state, where one is given.
    pub(crate) fn remove_if(
        &self,
        pool: &mut SlotCache,
        at: SessionRef,
        tcp: Option<TcpState>,
    ) -> Option<Removed> {
        debug_assert!(pool.is_of(&self.pool), "the cache is of another table");
        let line = self.lines.get(at.slot as usize)?;
        let (session, positions) = {
            let _lock = self.slot_locks.lock(at.slot as usize);
            line.claim(at.version, tcp)?
        };
        for position in positions {
            self.index.unlink(position);
        }
        self.shared.live.fetch_sub(1, Ordering::Relaxed);
        let bytes = self.bytes[at.slot as usize].load(Ordering::Relaxed);
        pool.give(at.slot);
        Some(Removed { session, bytes })
    }

    /// Notes a packet of the session: once per tick is enough, so call it only where
    /// [`Session::seen`] is older. When one was seen last before; `None` where the session has ended.
    #[inline]
    pub fn touch(&self, at: SessionRef, now: Tick) -> Option<Tick> {
        self.line(at).map(|line| line.touch(now))
    }

    /// Counts bytes of the session. It costs a write per packet to a line that workers share: call
    /// it only where somebody wants to know. What is added in the very moment in which the session
    /// ends may be lost, or be counted to the slot's next one.
    #[inline]
    pub fn add_bytes(&self, at: SessionRef, n: u64) {
        if self.line(at).is_some() {
            self.bytes[at.slot as usize].fetch_add(n, Ordering::Relaxed);
        }
    }

    /// The client's SYN was seen for the first time: the time to the answer is measured from now.
    pub fn begin_connect(&self, at: SessionRef, now: Now) {
        self.connects.begin(at, now);
    }

    /// The client's SYN was seen again. Which of the two an answer is to cannot be told, so it is
    /// not measured (Karn's algorithm, RFC 6298 section 3). A SYN of the first one's batch has the
    /// first one's time, and changes nothing.
    pub fn repeat_connect(&self, at: SessionRef, now: Now) {
        self.connects.repeat(at, now);
    }

    /// The server's SYN-ACK was seen: the microseconds since the client's SYN, where they can be
    /// told. The measurement may have been lost to that of another session.
    #[must_use]
    pub fn connect_us(&self, at: SessionRef, now: Now) -> Option<u32> {
        self.connects.elapsed_us(at, now)
    }

    /// Replaces the way back to the client. Takes a lock: call it only where the way has changed.
    pub fn set_hop(&self, at: SessionRef, hop: NextHop, tags: VlanTags) {
        let _lock = self.slot_locks.lock(at.slot as usize);
        if let Some(line) = self.line(at) {
            line.set_hop(hop, &tags);
        }
    }

    /// Changes the TCP state to what `f` makes of it, and gives it before and after; `None` where
    /// the session has ended. Writes only where `f` changes something; calls `f` again where
    /// another worker changed the state meanwhile.
    #[inline]
    pub fn update_tcp(
        &self,
        at: SessionRef,
        f: impl Fn(TcpState) -> TcpState,
    ) -> Option<(TcpState, TcpState)> {
        self.lines.get(at.slot as usize)?.update_tcp(at.version, f)
    }

    /// The session as it is now, or `None` where it has ended.
    #[inline]
    #[must_use]
    pub fn get(&self, at: SessionRef) -> Option<Session> {
        self.stored(at).map(|stored| stored.session())
    }

    /// The same, as its line holds it.
    #[inline]
    #[must_use]
    pub fn stored(&self, at: SessionRef) -> Option<Stored> {
        let (now, stored) = self.read(Candidate(at.slot))?;
        (now == at).then_some(stored)
    }

    /// The sessions now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.live.load(Ordering::Relaxed) as usize
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most sessions it holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.lines.len()
    }

    /// The memory it takes, in bytes; all of it is resident from the start.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(&*self.lines)
            + size_of_val(&*self.bytes)
            + self.connects.memory_bytes()
            + self.index.memory_bytes()
            + self.capacity() * size_of::<u32>()
            + 2 * Stripes::memory_bytes()
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn slots(&self) -> u32 {
        u32::try_from(self.lines.len()).unwrap_or(SESSIONS_MAX)
    }

    /// The line of a session that has not ended.
    #[inline]
    fn line(&self, at: SessionRef) -> Option<&Line> {
        self.lines.get(at.slot as usize).filter(|line| line.is(at))
    }

    /// Links a slot under both hashes, or under none.
    fn link(&self, forward: FlowHash, reply: FlowHash, slot: u32) -> Option<[u32; 2]> {
        let first = self.index.link(forward, slot)?;
        let Some(second) = self.index.link(reply, slot) else {
            self.index.unlink(first);
            return None;
        };
        Some([first, second])
    }
}

/// The lock stripe of a hash. Any bits will do: equal tuples have equal hashes.
const fn stripe(FlowHash(hash): FlowHash) -> usize {
    (high(hash) ^ low(hash)) as usize
}
