//! What a module's bytes must be, and what the operator reads when they are not.

use crate::common::{PICK_NINE, SECTION, Wat};
use proptest::prelude::*;
use waxwing_plugin::{Limits, validate};

fn refusal(bytes: &[u8]) -> String {
    validate(bytes, &Limits::default())
        .expect_err("a refusal")
        .to_string()
}

#[test]
fn a_good_module_says_what_it_is() {
    let info = validate(&Wat::default().bytes(), &Limits::default()).expect("it is good");
    assert_eq!(
        (info.name.as_str(), info.version.as_str(), info.payload),
        ("test", "7", 0)
    );
}

#[test]
fn every_fault_has_a_text_of_its_own() {
    let with = |more| {
        Wat {
            more,
            ..Wat::default()
        }
        .bytes()
    };
    let memory = |memory| {
        Wat {
            memory,
            ..Wat::default()
        }
        .bytes()
    };
    let text = |text: &str| wat::parse_str(text).expect("good text");
    let good = Wat::default().bytes();
    let cases: &[(Vec<u8>, &str)] = &[
        (b"not wasm".to_vec(), "not a WebAssembly module"),
        (text("(component)"), "not a WebAssembly module"),
        (good[..good.len() - 3].to_vec(), "cut short"),
        (text("(module)"), "no custom section `waxwing.module`"),
        (
            with("(@custom \"waxwing.module\" \"kind=policy\\0aabi=1.0\\0aname=x\\0a\")"),
            "more than one",
        ),
        (
            Wat {
                section: "kind=cheese",
                ..Wat::default()
            }
            .bytes(),
            "expected `policy`",
        ),
        (
            Wat {
                section: "kind=policy\\0aabi=2.0",
                ..Wat::default()
            }
            .bytes(),
            "made for ABI 2.0",
        ),
        (
            text(&format!(
                "(module (@custom \"waxwing.module\" \"{SECTION}\")
                   (import \"env\" \"rand\" (func)) (import \"env\" \"clock\" (func)))"
            )),
            "imports `env.rand` and 1 more",
        ),
        (
            text(&format!(
                "(module (@custom \"waxwing.module\" \"{SECTION}\") (memory (export \"memory\") 1))"
            )),
            "exports no `waxwing_reserve` (i32) -> (i32)",
        ),
        (memory("(memory 1)"), "exports no `memory`"),
        (
            memory("(memory (export \"memory\") 65)"),
            "4259840 bytes of memory",
        ),
        (
            memory("(memory (export \"memory\") 1) (memory 1)"),
            "2 memories",
        ),
        (
            with("(func (export \"waxwing_tick\") (result i32) i32.const 0)"),
            "must be (i32) -> ()",
        ),
        (
            with("(global (export \"waxwing_error\") i32 i32.const 0)"),
            "is not a function",
        ),
        (with("(table 10001 funcref)"), "10001 table entries"),
        (with("(table 1 funcref) (table 1 funcref)"), "2 tables"),
        (with("(func (drop (v128.const i64x2 1 1)))"), "not valid"),
        (
            with("(func (param i32) (local.set 0 (i64.const 1)))"),
            "not valid",
        ),
    ];
    for (bytes, expected) in cases {
        let found = refusal(bytes);
        assert!(found.contains(expected), "{found:?} lacks {expected:?}");
    }
}

#[test]
fn sizes_have_limits() {
    let good = Wat::default().bytes();
    let tight = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        validate(&good, &limits)
            .expect_err("over the limit")
            .to_string()
    };
    assert!(tight(|l| l.file_bytes_max = 100).contains("over the limit of 100"));
    assert!(tight(|l| l.body_bytes_max = 10).contains("bytes in one function"));
    assert!(tight(|l| l.functions_max = 2).contains("3 functions"));
    assert!(tight(|l| l.locals_max = 0).contains("local variables"));
    assert!(tight(|l| l.items_max = 1).contains("types"));
}

#[test]
fn every_truncation_is_refused() {
    // No local has a name, or the last section would be one that can be left out.
    let good = Wat::picking(PICK_NINE).bytes();
    for len in 0..good.len() {
        assert!(
            validate(&good[..len], &Limits::default()).is_err(),
            "cut at {len}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = validate(&bytes, &Limits::default());
        let _ = validate(&[b"\0asm\x01\0\0\0", bytes.as_slice()].concat(), &Limits::default());
    }

    #[test]
    fn no_change_of_a_good_module_makes_it_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = Wat::default().bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = validate(&bytes, &Limits::default());
    }
}
