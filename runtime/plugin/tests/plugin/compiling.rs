//! Modules compiled by the compile service: its limits, its failures, and the rights that it has left.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{host_with, pick, service};
use waxwing_dataplane::Pick;
use waxwing_plugin::{CompileLimits, CompileService, Compiler, Host, HostOptions};
use waxwing_tests::hostile::compile_bomb;
use waxwing_tests::wat::Wat;

/// A time that no bomb compiles in.
const SHORT: Duration = Duration::from_millis(500);

/// Returns a compile service with the default limits.
pub(crate) fn compiler() -> Compiler {
    let program = Command::new(env!("CARGO_BIN_EXE_waxwing-compile"));
    started(program, CompileLimits::default())
}

fn started(program: Command, limits: CompileLimits) -> Compiler {
    let service = CompileService::start(program).expect("it starts");
    Compiler::Service(Arc::new(service), limits)
}

/// Returns a host of a folder with the module `test`.
fn host(compiler: Compiler, bytes: &[u8]) -> (tempfile::TempDir, Host) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("test.wasm"), bytes).expect("written");
    let options = HostOptions {
        compiler,
        ..HostOptions::default()
    };
    let (host, _events) = host_with(options, &[], Some(folder.path().into()));
    (folder, host)
}

fn compiled_by(compiler: Compiler) -> Result<(), String> {
    let (_folder, host) = host(compiler, &Wat::GOOD.bytes());
    let module = host.policy("test").map_err(|error| error.to_string())?;
    let mut policy = host
        .instantiate(&module, 0, 1, &[service(&[1, 1])])
        .map_err(|error| error.to_string())?;
    assert_eq!(pick(&mut *policy, 2, &[0]), Ok(vec![Pick::Backend(0)]));
    Ok(())
}

#[test]
fn a_child_compiles_within_its_limits() {
    assert_eq!(compiled_by(compiler()), Ok(()));
    let no_memory = CompileLimits {
        memory_bytes: 1 << 20,
        ..CompileLimits::default()
    };
    let program = Command::new(env!("CARGO_BIN_EXE_waxwing-compile"));
    let error = compiled_by(started(program, no_memory)).expect_err("no memory");
    let expected = "10 s of processor time and 1 MiB";
    assert!(error.contains(expected), "{error:?}");
}

#[test]
fn a_service_that_has_ended_is_said() {
    let program = Command::new("/bin/true");
    let error = compiled_by(started(program, CompileLimits::default())).expect_err("no service");
    let expected = "it does not answer";
    assert!(error.contains(expected), "{error:?}");
    let (_folder, host) = host(
        started(Command::new("/bin/true"), CompileLimits::default()),
        &Wat::GOOD.bytes(),
    );
    let deadline = Instant::now() + Duration::from_secs(60);
    while host.problem().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let problem = host.problem().expect("the service has ended");
    assert!(problem.contains("restart the balancer"), "{problem}");
    let missing = CompileService::start(Command::new("/no/such"));
    assert!(missing.is_err(), "there is no such program");
}

#[test]
fn a_late_child_is_killed_and_not_started_again_at_once() {
    let limits = CompileLimits {
        wall: SHORT,
        ..CompileLimits::default()
    };
    let program = Command::new(env!("CARGO_BIN_EXE_waxwing-compile"));
    let (folder, host) = host(started(program, limits), &compile_bomb(""));
    let try_it = || {
        let begun = Instant::now();
        let error = host.policy("test").expect_err("it is late").to_string();
        (error, begun.elapsed())
    };
    let (first, second) = (try_it(), try_it());
    assert!(first.0.contains("longer than 0.5 s"), "{first:?}");
    assert!(
        first.0 == second.0 && first.1 >= SHORT && second.1 < SHORT,
        "{first:?} {second:?}"
    );
    fs::write(folder.path().join("test.wasm"), Wat::GOOD.bytes()).expect("written");
    host.policy("test").expect("another build is compiled");
}

/// Returns a process's children and its own id.
fn family(id: u32) -> Vec<String> {
    let path = format!("/proc/{id}/task/{id}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    let children = children.split_whitespace().map(str::to_owned);
    children.chain([id.to_string()]).collect()
}

/// Returns the words behind a key of `/proc/ID/status`.
fn words(status: &str, key: &str) -> Vec<String> {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let words = line.and_then(|line| line.strip_prefix(':')).expect(key);
    words.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_service_and_its_children_have_no_rights() {
    let program = Command::new(env!("CARGO_BIN_EXE_waxwing-compile"));
    let service = CompileService::start(program).expect("it starts");
    let id = service.id();
    let limits = CompileLimits {
        wall: 4 * SHORT,
        ..CompileLimits::default()
    };
    let (_folder, host) = host(
        Compiler::Service(Arc::new(service), limits),
        &compile_bomb(""),
    );
    let both = std::thread::scope(|scope| {
        scope.spawn(|| host.policy("test").expect_err("it is late"));
        let deadline = Instant::now() + 3 * SHORT;
        loop {
            let statuses = family(id)
                .into_iter()
                .flat_map(|id| fs::read_to_string(format!("/proc/{id}/status")))
                .collect::<Vec<_>>();
            let filters = |status: &String| words(status, "Seccomp_filters");
            if statuses.iter().map(filters).eq([["2"], ["1"]]) || Instant::now() > deadline {
                break statuses;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let is_root = fs::metadata("/proc/self").expect("this process").uid() == 0;
    assert_eq!(both.len(), 2, "a child and the service: {both:?}");
    for status in both {
        assert_eq!(words(&status, "Seccomp"), ["2"]);
        assert_eq!(words(&status, "NoNewPrivs"), ["1"]);
        for key in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(words(&status, key), ["0000000000000000"], "{key}");
        }
        if is_root {
            for key in ["Uid", "Gid"] {
                assert_eq!(words(&status, key), ["65534"; 4]);
            }
            assert!(words(&status, "Groups").is_empty(), "{status}");
        }
    }
}
