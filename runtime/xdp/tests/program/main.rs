//! The XDP program, frame by frame, under the kernel's `BPF_PROG_TEST_RUN`: a frame in, the class
//! it is put in out. Needs no interface and no namespace, but the privilege to load a program.

mod bridged;
mod errors;
mod fragments;
mod frames;
mod ranges;
mod services;
mod whole;

use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};
use waxwing_packet::Mac;
use waxwing_xdp::{Addressees, Buffers, Class, Options, Program};

use crate::bridged::{bridged_frames, on_each_port};
use crate::errors::errors;
use crate::fragments::fragments_of_servers;
use crate::frames::{PORT, rules};
use crate::ranges::ranges_and_source_addresses;
use crate::services::{icmp_fragments_and_neighbors, services_and_replies};
use crate::whole::{cut_anywhere, long_frames, rules_change, too_many_rules};

/// The index of the loopback device, which a test run receives on.
const LOOPBACK: u32 = 1;

type Test = Box<dyn FnOnce(&mut Program) -> Result<(), Failed> + Send>;
type Row = (&'static str, Vec<u8>, Class);

fn main() {
    let arguments = Arguments::from_args();
    let options = Options {
        services_max: 64,
        backends_max: 64,
        locals_max: 64,
        ..Options::default()
    };
    let loaded = [Buffers::One, Buffers::Several].map(|buffers| load(&options, buffers));
    let trials = loaded
        .into_iter()
        .zip(["", ", for jumbo frames"])
        .flat_map(|(program, suffix)| trials(program, suffix))
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// The program for frames in so many buffers; `None` where this process may not load one.
fn load(options: &Options, buffers: Buffers) -> Option<Program> {
    let loaded = Program::load(options, buffers, 1, 1).and_then(|mut program| {
        program.set_port(LOOPBACK, Addressees::Own(Mac(PORT)), 0, 1)?;
        Ok(program)
    });
    match loaded {
        Ok(program) => Some(program),
        Err(error @ waxwing_xdp::XdpError::Privilege { .. }) => {
            println!("skipped, as the program cannot be loaded: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Every test, of one program.
fn trials(program: Option<Program>, suffix: &str) -> Vec<Trial> {
    let skip = program.is_none();
    let jumbo = !suffix.is_empty();
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
    let rows = services_and_replies()
        .into_iter()
        .chain(icmp_fragments_and_neighbors())
        .chain(ranges_and_source_addresses())
        .chain(fragments_of_servers())
        .chain(errors());
    let mut trials: Vec<Trial> = rows
        .map(|(name, frame, expected)| {
            trial(
                name,
                Box::new(move |program| {
                    let class = program.classify(&frame)?;
                    if class == expected {
                        Ok(())
                    } else {
                        Err(format!("{class:?}").into())
                    }
                }),
            )
        })
        .collect();
    trials.extend(bridged_frames().into_iter().map(|row| {
        let name = format!("at a bridge: {}", row.0);
        trial(&name, Box::new(move |program| on_each_port(program, &row)))
    }));
    trials.push(trial("frames cut anywhere", Box::new(cut_anywhere)));
    trials.push(trial("rules come and go", Box::new(rules_change)));
    trials.push(trial(
        "too many rules are refused",
        Box::new(too_many_rules),
    ));
    if jumbo {
        trials.push(trial("frames in several buffers", Box::new(long_frames)));
    }
    trials
}
