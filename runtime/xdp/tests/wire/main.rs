//! Frames between the two ends of a veth pair, in a network namespace of this test.
//!
//! The test runs itself again inside the namespace, and deletes the namespace at the end, also after a
//! failure. One end of the pair sends requests, the other answers; both use this crate.

mod bed;
mod frames;
mod handover;
mod host;
mod jumbo;

use std::env;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use waxwing_xdp::{Options, PollMode};

use crate::bed::{ip, small};
use crate::frames::{every_frame_is_answered, frame_start_moves, transmit_ring_full, two_queues};
use crate::host::{
    hold, kernel_path, killed, made_again, mtu_too_large, one_owner, veth_keeps_its_interrupts,
    without_a_socket_frames_are_counted,
};
use crate::jumbo::{
    jumbo_frame_start_moves, jumbo_frames_are_answered, jumbo_kernel_path, jumbo_length_changes,
    jumbo_overload, jumbo_reopened, jumbo_ring_full,
};

type Outcome = Result<(), Failed>;
type Test = fn() -> Outcome;

/// Environment variable: the role of this process.
const ROLE: &str = "WAXWING_WIRE_TEST";

/// Options with chunks of 2048 bytes.
fn small_chunks() -> Options {
    Options {
        frame_size: 2048,
        ..small()
    }
}

/// Name, count of frames, count in flight, options.
fn echo_rows() -> [(&'static str, u64, u64, Options); 8] {
    let busy = Options {
        poll: PollMode::Busy,
        ..small()
    };
    let no_wakeup = Options {
        need_wakeup: false,
        ..small()
    };
    let default_sizes = Options {
        kernel_path: None,
        ..Options::default()
    };
    [
        ("10,000 frames", 10_000, 64, small()),
        ("one at a time", 500, 1, small()),
        ("more in flight than a batch", 10_000, 400, small()),
        ("busy polling", 10_000, 64, busy.clone()),
        ("busy polling, one at a time", 500, 1, busy),
        ("chunks of 2048 bytes", 10_000, 64, small_chunks()),
        ("without need-wakeup", 1_000, 16, no_wakeup),
        ("default sizes", 20_000, 64, default_sizes),
    ]
}

fn trials(skip: bool) -> Vec<Trial> {
    let echoes = echo_rows().map(|(name, count, window, options)| {
        let test = move || every_frame_is_answered(&options, count, window);
        Trial::test(format!("every frame is answered: {name}"), test)
    });
    let tests: [(&str, Test); 20] = [
        ("two queues, two workers", two_queues),
        ("a frame's start moves", frame_start_moves),
        ("a full transmit ring", transmit_ring_full),
        (
            "sockets that change their owner",
            handover::no_frame_is_lost,
        ),
        ("frames passed to the kernel", kernel_path),
        ("one owner of an interface", one_owner),
        ("a port made again, with fewer queues", made_again),
        (
            "without a socket frames are counted",
            without_a_socket_frames_are_counted,
        ),
        ("a killed process", killed),
        ("veth keeps its interrupts", veth_keeps_its_interrupts),
        ("an MTU above the maximum", mtu_too_large),
        ("jumbo frames of every length", || {
            jumbo_frames_are_answered(&small(), 9000)
        }),
        ("jumbo frames in chunks of 2048 bytes", || {
            jumbo_frames_are_answered(&small_chunks(), 9000)
        }),
        ("jumbo frames of the maximum length", || {
            jumbo_frames_are_answered(&small(), 65_513)
        }),
        ("a jumbo frame's start moves", jumbo_frame_start_moves),
        ("a jumbo frame's length changes", jumbo_length_changes),
        ("a transmit ring full of jumbo frames", jumbo_ring_full),
        ("more jumbo frames than chunks", jumbo_overload),
        ("jumbo frames passed to the kernel", jumbo_kernel_path),
        ("reopened while receiving jumbo frames", jumbo_reopened),
    ];
    let tests = tests.map(|(name, test)| Trial::test(name, test));
    echoes
        .into_iter()
        .chain(tests)
        .map(|trial| trial.with_ignored_flag(skip))
        .collect()
}

/// Runs this program again inside a new namespace.
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
                println!("skipped, because a network namespace needs root: {reason}");
                return libtest_mimic::run(&arguments, trials(true)).exit_code();
            }
        },
    }
    // So that the kernel sends no frames itself (router solicitations).
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    let _ = std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0");
    libtest_mimic::run(&arguments, trials(false)).exit_code()
}
