//! One run: from the host's texts to the check and back to a record.
//!
//! Invariant: this is the one way, natively in tests as in Wasm.

use alloc::string::String;

use super::{HealthCheck, Target, verdict};
use crate::abi::health::VerdictRecord;
use crate::config;

/// Makes the check from its config, JSON text.
pub(crate) fn configure<H: HealthCheck>(config: &[u8]) -> Result<H, String> {
    H::new(config::read("config", config)?)
}

/// Asks the target, JSON text too. The record lacks the address of the reason that is with it.
pub(crate) fn check<H: HealthCheck>(
    check: &mut H,
    target: &[u8],
) -> Result<(VerdictRecord, String), String> {
    let target = Target::parse(target)?;
    Ok(verdict::record(check.check(&target)))
}
