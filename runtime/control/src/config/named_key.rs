//! The key that a module's text names, in the table of keys that the module was given.
//!
//! Invariant: a text that names no key that is there gives `None`; the table as a whole is marked then.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Span;

/// How a module's text begins the path of a key: `policy_config.order[1].tag`.
const TABLES: [&str; 2] = ["policy_config", "config"];

/// Returns the place of the key that `text` names, in the table at `table`.
pub(super) fn find(source: &str, table: Span, text: &str) -> Option<Span> {
    let (root, _) = DeTable::parse_recoverable(source);
    let mut entries = table_at(root.get_ref(), table)?;
    let mut found = None;
    for name in path(text) {
        let entry = entries.iter().find(|(key, _)| *key.get_ref() == *name);
        let Some((key, value)) = entry else { break };
        found = Some(Span::from(key.span()));
        match inner(value) {
            Some(inner) => entries = inner,
            None => break,
        }
    }
    found
}

/// Returns the names of the keys on the path that a text names.
fn path<'a>(text: &'a str) -> Vec<&'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-.[]".contains(c);
    let words = text.split(|c| !is_part(c));
    let keys = |word: &'a str| {
        let of = |table: &&str| word.strip_prefix(*table);
        let keys = TABLES.iter().find_map(of)?;
        (keys.is_empty() || keys.starts_with('.')).then_some(keys)
    };
    let named = words.filter_map(keys).max_by_key(|keys| keys.len());
    let names = named.unwrap_or_default().split(['.', '[']);
    let names = names.filter(|name| !name.is_empty() && !name.ends_with(']'));
    let unknown = text.split_once("unknown field `");
    let unknown = unknown.and_then(|(_, rest)| Some(rest.split_once('`')?.0));
    names.chain(unknown).collect()
}

/// Returns the table that a value is.
fn inner<'a, 'i>(value: &'a Spanned<DeValue<'i>>) -> Option<&'a DeTable<'i>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

fn table_at<'a, 'i>(entries: &'a DeTable<'i>, place: Span) -> Option<&'a DeTable<'i>> {
    entries.iter().find_map(|(_, value)| within(value, place))
}

fn within<'a, 'i>(value: &'a Spanned<DeValue<'i>>, place: Span) -> Option<&'a DeTable<'i>> {
    match value.get_ref() {
        DeValue::Table(table) if Span::from(value.span()) == place => Some(table),
        DeValue::Table(table) => table_at(table, place),
        DeValue::Array(list) => list.iter().find_map(|value| within(value, place)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "[[service]]\npolicy_config = { decay_ms = 0, inner = { a-b = 1 } }\n\
                          [[service]]\n[service.policy_config]\ntable = 7\n[[service.health]]\n\
                          config = { path = 1 }\n";

    /// Returns the text of the key that a module's text names in the `nth` table of keys. A table's keys are
    /// sorted, so the check's config is the second of three.
    fn named(nth: usize, text: &str) -> Option<&'static str> {
        let (root, _) = DeTable::parse_recoverable(SOURCE);
        let mut tables = Vec::new();
        collect(root.get_ref(), &mut tables);
        find(SOURCE, tables[nth], text).map(|span| &SOURCE[span.start..span.end])
    }

    fn collect(entries: &DeTable<'_>, tables: &mut Vec<Span>) {
        for (key, value) in entries {
            match value.get_ref() {
                DeValue::Table(_) if key.get_ref().ends_with("config") => {
                    tables.push(value.span().into());
                }
                DeValue::Table(table) => collect(table, tables),
                DeValue::Array(list) => {
                    list.iter()
                        .filter_map(inner)
                        .for_each(|it| collect(it, tables));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn the_key_that_a_text_names_is_found() {
        let rows = [
            (
                0,
                "policy_config.decay_ms = 0: expected 1 or more",
                Some("decay_ms"),
            ),
            (0, "policy_config.inner.a-b: invalid type", Some("a-b")),
            (0, "policy_config.inner.gone is missing", Some("inner")),
            (
                0,
                "policy_config: unknown field `decay_ms`, expected `x`",
                Some("decay_ms"),
            ),
            (0, "policy_config.inner: unknown field `a-b`", Some("a-b")),
            (0, "policy_config is wrong", None),
            (0, "it gives no reason", None),
            (0, "policy_config.nonesuch: missing", None),
            (
                2,
                "policy_config.table = 7: expected a prime",
                Some("table"),
            ),
            (1, "config.path: invalid type: integer", Some("path")),
        ];
        for (table, text, expected) in rows {
            assert_eq!(named(table, text), expected, "{text}");
        }
    }
}
