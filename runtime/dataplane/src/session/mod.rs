//! The session table: which backend each flow is pinned to, shared by all workers.
//!
//! There is one table because a reply may arrive at another worker than the request. A session is one
//! 64-byte line. Two index entries point to it: the client's packets find one, the backend's the other. A
//! lookup takes no lock and writes nothing; insert and remove lock a stripe of the table.
//!
//! # Invariants
//! A line is *free* or *live*, by the lowest bit of the version in its state word. A slot (the
//! line's number) belongs to the pool, to one [`SlotCache`], to the one thread that is inserting
//! it or removing it, or it is live.
//!
//! 1. **A session appears at once.** An insert links both index entries, then fills the line, then sets the
//!    version live (release). A reader that follows an entry before that store finds a free line and moves
//!    on; after it, both directions find the whole session. No reader sees half a session, or one direction
//!    only.
//! 2. **A session disappears at once.** A remove sets the version free by one compare-and-swap, which one
//!    caller wins. It then clears the index entries, and returns the slot last. So a free slot is linked
//!    nowhere, and the index never holds more than two entries per slot.
//! 3. **No torn reads.** A reader loads the version before and after the fields and accepts them only if both
//!    are equal and live. The next owner of the slot writes its fields behind a release fence after the
//!    version turned free, so a reader that saw one of its writes also sees the changed version. Versions
//!    only count up: to mistake a reused line for the old one takes 2^31 reuses of a slot within one lookup.
//! 4. **No miss.** An entry does not move while its session lives, and a lookup reads every entry that can
//!    hold its flow: those in its first bucket and, if flows have overflowed from there, in its second. So a
//!    session that is live throughout a lookup is found. A lookup that overlaps a remove and a new insert of
//!    its flow may miss both, since there was a moment without a session. That is why an insert looks again.
//! 5. **One session per tuple.** An insert holds the lock stripes of both its hashes while it looks for
//!    either tuple and creates the session. A remove needs no stripe: it only turns "present" into "absent",
//!    and clears its entries (release) after the version. So a thread that sees the newer session (acquire)
//!    cannot see the older one as live afterwards.
//! 6. **Stale references are harmless.** A [`SessionRef`] carries the version. Remove and TCP updates are
//!    compare-and-swaps on the word that holds the version. The return hop is written under the slot's lock,
//!    which a remove takes too. A stale [`SessionTable::touch`] can only move a newer session's last-seen
//!    forward, to a time that has passed.
//!    So are the flags that a move of the hop waits for the server ([`SessionTable::ask_hop_move`]), and that
//!    the session is sampled.
//! 7. **Measurements order nothing.** A session's bytes, the time of its SYN and its server's sequence number
//!    are stored beside the lines, by slot, and written without a lock. At a session's end, or when two
//!    sessions share an entry, a measurement may be lost; a session never is.
//! 8. **Bounds.** A lookup reads at most 24 entries, whatever keys an attacker chooses. If both buckets of a
//!    hash are full, an insert returns [`Insert::Full`].

mod connects;
mod entry;
mod glimpse;
mod handshakes;
mod hash;
mod hop_moves;
mod index;
mod line;
mod memory;
mod pool;
mod reader;
mod record;
mod samples;
mod stored;
mod sync;
mod table;
mod tcp;
mod upkeep;
mod words;

pub use entry::{Candidate, Removed, Session, SessionRef, WORKER_UNCOUNTED};
pub use glimpse::Glimpse;
pub(crate) use glimpse::LastSeen;
pub use hash::{FlowHash, Key, Tuple};
pub use hop_moves::HopMove;
pub use index::{Lane, Place};
pub(crate) use line::Line;
pub use pool::SlotCache;
pub use reader::Reader;
pub use record::{CopiedSessions, RECORD_LEN, SessionRecord};
pub use samples::{Observed, Segment};
pub use stored::Stored;
pub use table::{Insert, SESSIONS_MAX, SessionTable, TableError};
pub(crate) use tcp::is_opening;
pub use tcp::{Direction, Phase, TcpState};
pub use upkeep::Evictable;
