//! The set of healthy status codes.
//!
//! Invariant: a set is not empty, and has only codes that a response can have.

use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_json::Value;
use waxwing_sdk::ConfigError;

/// Ranges of codes: `"200-399"`, `"200,204"`, `204` or `[200, "300-399"]`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) struct Statuses(Vec<RangeInclusive<u16>>);

impl Statuses {
    pub(crate) fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self(std::iter::once(200..=399).collect())
    }
}

impl TryFrom<Value> for Statuses {
    type Error = ConfigError;

    fn try_from(value: Value) -> Result<Self, ConfigError> {
        let parts = match value {
            Value::Array(parts) => parts,
            one => vec![one],
        };
        let mut ranges = Vec::new();
        for part in &parts {
            ranges.extend(read(part).ok_or_else(|| {
                format!(
                    "{part} is not a status; write codes from 200 to 999, like \"200-399\" or \
                     \"200,204\""
                )
            })?);
        }
        if ranges.is_empty() {
            return Err(
                "no status is healthy; leave it out, or write some, like \"200-399\"".into(),
            );
        }
        Ok(Self(ranges))
    }
}

/// As an operator writes it.
impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let (first, last) = (range.start(), range.end());
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

fn read(part: &Value) -> Option<Vec<RangeInclusive<u16>>> {
    match part {
        Value::Number(code) => Some(vec![range(&code.to_string())?]),
        Value::String(text) => text.split(',').map(range).collect(),
        _ => None,
    }
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (200 <= first && first <= last && last <= 999).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    fn statuses(json: &str) -> Result<Statuses, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_set_has_the_written_codes() {
        for (json, good, bad) in [
            (r#""200-399""#, &[200, 301, 399][..], &[199, 400][..]),
            (r#""200, 204""#, &[200, 204], &[201]),
            (r#""200-299,404""#, &[250, 404], &[300, 403]),
            ("204", &[204], &[200, 205]),
            (r#"[200, "301-308", "999"]"#, &[200, 305, 999], &[201, 309]),
        ] {
            let set = statuses(json).unwrap();
            for code in good {
                assert!(set.contains(*code), "{json}: {code}");
            }
            for code in bad {
                assert!(!set.contains(*code), "{json}: {code}");
            }
            // The displayed text parses to the same set.
            assert_eq!(statuses(&format!("\"{set}\"")), Ok(set));
        }
        assert_eq!(Statuses::default().to_string(), "200-399");
    }

    #[test]
    fn errors_say_how_to_write_a_set() {
        for json in [
            r#""""#,
            r#""ok""#,
            r#""2xx""#,
            r#""300-200""#,
            r#""100""#,
            r#""200,""#,
            "99",
            "1000",
            "-200",
            "200.5",
            "true",
            "[]",
            "[[200]]",
            "[200, 20]",
            "null",
        ] {
            let error = statuses(json).unwrap_err();
            assert!(error.contains("200-399"), "{json}: {error}");
        }
    }
}
