//! Every hostile module of the table gets its verdict, and the good one keeps serving.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{all_calls, host, host_with, pick, service};
use crate::compiling::compiler;
use waxwing_dataplane::{Pick, PolicyFault};
use waxwing_plugin::{
    BoundModule, FaultReport, Host, HostEvent, HostOptions, ModuleSource, Recovery,
};
use waxwing_tests::hostile::{self, Fault, Hostile, Verdict};
use waxwing_tests::wat::Wat;

/// The longest reason that is shown to an operator: the longest text of a module, and the host's
/// own part.
const REASON_MAX: usize = 4096 + 512;

/// Rounds of calls per instance, 10 ms apart.
const ROUNDS: u64 = 60;

/// A host whose good module is shipped, and a folder for hostile ones.
struct HostileBed {
    folder: tempfile::TempDir,
    host: Host,
    events: Receiver<HostEvent>,
}

impl HostileBed {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = HostOptions {
            compiler: compiler(),
            ..HostOptions::default()
        };
        let good = ("test", Wat::default().shipped());
        let (host, events) = host_with(options, &[good], Some(folder.path().into()));
        let bed = Self {
            folder,
            host,
            events,
        };
        bed.assert_good_build_serves();
        bed
    }

    fn bind(&self) -> BoundModule {
        self.host
            .bind("test", 1, 1, &[service(&[1, 1])])
            .expect("something serves")
    }

    fn assert_good_build_serves(&self) {
        let mut bound = self.bind();
        self.host.activate(&bound.in_use.module, false);
        assert_eq!(bound.in_use.module.source, ModuleSource::Shipped);
        let picks = pick(&mut *bound.policies[0], 2, &[0, 1]).expect("picks");
        assert_eq!(picks, [0, 1].map(Pick::Backend));
    }

    fn reason(&self) -> String {
        let status = self.host.status().remove(0);
        status.refused.map_or_else(String::new, |r| r.reason)
    }

    fn fault(&self) -> Option<FaultReport> {
        self.events.try_iter().find_map(|event| match event {
            HostEvent::Fault(report) => Some(report),
            HostEvent::Changed { .. } => None,
        })
    }

    /// Makes all calls of a worker, until the module fails or for all rounds; meanwhile it is asked for its
    /// state.
    fn drive(&self, bound: &mut BoundModule) -> Option<FaultReport> {
        let (host, in_use, policy) = (&self.host, &bound.in_use, &mut *bound.policies[0]);
        thread::scope(|scope| {
            let asked = scope.spawn(|| host.save(in_use, 1));
            let mut rounds = (0..).take_while(|round| *round < ROUNDS || !asked.is_finished());
            rounds.find_map(|round| {
                all_calls(policy, round);
                self.fault()
            })
        })
    }

    fn check(&self, module: &Hostile) {
        let file = self.folder.path().join("test.wasm");
        fs::write(&file, &module.bytes).expect("written");
        let start = Instant::now();
        let mut bound = self.bind();
        match module.verdict {
            Verdict::Refused(stage, why) => self.assert_refused(stage, why),
            Verdict::Cut(fault, why) => self.assert_cut(&mut bound, fault, why),
            Verdict::Serves => {
                assert_eq!(
                    bound.in_use.module.source,
                    ModuleSource::File(file.clone()),
                    "{}",
                    self.reason()
                );
                let fault = self.drive(&mut bound);
                assert!(fault.is_none(), "{:?}", fault.map(|report| report.text));
            }
        }
        let took = start.elapsed().as_millis();
        println!("{took:>6} ms  {}: {}", module.what, self.reason());
        fs::remove_file(&file).expect("removed");
        self.assert_good_build_serves();
    }

    fn assert_refused(&self, stage: &str, why: &str) {
        let reason = self.reason();
        assert!(
            reason.contains(stage) && reason.contains(why),
            "{reason:?} lacks {stage:?} or {why:?}"
        );
        assert_safe_to_print(&reason);
        self.assert_good_build_serves();
    }

    fn assert_cut(&self, bound: &mut BoundModule, fault: Fault, why: &str) {
        assert_ne!(
            bound.in_use.module.source,
            ModuleSource::Shipped,
            "{}",
            self.reason()
        );
        self.host.activate(&bound.in_use.module, false);
        let report = self.drive(bound).expect("a fault");
        let policy = &mut *bound.policies[0];
        assert_eq!(pick(policy, 2, &[1]), Err(PolicyFault::Disabled));
        assert_eq!(format!("{:?}", report.fault), format!("{fault:?}"));
        assert!(report.text.contains(why), "{:?} lacks {why:?}", report.text);
        assert_safe_to_print(&report.text);
        let recoveries = [0; 3].map(|_| self.host.recover(&report));
        use Recovery::{Rebuild, RolledBack};
        assert_eq!(recoveries, [Rebuild, Rebuild, RolledBack]);
        assert!(self.reason().contains("quarantined"), "{}", self.reason());
        self.assert_good_build_serves();
    }
}

fn assert_safe_to_print(text: &str) {
    let control = text.chars().find(|c| c.is_control());
    assert_eq!(control, None, "{text:?}");
    assert!(text.len() <= REASON_MAX, "{} bytes: {text:?}", text.len());
}

/// Checks the verdicts of all modules, and lists every module with a wrong one.
fn check_all(modules: Vec<Hostile>) {
    let mut bed = HostileBed::new();
    let mut wrong = Vec::new();
    for module in modules {
        let check = AssertUnwindSafe(|| bed.check(&module));
        if catch_unwind(check).is_err() {
            wrong.push(format!("{}: not {:?}", module.what, module.verdict));
            bed = HostileBed::new();
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn hostile_files_are_refused() {
    check_all(hostile::at_the_file());
}

#[test]
fn hostile_set_ups_are_refused() {
    check_all(hostile::at_set_up());
}

#[test]
fn immediate_failures_are_caught_by_vetting() {
    check_all(hostile::on_test_flows());
}

#[test]
fn failures_while_serving_are_stopped_and_quarantined() {
    check_all([hostile::at_work(), hostile::when_asked()].concat());
}

/// Returns a host with a policy whose pick runs this code after vetting.
fn at_work(pick: &'static str, memory: &'static str) -> Host {
    let wat = Wat {
        memory,
        ..Wat::picking(pick)
    };
    host(&[("test", wat.shipped())], None).0
}

/// Returns the median and the longest time of `count` failing calls, each on a new instance.
fn times(host: &Host, count: usize) -> (Duration, Duration) {
    let module = host.policy("test").expect("it compiles");
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let mut policy = host
                .instantiate(&module, 0, 1, &[service(&[1, 1])])
                .expect("it passes vetting");
            let start = Instant::now();
            assert_eq!(pick(&mut *policy, 2, &[1]), Err(PolicyFault::Overrun));
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    (times[count / 2], times[count - 1])
}

#[test]
fn an_endless_loop_is_stopped_by_its_budget() {
    let host = at_work(
        "(if (i64.ne (i64.load (i32.const 0x1008)) (i64.const 0)) (then (loop $l (br $l))))
         (local.get 1)",
        Wat::GOOD.memory,
    );
    let (median, longest) = times(&host, 50);
    println!("an endless loop is cut after {median:?}, at most {longest:?} of 50");
}

#[test]
fn long_instructions_are_stopped_between_two_of_them() {
    let host = at_work(
        "(local $bytes i32)
         (if (i64.ne (i64.load (i32.const 0x1008)) (i64.const 0)) (then
           (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
           (local.set $bytes (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 0x10000)))
           (loop $l
             (memory.fill (i32.const 0x10000) (i32.const 7) (local.get $bytes))
             (br $l))))
         (local.get 1)",
        "(memory (export \"memory\") 1)",
    );
    let (median, longest) = times(&host, 20);
    println!("fills of all memory (8 MiB) are cut after {median:?}, at most {longest:?} of 20");
}
