//! Prometheus's text format, version 0.0.4.
//!
//! Invariant: the samples of a family follow its HELP and TYPE at once, and label values are escaped.

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};

use waxwing_dataplane::counters::Distribution;

use crate::admin::stream::Answer;

/// The answer to a scrape.
pub(super) struct Page<'a>(&'a mut Answer);

/// A metric, to add samples to.
pub(super) struct Family<'a> {
    answer: &'a mut Answer,
    name: String,
}

/// Label names and values, as a sample has them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Labels(String);

impl<'a> Page<'a> {
    pub(super) fn new(answer: &'a mut Answer) -> Self {
        Self(answer)
    }

    pub(super) fn counter(&mut self, name: &str, help: &str) -> io::Result<Family<'_>> {
        self.family(name, "counter", help)
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str) -> io::Result<Family<'_>> {
        self.family(name, "gauge", help)
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str) -> io::Result<Family<'_>> {
        self.family(name, "histogram", help)
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) -> io::Result<Family<'_>> {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        Ok(Family {
            answer: self.0,
            name: name.to_owned(),
        })
    }
}

impl Family<'_> {
    /// Adds the only sample of a family without labels.
    pub(super) fn value(&mut self, value: impl Display) -> io::Result<()> {
        writeln!(self.answer, "{} {value}", self.name)
    }

    pub(super) fn sample(&mut self, labels: &Labels, value: impl Display) -> io::Result<()> {
        writeln!(self.answer, "{}{{{}}} {value}", self.name, labels.0)
    }

    /// Adds a sample with one more label, whose value needs no escape.
    pub(super) fn sample_by(
        &mut self,
        labels: &Labels,
        (label, by): (&str, &str),
        value: impl Display,
    ) -> io::Result<()> {
        let comma = if labels.0.is_empty() { "" } else { "," };
        let Self { answer, name } = self;
        writeln!(
            answer,
            "{name}{{{}{comma}{label}=\"{by}\"}} {value}",
            labels.0
        )
    }

    /// Adds a histogram of times in `unit` microseconds.
    #[expect(clippy::cast_precision_loss, reason = "a float holds 2^53 of them")]
    pub(super) fn times(
        &mut self,
        labels: &Labels,
        times: &Distribution,
        unit: f64,
    ) -> io::Result<()> {
        let (name, seconds) = (self.name.clone(), |us: u64| us as f64 * unit * 1e-6);
        self.name = name.clone() + "_bucket";
        for (bound, count) in times.cumulative() {
            self.sample_by(labels, ("le", &format!("{:.9}", seconds(bound))), count)?;
        }
        self.sample_by(labels, ("le", "+Inf"), times.count())?;
        self.name = name.clone() + "_sum";
        self.sample(labels, format_args!("{:.9}", seconds(times.sum_us())))?;
        self.name = name.clone() + "_count";
        self.sample(labels, times.count())?;
        self.name = name;
        Ok(())
    }
}

impl Labels {
    pub(super) fn new<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = String::new();
        for (name, value) in labels {
            let comma = if text.is_empty() { "" } else { "," };
            let value = escaped(value);
            // Writing to a string cannot fail.
            let _ = write!(text, "{comma}{name}=\"{value}\"");
        }
        Self(text)
    }
}

fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let labels = Labels::new([("a", "\"x\"\\"), ("b", "1\n2")]);
        assert_eq!(labels.0, r#"a="\"x\"\\",b="1\n2""#);
    }
}
