//! Which services a request is about.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::config::names::remedy;

/// All services, or those whose name matches a pattern in which `*` stands for any text and `?` for one
/// character.
#[derive(Clone)]
pub(crate) struct ServiceFilter(Option<String>);

/// No service matches a pattern.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no service \"{pattern}\"; {remedy}")]
pub(crate) struct NoSuchService {
    pattern: String,
    remedy: String,
}

impl IntoResponse for NoSuchService {
    fn into_response(self) -> Response {
        (StatusCode::NOT_FOUND, self.to_string()).into_response()
    }
}

impl ServiceFilter {
    /// Creates a filter that at least one of the services in `known` passes; without a pattern all pass.
    pub(crate) fn new(pattern: Option<String>, known: &[&str]) -> Result<Self, NoSuchService> {
        match pattern {
            Some(pattern) if !known.iter().any(|name| matches(&pattern, name)) => {
                let remedy = remedy(&pattern, known, "the services are");
                Err(NoSuchService { pattern, remedy })
            }
            pattern => Ok(Self(pattern)),
        }
    }

    /// Returns whether no service was asked for.
    pub(crate) fn passes_all(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn passes(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|pattern| matches(pattern, name))
    }
}

/// Returns whether a name matches a pattern. Takes time by the product of the lengths at most.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where the last `*` is, and how much of the name it stands for so far.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((at, until)) = star else {
                    return false;
                };
                star = Some((at, until + 1));
                (p, n) = (at + 1, until + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names() {
        let rows = [
            ("web", "web", true),
            ("web", "web-1", false),
            ("web*", "web-1", true),
            ("web*", "web", true),
            ("*1", "web-11", true),
            ("w*b-?", "web-1", true),
            ("w*b-?", "web-", false),
            ("?", "", false),
            ("*", "", true),
            ("", "web", false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaa", false),
        ];
        for (pattern, name, expected) in rows {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_without_a_service_says_what_to_write() {
        let new = |pattern: &str| ServiceFilter::new(Some(pattern.into()), &["web", "dns"]);
        assert!(new("d*").is_ok_and(|filter| filter.passes("dns") && !filter.passes("web")));
        let error = |pattern| new(pattern).err().map(|error| error.to_string());
        let text = "there is no service \"wbe\"; did you mean \"web\"?";
        assert_eq!(error("wbe").as_deref(), Some(text));
        let text = "there is no service \"x*\"; the services are: web, dns";
        assert_eq!(error("x*").as_deref(), Some(text));
    }
}
