//! Samples in Prometheus's text format: `name{label="value",...} number timestamp`. OpenMetrics has
//! the same syntax as far as it is read here.
//!
//! Invariant: a line is parsed once, in bytes. A line with truncated or malformed labels is not a
//! sample of any metric.

use waxwing_sdk::ConfigError;

/// Selects the samples of a metric that have these labels, and possibly more.
#[derive(Debug)]
pub(crate) struct Selector {
    name: Vec<u8>,
    labels: Vec<Label>,
}

#[derive(PartialEq, Eq, Debug)]
struct Label {
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Selector {
    /// Parses a metric's name, with or without labels in braces, as the page has it.
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        const EXPECTED: &str = "expected a metric's name and optional labels, such as \
                                queue_depth{queue=\"main\"}";
        let whole = text.trim().as_bytes();
        let (name, rest) = split_name(whole).ok_or(EXPECTED)?;
        let (labels, rest) = split_labels(rest).ok_or(EXPECTED)?;
        if !rest.is_empty() {
            return Err(EXPECTED.into());
        }
        Ok(Self {
            name: name.to_vec(),
            labels,
        })
    }

    /// Returns the value of a sample, `Some(None)` if it is not a number; `None` if the line is not
    /// a selected sample.
    pub(crate) fn value(&self, line: &[u8]) -> Option<Option<f64>> {
        // Most lines belong to other metrics.
        if !line.starts_with(&self.name) {
            return None;
        }
        let (name, rest) = split_name(line)?;
        if name != self.name {
            return None;
        }
        let (labels, rest) = split_labels(rest.trim_ascii_start())?;
        let has_all = self.labels.iter().all(|label| labels.contains(label));
        has_all.then(|| number(rest))
    }
}

/// Splits off the name at the start.
fn split_name(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_name_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"_:".contains(byte);
    let len = text.iter().take_while(|byte| is_name_byte(byte)).count();
    let is_name = len > 0 && !text[0].is_ascii_digit();
    is_name.then(|| text.split_at(len))
}

/// Splits off the labels in braces at the start, if there are any.
fn split_labels(text: &[u8]) -> Option<(Vec<Label>, &[u8])> {
    let mut labels = Vec::new();
    let Some(mut text) = text.strip_prefix(b"{") else {
        return Some((labels, text));
    };
    loop {
        text = text.trim_ascii_start();
        if let Some(rest) = text.strip_prefix(b"}") {
            return Some((labels, rest));
        }
        let (name, rest) = split_name(text)?;
        let rest = rest.trim_ascii_start().strip_prefix(b"=")?;
        let (value, rest) = read_value(rest.trim_ascii_start().strip_prefix(b"\"")?)?;
        labels.push(Label {
            name: name.to_vec(),
            value,
        });
        // The last label may have a comma too.
        text = rest.trim_ascii_start();
        match text.strip_prefix(b",") {
            Some(rest) => text = rest,
            None if text.starts_with(b"}") => {}
            None => return None,
        }
    }
}

/// Reads a label's value up to the closing quote and resolves its escapes. Also returns the rest.
fn read_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut rest = text;
    loop {
        match rest {
            [b'"', behind @ ..] => return Some((value, behind)),
            [b'\\', escaped, behind @ ..] => {
                value.push(if *escaped == b'n' { b'\n' } else { *escaped });
                rest = behind;
            }
            [byte, behind @ ..] => {
                value.push(*byte);
                rest = behind;
            }
            [] => return None,
        }
    }
}

/// Parses the number after a sample's labels. A timestamp or an exemplar may follow it.
fn number(text: &[u8]) -> Option<f64> {
    let word = text
        .split(u8::is_ascii_whitespace)
        .find(|word| !word.is_empty())?;
    core::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use waxwing_sdk::testing;

    use super::*;

    /// Returns `None` for a line that is not selected, `Some(None)` for a sample without a number.
    fn value(selector: &str, line: &str) -> Option<Option<f64>> {
        Selector::parse(selector).unwrap().value(line.as_bytes())
    }

    #[test]
    fn samples_are_selected_by_name_and_labels() {
        for (selector, line, expected) in [
            ("up", "up 1", Some(1.0)),
            ("up", "up\t1 1700000000000", Some(1.0)),
            ("up", "up{} 1", Some(1.0)),
            ("up", "up {} 1", Some(1.0)),
            ("up", "up{a=\"b\"} 1", Some(1.0)),
            ("up", "up{a=\"b\"}1", Some(1.0)),
            ("up", "up{a=\"} 9\"} 1", Some(1.0)),
            ("up", "up 1 # {trace=\"x\"} 5", Some(1.0)),
            ("up{}", "up 1", Some(1.0)),
            ("up{a=\"b\"}", "up{a=\"b\"} 1e3", Some(1000.0)),
            ("up{a=\"b\"}", "up{ x=\"y\" , a = \"b\" , } 1", Some(1.0)),
            ("up{a=\"b\",c=\"d\"}", "up{c=\"d\",a=\"b\"} 1", Some(1.0)),
            ("up{a=\"b\",c=\"d\"}", "up{c=\"d\"} 1", None),
            ("up{a=\"b\"}", "up{a=\"c\"} 1", None),
            ("up{a=\"b\"}", "up{aa=\"b\"} 1", None),
            ("up{a=\"b\"}", "up 1", None),
            (
                "up{a=\"q\\\"\\\\\\n\"}",
                "up{a=\"q\\\"\\\\\\n\"} 1",
                Some(1.0),
            ),
            (
                "vllm:num_waiting",
                "vllm:num_waiting{m=\"ü\"} 3.0",
                Some(3.0),
            ),
            ("up", "upper 1", None),
            ("up", "up_total 1", None),
            ("up", "# up 1", None),
            ("up", "", None),
            ("up", "up{a=\"b\" 1", None),
            ("up", "up{a=\"b\\", None),
            ("up", "up{a=b} 1", None),
            ("up", "up{a=\"b\" c=\"d\"} 1", None),
        ] {
            assert_eq!(
                value(selector, line),
                expected.map(Some),
                "{selector}: {line}"
            );
        }
    }

    #[test]
    fn all_of_prometheuss_number_formats_parse() {
        assert_eq!(value("up", "up +Inf"), Some(Some(f64::INFINITY)));
        assert_eq!(value("up", "up -Inf"), Some(Some(f64::NEG_INFINITY)));
        assert_eq!(value("up", "up -1.5e-3"), Some(Some(-0.0015)));
        assert!(value("up", "up NaN").flatten().unwrap().is_nan());
        for line in ["up", "up ", "up{} ", "up one", "up 1,5", "up \u{661}"] {
            assert_eq!(value("up", line), Some(None), "{line}");
        }
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for text in [
            "",
            "7up",
            "a b",
            "a{",
            "a{b}",
            "a{b=c}",
            "a{b=\"c\"",
            "a{b=\"c\"}x",
            "a{b=\"c}",
            "a-b",
            "{b=\"c\"}",
            "a{b=~\"c\"}",
        ] {
            let error = Selector::parse(text).unwrap_err();
            assert!(error.reason().contains("such as queue_depth"), "{text}");
        }
    }

    #[test]
    fn corrupted_lines_do_not_panic() {
        let selector = Selector::parse("up{a=\"b\"}").unwrap();
        for line in testing::corrupted(b"up{x=\"y\\n\",a=\"b\"} 12.5 1700000000", 1).take(20_000) {
            let _ = selector.value(&line);
        }
    }
}
