//! No input text makes the parser, or the printing of its problems, panic.

use proptest::prelude::*;

use super::super::{Config, Span};
use super::{FULL, path};

/// Pieces of texts that look like TOML.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("[[service]]\n".to_owned()),
        Just("[service.timeouts]\n".to_owned()),
        Just("[[service.backend]]\n".to_owned()),
        Just("\n".to_owned()),
        "(port|vip|name|service|a)(\\.(port|b))?",
        " ?= ?",
        "(\"|'|\"\"\"|'''|\\{|\\}|\\[|\\]|,|#|\\\\|\t|\r\n|é|\u{1b})",
        "-?[0-9]{1,25}",
        "\"[0-9a-f:./]{0,20}\"",
        "(true|nan|inf|1e999|1979-05-27|0x|0o7)",
    ]
}

/// Reads a text and prints its problems, and one at a place beyond its end.
fn read_and_print(text: &str) {
    let parsed = Config::read(text, path());
    let config = parsed.config();
    let beyond = Span {
        start: text.len() / 2 + 1,
        end: usize::MAX,
    };
    let _ = config.error_at(beyond, "x").to_string();
    match parsed.finish() {
        Ok((_, warnings)) => warnings
            .iter()
            .for_each(|w| assert!(!w.to_string().is_empty())),
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        read_and_print(&text);
    }

    #[test]
    fn no_text_that_looks_like_toml_panics(pieces in prop::collection::vec(piece(), 0..60)) {
        read_and_print(&pieces.concat());
    }

    #[test]
    fn no_mutated_config_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..40, piece()), 1..8),
    ) {
        let mut text = FULL.to_owned();
        for (at, len, piece) in edits {
            let start = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.ceil_char_boundary((start + len).min(text.len()));
            text.replace_range(start..end, &piece);
        }
        read_and_print(&text);
    }
}
