//! The life of a new build: tried as a canary, kept for a restart.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{host_with, pick, service, snapshot};
use waxwing_dataplane::policy::TickContext;
use waxwing_dataplane::{BackendId, Gauges, Now, Pick, PolicyFault};
use waxwing_plugin::{
    BoundModule, CanaryRules, FaultReport, Host, HostOptions, ModuleSource, ModuleStatus, Recovery,
    ServiceBinding,
};
use waxwing_tests::wat::Wat;

const FIRST: &str = "(i32.store (i32.const 0x4000) (i32.const 0)) (local.get 1)";
const SECOND: &str = "(i32.store (i32.const 0x4000) (i32.const 1)) (local.get 1)";

/// A canary period that no test outlasts.
const LONG: Duration = Duration::from_secs(3600);

struct Folder {
    root: tempfile::TempDir,
}

impl Folder {
    /// A folder with a file of the first build.
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Self { root };
        folder.put(FIRST);
        folder
    }

    /// A folder whose first build serves, and its host.
    fn serving(canary: Duration) -> (Self, Host) {
        let folder = Self::new();
        let host = folder.host(&[], canary);
        work(&host);
        (folder, host)
    }

    fn path(&self) -> PathBuf {
        self.root.path().to_owned()
    }

    fn file(&self) -> PathBuf {
        self.root.path().join("test.wasm")
    }

    fn put(&self, pick: &'static str) {
        fs::write(self.file(), Wat::picking(pick).bytes()).expect("written");
    }

    fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    fn last_good(&self) -> PathBuf {
        self.state().join("policies/last-good/test.wasm")
    }

    fn host(&self, shipped: &[(&'static str, &'static [u8])], canary: Duration) -> Host {
        let options = HostOptions {
            canary: CanaryRules {
                time: canary,
                ..CanaryRules::default()
            },
            state: Some(self.state()),
            ..HostOptions::default()
        };
        host_with(options, shipped, Some(self.path())).0
    }
}

/// Binds for two workers and activates the build.
fn work(host: &Host) -> BoundModule {
    let bound = host
        .bind("test", 2, 1, &[service(&[1, 1])])
        .expect("something serves");
    host.activate(&bound.in_use.module, bound.in_use.others.is_some());
    bound
}

fn chosen(bound: &mut BoundModule) -> Vec<Pick> {
    let policies = bound.policies.iter_mut();
    policies
        .map(|policy| pick(&mut **policy, 2, &[0]).expect("a pick")[0])
        .collect()
}

fn source(bound: &BoundModule) -> ModuleSource {
    bound.in_use.module.source.clone()
}

fn status(host: &Host) -> ModuleStatus {
    host.status().into_iter().next().expect("it was requested")
}

fn fault(bound: &BoundModule) -> FaultReport {
    FaultReport {
        module: bound.in_use.module.clone(),
        worker: 0,
        service: "web".into(),
        fault: PolicyFault::Trap,
        text: "trapped".into(),
        replaced: false,
    }
}

#[test]
fn a_new_build_serves_on_one_worker_first() {
    let folder = Folder::new();
    let host = folder.host(&[], Duration::from_millis(150));
    let both_first = [Pick::Backend(0); 2];
    assert_eq!(
        chosen(&mut work(&host)),
        both_first,
        "the first build has no predecessor, so no canary period"
    );

    folder.put(SECOND);
    let mut bound = work(&host);
    assert_eq!(chosen(&mut bound), [Pick::Backend(1), Pick::Backend(0)]);
    let shown = status(&host);
    let canary = shown.canary.expect("it is a canary");
    assert_eq!(canary.build.hash, bound.in_use.module.hash.to_string());
    assert_ne!(Some(canary.build.hash), shown.serving.map(|s| s.hash));

    // Binding again does not end the canary period; its end does.
    assert!(work(&host).in_use.others.is_some());
    let ends = host.canary_ends().expect("a canary");
    std::thread::sleep(ends.saturating_duration_since(Instant::now()));
    assert!(work(&host).in_use.others.is_some(), "it is not judged yet");
    host.judge_canaries();
    assert_eq!(chosen(&mut work(&host)), [Pick::Backend(1); 2]);
    let shown = status(&host);
    assert_eq!((shown.canary, host.canary_ends()), (None, None));
    let steps: Vec<&str> = shown.steps.iter().map(|step| &*step.text).collect();
    let last = &steps[steps.len() - 5..];
    assert!(
        last[0].starts_with("validated and compiled in "),
        "{last:?}"
    );
    assert!(last[1].starts_with("answered "), "{last:?}");
    assert_eq!(
        last[2..],
        [
            "serves on worker 0, for 0.15 s",
            "passed as a canary: web: not judged, 1 flows and 1 on the other workers are too few",
            "serves on all workers"
        ]
    );
}

#[test]
fn a_canary_that_drops_every_flow_is_quarantined_and_the_build_before_serves() {
    const DROPS: &str = "(i32.store (i32.const 0x4000) (i32.const -1)) (local.get 1)";
    let folder = Folder::new();
    folder.put(FIRST);
    let host = folder.host(&[], Duration::from_millis(1));
    work(&host);
    folder.put(DROPS);
    let mut bound = work(&host);
    for _ in 0..30 {
        assert_eq!(chosen(&mut bound), [Pick::Drop, Pick::Backend(0)]);
    }
    let ends = host.canary_ends().expect("a canary");
    std::thread::sleep(ends.saturating_duration_since(Instant::now()));
    host.judge_canaries();
    assert_eq!(chosen(&mut work(&host)), [Pick::Backend(0); 2]);
    let shown = status(&host);
    let reason = &shown.quarantined[0].reason;
    assert_eq!(
        reason,
        "failed on its first worker: web: drops 100 % of 30 (the serving build 0 % of 30)"
    );
    assert_eq!(shown.canary, None);
}

#[test]
fn a_canary_whose_sessions_are_refused_is_quarantined() {
    let (folder, host) = Folder::serving(Duration::from_millis(1));
    folder.put(SECOND);
    let mut bound = work(&host);
    let gauges = Gauges::new(2, 2);
    for _ in 0..30 {
        chosen(&mut bound);
        gauges.fail(0, BackendId(1));
    }
    for policy in &mut bound.policies {
        policy.tick(TickContext {
            now: Now::from_start(LONG),
            snapshot: &snapshot(2),
            gauges: &gauges,
        });
    }
    let ends = host.canary_ends().expect("a canary");
    std::thread::sleep(ends.saturating_duration_since(Instant::now()));
    host.judge_canaries();
    assert_eq!(chosen(&mut work(&host)), [Pick::Backend(0); 2]);
    assert_eq!(
        status(&host).quarantined[0].reason,
        "failed on its first worker: web: has refused or unanswered 100 % of 30 (the serving build 0 % of 30)"
    );
}

#[test]
fn the_first_fault_of_a_canary_quarantines_it() {
    let (folder, host) = Folder::serving(LONG);
    folder.put(SECOND);
    let bound = work(&host);
    assert_eq!(host.recover(&fault(&bound)), Recovery::RolledBack);
    let mut back = work(&host);
    assert_eq!(chosen(&mut back), [Pick::Backend(0); 2]);
    let shown = status(&host);
    assert_eq!(shown.canary, None);
    let quarantined = &shown.quarantined[0];
    assert!(
        quarantined
            .hash
            .starts_with(&bound.in_use.module.hash.to_string())
    );
    assert_eq!(quarantined.reason, "failed on its first worker: trapped");
}

#[test]
fn restoring_the_file_ends_the_canary() {
    let (folder, host) = Folder::serving(LONG);
    folder.put(SECOND);
    assert!(work(&host).in_use.others.is_some());
    folder.put(FIRST);
    assert_eq!(chosen(&mut work(&host)), [Pick::Backend(0); 2]);
    assert_eq!(status(&host).canary, None);
}

#[test]
fn after_a_restart_the_last_good_build_replaces_a_bad_file() {
    let folder = Folder::new();
    folder.put(SECOND);
    let shipped = Wat::picking(FIRST).shipped();
    work(&folder.host(&[("test", shipped)], Duration::ZERO));
    fs::write(folder.file(), "half a fi").expect("written");

    let host = folder.host(&[("test", shipped)], Duration::ZERO);
    let mut bound = work(&host);
    assert_eq!(source(&bound), ModuleSource::LastGood(folder.last_good()));
    assert_eq!(chosen(&mut bound), [Pick::Backend(1); 2]);
    let refused = status(&host).refused.expect("the file");
    assert!(refused.reason.contains("not a WebAssembly"), "{refused:?}");

    // A corrected file serves. After its removal the shipped module serves, and the last good build
    // is forgotten.
    folder.put(SECOND);
    assert_eq!(source(&work(&host)), ModuleSource::File(folder.file()));
    assert_eq!(status(&host).refused, None);
    fs::remove_file(folder.file()).expect("removed");
    assert_eq!(source(&work(&host)), ModuleSource::Shipped);
    assert!(!folder.last_good().exists());
}

#[test]
fn quarantine_survives_a_restart() {
    let (folder, host) = Folder::serving(Duration::ZERO);
    folder.put(SECOND);
    let bound = work(&host);
    for expected in [Recovery::Rebuild, Recovery::Rebuild, Recovery::RolledBack] {
        assert_eq!(host.recover(&fault(&bound)), expected);
    }
    drop(host);

    let host = folder.host(&[], Duration::ZERO);
    let mut bound = work(&host);
    assert_eq!(source(&bound), ModuleSource::LastGood(folder.last_good()));
    assert_eq!(chosen(&mut bound), [Pick::Backend(0); 2]);
    let refused = status(&host).refused.expect("the file");
    assert!(
        refused.reason.contains("quarantined: 3 faults in 60 s"),
        "{refused:?}"
    );

    // If no other build can serve, the quarantined one is tried again.
    fs::remove_file(folder.last_good()).expect("removed");
    let host = folder.host(&[], Duration::ZERO);
    assert_eq!(source(&work(&host)), ModuleSource::File(folder.file()));
}

#[test]
fn an_unwritable_folder_costs_only_the_state_across_a_restart() {
    let folder = Folder::new();
    fs::write(folder.state(), "in the way").expect("written");
    folder.put(FIRST);
    let host = folder.host(&[], Duration::ZERO);
    assert_eq!(chosen(&mut work(&host)), [Pick::Backend(0); 2]);
}

/// What may stand in the way in the state folder; each is made by a shell in it.
const IN_THE_WAY: [&str; 6] = [
    "mkfifo policies/quarantine.json",
    "truncate -s 1G policies/quarantine.json",
    "rm policies/last-good/test.wasm; mkfifo policies/last-good/test.wasm",
    "ln -sf ../../../victim policies/last-good/test.wasm",
    "rm -r policies/last-good; ln -s ../../victims policies/last-good",
    "chmod 777 policies policies/last-good",
];

/// Neither a start nor a change of builds reads what another user could have written, writes through a link,
/// or waits.
#[test]
fn what_is_in_the_way_in_the_state_folder_is_neither_read_nor_followed() {
    for script in IN_THE_WAY {
        let (folder, host) = Folder::serving(Duration::ZERO);
        drop(host);
        fs::write(folder.path().join("victim"), "safe").expect("written");
        fs::create_dir(folder.path().join("victims")).expect("made");
        let mut shell = Command::new("sh");
        let done = shell
            .args(["-ec", script])
            .current_dir(folder.state())
            .status();
        assert!(done.expect("a shell").success(), "{script}");

        fs::write(folder.file(), b"half a fi").expect("written");
        let host = folder.host(&[("test", Wat::picking(SECOND).shipped())], Duration::ZERO);
        work(&host);
        folder.put(FIRST);
        work(&host);
        let victim = fs::read_to_string(folder.path().join("victim"));
        assert_eq!(victim.expect("read"), "safe", "{script}");
        let mut victims = fs::read_dir(folder.path().join("victims")).expect("read");
        assert!(victims.next().is_none(), "{script}");
    }
}

#[test]
fn at_start_the_shipped_build_replaces_one_whose_set_up_fails() {
    let folder = Folder::new();
    let bad = Wat {
        init: "(loop $l (br $l)) (i32.const 0)",
        ..Wat::default()
    };
    fs::write(folder.file(), bad.bytes()).expect("written");
    let shipped = Wat::picking(FIRST).shipped();
    let host = folder.host(&[("test", shipped)], Duration::ZERO);
    let mut bound = work(&host);
    assert_eq!(source(&bound), ModuleSource::Shipped);
    assert_eq!(chosen(&mut bound), [Pick::Backend(0); 2]);
    let refused = status(&host).refused.expect("the file");
    assert!(refused.reason.contains("waxwing_init"), "{refused:?}");
}

#[test]
fn a_quarantined_build_without_a_replacement_is_left_disabled() {
    let folder = Folder::new();
    let host = folder.host(&[], Duration::ZERO);
    let bound = work(&host);
    let recoveries: Vec<_> = (0..5).map(|_| host.recover(&fault(&bound))).collect();
    assert_eq!(
        recoveries,
        [
            Recovery::Rebuild,
            Recovery::Rebuild,
            Recovery::Exhausted,
            Recovery::Exhausted,
            Recovery::Exhausted
        ],
        "later faults come from the other workers' instances"
    );
}

#[test]
fn an_unused_module_is_forgotten_with_its_canary() {
    let (folder, host) = Folder::serving(LONG);
    folder.put(SECOND);
    work(&host);
    assert!(host.canary_ends().is_some());
    host.retain(&["other".into()]);
    assert_eq!((host.canary_ends(), host.status()), (None, Vec::new()));
}

#[test]
fn services_that_no_build_can_serve_get_the_native_fallback() {
    let (_folder, host) = Folder::serving(Duration::ZERO);
    // More backends than the ABI allows, so no build can be set up.
    let weights = vec![1; 5000];
    assert!(host.bind("test", 1, 1, &[service(&weights)]).is_err());
    let mut bound = host
        .bind_or_fall_back("test", 1, 1, &[service(&weights)], None)
        .expect("it has served");
    assert_eq!(
        pick(&mut *bound.policies[0], 2, &[0]),
        Err(PolicyFault::Disabled)
    );
    assert!(
        host.bind_or_fall_back("never", 1, 1, &[service(&[1])], None)
            .is_err()
    );
}

#[test]
fn an_instance_is_kept_while_build_and_services_are_the_same() {
    let folder = Folder::new();
    let (host, _events) = host_with(HostOptions::default(), &[], Some(folder.path()));
    let one = service(&[1, 1]);
    let first = host
        .bind("test", 2, 1, std::slice::from_ref(&one))
        .expect("it is valid");
    host.activate(&first.in_use.module, false);
    assert!(first.kept.is_empty());
    let again = |services: &[ServiceBinding], before| {
        let bound = host.bind_or_fall_back("test", 2, 1, services, before);
        bound.expect("it has served")
    };

    let same = again(std::slice::from_ref(&one), Some(&first.in_use));
    assert_eq!(same.kept, [0, 1], "nothing changed");
    let other = again(&[service(&[1, 2])], Some(&same.in_use));
    assert!(other.kept.is_empty(), "a weight changed");
    let failed = again(std::slice::from_ref(&one), None);
    assert!(failed.kept.is_empty(), "no instances exist");
    folder.put(SECOND);
    let build = again(std::slice::from_ref(&one), Some(&same.in_use));
    assert!(build.kept.is_empty(), "the build changed");
}
