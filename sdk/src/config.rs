//! What the host writes as JSON text, read into an author's type.
//!
//! Invariant: an error names the place in the operator's own config, from the key that holds it.

use alloc::format;
use alloc::string::{String, ToString};

use serde::de::DeserializeOwned;

/// Reads the config that is behind `key`. An empty text is an empty object.
pub(crate) fn read<C: DeserializeOwned>(key: &str, text: &[u8]) -> Result<C, String> {
    let text = if text.is_empty() { b"{}" } else { text };
    let mut json = serde_json::Deserializer::from_slice(text);
    let config = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        // "?" stands for where a text that ends early would have gone on.
        match error.path().to_string().trim_end_matches(['.', '?']) {
            "" => format!("{key}: {}", error.inner()),
            path => format!("{key}.{path}: {}", error.inner()),
        }
    })?;
    json.end().map_err(|error| format!("{key}: {error}"))?;
    Ok(config)
}
