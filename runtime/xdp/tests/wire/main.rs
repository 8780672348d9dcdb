//! Frames over a real wire: both ends of a veth pair, in a network namespace of the test's own.
//!
//! The test runs itself again inside the namespace and removes that at the end, also after a
//! failure. One end of the pair asks, the other answers; both are this crate.

mod bed;
mod frames;
mod host;
mod jumbo;

use std::env;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use waxwing_xdp::{Options, PollMode};

use crate::bed::{ip, small};
use crate::frames::{all_come_back, heads_move, transmit_ring_full, two_queues};
use crate::host::{
    hold, kernel_path, killed, mtu_too_large, one_owner, veth_keeps_its_interrupts,
    without_a_socket_the_kernel_has_it,
};
use crate::jumbo::{
    jumbo_frames_come_back, jumbo_heads_move, jumbo_kernel_path, jumbo_lengths, jumbo_overload,
    jumbo_reopened, jumbo_ring_full,
};

type Outcome = Result<(), Failed>;
type Test = Box<dyn FnOnce() -> Outcome + Send>;

/// Says which part of this program the process is.
const ROLE: &str = "WAXWING_WIRE_TEST";

fn trials(skip: bool) -> Vec<Trial> {
    let busy = || Options {
        poll: PollMode::Busy,
        ..small()
    };
    let small_frames = || Options {
        frame_size: 2048,
        ..small()
    };
    let no_wakeup = || Options {
        need_wakeup: false,
        ..small()
    };
    let all: Vec<(&str, Test)> = vec![
        (
            "10,000 frames all come back",
            Box::new(|| all_come_back(&small(), 10_000, 64)),
        ),
        (
            "one at a time",
            Box::new(|| all_come_back(&small(), 500, 1)),
        ),
        (
            "with more in flight than a batch",
            Box::new(|| all_come_back(&small(), 10_000, 400)),
        ),
        (
            "by busy polling",
            Box::new(move || all_come_back(&busy(), 10_000, 64)),
        ),
        (
            "by busy polling, one at a time",
            Box::new(move || all_come_back(&busy(), 500, 1)),
        ),
        (
            "in frames of 2048 bytes",
            Box::new(move || all_come_back(&small_frames(), 10_000, 64)),
        ),
        (
            "without need-wakeup",
            Box::new(move || all_come_back(&no_wakeup(), 1_000, 16)),
        ),
        (
            "with the default sizes",
            Box::new(|| {
                all_come_back(
                    &Options {
                        kernel_path: None,
                        ..Options::default()
                    },
                    20_000,
                    64,
                )
            }),
        ),
        ("two queues, two workers", Box::new(two_queues)),
        ("heads grow and shrink", Box::new(heads_move)),
        ("a full transmit ring", Box::new(transmit_ring_full)),
        ("frames handed back to the kernel", Box::new(kernel_path)),
        ("one owner of an interface", Box::new(one_owner)),
        (
            "without a socket the kernel has it",
            Box::new(without_a_socket_the_kernel_has_it),
        ),
        ("killed", Box::new(killed)),
        (
            "veth keeps its interrupts",
            Box::new(veth_keeps_its_interrupts),
        ),
        ("an MTU that is too large", Box::new(mtu_too_large)),
        (
            "jumbo frames of any length",
            Box::new(|| jumbo_frames_come_back(&small(), 9000)),
        ),
        (
            "jumbo frames in chunks of 2048 bytes",
            Box::new(move || jumbo_frames_come_back(&small_frames(), 9000)),
        ),
        (
            "the longest frames there are",
            Box::new(|| jumbo_frames_come_back(&small(), 65_513)),
        ),
        (
            "jumbo frames' heads grow and shrink",
            Box::new(jumbo_heads_move),
        ),
        ("jumbo frames are cut and made", Box::new(jumbo_lengths)),
        (
            "a transmit ring with room for a part of a frame",
            Box::new(jumbo_ring_full),
        ),
        ("more jumbo frames than fit", Box::new(jumbo_overload)),
        (
            "jumbo frames handed back to the kernel",
            Box::new(jumbo_kernel_path),
        ),
        (
            "closed and opened again under jumbo frames",
            Box::new(jumbo_reopened),
        ),
    ];
    all.into_iter()
        .map(|(name, test)| Trial::test(name, test).with_ignored_flag(skip))
        .collect()
}

/// Runs this program again inside a namespace made for it.
fn inside_a_namespace() -> Result<ExitCode, Failed> {
    let name = format!("wwx-xdp-{}", std::process::id());
    ip(&format!("netns add {name}"))?;
    let status = Command::new("ip")
        .args(["netns", "exec", &name])
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(ROLE, "inside")
        .status();
    ip(&format!("netns del {name}"))?;
    Ok(if status?.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    match env::var(ROLE).as_deref() {
        Ok("holder") => return hold(),
        Ok("inside") => {}
        _ if arguments.list => {}
        _ => match inside_a_namespace() {
            Ok(code) => return code,
            Err(error) => {
                let reason = error.message().unwrap_or("no namespace").trim().to_owned();
                println!("skipped, as there is no namespace to run in (needs root): {reason}");
                return libtest_mimic::run(&arguments, trials(true)).exit_code();
            }
        },
    }
    // Frames of the kernel's own (router solicitations) are no part of these tests.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    let _ = std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0");
    libtest_mimic::run(&arguments, trials(false)).exit_code()
}
