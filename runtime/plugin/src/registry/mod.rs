//! Which build of a module serves: files, canaries, quarantine, roll-back, and what survives a restart.
//!
//! Invariant: a build that serves is replaced only by one that passed its checks.

pub(crate) mod canary;
pub(crate) mod library;
pub(crate) mod lifecycle;
pub(crate) mod options;
pub(crate) mod recovery;
pub(crate) mod sources;
mod start;
pub(crate) mod status;
pub(crate) mod store;
pub(crate) mod watch;
