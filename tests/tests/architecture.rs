//! The crates' dependencies point one way: the core knows no adapter, the SDK knows nothing of
//! the runtime, and nothing depends on tests.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Each crate, and the crates of this workspace that it may use (build scripts included, test
/// code not). A crate that is not here, or an arrow that is not here, fails the test.
const ARROWS: &[(&str, &[&str])] = &[
    ("waxwing-packet", &[]),
    ("waxwing-dataplane", &["waxwing-packet"]),
    ("waxwing-xdp", &["waxwing-dataplane", "waxwing-packet"]),
    (
        "waxwing-plugin",
        &["waxwing-dataplane", "waxwing-packet", "waxwing-sdk"],
    ),
    (
        "waxwing-workbench",
        &[
            "waxwing-dataplane",
            "waxwing-packet",
            "waxwing-plugin",
            "waxwing-sdk",
        ],
    ),
    (
        "waxwing-control",
        &["waxwing-dataplane", "waxwing-packet", "waxwing-plugin"],
    ),
    (
        "waxwing",
        &[
            "waxwing-control",
            "waxwing-dataplane",
            "waxwing-module-build",
            "waxwing-packet",
            "waxwing-plugin",
            "waxwing-workbench",
            "waxwing-xdp",
        ],
    ),
    ("waxwing-sdk", &[]),
    ("waxwing-module-build", &[]),
    ("waxwing-testkit", &["waxwing-dataplane", "waxwing-packet"]),
    (
        "waxwing-simulator",
        &["waxwing-dataplane", "waxwing-packet", "waxwing-testkit"],
    ),
    ("xtask", &["waxwing-module-build"]),
    ("waxwing-report", &[]),
    // Tests, demo and benches may use anything, and nothing may use them.
    ("waxwing-policies", ANY),
    ("waxwing-tests", ANY),
    ("waxwing-demo", ANY),
    ("waxwing-benches", ANY),
    ("waxwing-peers-bench", ANY),
    (
        "bare-forwarder",
        &["waxwing-dataplane", "waxwing-packet", "waxwing-xdp"],
    ),
    (
        "waxwing-bench-core",
        &["waxwing-dataplane", "waxwing-packet", "waxwing-testkit"],
    ),
    (
        "waxwing-instructions",
        &[
            "waxwing-bench-core",
            "waxwing-dataplane",
            "waxwing-packet",
            "waxwing-report",
            "waxwing-testkit",
            "waxwing-xdp",
        ],
    ),
];

const ANY: &[&str] = &["*"];
/// Policies: the SDK, and the policy that several modules share.
const POLICY: &[&str] = &["waxwing-policy-least-load", "waxwing-sdk"];

#[test]
fn dependencies_point_as_the_architecture_says() {
    let crates = workspace();
    let may_use = |from: &str| {
        let row = ARROWS
            .iter()
            .find(|(name, _)| *name == from)
            .map(|(_, to)| *to);
        let directory = &crates[from].0;
        row.or_else(|| (is_policy(directory)).then_some(POLICY))
    };
    for (from, (directory, arrows)) in &crates {
        let allowed = may_use(from);
        let allowed = allowed.unwrap_or_else(|| panic!("{from} ({directory}) is not in the table"));
        for to in arrows {
            let test_only =
                ["waxwing-demo", "waxwing-benches", "waxwing-policies"].contains(&to.as_str());
            assert!(!test_only, "{from} uses {to}, which no crate may use");
            let may_use_doubles =
                directory.starts_with("tests") || directory.starts_with("benches");
            assert!(
                to != "waxwing-testkit" || may_use_doubles,
                "{from} ({directory}) ships and uses {to}: test doubles are for dev-dependencies"
            );
            assert!(
                allowed == ANY || allowed.contains(&to.as_str()),
                "{from} uses {to}; it may use {allowed:?}. Reverse the dependency (a trait in the core that \
                 the adapter implements), or add it to ARROWS with a reason"
            );
        }
    }
}

#[test]
fn unsafe_code_lives_behind_its_fences() {
    // Files that may allow unsafe code, block by block; the workspace denies it elsewhere.
    const FENCES: &[&str] = &[
        "runtime/dataplane/src/prefetch.rs",
        "runtime/dataplane/src/session/memory.rs",
        "runtime/plugin/src/build/compile.rs",
        "runtime/plugin/src/build/compile_service.rs",
        "runtime/xdp/src",
        "sdk/src/export.rs",
        "sdk/src/health/guest.rs",
    ];
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let is_fenced = |path: &std::path::Path| {
        FENCES
            .iter()
            .any(|fence| path.starts_with(root.join(fence)))
    };
    for (name, (directory, _)) in workspace() {
        let allows_unsafe = |path: &std::path::PathBuf| {
            let text = std::fs::read_to_string(path).expect("a source file is text");
            text.replace("forbid(unsafe_code)", "")
                .contains("unsafe_code")
        };
        let files = sources(&root.join(directory).join("src")).into_iter();
        let open: Vec<_> = files
            .filter(|path| allows_unsafe(path) && !is_fenced(path))
            .collect();
        assert!(
            open.is_empty(),
            "{name} has unsafe code in {open:?}: move it to a file of FENCES, or add the file with a reason"
        );
    }
    for fence in FENCES {
        assert!(
            root.join(fence).exists(),
            "{fence} does not exist: remove it from FENCES"
        );
    }
}

fn is_policy(directory: &str) -> bool {
    directory.starts_with("policies/") || directory.starts_with("examples/")
}

/// Every crate of the workspace by name: its directory, and the crates of ours that it uses.
fn workspace() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let root = text(&metadata["workspace_root"]);
    let packages = metadata["packages"].as_array().expect("there are packages");
    let is_ours = |name: &str| packages.iter().any(|package| package["name"] == name);
    packages
        .iter()
        .map(|package| {
            let manifest = text(&package["manifest_path"]);
            let directory = manifest
                .strip_prefix(&format!("{root}/"))
                .and_then(|path| path.strip_suffix("/Cargo.toml"))
                .expect("a crate lies in the workspace");
            let arrows = package["dependencies"]
                .as_array()
                .expect("there is a list of dependencies")
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| text(&dependency["name"]))
                .filter(|name| is_ours(name))
                .collect();
            (text(&package["name"]), (directory.to_owned(), arrows))
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn sources(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                sources(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}
