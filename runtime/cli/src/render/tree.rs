//! An item of the API with all its fields, as an indented list.

use std::fmt::{self, Write as _};

use serde_json::Value;

/// Returns an object's fields, a line each; empty ones are left out.
pub(crate) fn tree(value: &Value) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, value, 0);
    out
}

fn write(out: &mut String, value: &Value, indent: usize) -> fmt::Result {
    let Value::Object(fields) = value else {
        return writeln!(out, "{:indent$}{}", "", text(value));
    };
    for (name, value) in fields {
        match value {
            Value::Null => {}
            Value::Array(items) if items.is_empty() => {}
            Value::Object(fields) if fields.is_empty() => {}
            Value::Array(items) => {
                writeln!(out, "{:indent$}{name}:", "")?;
                for item in items {
                    let mut lines = String::new();
                    write(&mut lines, item, indent + 4)?;
                    // The first line of each has a dash.
                    lines.replace_range(indent + 2..indent + 3, "-");
                    out.push_str(&lines);
                }
            }
            Value::Object(_) => {
                writeln!(out, "{:indent$}{name}:", "")?;
                write(out, value, indent + 2)?;
            }
            value => writeln!(out, "{:indent$}{name}: {}", "", text(value))?,
        }
    }
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lists_and_objects_are_indented() {
        let value = serde_json::json!({
            "name": "web", "port": 80, "none": null, "empty": [], "up": true,
            "forward": {"packets": 1},
            "history": [{"state": "up", "at": 3}, {"state": "down"}],
            "reasons": ["a", "b"],
        });
        let mut lines: Vec<String> = tree(&value).lines().map(str::to_owned).collect();
        for (line, after) in [
            ("forward:", "  packets: 1"),
            ("reasons:", "  - a"),
            ("  - a", "  - b"),
            ("history:", "  - at: 3"),
            ("  - at: 3", "    state: up"),
        ] {
            let at = lines.iter().position(|it| it == line);
            let at = at.unwrap_or_else(|| panic!("no {line}: {lines:#?}"));
            assert_eq!(lines[at + 1], after, "{lines:#?}");
        }
        lines.retain(|line| line.contains("none") || line.contains("empty"));
        assert!(lines.is_empty(), "{lines:?}");
    }
}
