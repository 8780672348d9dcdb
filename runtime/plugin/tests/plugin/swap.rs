//! A file in the watched folder replaces the shipped module, and a bad file never does.

use std::fs;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crate::common::{host, pick, service};
use waxwing_dataplane::Pick;
use waxwing_plugin::{BoundModule, Host, HostEvent, ModuleSource};
use waxwing_tests::wat::Wat;

const FIRST: &str = "(i32.store (i32.const 0x4000) (i32.const 0)) (local.get 1)";
const SECOND: &str = "(i32.store (i32.const 0x4000) (i32.const 1)) (local.get 1)";

fn bind(host: &Host) -> BoundModule {
    let bound = host
        .bind("test", 1, 1, &[service(&[1, 1])])
        .expect("something serves");
    host.activate(&bound.in_use.module, false);
    bound
}

#[test]
fn a_bound_build_serves_only_after_activation() {
    let first = Wat {
        pick: FIRST,
        ..Wat::default()
    };
    let (host, _events) = host(&[("test", first.shipped())], None);
    let tried = host
        .bind("test", 1, 1, &[service(&[1, 1])])
        .expect("it is valid");
    assert_eq!(host.status()[0].serving, None);
    host.activate(&tried.in_use.module, false);
    assert!(host.status()[0].serving.is_some());
}

fn chosen(bound: &mut BoundModule) -> Pick {
    pick(&mut *bound.policies[0], 2, &[0]).expect("a pick")[0]
}

fn changed(events: &Receiver<HostEvent>) -> Duration {
    let start = Instant::now();
    match events
        .recv_timeout(Duration::from_secs(5))
        .expect("an event")
    {
        HostEvent::Changed { name } => assert_eq!(name, "test"),
        HostEvent::Fault(report) => panic!("{report:?}"),
    }
    start.elapsed()
}

#[test]
fn a_module_follows_its_folders_changes() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("modules");
    let file = folder.join("test.wasm");
    let (host, events) = host(
        &[("test", Wat::picking(FIRST).shipped())],
        Some(folder.clone()),
    );

    let mut bound = bind(&host);
    assert_eq!(
        (chosen(&mut bound), &bound.in_use.module.source),
        (Pick::Backend(0), &ModuleSource::Shipped)
    );

    // The folder is created only now; files that are not modules are ignored.
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("notes.txt"), "x").expect("written");
    fs::create_dir(folder.join("sub.wasm")).expect("made");
    std::os::unix::fs::symlink(folder.join("loop.wasm"), folder.join("loop.wasm")).expect("linked");
    fs::write(&file, Wat::picking(SECOND).bytes()).expect("written");
    changed(&events);
    let mut bound = bind(&host);
    assert_eq!(
        (chosen(&mut bound), &bound.in_use.module.source),
        (Pick::Backend(1), &ModuleSource::File(file.clone()))
    );

    // Invalid bytes, then a module that fails on test flows: the good build keeps serving.
    for (bad, why) in [
        (b"broken".to_vec(), "not a WebAssembly module"),
        (Wat::picking("unreachable").bytes(), "fails on test flows"),
    ] {
        fs::write(&file, bad).expect("written");
        let took = changed(&events);
        assert!(took < Duration::from_secs(1), "reported after {took:?}");
        assert_eq!(chosen(&mut bind(&host)), Pick::Backend(1));
        let status = &host.status()[0];
        let refused = status.refused.as_ref().expect("a refusal");
        assert!(refused.reason.contains(why), "{refused:?}");
        assert_ne!(
            refused.hash,
            status.serving.as_ref().map(|s| s.hash.clone())
        );
    }

    // A corrected file serves, and the refusal is cleared.
    fs::write(&file, Wat::picking(FIRST).bytes()).expect("written");
    changed(&events);
    let mut bound = bind(&host);
    assert_eq!(
        (chosen(&mut bound), &bound.in_use.module.source),
        (Pick::Backend(0), &ModuleSource::File(file))
    );
    assert_eq!(host.status()[0].refused, None);

    // The whole folder is removed: the shipped module serves again.
    fs::remove_dir_all(&folder).expect("removed");
    changed(&events);
    assert_eq!(bind(&host).in_use.module.source, ModuleSource::Shipped);
    assert!(events.try_recv().is_err(), "one event per change");
}

#[test]
fn a_copy_in_progress_is_not_reported() {
    let root = tempfile::tempdir().expect("a folder");
    let file = root.path().join("test.wasm");
    let (host, events) = host(&[], Some(root.path().into()));
    let bytes = Wat::default().bytes();
    let mut written = Vec::new();
    for part in bytes.chunks(bytes.len().div_ceil(6)) {
        written.extend_from_slice(part);
        fs::write(&file, &written).expect("written");
        std::thread::sleep(Duration::from_millis(60));
        assert!(events.try_recv().is_err(), "reported too early");
    }
    changed(&events);
    assert_eq!(chosen(&mut bind(&host)), Pick::Backend(0));
}

#[test]
fn a_removed_file_keeps_serving_without_a_shipped_module() {
    let root = tempfile::tempdir().expect("a folder");
    let file = root.path().join("test.wasm");
    fs::write(&file, Wat::default().bytes()).expect("written");
    let (host, events) = host(&[], Some(root.path().into()));
    bind(&host);
    fs::remove_file(&file).expect("removed");
    changed(&events);
    assert_eq!(bind(&host).in_use.module.source, ModuleSource::File(file));
}

#[test]
fn a_faulty_build_is_rolled_back_and_not_loaded_again() {
    let root = tempfile::tempdir().expect("a folder");
    let file = root.path().join("test.wasm");
    let (host, _events) = host(
        &[("test", Wat::picking(FIRST).shipped())],
        Some(root.path().into()),
    );
    bind(&host);
    fs::write(&file, Wat::picking(SECOND).bytes()).expect("written");
    let bound = bind(&host);
    let report = waxwing_plugin::FaultReport {
        module: bound.in_use.module,
        worker: 0,
        service: "web".into(),
        fault: waxwing_dataplane::PolicyFault::Trap,
        text: "trapped".into(),
        replaced: false,
    };
    let recoveries: Vec<_> = (0..3).map(|_| host.recover(&report)).collect();
    use waxwing_plugin::Recovery::{Rebuild, RolledBack};
    assert_eq!(recoveries, [Rebuild, Rebuild, RolledBack]);
    assert_eq!(
        bind(&host).in_use.module.source,
        ModuleSource::Shipped,
        "the file is quarantined"
    );
    fs::write(&file, Wat::default().bytes()).expect("written");
    assert_eq!(
        bind(&host).in_use.module.source,
        ModuleSource::File(file),
        "a new build is tried"
    );
}

#[test]
fn invalid_and_unknown_module_names_are_refused() {
    let (host, _events) = host(&[("maglev", Wat::default().shipped())], None);
    for (name, expected) in [
        ("../etc/passwd", "not a module name"),
        ("", "not a module name"),
        (
            "maglef",
            "module \"maglef\": there is no such module; write one of maglev",
        ),
    ] {
        let error = host.policy(name).expect_err("no module").to_string();
        assert!(error.contains(expected), "{error:?}");
    }
}
