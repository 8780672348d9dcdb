//! The config's JSON Schema, for editors and other programs that write configs.
//!
//! Invariant: it is what the reader asks for while it reads `examples/full.toml`, which has every key, so the
//! two cannot differ. The descriptions are the comments there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::problem::{Problems, SourceText};
use super::schema::{Asked, Expected, ROOT, Section, Shape};
use super::sections;

const FULL: &str = include_str!("../../../../examples/full.toml");

/// Returns the schema (draft 2020-12). What a schema cannot say, such as which keys exclude each other, only
/// `waxwing check` finds.
#[must_use]
pub fn json_schema() -> Value {
    let mut problems = Problems::new(&Arc::new(SourceText::new(Path::new("full.toml"), FULL)));
    problems.asked = Some(Asked::default());
    sections::read(&mut problems);
    let asked = problems.asked.unwrap_or_default();
    let mut root = object(&ROOT, &asked, &comments());
    root.insert(
        "$schema".into(),
        "https://json-schema.org/draft/2020-12/schema".into(),
    );
    root.insert("title".into(), "A config of Waxwing".into());
    root.into()
}

type Comments = BTreeMap<(&'static str, &'static str), String>;

fn object(section: &Section, asked: &Asked, comments: &Comments) -> Map<String, Value> {
    let required: Vec<&str> = section
        .keys
        .iter()
        .filter(|it| it.required)
        .map(|it| it.name)
        .collect();
    let mut properties = Map::new();
    for key in section.keys {
        let mut property = match key.shape {
            Shape::Table(inner) => object(inner, asked, comments),
            Shape::Tables(inner) => {
                let items = Value::from(object(inner, asked, comments));
                Map::from_iter([("type".into(), "array".into()), ("items".into(), items)])
            }
            Shape::Value | Shape::Free => {
                let expected = asked.get(section, key);
                expected.map(value).unwrap_or_default()
            }
        };
        if let Some(comment) = comments.get(&(section.title(), key.name)) {
            property.insert("description".into(), comment.as_str().into());
        }
        properties.insert(key.name.into(), property.into());
    }
    Map::from_iter([
        ("type".into(), "object".into()),
        ("properties".into(), properties.into()),
        ("required".into(), required.into()),
        ("additionalProperties".into(), false.into()),
    ])
}

fn value(expected: &Expected) -> Map<String, Value> {
    let integer = |[low, high]: [i128; 2]| {
        let bounds = [low, high].map(|bound| i64::try_from(bound).unwrap_or(i64::MAX));
        json!({ "type": "integer", "minimum": bounds[0], "maximum": bounds[1] })
    };
    let schema = match expected {
        Expected::Text => json!({ "type": "string" }),
        Expected::Choice(words) => json!({ "enum": words }),
        Expected::Boolean => json!({ "type": "boolean" }),
        Expected::Integer(bounds) => integer(*bounds),
        Expected::Duration => json!({ "type": ["string", "integer"], "minimum": 0 }),
        Expected::Ports => {
            json!({ "type": ["integer", "string"], "minimum": 1, "maximum": 65_535 })
        }
        Expected::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Expected::Integers(bounds) => json!({ "type": "array", "items": integer(*bounds) }),
        Expected::Free => json!({ "type": "object" }),
    };
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

/// Returns the comments above and behind each key of the full example. A key or table that stands there more
/// than once has that of the first.
fn comments() -> Comments {
    let all = ROOT.all();
    let mut section: &Section = &ROOT;
    let mut comments = Comments::new();
    let mut above: Vec<&str> = Vec::new();
    for line in FULL.lines() {
        let line = line.trim();
        if let Some(comment) = line.strip_prefix('#') {
            above.push(comment.trim());
            continue;
        }
        let mut described = None;
        if line.starts_with('[') {
            let header = line.split_whitespace().next().unwrap_or_default();
            section = all
                .iter()
                .find(|it| it.header == Some(header))
                .unwrap_or(&section);
            described = key_of(&all, section);
        } else if let Some((name, _)) = line.split_once('=') {
            let key = section.keys.iter().find(|key| key.name == name.trim());
            described = key.map(|key| (section.title(), key.name));
            let behind = line.rsplit_once(" # ").map(|(_, comment)| comment.trim());
            // Said of the value there, not of the key.
            above.extend(behind.filter(|it| !["example", "no default"].contains(it)));
        }
        if let Some(at) = described
            && !above.is_empty()
        {
            comments.entry(at).or_insert_with(|| above.join("\n"));
        }
        above.clear();
    }
    comments
}

/// Returns the key whose table a section is.
fn key_of(all: &[&'static Section], of: &Section) -> Option<(&'static str, &'static str)> {
    all.iter().find_map(|section| {
        let mut keys = section.keys.iter();
        let key = keys.find(
            |key| matches!(key.shape, Shape::Table(inner) | Shape::Tables(inner) if inner == of),
        )?;
        Some((section.title(), key.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(schema: &'a Value, path: &str) -> &'a Value {
        let pointer: String = path
            .split('.')
            .map(|name| format!("/properties/{name}"))
            .collect();
        let found = schema.pointer(&pointer.replace("/properties/[]", "/items"));
        found.unwrap_or_else(|| panic!("no {path}"))
    }

    #[test]
    fn every_key_has_a_type_and_most_a_description() {
        fn walk(schema: &Value, path: &str, undescribed: &mut Vec<String>) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{name}");
                let typed = property.get("type").or(property.get("enum"));
                assert!(typed.is_some(), "{path} has no type");
                if property.get("description").is_none() {
                    undescribed.push(path.clone());
                }
                walk(property, &path, undescribed);
                walk(&property["items"], &path, undescribed);
            }
        }
        let mut undescribed = Vec::new();
        walk(&json_schema(), "", &mut undescribed);
        assert!(undescribed.len() < 20, "{undescribed:?}");
    }

    #[test]
    fn types_and_ranges_are_the_readers() {
        let schema = json_schema();
        let rows = [
            (
                "module_share",
                json!({ "type": "integer", "minimum": 0, "maximum": 100 }),
            ),
            ("poll", json!({ "enum": ["adaptive", "busy"] })),
            ("service.[].vip", json!({ "type": "string" })),
            (
                "service.[].drain_timeout",
                json!({ "type": ["string", "integer"], "minimum": 0 }),
            ),
            ("service.[].policy_config", json!({ "type": "object" })),
            ("service.[].backend.[].backup", json!({ "type": "boolean" })),
            (
                "workers.cpus",
                json!({
                    "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 1023 }
                }),
            ),
        ];
        for (path, expected) in rows {
            let found = at(&schema, path);
            for (name, value) in expected.as_object().expect("an object") {
                assert_eq!(&found[name], value, "{path} {name}: {found}");
            }
        }
        assert_eq!(schema["required"], json!(["port"]));
        assert_eq!(
            at(&schema, "service.[].backend")["items"]["required"],
            json!(["address"])
        );
        let text = at(&schema, "service.[].on_down")["description"].as_str();
        assert!(
            text.is_some_and(|text| text.contains("\"repick\"  the client's")),
            "{text:?}"
        );
    }
}
