//! The simulator.

use crate::run;

/// Builds it in release mode and runs it until it is interrupted or reaches its limit.
pub(crate) fn forever(arguments: &[String]) -> Result<(), String> {
    let mut call = vec![
        "run",
        "--release",
        "--quiet",
        "--package",
        "waxwing-simulator",
        "--",
    ];
    call.extend(arguments.iter().map(String::as_str));
    run::cargo(&call)
}
