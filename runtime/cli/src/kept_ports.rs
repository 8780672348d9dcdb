//! The ports over a stop and a start of the service: their descriptors wait with the service manager, and
//! frames in the sockets' rings.
//!
//! Invariant: a start takes over what was kept, or has the service manager close it before it attaches
//! anything. If the service stays stopped, the service manager closes it, which detaches the ports.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use waxwing_control::admin::ports::{AttachedPorts as _, GivenPorts};
use waxwing_control::restart::upgrade::difference;
use waxwing_xdp::{Attached, Options, PortOptions, WorkerSockets, XdpError};

use crate::attached::SharedAttached;
use crate::service_manager::{Kept, ServiceManager};

/// What was kept is whole, but cannot be taken over.
#[derive(Debug)]
pub(crate) struct Unusable;

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what the service manager has kept cannot be used")
    }
}

/// What the first descriptor has, a file in memory.
#[derive(Serialize, Deserialize)]
struct Text {
    /// See [`Attached::layout`].
    layout: Vec<(String, String)>,
    /// See [`GivenPorts::text`].
    ports: String,
}

/// Has the service manager, if there is one, keep the ports until the next start. The workers have no sockets
/// afterwards.
pub(crate) fn keep(attached: &SharedAttached, manager: &ServiceManager) -> io::Result<()> {
    if manager.contact().is_none() {
        return Ok(());
    }
    let layout = attached.layout();
    let GivenPorts {
        text, descriptors, ..
    } = attached.give()?;
    let text = Text {
        layout,
        ports: String::from_utf8(text).map_err(io::Error::other)?,
    };
    let mut file = File::from(memfd_create("waxwing-ports", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(&text)?)?;
    let mut kept = vec![OwnedFd::from(file)];
    kept.extend(descriptors);
    manager.keep(&kept)
}

/// Returns what the service manager has kept, with the program loaded for it; `None` if that is nothing that
/// fits these ports, which is logged.
pub(crate) fn take(
    kept: Vec<Kept>,
    (ports, options): (&[PortOptions], &Options),
    manager: &ServiceManager,
) -> Result<Option<(Attached, GivenPorts)>> {
    if kept.is_empty() {
        return Ok(None);
    }
    let numbers: Vec<usize> = kept.iter().map(|(number, _)| *number).collect();
    let taken = read(kept, ports, options);
    let forgotten = manager.forget(numbers.into_iter());
    match taken {
        Ok(taken) => {
            if let Err(error) = forgotten {
                tracing::warn!(
                    "the service manager keeps the ports of the run before, too: {error}"
                );
            }
            Ok(Some(taken))
        }
        Err(error) => {
            tracing::warn!("what the service manager has kept is not used: {error:#}");
            forgotten.context("the service manager does not close what it has kept")?;
            Ok(None)
        }
    }
}

/// How long a process that the service manager is just starting may have copies of what that has closed:
/// until it runs its own program.
const COPIED_MAX: Duration = Duration::from_secs(2);

/// Attaches to the ports. If another process had them just before, something may hold them on for a moment.
pub(crate) fn attach(
    held_before: bool,
    ports: &[PortOptions],
    options: &Options,
) -> Result<(Attached, Vec<WorkerSockets>), XdpError> {
    let deadline = Instant::now() + COPIED_MAX;
    loop {
        match waxwing_xdp::attach(ports, options) {
            Err(XdpError::Occupied { .. }) if held_before && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
}

fn read(
    kept: Vec<Kept>,
    ports: &[PortOptions],
    options: &Options,
) -> Result<(Attached, GivenPorts)> {
    let mut numbered = kept.iter().enumerate();
    if let Some((missing, _)) = numbered.find(|(place, (number, _))| place != number) {
        bail!("number {missing} is missing");
    }
    let mut kept = kept.into_iter().map(|(_, descriptor)| descriptor);
    let mut file = File::from(kept.next().context("it is empty")?);
    file.rewind()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let text: Text = serde_json::from_slice(&text)?;
    let attached = waxwing_xdp::prepare(ports, options)?;
    if let Some(differs) = difference(&text.layout, &attached.layout()) {
        bail!("{differs}");
    }
    let given = GivenPorts {
        text: text.ports.into_bytes(),
        descriptors: kept.collect(),
        dropped_later: Vec::new(),
    };
    Ok((attached, given))
}
