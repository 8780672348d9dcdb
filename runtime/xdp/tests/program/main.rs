//! Classifies single frames with the XDP program, by the kernel's `BPF_PROG_TEST_RUN`. Needs the privilege
//! to load a program, but no interface and no namespace.

mod bridged;
mod errors;
mod fragments;
mod frames;
mod offloads;
mod ranges;
mod services;
mod whole;

use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};
use waxwing_dataplane::PortId;
use waxwing_packet::Mac;
use waxwing_xdp::{Buffers, Class, MacFilter, Options, Program};

use crate::bridged::{bridged_frames, on_each_port};
use crate::errors::{errors_v4, errors_v6};
use crate::fragments::fragments_of_servers;
use crate::frames::{PORT, rules};
use crate::offloads::unfinished_frames_are_counted;
use crate::ranges::ranges_and_source_addresses;
use crate::services::{fragments, icmp, neighbours, services_and_replies};
use crate::whole::{every_length, multi_buffer_frames, rules_change, too_many_rules};

/// Index of the loopback device, on which a test run receives.
const LOOPBACK: u32 = 1;
/// The MTU of the port.
const MTU: u32 = 1500;

type Test = Box<dyn FnOnce(&mut Program) -> Result<(), Failed> + Send>;
/// Name, frame, expected class.
type Row = (&'static str, Vec<u8>, Class);

/// A table of frames: `"name": frame => Class, …;`.
macro_rules! rows {
    ($($name:literal: $frame:expr => $($class:expr),+;)*) => {
        vec![$(($name, $frame, $($class),+)),*]
    };
}
pub(crate) use rows;

fn main() {
    let arguments = Arguments::from_args();
    let options = Options {
        services_max: 64,
        backends_max: 64,
        ..Options::default()
    };
    let loaded = [Buffers::One, Buffers::Several].map(|buffers| load(&options, buffers));
    let trials = loaded
        .into_iter()
        .zip(["", ", multi-buffer"])
        .flat_map(|(program, suffix)| trials(program, suffix))
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Loads the program; returns `None` without the privilege.
fn load(options: &Options, buffers: Buffers) -> Option<Program> {
    let loaded = Program::load(options, buffers, 1).and_then(|mut program| {
        program.set_port(PortId(0), (LOOPBACK, MTU), MacFilter::Own(Mac(PORT)), 1)?;
        Ok(program)
    });
    match loaded {
        Ok(program) => Some(program),
        Err(error @ waxwing_xdp::XdpError::Privilege { .. }) => {
            println!("skipped, because the program cannot be loaded: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn trials(program: Option<Program>, suffix: &str) -> Vec<Trial> {
    let skip = program.is_none();
    let has_multi_buffer = !suffix.is_empty();
    let program = Arc::new(Mutex::new(program));
    let trial = |name: &str, test: Test| {
        let program = Arc::clone(&program);
        let run = move || {
            let mut program = program.lock().map_err(|_| "an earlier test panicked")?;
            let program = program.as_mut().ok_or("not loaded")?;
            program.apply(&rules())?;
            test(program)
        };
        Trial::test(format!("{name}{suffix}"), run).with_ignored_flag(skip)
    };
    let tables = [
        services_and_replies(),
        icmp(),
        fragments(),
        neighbours(),
        ranges_and_source_addresses(),
        fragments_of_servers(),
        errors_v4(),
        errors_v6(),
    ];
    let row = |(name, frame, expected): Row| trial(name, Box::new(expect(frame, expected)));
    let mut trials: Vec<Trial> = tables.into_iter().flatten().map(row).collect();
    trials.extend(bridged_frames().into_iter().map(|row| {
        let name = format!("at a bridge: {}", row.0);
        trial(&name, Box::new(move |program| on_each_port(program, &row)))
    }));
    trials.push(trial("frames of every length", Box::new(every_length)));
    trials.push(trial(
        "unfinished frames are counted",
        Box::new(unfinished_frames_are_counted),
    ));
    trials.push(trial("rules are added and removed", Box::new(rules_change)));
    trials.push(trial(
        "too many rules are rejected",
        Box::new(too_many_rules),
    ));
    trials.push(trial(
        "the verifier has little to look at",
        Box::new(is_verified_quickly),
    ));
    if has_multi_buffer {
        trials.push(trial("multi-buffer frames", Box::new(multi_buffer_frames)));
    }
    trials
}

/// A kernel refuses a program at a million instructions, another kernel's verifier needs more of them than
/// this one's, and every start waits for it.
fn is_verified_quickly(program: &mut Program) -> Result<(), Failed> {
    match program.verified_instructions()? {
        Some(count) if count > 20_000 => Err(format!("it looked at {count} instructions").into()),
        _ => Ok(()),
    }
}

fn expect(frame: Vec<u8>, expected: Class) -> impl FnOnce(&mut Program) -> Result<(), Failed> {
    move |program| match program.classify(&frame)? {
        class if class == expected => Ok(()),
        class => Err(format!("{class:?}").into()),
    }
}
