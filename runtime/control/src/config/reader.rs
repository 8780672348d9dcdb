//! Typed getters over the parse tree, which collect everything that does not fit.
//!
//! Invariant: reading never stops at a problem. A missing or wrong value is `None` to the caller, a
//! wrong one also a `Problem` in [`Problems`]; the rest of the file is still read.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};
use waxwing_dataplane::Ports;

use super::problem::{Located, Problems, Span};
use super::schema::{Expected, Key, ROOT, Section, Shape};
use super::{names, values};

/// Returns the value, or `default` if the key is absent or wrong.
pub(super) fn or<T>(read: Option<Located<T>>, default: T) -> T {
    read.map_or(default, |located| located.value)
}

/// Returns the value, or its type's default if the key is absent or wrong.
pub(super) fn or_default<T: Default>(read: Option<Located<T>>) -> T {
    or(read, T::default())
}

/// One table of the file.
pub(super) struct Table<'a, 'i> {
    section: &'static Section,
    entries: &'a DeTable<'i>,
    /// The header, or a whole inline table.
    pub(super) span: Span,
}

impl<'a, 'i> Table<'a, 'i> {
    /// Wraps a table, and reports its unknown and its missing keys.
    pub(super) fn new(
        section: &'static Section,
        entries: &'a DeTable<'i>,
        span: Span,
        problems: &mut Problems,
    ) -> Self {
        // A mistyped key is not reported as missing too.
        let mut suggested = Vec::new();
        for name in entries.keys() {
            let (name, span) = (name.get_ref(), name.span().into());
            if !section.keys.iter().any(|key| key.name == name.as_ref()) {
                let nearest = nearest_key(name, section);
                suggested.extend(nearest);
                problems.error(span, unknown_key(name, nearest, section));
            }
        }
        for key in section.keys {
            let present = entries.contains_key(key.name) || suggested.contains(&key.name);
            if key.required && !present {
                problems.error(span, missing_key(key, section));
            }
        }
        Self {
            section,
            entries,
            span,
        }
    }

    /// Returns whether the key is present, with any value.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.entries.contains_key(key.name)
    }

    /// Returns the error text for a missing key.
    pub(super) fn missing(&self, key: &Key) -> String {
        missing_key(key, self.section)
    }

    /// Notes what the value of a key must be.
    fn expect(&self, key: &'static Key, problems: &mut Problems, expected: Expected) {
        if let Some(asked) = &mut problems.asked {
            asked.note(self.section, key, expected);
        }
    }

    /// Returns the value of a key of this section.
    fn get(&self, key: &'static Key) -> Option<(&'a DeValue<'i>, Span)> {
        debug_assert!(
            self.section.keys.contains(&key),
            "the schema has no {}",
            key.name
        );
        let value = self.entries.get(key.name)?;
        Some((value.get_ref(), value.span().into()))
    }

    /// Returns a string converted by `parse`, whose error says what is wrong and what to write.
    pub(super) fn parsed<T>(
        &self,
        key: &'static Key,
        problems: &mut Problems,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        self.expect(key, problems, Expected::Text);
        let (value, span) = self.get(key)?;
        parsed(key, value, span, problems, parse)
    }

    /// Returns the value of one of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static Key,
        choices: &[(&'static str, T)],
        problems: &mut Problems,
    ) -> Option<Located<T>> {
        let words = choices.iter().map(|(word, _)| *word);
        self.expect(key, problems, Expected::Choice(words.collect()));
        self.parsed(key, problems, |text| {
            let chosen = choices
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, value)| *value);
            chosen.ok_or_else(|| {
                let words: Vec<_> = choices
                    .iter()
                    .map(|(word, _)| format!("\"{word}\""))
                    .collect();
                let near = names::nearest(text, choices.iter().map(|(word, _)| *word));
                let near = near.map(|near| format!(" (did you mean \"{near}\"?)"));
                let text = text.escape_debug();
                format!(
                    "`{}` cannot be \"{text}\"; write {}{}",
                    key.name,
                    words.join(" or "),
                    near.unwrap_or_default()
                )
            })
        })
    }

    /// Returns `true` or `false`.
    pub(super) fn boolean(
        &self,
        key: &'static Key,
        problems: &mut Problems,
    ) -> Option<Located<bool>> {
        self.expect(key, problems, Expected::Boolean);
        let (value, span) = self.get(key)?;
        match value {
            DeValue::Boolean(value) => Some(Located::new(*value, span)),
            other => wrong_type(key, "true or false", other, span, problems),
        }
    }

    /// Returns a whole number in a range.
    pub(super) fn integer<T>(
        &self,
        key: &'static Key,
        range: RangeInclusive<T>,
        problems: &mut Problems,
    ) -> Option<Located<T>>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        self.expect(key, problems, Expected::Integer(bounds(&range)));
        let (value, span) = self.get(key)?;
        integer(key, value, span, &range, problems)
    }

    /// Returns ports: one number, or a range as [`values::ports`] parses it.
    pub(super) fn ports(
        &self,
        key: &'static Key,
        problems: &mut Problems,
    ) -> Option<Located<Ports>> {
        self.expect(key, problems, Expected::Ports);
        match self.get(key)? {
            (DeValue::Integer(_), _) => {
                let port = self.integer(key, 1..=u16::MAX, problems)?;
                Some(port.map(Ports::one))
            }
            (DeValue::String(_), _) => self.parsed(key, problems, values::ports),
            (other, span) => wrong_type(key, "a port or a range", other, span, problems),
        }
    }

    /// Returns a list of whole numbers in a range.
    pub(super) fn integers<T>(
        &self,
        key: &'static Key,
        range: RangeInclusive<T>,
        problems: &mut Problems,
    ) -> Option<Vec<Located<T>>>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        self.expect(key, problems, Expected::Integers(bounds(&range)));
        self.list(
            key,
            "a list of numbers",
            problems,
            |item, span, problems| integer(key, item, span, &range, problems),
        )
    }

    /// Returns a list of strings, each converted by `parse`.
    pub(super) fn strings<T>(
        &self,
        key: &'static Key,
        problems: &mut Problems,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<Located<T>>> {
        self.expect(key, problems, Expected::Texts);
        self.list(
            key,
            "a list of strings",
            problems,
            |item, span, problems| parsed(key, item, span, problems, &parse),
        )
    }

    /// Returns the valid items of a list.
    fn list<T>(
        &self,
        key: &'static Key,
        expected: &str,
        problems: &mut Problems,
        read: impl Fn(&DeValue<'i>, Span, &mut Problems) -> Option<Located<T>>,
    ) -> Option<Vec<Located<T>>> {
        match self.get(key)? {
            (DeValue::Array(items), _) => {
                let items = items.iter();
                let read = |item: &toml::Spanned<DeValue<'i>>| {
                    read(item.get_ref(), item.span().into(), problems)
                };
                Some(items.filter_map(read).collect())
            }
            (other, span) => wrong_type(key, expected, other, span, problems),
        }
    }

    /// Returns a duration: a string with units, or whole seconds. One outside of `bounds` is an
    /// error.
    pub(super) fn duration(
        &self,
        key: &'static Key,
        bounds: RangeInclusive<Duration>,
        problems: &mut Problems,
    ) -> Option<Located<Duration>> {
        self.expect(key, problems, Expected::Duration);
        let (value, span) = self.get(key)?;
        let read = match value {
            DeValue::String(_) => self.parsed(key, problems, values::duration),
            DeValue::Integer(_) => integer(key, value, span, &(0..=u64::from(u32::MAX)), problems)
                .map(|seconds| seconds.map(Duration::from_secs)),
            other => wrong_type(key, "a duration", other, span, problems),
        }?;
        if bounds.contains(&read.value) {
            return Some(read);
        }
        let [low, high] = [bounds.start(), bounds.end()].map(|it| values::duration_text(*it));
        let text = format!(
            "`{}` is out of range; write \"{low}\" to \"{high}\"",
            key.name
        );
        problems.error(span, text);
        None
    }

    /// Returns a table of any keys as JSON, `{}` if the key is absent or wrong.
    pub(super) fn json(&self, key: &'static Key, problems: &mut Problems) -> Located<Arc<str>> {
        self.expect(key, problems, Expected::Free);
        let read = match self.get(key) {
            Some((table @ DeValue::Table(_), span)) => {
                let text = json(table, span, problems).to_string();
                Some(Located::new(Arc::from(text), span))
            }
            Some((other, span)) => wrong_type(key, "a table", other, span, problems),
            None => None,
        };
        read.unwrap_or_else(|| Located::new("{}".into(), self.span))
    }

    /// Returns the only table of a key.
    pub(super) fn table(
        &self,
        key: &'static Key,
        problems: &mut Problems,
    ) -> Option<Table<'a, 'i>> {
        let Shape::Table(section) = key.shape else {
            return None;
        };
        match self.get(key)? {
            (DeValue::Table(entries), span) => Some(Table::new(section, entries, span, problems)),
            (_, span) => {
                problems.error(span, wrong_header(key));
                None
            }
        }
    }

    /// Returns every table of a key.
    pub(super) fn tables(&self, key: &'static Key, problems: &mut Problems) -> Vec<Table<'a, 'i>> {
        let Shape::Tables(section) = key.shape else {
            return Vec::new();
        };
        let items = match self.get(key) {
            None => return Vec::new(),
            Some((DeValue::Array(items), _)) => items,
            Some((_, span)) => {
                problems.error(span, wrong_header(key));
                return Vec::new();
            }
        };
        let mut tables = Vec::new();
        for item in items {
            match item.get_ref() {
                DeValue::Table(entries) => {
                    tables.push(Table::new(section, entries, item.span().into(), problems));
                }
                _ => problems.error(item.span().into(), wrong_header(key)),
            }
        }
        tables
    }
}

/// Returns a range's ends.
fn bounds<T: Display>(range: &RangeInclusive<T>) -> [i128; 2] {
    [range.start(), range.end()].map(|end| end.to_string().parse().unwrap_or(0))
}

fn parsed<T>(
    key: &'static Key,
    value: &DeValue<'_>,
    span: Span,
    problems: &mut Problems,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<Located<T>> {
    let DeValue::String(text) = value else {
        return wrong_type(key, "a string", value, span, problems);
    };
    let value = parse(text).map_err(|why| problems.error(span, why)).ok()?;
    Some(Located::new(value, span))
}

fn integer<T>(
    key: &'static Key,
    value: &DeValue<'_>,
    span: Span,
    range: &RangeInclusive<T>,
    problems: &mut Problems,
) -> Option<Located<T>>
where
    T: TryFrom<i128> + PartialOrd + Display,
{
    let DeValue::Integer(digits) = value else {
        return wrong_type(key, "a whole number", value, span, problems);
    };
    let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
    let fits = number
        .and_then(|n| T::try_from(n).ok())
        .filter(|n| range.contains(n));
    if fits.is_none() {
        let (low, high) = (range.start(), range.end());
        let text = format!("`{}` is out of range; write {low} to {high}", key.name);
        problems.error(span, text);
    }
    fits.map(|value| Located::new(value, span))
}

/// Converts a TOML value to JSON. JSON has no dates, so they become strings.
fn json(value: &DeValue<'_>, span: Span, problems: &mut Problems) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Datetime(date) => date.to_string().into(),
        DeValue::Integer(digits) => {
            let number = i64::from_str_radix(digits.as_str(), digits.radix());
            number.map(Into::into).unwrap_or_else(|_| {
                problems.error(
                    span,
                    "this number does not fit 64 bits; write a string instead",
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
                    problems.error(
                        span,
                        "JSON has no such number; write a finite number or a string",
                    );
                    serde_json::Value::Null
                },
                Into::into,
            )
        }
        DeValue::Array(items) => {
            let items = items
                .iter()
                .map(|item| json(item.get_ref(), item.span().into(), problems));
            serde_json::Value::Array(items.collect())
        }
        DeValue::Table(entries) => {
            let entries = entries.iter().map(|(key, value)| {
                (
                    key.get_ref().to_string(),
                    json(value.get_ref(), value.span().into(), problems),
                )
            });
            serde_json::Value::Object(entries.collect())
        }
    }
}

fn wrong_type<T>(
    key: &'static Key,
    expected: &str,
    found: &DeValue<'_>,
    span: Span,
    problems: &mut Problems,
) -> Option<T> {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    let Key { name, example, .. } = key;
    let text =
        format!("`{name}` must be {expected}, not {found}; write for example `{name} = {example}`");
    problems.error(span, text);
    None
}

fn wrong_header(key: &Key) -> String {
    let brackets = match key.shape {
        Shape::Tables(_) => "with double brackets",
        _ => "once, with single brackets",
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
            format!("there is no {example}; write {example} with `{first} = {value}` below it")
        }
        _ => format!(
            "{} has no `{name}`; write `{name} = {example}`",
            section.title()
        ),
    }
}

/// Returns the key of the section that a mistyped name most likely means.
fn nearest_key(name: &str, section: &Section) -> Option<&'static str> {
    let is_known = ROOT
        .all()
        .iter()
        .any(|s| s.keys.iter().any(|key| key.name == name));
    // A key of another section is misplaced, not mistyped.
    if is_known {
        None
    } else {
        names::nearest(name, section.keys.iter().map(|key| key.name))
    }
}

fn unknown_key(name: &str, nearest: Option<&str>, section: &Section) -> String {
    let (title, shown) = (section.title(), name.escape_debug());
    let has_it = |s: &&&Section| s.keys.iter().any(|key| key.name == name);
    let remedy = if let Some(near) = nearest {
        format!("did you mean `{near}`?")
    } else if let Some(home) = ROOT.all().iter().find(has_it) {
        home.header.map_or_else(
            || "move it to the top of the file, before the first [table]".to_owned(),
            |header| format!("move it below {header}"),
        )
    } else {
        let known: Vec<_> = section.keys.iter().map(|key| key.name).collect();
        format!("its keys are {}", known.join(", "))
    };
    format!("{title} has no key `{shown}`; {remedy}")
}
