//! Times of day for status and logs.

use std::time::SystemTime;

/// Returns seconds since 1970; 0 for an earlier time.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
