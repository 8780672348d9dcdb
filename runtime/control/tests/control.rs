//! The control side as a whole: config, modules, epochs, steering, signals and the admin socket,
//! with threads that take up epochs as workers do and steering that is written down.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bed;

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bed::{Namespaces, ip, parse};
use nix::sys::signal::{Signal, raise};
use waxwing_control::check::{self, Checked};
use waxwing_control::client::{Client, ClientError};
use waxwing_control::modules::Shipped;
use waxwing_control::report::PortFacts;
use waxwing_control::run::{Control, Parts, StartError, WorkerEnds};
use waxwing_control::signals::SetSignals;
use waxwing_control::status::{PortStatus, Status};
use waxwing_dataplane::counters::WorkerCounters;
use waxwing_dataplane::forward::Shared;
use waxwing_dataplane::session::{FlowHash, Insert, Session, SessionTable, TcpState};
use waxwing_dataplane::snapshot::NextHops;
use waxwing_dataplane::steering::{Rules, Steering};
use waxwing_dataplane::{BackendId, FragmentLimits, FragmentTable, Gauges, NextHop, PortId, Tick};
use waxwing_packet::{Mac, Protocol, VlanTags};
use waxwing_plugin::Compiler;

const WORKERS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let tests: &[(&str, fn())] = &[
        ("what is wrong with a config is found in one go", checks),
        (
            "backends' rules go before the workers, services' follow them",
            order,
        ),
        (
            "a reload adds and removes; a bad one changes nothing",
            reload,
        ),
        (
            "a removed service keeps its rules until its sessions end",
            retired,
        ),
        (
            "a module in the folder takes over; a bad one is refused",
            modules,
        ),
        ("a new module serves on one worker first", canary),
        (
            "signals are set by name, all of a request or none",
            backend_signals,
        ),
        (
            "a worker that does not take a change up holds back the next",
            stuck,
        ),
        ("sessions are listed, all or one service's", sessions),
        (
            "the admin socket is private, unique and replaces a stale one",
            socket,
        ),
        ("SIGHUP reloads and SIGTERM ends", signals),
    ];
    // Signals reach every control side of the process.
    bed::run(libtest_mimic::Arguments::from_args(), tests, true)
}

/// A policy that picks the backend with this index for every flow.
fn module(pick: u32) -> Vec<u8> {
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

fn shipped() -> Shipped {
    let first: &'static [u8] = module(0).leak();
    Shipped {
        policies: vec![("first", first)].leak(),
        checks: &[],
    }
}

const WEB: &str = r#"
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

const DNS: &str = r#"
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

/// A worker's memory of what it works by.
#[derive(Default)]
struct Seen {
    generation: AtomicU64,
    frozen: AtomicBool,
    stop: AtomicBool,
}

fn work(seen: &Seen, ends: WorkerEnds) {
    let mut epoch = ends.epoch;
    while !seen.stop.load(Ordering::Relaxed) {
        seen.generation
            .store(epoch.snapshot.generation, Ordering::Release);
        let Ok(next) = ends.mailbox.recv_timeout(Duration::from_millis(5)) else {
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
        let _ = ends.returned.send(old);
    }
}

/// Writes down every set of rules, with the generation that the slowest worker had then.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<Vec<(Rules, u64)>>>, Vec<Arc<Seen>>);

impl Steering for Book {
    fn apply(&mut self, rules: &Rules) -> Result<(), String> {
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

struct NoFacts;

impl PortFacts for NoFacts {
    fn ports(&self) -> Vec<PortStatus> {
        vec![PortStatus {
            interface: "p1".into(),
            mode: "native".into(),
            ..PortStatus::default()
        }]
    }
}

/// A control side at work in a network namespace.
struct Bed {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    control: Option<tokio::task::JoinHandle<Result<(), StartError>>>,
    client: Client,
    shared: Shared,
    seen: Vec<Arc<Seen>>,
    threads: Vec<JoinHandle<()>>,
    book: Book,
    _namespaces: Namespaces,
}

impl Bed {
    fn new(services: &str) -> Self {
        let namespaces = Namespaces::enter();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("modules")).unwrap();
        write_config(folder.path(), services);
        let seen: Vec<Arc<Seen>> = (0..WORKERS).map(|_| Arc::default()).collect();
        let book = Book(Arc::default(), seen.clone());
        let shared = Shared {
            sessions: Arc::new(SessionTable::new(1000, [1; 4]).unwrap()),
            next_hops: Arc::new(NextHops::new(64)),
            gauges: Arc::new(Gauges::new(64, 1)),
            fragments: Arc::new(FragmentTable::new(FragmentLimits::default(), [2; 4])),
        };
        let client = Client::new(&folder.path().join("admin.sock"));
        let (control, ends) = runtime
            .block_on(async {
                let checked = load(folder.path()).await.unwrap();
                Control::prepare(parts(checked, &shared, &book)).await
            })
            .unwrap();
        let spawn = |(seen, ends): (&Arc<Seen>, WorkerEnds)| {
            let seen = Arc::clone(seen);
            std::thread::spawn(move || work(&seen, ends))
        };
        let threads = seen.iter().zip(ends).map(spawn).collect();
        let (tell, ready) = tokio::sync::oneshot::channel();
        let control = runtime.spawn(control.run(move || {
            // Waited for below.
            let _ = tell.send(());
        }));
        runtime.block_on(ready).unwrap();
        let control = Some(control);
        Self {
            folder,
            runtime,
            control,
            client,
            shared,
            seen,
            threads,
            book,
            _namespaces: namespaces,
        }
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, future)
                .await
                .expect("an answer in time")
        })
    }

    fn status(&self) -> Status {
        self.wait(self.client.status()).unwrap()
    }

    fn write(&self, services: &str) {
        write_config(self.folder.path(), services);
    }

    fn reload(&self) -> Result<String, String> {
        self.wait(self.client.reload()).map_err(|e| e.to_string())
    }

    /// Waits until the status is so.
    fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
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

    fn pause(&self, millis: u64) {
        self.wait(async { tokio::time::sleep(Duration::from_millis(millis)).await });
    }

    fn rules(&self) -> Vec<(Rules, u64)> {
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

fn write_config(folder: &Path, services: &str) {
    let text = format!(
        "modules = \"modules\"\nbackends_max = 64\n[admin]\nsocket = \"admin.sock\"\n\
         [[port]]\ninterface = \"p1\"\n{services}"
    );
    std::fs::write(folder.join("lb.toml"), text).unwrap();
}

async fn load(folder: &Path) -> Result<Checked, String> {
    check::load(&folder.join("lb.toml"), shipped(), Compiler::Here)
        .await
        .map_err(|e| e.to_string())
}

fn parts(checked: Checked, shared: &Shared, book: &Book) -> Parts {
    Parts {
        checked,
        shared: shared.clone(),
        counters: (0..WORKERS)
            .map(|_| Arc::new(WorkerCounters::new(64)))
            .collect(),
        steering: Box::new(book.clone()),
        ports: Box::new(NoFacts),
        started: Instant::now(),
    }
}

fn checks() {
    let _namespaces = Namespaces::enter();
    let folder = tempfile::tempdir().unwrap();
    let services = format!(
        "{}{}[[port]]\ninterface = \"eth77\"\n",
        WEB.replace("10.77.0.2", "198.51.100.7")
            .replace("\"first\"", "\"frist\""),
        DNS.replace("2001:db8::53", "fd77::1"),
    );
    write_config(folder.path(), &services);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime.block_on(load(folder.path())).err().unwrap();
    for expected in [
        "there is no interface eth77; this host has lo, p1",
        "lb.toml:13:10: module \"frist\": there is no such module; write one of first",
        "lb.toml:15:11: backend 198.51.100.7 cannot be reached: no route",
        "warning: the VIP fd77::1 is an address of this host, on p1",
        "there is no folder",
    ] {
        assert!(error.contains(expected), "{expected} is not in:\n{error}");
    }
}

fn order() {
    let bed = Bed::new(WEB);
    let first = bed.rules();
    let web = (parse("203.0.113.10"), 80, 6);
    assert_eq!(first.len(), 2, "{first:?}");
    assert!(first[0].0.services.is_empty() && first[0].0.backends.len() == 1);
    assert!(first[1].0.services.contains(&web) && first[1].0.locals.contains(&parse("10.77.0.1")));

    bed.write(&format!("{WEB}{DNS}"));
    bed.reload().unwrap();
    let (all, generation) = (bed.rules(), bed.status().config.generation);
    let [(backends, at_backends), (services, at_services)] = &all[2..] else {
        panic!("two changes, backends before services: {all:?}");
    };
    assert!(backends.backends.len() == 2 && backends.services.len() == 1);
    assert!(services.services.len() == 2 && services.vips.contains(&parse("2001:db8::53")));
    assert_eq!(
        (*at_backends, *at_services),
        (generation - 1, generation),
        "replies are the workers' before there are any, requests once all know the service"
    );
    // The new backend's next hop was known before its first packet.
    let status = bed.status();
    assert!(
        status.services[1].backends[0].next_hop.resolved,
        "{status:#?}"
    );
    // An address of the host that appears later is the kernel's too.
    ip(&format!(
        "-n {} addr add 10.79.0.1/24 dev p1",
        bed._namespaces.balancer
    ));
    let deadline = Instant::now() + PATIENCE;
    while !bed
        .rules()
        .last()
        .unwrap()
        .0
        .locals
        .contains(&parse("10.79.0.1"))
    {
        assert!(Instant::now() < deadline);
        bed.pause(20);
    }
}

fn reload() {
    let bed = Bed::new(WEB);
    let before = bed.status();
    assert_eq!(before.services.len(), 1);
    assert_eq!(before.sessions.max, 1000);
    assert!(before.problems.is_empty(), "{before:#?}");

    bed.write(&WEB.replace("10.77.0.2", "198.51.100.7"));
    let error = bed.reload().unwrap_err();
    assert!(error.contains("cannot be reached"), "{error}");
    bed.write(&format!("{WEB}\nsessions_max = 5"));
    assert!(
        bed.reload().unwrap_err().contains("lb.toml:18:1"),
        "a key in the wrong table"
    );
    bed.write(&format!("{WEB}[[port]]\ninterface = \"lo\"\n"));
    let error = bed.reload().unwrap_err();
    assert!(error.contains("lo is no Ethernet interface"), "{error}");
    bed.write(&format!("{WEB}[rings]\nframes = 16384\n"));
    let error = bed.reload().unwrap_err();
    assert!(
        error.contains("[rings]") && error.contains("restart waxwing"),
        "{error}"
    );

    let after = bed.status();
    assert_eq!(after.config.generation, before.config.generation);
    assert_eq!(after.services, before.services);
    assert_eq!(after.config.last_reload.unwrap().error, Some(error));

    bed.write(&WEB.replace("port = 8080", "port = 8080\nweight = 0"));
    bed.reload().unwrap();
    let after = bed.status();
    assert!(after.config.generation > before.config.generation);
    assert_eq!(after.services[0].backends[0].weight, 0);
    assert_eq!(after.config.last_reload.unwrap().error, None);
}

fn retired() {
    let bed = Bed::new(&format!("{WEB}{DNS}"));
    // One session of the service that goes away. Ids follow the order of the file.
    bed.shared.gauges.begin(0, BackendId(1));
    bed.write(WEB);
    bed.reload().unwrap();
    let status = bed.status();
    assert_eq!((status.services.len(), status.retired.len()), (1, 1));
    assert_eq!(bed.rules().last().unwrap().0.services.len(), 2);
    bed.shared.gauges.end(0, BackendId(1));
    bed.until("the backend to be dropped", |status| {
        status.retired.is_empty()
    });
    let rules = bed.rules().last().unwrap().0.clone();
    assert_eq!((rules.services.len(), rules.backends.len()), (1, 1));
}

fn modules() {
    let bed = Bed::new(WEB);
    let folder = bed.folder.path().join("modules");
    let of_web = |status: &Status| status.services[0].module.clone().unwrap();
    let shipped = of_web(&bed.status());
    assert_eq!(shipped.source, "shipped");

    put(&folder, "first.wasm", &module(0x7fff_0000));
    let refused = bed.until("a refusal", |status| status.modules[0].refused.is_some());
    assert_eq!(of_web(&refused), shipped);
    put(&folder, "first.wasm", b"no module");
    let is_text = |status: &Status| {
        let refused = status.modules[0].refused.as_ref();
        refused.is_some_and(|refused| refused.reason.contains("not a WebAssembly module"))
    };
    assert_eq!(of_web(&bed.until("another refusal", is_text)), shipped);

    let mut good = module(0);
    // Another custom section: another hash.
    good.extend([0, 2, 1, b'x']);
    put(&folder, "first.wasm", &good);
    let status = bed.until("the new module", |status| {
        of_web(status).source != "shipped"
    });
    assert!(of_web(&status).source.ends_with("first.wasm"));
    assert!(status.config.generation > refused.config.generation);
    assert_eq!(status.modules[0].refused, None);
}

fn canary() {
    let bed = Bed::new(WEB);
    let folder = bed.folder.path().join("modules");
    let mut new = module(0);
    new.extend([0, 2, 1, b'x']);
    put(&folder, "first.wasm", &new);
    let status = bed.until("the canary", |status| status.modules[0].canary.is_some());
    let serving = status.modules[0].serving.clone().unwrap();
    assert_eq!(serving.source, "shipped");
    assert_eq!(status.services[0].module, Some(serving));
    let hash = status.modules[0].canary.clone().unwrap().build.hash;
    let of_service = |status: &Status| status.services[0].module.clone().unwrap().hash;
    let status = bed.until("its end", |status| of_service(status) == hash);
    assert_eq!(status.modules[0].canary, None);
    assert_eq!(status.modules[0].serving.clone().unwrap().hash, hash);
    let steps = status.modules[0].steps.iter();
    let texts: Vec<&str> = steps.map(|step| &*step.text).collect();
    assert_eq!(
        texts[texts.len() - 2..],
        ["serves on worker 0, for 1 s", "serves on all workers"]
    );
}

fn backend_signals() {
    let web = WEB.replace(
        "policy = \"first\"",
        "policy = \"first\"\nsignals = [\"queue\", \"load\"]",
    ) + "name = \"web-1\"\n";
    let bed = Bed::new(&web);
    let set = |backend: &str, values: &[(&str, u32)]| {
        let request = SetSignals {
            service: "web".into(),
            backend: backend.into(),
            values: values.iter().map(|(k, v)| ((*k).into(), *v)).collect(),
        };
        bed.wait(bed.client.set_signals(&request))
            .map_err(|error| error.to_string())
    };
    let shown = || {
        let signals = bed.status().services[0].backends[0].signals.clone();
        signals.into_iter().collect::<Vec<_>>()
    };
    let named = |queue, load| vec![("load".to_owned(), load), ("queue".to_owned(), queue)];
    assert_eq!(shown(), named(0, 0));
    assert_eq!(set("web-1", &[("queue", 7), ("1", 9)]), Ok(()));
    assert_eq!(set("10.77.0.2:8080", &[("3", 5)]), Ok(()));
    let mut expected = named(7, 9);
    expected.insert(0, ("3".to_owned(), 5));
    assert_eq!(shown(), expected);

    type Case = (&'static str, &'static [(&'static str, u32)], &'static str);
    let cases: [Case; 3] = [
        (
            "web-2",
            &[],
            "has no backend \"web-2\"; its backends are: web-1 (10.77.0.2:8080)",
        ),
        (
            "web-1",
            &[("queue", 1), ("lod", 1)],
            "no signal \"lod\"; write a number from 0 to 3; their names are: queue, load",
        ),
        ("web-1", &[("4", 1)], "no signal \"4\""),
    ];
    for (backend, values, expected) in cases {
        let error = set(backend, values).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    bed.reload().unwrap();
    assert_eq!(
        shown(),
        expected,
        "a reload keeps them, a bad request changes none"
    );
}

fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let new: PathBuf = folder.join(format!(".{name}.new"));
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(new, folder.join(name)).unwrap();
}

fn stuck() {
    let bed = Bed::new(WEB);
    bed.seen[1].frozen.store(true, Ordering::Relaxed);
    bed.write(&format!("{WEB}{DNS}"));
    bed.reload().unwrap();
    let status = bed.until("the problem", |status| !status.problems.is_empty());
    assert!(
        status.problems[0].contains("worker 1 has not taken up"),
        "{status:#?}"
    );
    let in_effect = bed.rules().last().unwrap().0.clone();
    assert_eq!(
        in_effect.services.len(),
        1,
        "a service's rules before every worker knows it"
    );
    assert!(bed.reload().unwrap_err().contains("may be stuck"));
    bed.seen[1].frozen.store(false, Ordering::Relaxed);
    bed.until("no problem", |status| status.problems.is_empty());
    assert_eq!(bed.rules().last().unwrap().0.services.len(), 2);
    bed.reload().unwrap();
}

fn sessions() {
    let bed = Bed::new(&format!("{WEB}{DNS}"));
    let table = &bed.shared.sessions;
    let mut slots = table.slot_cache();
    for n in 0..900_u16 {
        let session = Session {
            client: parse("192.0.2.1"),
            client_port: n,
            service_port: 80,
            source_port: n,
            protocol: if n % 3 == 0 {
                Protocol::Udp
            } else {
                Protocol::Tcp
            },
            worker: 0,
            backend: BackendId(u32::from(n % 3 == 0)),
            hop: NextHop {
                port: PortId(0),
                mac: Mac([2; 6]),
            },
            tags: VlanTags::default(),
            created: Tick(0),
            seen: Tick(0),
            tcp: TcpState::default(),
        };
        let hash = |of: u64| {
            FlowHash::from_bits((u64::from(n) * 2 + of).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        };
        let made = table.insert(&mut slots, hash(0), hash(1), &session, |_| false, |_| false);
        assert!(matches!(made, Insert::Created(_)));
    }
    let count = |service, limit| {
        bed.wait(async {
            let mut sessions = bed.client.sessions(service, limit).await?;
            let mut list = Vec::new();
            while let Some((_, session)) = sessions.next().await? {
                list.push(session);
            }
            Ok::<_, ClientError>(list)
        })
    };
    assert_eq!(count(None, None).unwrap().len(), 900);
    assert_eq!(count(None, Some(7)).unwrap().len(), 7);
    let dns = count(Some("dns"), None).unwrap();
    assert_eq!(dns.len(), 300);
    assert_eq!(
        (&*dns[0].vip, &*dns[0].backend),
        ("[2001:db8::53]:53", "[fd77::2]:53")
    );
    assert_eq!(dns[0].phase, None);
    let error = count(Some("wbe"), None).unwrap_err().to_string();
    assert_eq!(
        error,
        "there is no service \"wbe\"; the services are: web, dns"
    );
    assert_eq!(bed.status().sessions.active, 900);
}

fn socket() {
    let mut bed = Bed::new(WEB);
    let path = bed.folder.path().join("admin.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let prepare = |bed: &Bed| {
        bed.wait(async {
            let checked = load(bed.folder.path()).await.unwrap();
            Control::prepare(parts(checked, &bed.shared, &bed.book))
                .await
                .map(drop)
        })
        .map_err(|e| e.to_string())
    };
    let error = prepare(&bed).unwrap_err();
    assert!(error.contains("another process answers there"), "{error}");
    assert_eq!(
        bed.status().pid,
        std::process::id(),
        "the first one still has its socket"
    );

    // The end takes the socket away; one that a killed balancer left behind is replaced.
    let control = bed.control.take().unwrap();
    control.abort();
    let _ = bed.wait(control);
    drop(std::os::unix::net::UnixListener::bind(path.with_extension("old")).unwrap());
    let _ = std::fs::rename(path.with_extension("old"), &path);
    assert!(matches!(
        bed.wait(bed.client.status()),
        Err(ClientError::NotRunning(_))
    ));
    prepare(&bed).unwrap();
    assert!(matches!(
        bed.wait(bed.client.status()),
        Err(ClientError::Missing(_))
    ));
    std::fs::write(&path, "a file").unwrap();
    let error = prepare(&bed).unwrap_err();
    assert!(error.contains("something that is no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}

fn signals() {
    let mut bed = Bed::new(WEB);
    let before = bed.status().config.generation;
    bed.write(&format!("{WEB}{DNS}"));
    raise(Signal::SIGHUP).unwrap();
    bed.until("the reload", |status| status.services.len() == 2);
    assert!(bed.status().config.generation > before);
    raise(Signal::SIGTERM).unwrap();
    let control = bed.control.take().unwrap();
    bed.wait(control).unwrap().unwrap();
    assert!(
        !bed.folder.path().join("admin.sock").exists(),
        "the socket is taken away"
    );
}
