//! Checks that take all they can get end at their limits and do not harm others.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use waxwing_plugin::checks::{CheckOutcome, CheckTarget, CheckVerdict};
use waxwing_sdk::abi::health::errors;
use waxwing_tests::check_wat::CheckWat;

use super::common::{LOOP, bind, checking_with, host, nowhere, run, server, target};

/// Starts a server that counts connections and keeps them open.
async fn counting() -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let address = server(move |stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(stream);
        }
    })
    .await;
    (address, count)
}

#[tokio::test]
async fn a_flood_of_connects_ends_at_the_limit() {
    let check = "(loop $more
          (call $close (call $connect (i32.const 6)))
          (br $more))
        (i32.const 0)";
    let (address, count) = counting().await;
    let outcome = run(&CheckWat::checking(check), &target(address)).await;
    assert!(
        outcome.fault,
        "it loops until its processor time is used up: {outcome:?}"
    );
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(count.load(Ordering::Relaxed) <= 16, "{count:?}");
}

#[tokio::test]
async fn endless_streams_end_at_the_byte_limits() {
    let pours = server(async |mut stream| {
        let water = vec![7; 1 << 20];
        while stream.write_all(&water).await.is_ok() {}
    })
    .await;
    let drinks = server(async |mut stream| {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    // They continue until an error, and return it.
    let reads = "(local $c i32) (local $n i32)
        (local.set $c (call $connect (i32.const 6)))
        (loop $more
          (local.set $n (call $recv (local.get $c) (i32.const 0x4000) (i32.const 0xc000)))
          (br_if $more (i32.gt_s (local.get $n) (i32.const 0))))
        (call $say (local.get $n))";
    let writes = "(local $c i32) (local $n i32)
        (local.set $c (call $connect (i32.const 6)))
        (loop $more
          (local.set $n (call $send (local.get $c) (i32.const 0) (i32.const 0x10000)))
          (br_if $more (i32.gt_s (local.get $n) (i32.const 0))))
        (call $say (local.get $n))";
    for (address, check) in [(pours, reads), (drinks, writes)] {
        let outcome = run(&CheckWat::checking(check), &target(address)).await;
        let number = outcome.signals[0].map(u32::cast_signed);
        assert_eq!(number, Some(errors::LIMIT), "{outcome:?}");
        assert!(outcome.took < Duration::from_secs(2), "{outcome:?}");
    }
}

/// The log events of checks, with their fields.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<String>>>);

impl Subscriber for Logged {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("waxwing_plugin::checks")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Fields(String);
        impl Visit for Fields {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                let _ = write!(self.0, "{}={value:?} ", field.name());
            }
        }
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        self.0
            .lock()
            .expect("no test panics while holding it")
            .push(fields.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn a_flood_of_log_lines_ends_at_the_limit() {
    let check = "(local $n i32)
        (loop $more
          (call $log (i32.const 0x3000) (i32.const 0x4000))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $n) (i32.const 1000))))
        (call $say (local.get $n))";
    let wat = checking_with(check, "(data (i32.const 0x3000) \"one\\1b[2Jtwo\")");
    let logged = Logged::default();
    let _here = tracing::subscriber::set_default(logged.clone());
    let outcome = run(&wat, &target(nowhere())).await;
    assert_eq!(outcome.signals[0], Some(1000));
    let lines = logged.0.lock().expect("no test panics while holding it");
    assert_eq!(lines.len(), 16, "{lines:?}");
    assert_eq!(outcome.log.len(), 16, "{:?}", outcome.log);
    assert!(
        outcome.log[0].starts_with("one [2Jtwo"),
        "{:?}",
        outcome.log
    );
    for line in &*lines {
        assert!(line.contains("message=one [2Jtwo "), "{line:?}");
        assert!(
            line.contains("module=test service=web backend=s1"),
            "{line:?}"
        );
        assert!(
            line.len() < 600 && !line.contains(char::is_control),
            "{line:?}"
        );
    }
}

/// Starts a server in its own thread that answers each connection after a request.
fn answering() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 16]);
            let _ = stream.write_all(b"well");
        }
    });
    address
}

/// Connects, sends and reads until the end, which waits five times.
const HONEST: &str = "(local $c i32) (local $n i32)
    (local.set $c (call $connect (i32.const 6)))
    (drop (call $send (local.get $c) (i32.const 0) (i32.const 4)))
    (loop $more
      (local.set $n (call $recv (local.get $c) (i32.const 0x4000) (i32.const 0xc)))
      (br_if $more (i32.gt_s (local.get $n) (i32.const 0))))
    (call $say (local.get $n))";

#[tokio::test(flavor = "current_thread")]
async fn fifty_endless_loops_do_not_delay_an_honest_check() {
    const HOSTILE: usize = 50;
    const CHECKS: usize = 10;
    let loops = Arc::new(host(&CheckWat::checking(LOOP), None));
    let check = bind(&loops).expect("the config is accepted");
    let hostile: Vec<_> = (0..HOSTILE)
        .map(|_| {
            let (host, check) = (Arc::clone(&loops), Arc::clone(&check));
            tokio::spawn(async move {
                loop {
                    let outcome = host.run(&check, &target(nowhere())).await;
                    assert!(outcome.fault, "{outcome:?}");
                }
            })
        })
        .collect();
    let honest = host(&CheckWat::checking(HONEST), None);
    let check = bind(&honest).expect("the config is accepted");
    let target = target(answering());
    let mut took = Vec::new();
    for _ in 0..CHECKS {
        let CheckOutcome {
            verdict,
            took: time,
            reason,
            ..
        } = honest.run(&check, &target).await;
        assert_eq!(verdict, CheckVerdict::Healthy, "{reason}");
        took.push(time);
    }
    took.sort_unstable();
    println!(
        "an honest check takes {:?}, at most {:?}",
        took[CHECKS / 2],
        took[CHECKS - 1]
    );
    assert!(took[CHECKS - 1] < target.timeout / 2, "{took:?}");
    assert!(
        hostile.iter().all(|task| !task.is_finished()),
        "the loops still run"
    );
}

/// Returns the processor time of this thread.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().expect("a time since the start")
}

#[tokio::test(flavor = "current_thread")]
async fn an_endless_loop_on_a_hundred_backends_gets_one_builds_quota() {
    const BACKENDS: usize = 100;
    const CHECKS: usize = 20;
    let loops = Arc::new(host(&CheckWat::checking(LOOP), None));
    let check = bind(&loops).expect("the config is accepted");
    let ended = Arc::new(AtomicUsize::new(0));
    for _ in 0..BACKENDS {
        let (host, check) = (Arc::clone(&loops), Arc::clone(&check));
        let ended = Arc::clone(&ended);
        tokio::spawn(async move {
            // On a busy machine it may get its processor time late.
            let target = CheckTarget {
                timeout: Duration::from_secs(600),
                ..target(nowhere())
            };
            loop {
                host.run(&check, &target).await;
                ended.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let honest = host(&CheckWat::checking(HONEST), None);
    let check = bind(&honest).expect("the config is accepted");
    let target = target(answering());
    // Their burst is used up first.
    while ended.load(Ordering::Relaxed) < 10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (start, used) = (Instant::now(), thread_time());
    let mut busy = Vec::new();
    for _ in 0..CHECKS {
        let before = thread_time();
        let outcome = honest.run(&check, &target).await;
        assert_eq!(outcome.verdict, CheckVerdict::Healthy, "{outcome:?}");
        busy.push(thread_time() - before);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Processor time is independent of the machine's other load. Each of an honest check's five
    // waits would let a hundred loops go first, for a millisecond each.
    busy.sort_unstable();
    let middle = busy[CHECKS / 2];
    println!("while an honest check runs, the thread computes for {middle:?}");
    assert!(middle < Duration::from_millis(25), "{busy:?}");
    let (passed, used) = (start.elapsed(), thread_time() - used);
    println!("in {passed:?} the thread computed for {used:?}");
    // The loops' quota, the honest checks, and what a late clock lets through.
    assert!(
        used < passed * 2 / 5 + Duration::from_millis(100),
        "{used:?} of {passed:?}"
    );
    assert!(
        ended.load(Ordering::Relaxed) > 10,
        "the loops end one after the other"
    );
}
