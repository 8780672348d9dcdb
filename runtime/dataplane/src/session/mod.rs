//! Sessions: which backend a flow is pinned to, shared by all workers.
//!
//! A reply may arrive at another worker than the request, so there is one table. A session is one
//! 64-byte line; two index words point to it, one found by the client's packets and one by the
//! backend's. Looking one up takes no lock and writes nothing; making and removing one lock a
//! stripe of the table.
//!
//! # Invariants
//! A line is *free* or *live*, by the lowest bit of the version in its state word. A slot (the
//! line's number) belongs to the pool, to one [`SlotCache`], to the one thread that is inserting
//! it or removing it, or it is live.
//!
//! 1. **One moment of birth.** An insert first links both index words, then fills the line, then
//!    sets the version live (release). Before that store every reader that follows a word finds a
//!    free line and passes on; after it both directions find the whole session. So no reader sees
//!    half a session, or one direction without the other.
//! 2. **One moment of death.** A remove turns the version free by one compare-and-swap, which one
//!    caller wins. Then it clears the index words, and only then gives the slot back. So a free
//!    slot is linked nowhere, and the index never holds more than two words per slot.
//! 3. **No torn reads.** A reader takes the version before and after the fields and believes them
//!    only if both are the same and live. The next owner of the slot writes its fields behind a
//!    release fence after the version turned free; whoever has seen one of its writes sees the
//!    changed version too. Versions only count up: mistaking a reused line for the old one takes
//!    2^31 reuses of a slot within one look-up.
//! 4. **No miss.** A word does not move while its session lives, and a look-up reads every word
//!    that can hold its flow (two buckets). So a session that was live before a look-up began, and
//!    is still live when it ends, is found. A look-up that meets a remove and a new insert of its
//!    flow may miss both: there was a moment without one. That is why an insert looks again.
//! 5. **One session per tuple.** An insert holds the lock stripes of both of its hashes while it
//!    looks for either tuple and makes the session. A remove needs no stripe: it can turn
//!    "present" into "absent" only, and clears its words (release) after the version, so that
//!    whoever sees the newer session (acquire) cannot see the older as live afterwards.
//! 6. **Stale references are harmless.** A [`SessionRef`] carries the version. Removing and TCP
//!    updates are compare-and-swaps on the word that holds the version; the route is written under
//!    the lock of the slot, which a remove takes too; a stale [`SessionTable::touch`] that slips
//!    through can only move a newer session's last-seen forward to a time that has been.
//! 7. **What is measured orders nothing.** A session's bytes and the time of its SYN are kept beside
//!    the lines, by slot, and are written without a lock. At a session's end, or where two meet at
//!    one place, a measurement may be lost; no session is.
//! 8. **Bounds.** A look-up reads 16 words at most, whatever keys an attacker chooses; where both
//!    buckets of a hash are full, an insert says [`Insert::Full`].

mod connects;
mod entry;
mod hash;
mod index;
mod line;
mod memory;
mod pool;
mod stored;
mod sync;
mod table;
mod tcp;
mod upkeep;
mod words;

pub use entry::{Candidate, Removed, Session, SessionRef, WORKER_UNCOUNTED};
pub use hash::{FlowHash, Key, Tuple};
pub use pool::SlotCache;
pub use stored::Stored;
pub use table::{Insert, SESSIONS_MAX, SessionTable, TableError};
pub(crate) use tcp::is_opening;
pub use tcp::{Direction, Phase, TcpState};
pub use upkeep::Evictable;
