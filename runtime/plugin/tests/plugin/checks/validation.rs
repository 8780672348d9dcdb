//! Validation of a health check's bytes.

use waxwing_plugin::{Kind, ModuleLimits, validate};
use waxwing_tests::check_wat::{CheckWat, IMPORTS};

fn refusal(wat: &CheckWat) -> String {
    let error = validate(&wat.bytes(), Kind::Health, &ModuleLimits::default());
    error.expect_err("it is invalid").to_string()
}

#[test]
fn a_valid_check_is_accepted_with_its_section() {
    let info = validate(
        &CheckWat::GOOD.bytes(),
        Kind::Health,
        &ModuleLimits::default(),
    );
    let info = info.expect("it is valid");
    assert_eq!((info.kind, info.name.as_str()), (Kind::Health, "test"));
}

#[test]
fn imports_must_match_the_abi_by_name_and_type() {
    let bare = CheckWat {
        imports: "",
        check: "(i32.const 0)",
        more: "",
        ..CheckWat::GOOD
    };
    let cases = [
        (
            "(import \"waxwing\" \"fork\" (func))",
            "imports `waxwing.fork`; a health check may import only functions of `waxwing` (connect,",
        ),
        (
            "(import \"env\" \"connect\" (func (param i32) (result i32)))",
            "imports `env.connect`;",
        ),
        (
            "(import \"wasi_snapshot_preview1\" \"fd_write\" (func))",
            "fd_write`;",
        ),
        (
            "(import \"waxwing\" \"connect\" (func (param i64) (result i32)))",
            "import `connect` is (i64) -> (i32); it must be (i32) -> (i32)",
        ),
        (
            "(import \"waxwing\" \"log\" (func (param i32 i32) (result i32)))",
            "import `log` is (i32, i32) -> (i32); it must be (i32, i32) -> ()",
        ),
        (
            "(import \"waxwing\" \"now_ms\" (global i64))",
            "import `now_ms` is not a function; it must be () -> (i64)",
        ),
        (
            "(import \"waxwing\" \"memory\" (memory 1))",
            "imports `waxwing.memory`;",
        ),
    ];
    for (imports, why) in cases {
        let reason = refusal(&CheckWat { imports, ..bare });
        assert!(reason.contains(why), "{reason:?} lacks {why:?}");
    }
    let twice = "(import \"waxwing\" \"close\" (func (param i32)))
                 (import \"waxwing\" \"close\" (func (param i32)))";
    let good = CheckWat {
        imports: twice,
        ..bare
    };
    assert!(validate(&good.bytes(), Kind::Health, &ModuleLimits::default()).is_ok());
}

#[test]
fn exports_must_match_the_abi_by_name_and_type() {
    let bytes = |exports: &str| {
        let section = "(@custom \"waxwing.module\" \"kind=health\\0aabi=1.0\\0aname=x\\0a\")";
        let parsed = wat::parse_str(format!("(module {section} {IMPORTS} {exports})"));
        parsed.expect("it is WebAssembly text")
    };
    let memory = "(memory (export \"memory\") 1)";
    let reserve = "(func (export \"waxwing_reserve\") (param i32) (result i32) (i32.const 0))";
    let configure = "(func (export \"waxwing_configure\") (param i32) (result i32) (i32.const 0))";
    let check = "(func (export \"waxwing_check\") (param i32) (result i64) (i64.const 0))";
    let cases = [
        (String::new(), "exports no `memory`"),
        (
            memory.into(),
            "exports no `waxwing_reserve` (i32) -> (i32); the SDK's `export_health_check!`",
        ),
        (
            format!("{memory}{reserve}"),
            "exports no `waxwing_configure` (i32) -> (i32)",
        ),
        (
            format!("{memory}{reserve}{configure}"),
            "exports no `waxwing_check` (i32) -> (i32)",
        ),
        (
            format!("{memory}{reserve}{configure}{check}"),
            "export `waxwing_check` is (i32) -> (i64); it must be (i32) -> (i32)",
        ),
    ];
    for (exports, why) in cases {
        let error = validate(&bytes(&exports), Kind::Health, &ModuleLimits::default());
        let reason = error.expect_err(why).to_string();
        assert!(reason.contains(why), "{reason:?} lacks {why:?}");
    }
}
