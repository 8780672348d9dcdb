//! `waxwing module new` and `build`: a crate outside of this repository.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::{WAXWING, module, run};

#[test]
fn new_does_not_overwrite_an_existing_crate() {
    let folder = TempDir::new().unwrap();
    let new = [
        "new",
        "by-client",
        "--path",
        folder.path().to_str().unwrap(),
    ];
    module(&new).succeeds_with(&["waxwing module build"]);
    let made = folder.path().join("by-client");
    let read = |file: &str| fs::read_to_string(made.join(file)).unwrap();
    for (file, expected) in [
        ("Cargo.toml", "name = \"by-client\""),
        ("benches/pick.rs", "use by_client::ClientHash;"),
        ("README.md", "policy = \"by_client\""),
        ("src/lib.rs", "export_policy!(ClientHash);"),
    ] {
        assert!(read(file).contains(expected), "{file}");
    }

    fs::write(made.join("src/lib.rs"), "mine").unwrap();
    module(&new).fails_with("exists already");
    assert_eq!(read("src/lib.rs"), "mine");
}

/// Names that contain one another, or occur in the templates.
#[test]
fn a_new_crate_uses_its_own_name_everywhere() {
    let folder = TempDir::new().unwrap();
    for name in ["my_policy2", "my-policy", "my-my_policy", "sdk", "library"] {
        module(&["new", name, "--path", folder.path().to_str().unwrap()]).succeeds_with(&[name]);
        let made = folder.path().join(name);
        let library = name.replace('-', "_");
        for (file, expected) in [
            ("Cargo.toml", format!("name = \"{name}\"\n")),
            ("Cargo.toml", format!("is the module, {library}.wasm;")),
            ("benches/pick.rs", format!("use {library}::ClientHash;")),
            ("README.md", format!("# {name}\n")),
            ("README.md", format!("policy = \"{library}\"\n")),
        ] {
            let text = fs::read_to_string(made.join(file)).unwrap();
            assert!(text.contains(&expected), "{name}, {file}: {text}");
        }
    }
}

#[test]
fn new_requires_a_valid_name_and_an_sdk() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().to_str().unwrap();
    for (name, more, expected) in [
        ("fn", &[][..], "is reserved by Rust"),
        ("a/b", &[], "not a valid module name"),
        ("other", &["--sdk", path], "not Waxwing's SDK"),
        ("other", &["--kind", "cheese"], "policy, health"),
    ] {
        module(&[&["new", name, "--path", path], more].concat()).fails_with(expected);
    }
    assert_eq!(
        fs::read_dir(path).unwrap().count(),
        0,
        "no partial crate remains"
    );
    module(&["build", path]).fails_with("waxwing module new");
}

/// Follows the README of a new health check, with the real cargo.
#[test]
fn a_new_health_check_passes_its_tests_and_builds() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().to_str().unwrap();
    let new = ["new", "my-check", "--kind", "health", "--path", path];
    module(&new).succeeds_with(&["a health check", "waxwing module build"]);
    let made = folder.path().join("my-check");
    let read = |file: &str| fs::read_to_string(made.join(file)).unwrap();
    for (file, expected) in [
        ("Cargo.toml", "name = \"my-check\"\n"),
        ("Cargo.toml", "is the module, my_check.wasm;"),
        ("README.md", "check = \"my_check\"\n"),
        ("src/lib.rs", "export_health_check!(AskLine);"),
    ] {
        assert!(read(file).contains(expected), "{file}");
    }
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
    fs::copy(lock, made.join("Cargo.lock")).unwrap();

    let target = folder.path().join("target");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut test = Command::new(cargo);
    test.arg("test").current_dir(&made);
    test.env("CARGO_TARGET_DIR", &target)
        .env("CARGO_NET_OFFLINE", "true");
    run(&mut test).succeeds_with(&["the_answer_decides ... ok"]);

    let out = folder.path().join("modules");
    let mut build = Command::new(WAXWING);
    build.args(["module", "build", "--out"]).arg(&out);
    build.current_dir(&made).env("CARGO_NET_OFFLINE", "true");
    build.env("CARGO_TARGET_DIR", &target);
    run(&mut build).succeeds_with(&["my_check passes", "module    my-check", "connect"]);

    let file = out.join("my_check.wasm");
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let answers = std::thread::spawn(move || {
        let (mut client, _) = server.accept().unwrap();
        let mut question = [0; 64];
        let _ = client.read(&mut question).unwrap();
        client.write_all(b"OK\n").unwrap();
    });
    let file = file.to_str().unwrap();
    module(&["probe", file, &address]).succeeds_with(&["healthy: "]);
    answers.join().unwrap();
    module(&["probe", file, &address]).fails_with("is unhealthy");
    module(&["check", file, "--config", r#"{ "cheese": 1 }"#]).fails_with("cheese");
}

/// Follows the README of a new policy, with the real cargo.
#[test]
fn a_new_policy_passes_its_tests_builds_and_benches() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().to_str().unwrap();
    module(&["new", "my_policy2", "--path", path]).succeeds_with(&[]);
    let made = folder.path().join("my_policy2");
    // This workspace's versions, so that no network is needed.
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
    fs::copy(lock, made.join("Cargo.lock")).unwrap();
    let inside = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&made);
        command.env("CARGO_TARGET_DIR", folder.path().join("target"));
        command
            .env("CARGO_NET_OFFLINE", "true")
            .env("WAXWING", WAXWING);
        command
    };
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());

    run(&mut inside(&cargo, &["test"])).succeeds_with(&["a_full_backend_spills_over ... ok"]);

    let modules = folder.path().join("modules");
    let build = [
        "module",
        "build",
        "--json",
        "--out",
        modules.to_str().unwrap(),
    ];
    let misspelt = [&build[..], &["--config", r#"{"sessions":1}"#]].concat();
    run(&mut inside(WAXWING, &misspelt)).fails_with("policy_config.sessions");
    assert!(
        !modules.exists(),
        "a module that does not pass is not copied"
    );
    let built = run(&mut inside(WAXWING, &build)).json();
    let module_file = built["path"].as_str().map(PathBuf::from);
    assert_eq!(module_file, Some(modules.join("my_policy2.wasm")));
    assert_eq!(built["module"]["counters"][0], "spilled");
    assert_eq!(fs::read_dir(&modules).unwrap().count(), 1);

    let quick = [
        "--quick",
        "--warm-up-time",
        "0.1",
        "--measurement-time",
        "0.2",
    ];
    // The dev profile, in which the dependencies are built by now.
    let bench = [&["bench", "--profile", "dev", "--"], &quick[..]].concat();
    let both = [
        "pick/native/1",
        "pick/native/64",
        "pick/wasm/1",
        "pick/wasm/64",
    ];
    run(&mut inside(&cargo, &bench)).succeeds_with(&both);
    let alone = run(inside(&cargo, &bench).env("WAXWING", "/nowhere/waxwing"));
    alone.succeeds_with(&["pick/native/64"]);
    assert!(!alone.stdout.contains("pick/wasm"), "{}", alone.stdout);
    assert!(alone.stderr.contains("native only"), "{}", alone.stderr);
    assert!(alone.stderr.contains("set WAXWING="), "{}", alone.stderr);
}
