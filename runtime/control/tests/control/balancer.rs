//! A running control plane with workers that take epochs and forward nothing.

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use waxwing_control::admin::client::Client;
use waxwing_control::admin::log::LogState;
use waxwing_control::admin::metrics_listener::MetricsListener;
use waxwing_control::admin::ports::AttachedPorts;
use waxwing_control::admin::status::{PortStatus, Status};
use waxwing_control::publish::modules::{ModuleOptions, Shipped};
use waxwing_control::publish::preflight::{self, Checked};
use waxwing_control::restart::Stopped;
use waxwing_control::run::{Control, ControlSetup, Signals, StartError, WorkerChannels};
use waxwing_dataplane::HopTable;
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::model::SessionAction;
use waxwing_dataplane::path::SharedState;
use waxwing_dataplane::session::SessionTable;
use waxwing_dataplane::steering::{Rules, Steering, SteeringError};
use waxwing_dataplane::{DirectFlows, FragmentLimits, FragmentTable, Gauges, SourceRates};

use crate::bed::{Namespaces, ip};

pub(crate) const WORKERS: usize = 2;
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A policy that picks the backend with this index for every flow.
pub(crate) fn module(pick: u32) -> Vec<u8> {
    let header = [
        (0, 1),
        (4, 96),
        (40, 0x2000),
        (44, 64),
        (48, 0x3000),
        (52, 64),
        (56, 0x4000),
    ];
    let stores: String = header
        .iter()
        .map(|(at, value)| {
            format!("(i32.store offset={at} (i32.const 0x1000) (i32.const {value}))")
        })
        .collect();
    wat::parse_str(format!(
        r#"(module
          (@custom "waxwing.module" "kind=policy\0aabi=1.0\0aname=test\0aversion=7\0apayload=0\0a")
          (memory (export "memory") 1 1)
          (func (export "waxwing_reserve") (param i32) (result i32) (i32.const 0x5000))
          (func (export "waxwing_init") (param i32 i32) (result i32) {stores} (i32.const 0x1000))
          (func (export "waxwing_pick") (param i32 i32) (result i32)
            (local $i i32)
            (block $done (loop $next
              (br_if $done (i32.ge_u (local.get $i) (local.get 1)))
              (i32.store
                (i32.add (i32.const 0x4000) (i32.shl (local.get $i) (i32.const 2)))
                (i32.const {pick}))
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br $next)))
            (local.get 1)))"#
    ))
    .unwrap()
}

pub(crate) fn shipped() -> Shipped {
    let first: &'static [u8] = module(0).leak();
    Shipped {
        policies: vec![("first", first)].leak(),
        checks: &[],
    }
}

pub(crate) const WEB: &str = r#"
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
protocol = "tcp"
policy = "first"
[[service.backend]]
address = "10.77.0.2"
port = 8080
"#;

pub(crate) const DNS: &str = r#"
[[service]]
name = "dns"
vip = "2001:db8::53"
port = 53
protocol = "udp"
policy = "first"
[[service.backend]]
address = "fd77::2"
port = 53
"#;

/// The state that a test shares with a worker.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) generation: AtomicU64,
    pub(crate) frozen: AtomicBool,
    pub(crate) stop: AtomicBool,
    /// What the snapshot says of the backends' sessions.
    pub(crate) actions: Mutex<Vec<SessionAction>>,
}

pub(crate) fn work(seen: &Seen, channels: WorkerChannels) {
    let mut epoch = channels.epoch;
    while !seen.stop.load(Ordering::Relaxed) {
        seen.generation
            .store(epoch.snapshot.generation, Ordering::Release);
        let actions = epoch.snapshot.backends().map(|backend| backend.sessions);
        *seen.actions.lock().unwrap() = actions.collect();
        let Ok(next) = channels.mailbox.recv_timeout(Duration::from_millis(5)) else {
            continue;
        };
        while !next.release.is_given() || seen.frozen.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
            if seen.stop.load(Ordering::Relaxed) {
                return;
            }
        }
        let old = std::mem::replace(&mut epoch, next);
        seen.generation
            .store(epoch.snapshot.generation, Ordering::Release);
        let _ = channels.returned.send(old);
    }
}

/// Records every set of rules with the generation of the slowest worker at that time.
#[derive(Clone, Default)]
pub(crate) struct Book(
    pub(crate) Arc<Mutex<Vec<(Rules, u64)>>>,
    pub(crate) Vec<Arc<Seen>>,
);

impl Steering for Book {
    fn apply(&mut self, rules: &Rules) -> Result<(), SteeringError> {
        let slowest = self
            .1
            .iter()
            .map(|seen| seen.generation.load(Ordering::Acquire))
            .min();
        self.0
            .lock()
            .unwrap()
            .push((rules.clone(), slowest.unwrap_or_default()));
        Ok(())
    }
}

pub(crate) struct OnePort;

impl AttachedPorts for OnePort {
    fn ports(&self) -> Vec<PortStatus> {
        vec![PortStatus {
            interface: "p1".into(),
            mode: "native".into(),
            ..PortStatus::default()
        }]
    }

    fn mtu_max(&self) -> u32 {
        3818
    }
}

/// A control plane running in a network namespace.
pub(crate) struct Bed {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) control: Option<tokio::task::JoinHandle<Result<Stopped, StartError>>>,
    pub(crate) client: Client,
    pub(crate) log: Arc<LogState>,
    pub(crate) shared: SharedState,
    pub(crate) seen: Vec<Arc<Seen>>,
    pub(crate) threads: Vec<JoinHandle<()>>,
    pub(crate) book: Book,
    pub(crate) _namespaces: Namespaces,
}

impl Bed {
    pub(crate) fn new(services: &str) -> Self {
        Self::in_namespaces(services, || None)
    }

    /// With loopback addresses; the lines before `#services` are of `[admin]`.
    pub(crate) fn with_loopback(services: &str) -> Self {
        Self::prepared(services, |_| ())
    }

    /// With metrics on the port that `listen` returns, called in the balancer's namespace.
    pub(crate) fn with_metrics(services: &str, listen: impl FnOnce() -> MetricsListener) -> Self {
        Self::in_namespaces(services, || Some(listen()))
    }

    /// [`Bed::with_loopback`], with files that `prepare` puts beside the config.
    pub(crate) fn prepared(services: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let listen = || {
            ip("link set lo up");
            None
        };
        Self::in_folder(folder, services, listen)
    }

    fn in_namespaces(services: &str, listen: impl FnOnce() -> Option<MetricsListener>) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), services, listen)
    }

    fn in_folder(
        folder: tempfile::TempDir,
        services: &str,
        listen: impl FnOnce() -> Option<MetricsListener>,
    ) -> Self {
        let namespaces = Namespaces::enter();
        let metrics = listen();
        let log = Arc::new(LogState::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        std::fs::create_dir(folder.path().join("modules")).unwrap();
        write_config(folder.path(), services);
        let seen: Vec<Arc<Seen>> = (0..WORKERS).map(|_| Arc::default()).collect();
        let book = Book(Arc::default(), seen.clone());
        let shared = SharedState {
            sessions: Arc::new(SessionTable::new(1000, [1; 4]).unwrap()),
            next_hops: Arc::new(HopTable::new(64)),
            gauges: Arc::new(Gauges::new(64, 1)),
            fragments: Arc::new(FragmentTable::new(FragmentLimits::default(), [2; 4])),
            direct: Arc::new(DirectFlows::new(1024)),
            source_rates: Arc::new(SourceRates::new([13, 14, 15, 16])),
        };
        let client = Client::new(&folder.path().join("admin.sock"));
        let (control, ends) = runtime
            .block_on(async {
                let checked = load(folder.path()).await.unwrap();
                let setup = ControlSetup {
                    log: Arc::clone(&log),
                    metrics,
                    ..setup(checked, &shared, &book)
                };
                Control::prepare(setup).await
            })
            .unwrap();
        let spawn = |(seen, ends): (&Arc<Seen>, WorkerChannels)| {
            let seen = Arc::clone(seen);
            std::thread::spawn(move || work(&seen, ends))
        };
        let threads = seen.iter().zip(ends).map(spawn).collect();
        let (sender, ready) = tokio::sync::oneshot::channel();
        let signals = runtime.block_on(async { Signals::install() }).unwrap();
        let control = runtime.spawn(control.run(signals, move || {
            // Waited for below.
            let _ = sender.send(());
        }));
        runtime.block_on(ready).unwrap();
        let control = Some(control);
        Self {
            folder,
            runtime,
            control,
            client,
            log,
            shared,
            seen,
            threads,
            book,
            _namespaces: namespaces,
        }
    }

    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, future)
                .await
                .expect("an answer in time")
        })
    }

    pub(crate) fn status(&self) -> Status {
        self.wait(self.client.status(None)).unwrap()
    }

    pub(crate) fn write(&self, services: &str) {
        write_config(self.folder.path(), services);
    }

    pub(crate) fn reload(&self) -> Result<String, String> {
        self.wait(self.client.reload()).map_err(|e| e.to_string())
    }

    /// Waits until the status satisfies `holds`.
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "waited for {what}: {status:#?}");
            self.pause(20);
        }
    }

    pub(crate) fn pause(&self, millis: u64) {
        self.wait(async { tokio::time::sleep(Duration::from_millis(millis)).await });
    }

    pub(crate) fn rules(&self) -> Vec<(Rules, u64)> {
        self.book.0.lock().unwrap().clone()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for seen in &self.seen {
            seen.stop.store(true, Ordering::Relaxed);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

pub(crate) fn write_config(folder: &Path, services: &str) {
    let (admin, services) = services.split_once("#services\n").unwrap_or(("", services));
    let text = format!(
        "modules = \"modules\"\nbackends_max = 64\n[admin]\nsocket = \"admin.sock\"\n{admin}\
         [[port]]\ninterface = \"p1\"\n{services}"
    );
    std::fs::write(folder.join("lb.toml"), text).unwrap();
}

pub(crate) async fn load(folder: &Path) -> Result<Checked, String> {
    let options = ModuleOptions {
        shipped: shipped(),
        ..ModuleOptions::default()
    };
    preflight::load(&folder.join("lb.toml"), options)
        .await
        .map_err(|e| e.to_string())
}

pub(crate) fn setup(checked: Checked, shared: &SharedState, book: &Book) -> ControlSetup {
    ControlSetup {
        checked,
        shared: shared.clone(),
        counters: (0..WORKERS)
            .map(|_| Arc::new(WorkerCounters::new(64)))
            .collect(),
        steering: Box::new(book.clone()),
        ports: Box::new(OnePort),
        log: Arc::default(),
        kept: None,
        is_upgrade: false,
        clock_zero: Instant::now(),
        on_reload: Box::new(|_| {}),
        metrics: None,
        started: Instant::now(),
    }
}
