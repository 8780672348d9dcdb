//! Reads typed values out of the parse tree and writes down everything that does not fit.
//!
//! Invariant: reading never stops at a problem. A value that is missing or wrong is `None` to the
//! caller and a [`Problem`] in the [`Report`]; the rest of the file is read on.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};
use waxwing_dataplane::Ports;

use super::problem::{Located, Problem, Severity, Source, Span};
use super::schema::{Key, ROOT, Section, Shape};
use super::values;

/// The problems found so far.
pub(super) struct Report {
    pub(super) source: Arc<Source>,
    pub(super) problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(source: &Arc<Source>) -> Self {
        Self {
            source: Arc::clone(source),
            problems: Vec::new(),
        }
    }

    pub(super) fn error(&mut self, span: Span, text: impl Into<String>) {
        self.problems
            .push(Problem::at(&self.source, Severity::Error, span, text));
    }

    pub(super) fn warn(&mut self, span: Span, text: impl Into<String>) {
        self.problems
            .push(Problem::at(&self.source, Severity::Warning, span, text));
    }

    /// The line a span begins in, to point at from another.
    pub(super) fn line(&self, span: Span) -> usize {
        self.source.position(span).line
    }
}

/// One table of the file, all its keys known to its section.
pub(super) struct Table<'a, 'i> {
    section: &'static Section,
    entries: &'a DeTable<'i>,
    /// Its header, or the whole of an inline table.
    pub(super) span: Span,
}

impl<'a, 'i> Table<'a, 'i> {
    /// Reports the keys that the section does not have, and those it lacks.
    pub(super) fn new(
        section: &'static Section,
        entries: &'a DeTable<'i>,
        span: Span,
        report: &mut Report,
    ) -> Self {
        let mut meant = Vec::new();
        for name in entries.keys() {
            let (name, span) = (name.get_ref(), name.span().into());
            if !section.keys.iter().any(|key| key.name == name.as_ref()) {
                let nearest = nearest_key(name, section);
                meant.extend(nearest);
                report.error(span, unknown_key(name, nearest, section));
            }
        }
        for key in section.keys {
            let is_there = entries.contains_key(key.name) || meant.contains(&key.name);
            if key.required && !is_there {
                report.error(span, missing_key(key, section));
            }
        }
        Self {
            section,
            entries,
            span,
        }
    }

    /// Whether the key is there, with whatever value.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.entries.contains_key(key.name)
    }

    /// That a key is not there which must be.
    pub(super) fn missing(&self, key: &Key) -> String {
        missing_key(key, self.section)
    }

    /// The value of a key of this section.
    fn get(&self, key: &'static Key) -> Option<(&'a DeValue<'i>, Span)> {
        debug_assert!(
            self.section.keys.contains(&key),
            "the schema has no {}",
            key.name
        );
        let value = self.entries.get(key.name)?;
        Some((value.get_ref(), value.span().into()))
    }

    /// A string.
    pub(super) fn string(
        &self,
        key: &'static Key,
        report: &mut Report,
    ) -> Option<Located<&'a str>> {
        let (value, span) = self.get(key)?;
        match value {
            DeValue::String(text) => Some(Located::new(text.as_ref(), span)),
            other => wrong_type(key, "a string", other, span, report),
        }
    }

    /// A string that `parse` makes a value of; its error says what is wrong and what to write.
    pub(super) fn parsed<T>(
        &self,
        key: &'static Key,
        report: &mut Report,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        let Located { value, span } = self.string(key, report)?;
        match parse(value) {
            Ok(value) => Some(Located::new(value, span)),
            Err(text) => {
                report.error(span, text);
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static Key,
        choices: &[(&'static str, T)],
        report: &mut Report,
    ) -> Option<Located<T>> {
        self.parsed(key, report, |text| {
            let chosen = choices
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, value)| *value);
            chosen.ok_or_else(|| {
                let words: Vec<_> = choices
                    .iter()
                    .map(|(word, _)| format!("\"{word}\""))
                    .collect();
                let text = text.escape_debug();
                format!(
                    "`{}` cannot be \"{text}\"; write {}",
                    key.name,
                    words.join(" or ")
                )
            })
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &'static Key, report: &mut Report) -> Option<Located<bool>> {
        let (value, span) = self.get(key)?;
        match value {
            DeValue::Boolean(value) => Some(Located::new(*value, span)),
            other => wrong_type(key, "true or false", other, span, report),
        }
    }

    /// A whole number in a range.
    pub(super) fn integer<T>(
        &self,
        key: &'static Key,
        range: RangeInclusive<T>,
        report: &mut Report,
    ) -> Option<Located<T>>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let (value, span) = self.get(key)?;
        integer(key, value, span, &range, report)
    }

    /// Ports: the number of one, or a text as [`values::ports`] reads it.
    pub(super) fn ports(&self, key: &'static Key, report: &mut Report) -> Option<Located<Ports>> {
        match self.get(key)? {
            (DeValue::Integer(_), _) => {
                let port = self.integer(key, 1..=u16::MAX, report)?;
                Some(port.map(Ports::one))
            }
            (DeValue::String(_), _) => self.parsed(key, report, values::ports),
            (other, span) => wrong_type(key, "a port or a range", other, span, report),
        }
    }

    /// A list of whole numbers in a range.
    pub(super) fn integers<T>(
        &self,
        key: &'static Key,
        range: RangeInclusive<T>,
        report: &mut Report,
    ) -> Option<Vec<Located<T>>>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        match self.get(key)? {
            (DeValue::Array(items), _) => {
                let items = items.iter();
                let read = |item: &toml::Spanned<DeValue<'_>>| {
                    integer(key, item.get_ref(), item.span().into(), &range, report)
                };
                Some(items.filter_map(read).collect())
            }
            (other, span) => wrong_type(key, "a list of numbers", other, span, report),
        }
    }

    /// A list of texts, each as `parse` takes it.
    pub(super) fn texts<T>(
        &self,
        key: &'static Key,
        report: &mut Report,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<Located<T>>> {
        let (DeValue::Array(items), _) = self.get(key)? else {
            let (other, span) = self.get(key)?;
            return wrong_type(key, "a list of texts", other, span, report);
        };
        let read = |item: &toml::Spanned<DeValue<'_>>| {
            let span = Span::from(item.span());
            let DeValue::String(text) = item.get_ref() else {
                return wrong_type(key, "a list of texts", item.get_ref(), span, report);
            };
            match parse(text) {
                Ok(value) => Some(Located::new(value, span)),
                Err(why) => {
                    report.error(span, why);
                    None
                }
            }
        };
        Some(items.iter().filter_map(read).collect())
    }

    /// A duration: text with units, or whole seconds.
    pub(super) fn duration(
        &self,
        key: &'static Key,
        report: &mut Report,
    ) -> Option<Located<std::time::Duration>> {
        let (value, span) = self.get(key)?;
        match value {
            DeValue::String(_) => self.parsed(key, report, values::duration),
            DeValue::Integer(_) => integer(key, value, span, &(0..=u64::from(u32::MAX)), report)
                .map(|seconds| seconds.map(std::time::Duration::from_secs)),
            other => wrong_type(key, "a duration", other, span, report),
        }
    }

    /// A table of any keys, as JSON.
    pub(super) fn json(
        &self,
        key: &'static Key,
        report: &mut Report,
    ) -> Option<Located<serde_json::Value>> {
        let (value, span) = self.get(key)?;
        match value {
            DeValue::Table(_) => Some(Located::new(json(value, span, report), span)),
            other => wrong_type(key, "a table", other, span, report),
        }
    }

    /// The one table of a key.
    pub(super) fn table(&self, key: &'static Key, report: &mut Report) -> Option<Table<'a, 'i>> {
        let Shape::Table(section) = key.shape else {
            return None;
        };
        match self.get(key)? {
            (DeValue::Table(entries), span) => Some(Table::new(section, entries, span, report)),
            (_, span) => {
                report.error(span, wrong_header(key));
                None
            }
        }
    }

    /// Every table of a key.
    pub(super) fn tables(&self, key: &'static Key, report: &mut Report) -> Vec<Table<'a, 'i>> {
        let Shape::Tables(section) = key.shape else {
            return Vec::new();
        };
        let items = match self.get(key) {
            None => return Vec::new(),
            Some((DeValue::Array(items), _)) => items,
            Some((_, span)) => {
                report.error(span, wrong_header(key));
                return Vec::new();
            }
        };
        let mut tables = Vec::new();
        for item in items {
            match item.get_ref() {
                DeValue::Table(entries) => {
                    tables.push(Table::new(section, entries, item.span().into(), report));
                }
                _ => report.error(item.span().into(), wrong_header(key)),
            }
        }
        tables
    }
}

fn integer<T>(
    key: &'static Key,
    value: &DeValue<'_>,
    span: Span,
    range: &RangeInclusive<T>,
    report: &mut Report,
) -> Option<Located<T>>
where
    T: TryFrom<i128> + PartialOrd + Display,
{
    let DeValue::Integer(digits) = value else {
        return wrong_type(key, "a whole number", value, span, report);
    };
    let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
    let fits = number
        .and_then(|n| T::try_from(n).ok())
        .filter(|n| range.contains(n));
    if fits.is_none() {
        let (low, high) = (range.start(), range.end());
        let text = format!("`{}` is out of range; write {low} to {high}", key.name);
        report.error(span, text);
    }
    fits.map(|value| Located::new(value, span))
}

/// A TOML value as JSON. JSON has no dates, so they become text.
fn json(value: &DeValue<'_>, span: Span, report: &mut Report) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Datetime(date) => date.to_string().into(),
        DeValue::Integer(digits) => {
            let number = i64::from_str_radix(digits.as_str(), digits.radix());
            number.map(Into::into).unwrap_or_else(|_| {
                report.error(
                    span,
                    "this number does not fit 64 bits; write it as a string",
                );
                serde_json::Value::Null
            })
        }
        DeValue::Float(digits) => {
            let number = digits
                .as_str()
                .parse()
                .ok()
                .and_then(serde_json::Number::from_f64);
            number.map_or_else(
                || {
                    report.error(
                        span,
                        "JSON has no such number; write a finite one or a string",
                    );
                    serde_json::Value::Null
                },
                Into::into,
            )
        }
        DeValue::Array(items) => {
            let items = items
                .iter()
                .map(|item| json(item.get_ref(), item.span().into(), report));
            serde_json::Value::Array(items.collect())
        }
        DeValue::Table(entries) => {
            let entries = entries.iter().map(|(key, value)| {
                (
                    key.get_ref().to_string(),
                    json(value.get_ref(), value.span().into(), report),
                )
            });
            serde_json::Value::Object(entries.collect())
        }
    }
}

fn wrong_type<T>(
    key: &'static Key,
    wanted: &str,
    found: &DeValue<'_>,
    span: Span,
    report: &mut Report,
) -> Option<T> {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    let Key { name, example, .. } = key;
    let text =
        format!("`{name}` must be {wanted}, not {found}; write it as in `{name} = {example}`");
    report.error(span, text);
    None
}

fn wrong_header(key: &Key) -> String {
    let brackets = match key.shape {
        Shape::Tables(_) => "with two brackets on each side",
        _ => "with one bracket on each side, once",
    };
    format!(
        "`{}` must be a table; write `{}`, {brackets}",
        key.name, key.example
    )
}

fn missing_key(key: &Key, section: &Section) -> String {
    let Key { name, example, .. } = key;
    match key.shape {
        Shape::Tables(inner) => {
            let first = inner.keys[0];
            let (first, value) = (first.name, first.example);
            format!("there is no `{name}`; write {example} with `{first} = {value}` below it")
        }
        _ => format!(
            "{} has no `{name}`; write `{name} = {example}`",
            section.title()
        ),
    }
}

/// The key of the section that a mistyped one most likely means.
fn nearest_key(name: &str, section: &Section) -> Option<&'static str> {
    let is_known = ROOT
        .all()
        .iter()
        .any(|s| s.keys.iter().any(|key| key.name == name));
    // A key of another section is not mistyped but misplaced.
    if is_known {
        None
    } else {
        values::nearest(name, section.keys.iter().map(|key| key.name))
    }
}

fn unknown_key(name: &str, nearest: Option<&str>, section: &Section) -> String {
    let (title, shown) = (section.title(), name.escape_debug());
    let has_it = |s: &&&Section| s.keys.iter().any(|key| key.name == name);
    let remedy = if let Some(near) = nearest {
        format!("did you mean `{near}`?")
    } else if let Some(home) = ROOT.all().iter().find(has_it) {
        home.header.map_or_else(
            || "write it at the top of the file, before the first [table]".to_owned(),
            |header| format!("write it below {header}"),
        )
    } else {
        let known: Vec<_> = section.keys.iter().map(|key| key.name).collect();
        format!("it can have {}", known.join(", "))
    };
    format!("{title} has no key `{shown}`; {remedy}")
}
