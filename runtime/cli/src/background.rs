//! `waxwing upgrade --detach`: the process that was started waits for one in the background, and returns when
//! that one serves.
//!
//! The one in the background is a grandchild whose parent has ended. So it is the child of the service
//! manager, which hears of its end.

use std::env;
use std::io::{self, PipeReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::upgrade;

/// Tells a process its part.
const PART: &str = "WAXWING_UPGRADE_PART";
/// To start the one in the background, and to end.
const PARENT: &str = "parent";
/// To take over. Its standard output is for the process that waits.
const BACKGROUND: &str = "background";

/// The command: has `run` run here or in the background. What `run` is given tells the process that waits.
pub(crate) fn upgrade(
    config: &Path,
    [detach, if_replaced]: [bool; 2],
    run: impl FnOnce(fn()) -> ExitCode,
) -> Result<ExitCode> {
    match env::var(PART).as_deref() {
        Ok(PARENT) => {
            again(BACKGROUND)?.spawn()?;
            return Ok(ExitCode::SUCCESS);
        }
        Ok(BACKGROUND) => {
            // Without a terminal, whose end would end it.
            rustix::process::setsid()?;
            return Ok(run(serves));
        }
        _ => {}
    }
    if if_replaced && !upgrade::is_replaced(config)? {
        return Ok(ExitCode::SUCCESS);
    }
    if !detach {
        return Ok(run(|| {}));
    }
    let (reader, writer) = io::pipe()?;
    let mut parent = again(PARENT)?;
    let status = parent.stdin(Stdio::null()).stdout(writer).status();
    status.context("cannot start a process for the background")?;
    drop(parent);
    Ok(waited(reader))
}

/// This program with these arguments, for another part.
fn again(part: &str) -> Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(env::args_os().skip(1)).env(PART, part);
    Ok(command)
}

/// Tells the process that waits. If it is gone, nobody minds.
fn serves() {
    let mut output = io::stdout();
    let _ = output.write_all(b"\n").and_then(|()| output.flush());
}

/// Waits until the other process serves or has ended, which has then said why.
fn waited(mut reader: PipeReader) -> ExitCode {
    match reader.read_exact(&mut [0]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
