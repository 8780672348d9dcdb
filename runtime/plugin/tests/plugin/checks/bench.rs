//! What a run costs. Not a test: run it by `cargo test --workspace --test plugin bench -- --ignored
//! --nocapture`.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use waxwing_plugin::checks::{CheckOutcome, CheckVerdict};
use waxwing_tests::check_wat::CheckWat;

use super::common::{bind, host, nowhere, server, target};

/// Sequential runs of each check.
const RUNS: u32 = 20_000;

/// Memory like that of a module made with the SDK: a stack of 1 MiB, data behind it, and some of
/// both touched.
const LIKE_THE_SDK: CheckWat = CheckWat {
    memory: "(memory (export \"memory\") 20)
             (data (i32.const 0x100000) \"0123456789\") (data (i32.const 0x118000) \"0123456789\")",
    configure: "(memory.fill (i32.const 0xff000) (i32.const 7) (i32.const 0x800))
                (memory.fill (i32.const 0x119000) (i32.const 7) (i32.const 0x4000))
                (i32.const 1)",
    ..CheckWat::GOOD
};

const CONNECTS: &str = "(drop (call $connect (i32.const 6))) (call $say (i32.const 1))";

/// Returns the processor time of this process.
fn process_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.try_into().expect("a time since the start")
}

#[tokio::test]
#[ignore = "it measures"]
async fn a_run_of_a_check() {
    let server = server(async |mut stream| {
        let _ = stream.read(&mut [0; 16]).await;
    })
    .await;
    let cases = [
        ("an empty check", CheckWat::GOOD, nowhere()),
        ("one like the SDK's", LIKE_THE_SDK, nowhere()),
        ("one that connects", CheckWat::checking(CONNECTS), server),
    ];
    for (what, wat, address) in cases {
        let start = Instant::now();
        let host = host(&wat, None);
        println!("a host is made in {:?}", start.elapsed());
        let check = bind(&host).expect("it is valid");
        let target = target(address);
        let (start, used) = (Instant::now(), process_time());
        for _ in 0..RUNS {
            let CheckOutcome {
                verdict, reason, ..
            } = host.run(&check, &target).await;
            assert_eq!(verdict, CheckVerdict::Healthy, "{reason}");
        }
        let (took, used) = (start.elapsed() / RUNS, (process_time() - used) / RUNS);
        println!("{what}: {took:?} a run, {used:?} of processor time");
    }
}
