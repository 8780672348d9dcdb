//! The compile service, for the tests of this package. The balancer's own program has a hidden command for
//! this.

use std::process::ExitCode;

fn main() -> ExitCode {
    match waxwing_plugin::serve_compiler() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
