//! Compiles crates of this workspace.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::path::Path;

use waxwing_module_build::{Error, Module, build, embed};

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");

/// One folder for all tests, so that the dependencies are compiled once.
fn out_dir() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn compile(package: &str) -> Result<Vec<Module>, Error> {
    build(
        Path::new(MANIFEST),
        &[package],
        Path::new(env!("CARGO_TARGET_TMPDIR")),
    )
}

#[test]
fn a_compiled_module_contains_no_path_of_this_machine() {
    let modules = compile("first-policy").unwrap();
    assert_eq!(modules.len(), 1);
    assert_eq!(modules[0].name, "first_policy");
    let wasm = fs::read(&modules[0].path).unwrap();
    assert!(wasm.starts_with(b"\0asm\x01\0\0\0"));
    assert!(wasm.len() < 256 * 1024, "{} bytes", wasm.len());

    let contains = |text: &str| {
        wasm.windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    assert!(contains("kind=policy\nabi=1.1\nname=first-policy\n"));
    for export in [
        "memory",
        "waxwing_reserve",
        "waxwing_init",
        "waxwing_pick",
        "waxwing_error",
    ] {
        assert!(contains(export), "no export {export}");
    }
    let workspace = Path::new(MANIFEST).canonicalize().unwrap();
    assert!(!contains(workspace.parent().unwrap().to_str().unwrap()));
    assert!(!contains("/.cargo/registry"));
}

#[test]
fn embed_writes_the_lists_as_rust_source() {
    let lists: [(&str, &[&str]); 2] = [
        ("POLICIES", &["first-policy"]),
        ("CHECKS", &["waxwing-health-tcp"]),
    ];
    let modules = embed(Path::new(MANIFEST), &lists, out_dir()).unwrap();
    let source = fs::read_to_string(out_dir().join("modules.rs")).unwrap();
    let (policies, checks) = source.split_once("pub static CHECKS").unwrap();
    let [policy, check] = &modules[..] else {
        panic!("{modules:?}");
    };
    let line = |module: &Module| {
        let path = module.path.to_str().unwrap();
        format!(r#"({:?}, include_bytes!("{path}"))"#, module.name)
    };
    assert!(
        policies.contains(&line(policy)) && checks.contains(&line(check)),
        "{source}"
    );
}

#[test]
fn a_crate_that_is_not_a_module_is_refused_with_a_hint() {
    let error = compile("waxwing-sdk").unwrap_err().to_string();
    assert!(error.contains("crate-type"), "{error}");
}

#[test]
fn a_failed_compile_shows_cargos_output() {
    let error = compile("no-such-crate").unwrap_err();
    assert!(matches!(error, Error::Compile { .. }));
    assert!(error.to_string().contains("no-such-crate"), "{error}");
}
