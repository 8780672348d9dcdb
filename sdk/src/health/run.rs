//! One run of a check: from the host's JSON texts to the check, and from its verdict to a record.
//!
//! Invariant: native tests and Wasm modules both run through this code.

use alloc::string::String;

use super::{HealthCheck, Target, verdict};
use crate::ConfigError;
use crate::abi::health::VerdictRecord;
use crate::config;

/// Makes the check from its config, JSON text.
pub(crate) fn configure<H: HealthCheck>(config: &[u8]) -> Result<H, ConfigError> {
    H::new(config::read("config", config)?)
}

/// Runs the check against the target, JSON text. Returns the record and its reason; the caller sets the
/// record's address of the reason.
///
/// Fails if the host's target cannot be read.
pub(crate) fn check<H: HealthCheck>(
    check: &mut H,
    target: &[u8],
) -> Result<(VerdictRecord, String), String> {
    let target = Target::parse(target)?;
    Ok(verdict::record(check.check(&target)))
}
