//! Compiles one module from standard input, for the tests of this package. The balancer's own program has a
//! hidden command for this.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [cpu_s, memory_bytes, kind] = &arguments[..] else {
        return usage();
    };
    let (Ok(cpu_s), Ok(memory_bytes)) = (cpu_s.parse(), memory_bytes.parse()) else {
        return usage();
    };
    match waxwing_plugin::compile_child(cpu_s, memory_bytes, kind) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: waxwing-compile CPU_SECONDS MEMORY_BYTES KIND < module.wasm > code");
    ExitCode::FAILURE
}
