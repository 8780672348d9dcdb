//! Compiles one module from standard input, for the tests of this package; the balancer's own
//! program does the same when it is called so.

use std::process::ExitCode;

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let [cpu_s, memory_bytes] = numbers[..] else {
        eprintln!("usage: waxwing-compile CPU_SECONDS MEMORY_BYTES < module.wasm > code");
        return ExitCode::FAILURE;
    };
    match waxwing_plugin::compile_child(cpu_s, memory_bytes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
