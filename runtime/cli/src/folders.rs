//! The folders for what outlives the process.

use std::path::PathBuf;

/// The folder of machine code, unless systemd names one (`CacheDirectory=`).
const CACHE: &str = "/var/cache/waxwing";

/// The folder of what survives a restart, unless systemd (`StateDirectory=`) or the config names one.
const STATE: &str = "/var/lib/waxwing";

pub(crate) fn cache_folder() -> PathBuf {
    folder("CACHE_DIRECTORY", CACHE)
}

pub(crate) fn state_folder() -> PathBuf {
    folder("STATE_DIRECTORY", STATE)
}

/// Returns the folder that systemd names in a variable, otherwise the default.
fn folder(variable: &str, default: &str) -> PathBuf {
    let folders = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    // systemd separates several folders by colons.
    folders.split(':').next().unwrap_or(default).into()
}
