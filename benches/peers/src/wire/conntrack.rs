//! Capacity of the kernel's connection tracking, which is one setting for all namespaces.
//!
//! Invariant: the previous values are restored at the end, also after a signal.

use std::fs;
use std::sync::Mutex;

use anyhow::{Context as _, Result};

const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const BUCKETS: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// The previous values, in the order in which to restore them.
static PREVIOUS: Mutex<Vec<(&str, String)>> = Mutex::new(Vec::new());

/// Makes room for as many connections as Waxwing has sessions.
pub(crate) fn make_room(sessions: u64) -> Result<RestoreOnDrop> {
    let guard = RestoreOnDrop;
    for (path, value) in [(BUCKETS, sessions / 4), (MAX, sessions)] {
        let previous = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        if let Ok(mut all) = PREVIOUS.lock() {
            all.push((path, previous.trim().to_owned()));
        }
        fs::write(path, value.to_string()).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(guard)
}

/// Restores the previous values when dropped.
pub(crate) struct RestoreOnDrop;

impl Drop for RestoreOnDrop {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the previous values.
pub(crate) fn restore() {
    if let Ok(mut all) = PREVIOUS.lock() {
        for (path, value) in all.drain(..) {
            // Nothing can be done about an error; the next run sets the value anyway.
            drop(fs::write(path, value));
        }
    }
}
