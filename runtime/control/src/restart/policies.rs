//! What policies remember over a restart.
//!
//! Invariant: all states together are small enough for the head of the state file.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::warn;
use waxwing_plugin::{BuildsInUse, Host, SavedState};

/// The most bytes of all states together.
const BYTES_MAX: usize = 16 << 20;

/// A service's state on a worker.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct KeptPolicy {
    /// The name of the policy's module.
    pub(super) module: String,
    pub(super) service: String,
    pub(super) worker: u32,
    /// In hexadecimal digits.
    pub(super) state: String,
}

/// Has the policies in use save their states.
pub(crate) fn save(host: &Host, modules: &[BuildsInUse], workers: usize) -> Vec<KeptPolicy> {
    let workers = u32::try_from(workers).unwrap_or(u32::MAX);
    let mut kept = Vec::new();
    let (mut bytes, mut dropped) = (0, 0);
    for in_use in modules {
        for saved in host.save(in_use, workers) {
            bytes += saved.state.len();
            if bytes > BYTES_MAX {
                bytes -= saved.state.len();
                dropped += 1;
                continue;
            }
            kept.push(KeptPolicy {
                module: in_use.module.name.clone(),
                service: saved.service.to_string(),
                worker: saved.worker,
                state: hex(&saved.state),
            });
        }
    }
    if dropped > 0 {
        warn!("{dropped} states of policies are not kept: all together may have {BYTES_MAX} bytes");
    }
    kept
}

/// Gives the policies the states to start with.
pub(super) fn restore(host: &Host, kept: &[KeptPolicy]) {
    let mut by_module: BTreeMap<&str, Vec<SavedState>> = BTreeMap::new();
    for KeptPolicy {
        module,
        service,
        worker,
        state,
    } in kept
    {
        let Some(state) = bytes(state) else {
            warn!(
                "the state of policy {module} for service {service} is damaged; it starts afresh"
            );
            continue;
        };
        by_module.entry(module).or_default().push(SavedState {
            service: service.as_str().into(),
            worker: *worker,
            state: Arc::from(state),
        });
    }
    for (module, states) in by_module {
        host.start_with(module, states);
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
    bytes.iter().flat_map(digits).map(char::from).collect()
}

/// Returns the bytes; `None` if these are no pairs of digits.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok();
    pairs.iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_written_and_read() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes(&hex(&all)), Some(all));
        assert_eq!(bytes(""), Some(Vec::new()));
        for damaged in ["a", "0g", "+1", "é", "00 0"] {
            assert_eq!(bytes(damaged), None, "{damaged}");
        }
    }
}
