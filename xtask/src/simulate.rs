//! The simulator, with the sources of the day.

use crate::run;

/// Builds it optimised, and runs it until it is interrupted or has seen enough.
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
