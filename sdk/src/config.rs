//! Reads the JSON that the host writes into an author's type, and the error for a config that is refused.
//!
//! Invariant: an error names the place in the operator's config, starting at the key that holds it.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::net::AddrParseError;
use core::num::{ParseFloatError, ParseIntError};
use core::str::Utf8Error;

use serde::de::DeserializeOwned;

/// Why a policy or a health check refuses its config or its backends.
///
/// The host shows the text to the operator and keeps what ran before, so the text says which value is
/// wrong and what is expected. Texts and parse errors convert with `?` and `into()`:
///
/// ```
/// use waxwing_sdk::ConfigError;
///
/// fn weights(text: &str) -> Result<Vec<u32>, ConfigError> {
///     if text.is_empty() {
///         return Err("policy_config.weights is empty; write numbers, like \"3,1\"".into());
///     }
///     let weight = |part: &str| {
///         part.parse()
///             .map_err(|error| ConfigError::from(error).at(&format!("policy_config.weights: {part:?}")))
///     };
///     text.split(',').map(weight).collect()
/// }
///
/// assert_eq!(weights("3,1"), Ok(vec![3, 1]));
/// let error = weights("3,x").unwrap_err();
/// assert_eq!(error.reason(), "policy_config.weights: \"x\": invalid digit found in string");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    reason: String,
}

impl ConfigError {
    /// Returns an error with this text: which value is wrong, and what is expected.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { reason }
    }

    /// Puts the place of the wrong value in front: `policy_config.table: 4 entries; expected a prime`.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        Self::new(format!("{place}: {}", self.reason))
    }

    /// Returns the text for the operator.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl core::error::Error for ConfigError {}

impl From<String> for ConfigError {
    fn from(reason: String) -> Self {
        Self { reason }
    }
}

impl From<&str> for ConfigError {
    fn from(reason: &str) -> Self {
        Self::new(reason)
    }
}

macro_rules! from_parse_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for ConfigError {
            fn from(error: $error) -> Self {
                Self::new(format!("{error}"))
            }
        }
    )*};
}

from_parse_errors!(AddrParseError, ParseFloatError, ParseIntError, Utf8Error);

/// Reads the config that the key `key` holds. Reads an empty text as an empty object.
pub(crate) fn read<C: DeserializeOwned>(key: &str, text: &[u8]) -> Result<C, ConfigError> {
    let text = if text.is_empty() { b"{}" } else { text };
    let mut json = serde_json::Deserializer::from_slice(text);
    let config = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        // serde_path_to_error writes "?" for the place where the text ends too early.
        match error.path().to_string().trim_end_matches(['.', '?']) {
            "" => format!("{key}: {}", error.inner()),
            path => format!("{key}.{path}: {}", error.inner()),
        }
    })?;
    json.end().map_err(|error| format!("{key}: {error}"))?;
    Ok(config)
}
