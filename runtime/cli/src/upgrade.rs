//! `waxwing upgrade`: what one process gives another, as text and descriptors, and the moment when it does.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use waxwing_control::admin::ports::GivenPorts;
use waxwing_control::config::Config;
use waxwing_control::restart::upgrade::Predecessor;
use waxwing_control::run::Control;
use waxwing_dataplane::PortId;
use waxwing_packet::Mac;
use waxwing_xdp::{AttachMode, BoundSocket, Buffers, Handover, Options, PortLinks, TapQueue, Umem};

use crate::attached::SharedAttached;
use crate::service_manager::{Contact, ServiceManager};
use crate::workers::Gate;

/// The text. The descriptors are those of the memory; of each worker's sockets and its queue of the TAP
/// device; of each port's links.
#[derive(Serialize, Deserialize)]
struct Text {
    has_several_buffers: bool,
    workers: Vec<WorkerText>,
    ports: Vec<PortText>,
    #[serde(default)]
    manager: Option<Contact>,
    /// When the workers were told to stop, by [`monotonic_us`].
    #[serde(default)]
    stopped_us: u64,
}

/// What the text and the descriptors stand for.
struct Taken {
    workers: Vec<Handover>,
    links: Vec<PortLinks>,
    manager: Option<Contact>,
    stopped_us: u64,
}

/// Returns the time by a clock that both processes have, in microseconds.
pub(crate) fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::try_from(now).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

#[derive(Default, Serialize, Deserialize)]
struct WorkerText {
    /// See [`Handover::free`].
    free: Vec<u64>,
    /// The port of each socket.
    ports: Vec<u8>,
    /// The TAP device's MAC address, if it has a queue of it.
    tap: Option<[u8; 6]>,
}

#[derive(Serialize, Deserialize)]
struct PortText {
    is_native: bool,
    why: Option<String>,
    has_program: bool,
    has_guard: bool,
}

/// Returns what another process needs of the workers, the ports and the service manager.
pub(crate) fn given(
    workers: Vec<Option<Handover>>,
    links: Vec<PortLinks>,
    (manager, stopped_us): (Option<Contact>, u64),
) -> io::Result<GivenPorts> {
    let some = || workers.iter().flatten().next();
    let first = some().ok_or_else(|| io::Error::other("no worker has a socket"))?;
    let mut descriptors = vec![first.umem.as_fd().try_clone_to_owned()?];
    let has_several_buffers = first.buffers == Buffers::Several;
    let mut text = Text {
        has_several_buffers,
        workers: Vec::new(),
        ports: Vec::new(),
        manager,
        stopped_us,
    };
    for worker in &workers {
        let Some(Handover {
            sockets, free, tap, ..
        }) = worker
        else {
            text.workers.push(WorkerText::default());
            continue;
        };
        text.workers.push(WorkerText {
            free: free.clone(),
            ports: sockets.iter().map(|(port, _)| port.0).collect(),
            tap: tap.as_ref().map(|tap| tap.mac().0),
        });
        for (_, bound) in sockets {
            descriptors.push(bound.socket.try_clone()?);
        }
        if let Some(tap) = tap {
            descriptors.push(tap.as_fd().try_clone_to_owned()?);
        }
    }
    for links in links {
        text.ports.push(PortText {
            is_native: links.mode == AttachMode::Native,
            why: links.why,
            has_program: links.program.is_some(),
            has_guard: links.guard.is_some(),
        });
        descriptors.extend(links.program);
        descriptors.extend(links.guard);
    }
    Ok(GivenPorts {
        text: serde_json::to_vec(&text)?,
        descriptors,
        // The memory.
        dropped_later: vec![Box::new(workers)],
    })
}

/// Reads what [`given`] returned in the other process, whose options are the same.
fn taken(given: GivenPorts, options: &Options) -> io::Result<Taken> {
    let GivenPorts {
        text, descriptors, ..
    } = given;
    let text: Text = serde_json::from_slice(&text)?;
    let mut descriptors = descriptors.into_iter();
    let mut next = || -> io::Result<OwnedFd> {
        let missing = || io::Error::other("a descriptor is missing");
        descriptors.next().ok_or_else(missing)
    };
    let umem = Arc::new(Umem::adopt(next()?, options.frame_size)?);
    let mut workers = Vec::with_capacity(text.workers.len());
    for (number, worker) in (0..).zip(text.workers) {
        let mut sockets = Vec::with_capacity(worker.ports.len());
        for port in worker.ports {
            sockets.push((PortId(port), BoundSocket::of(next()?)?));
        }
        let tap = match worker.tap {
            Some(mac) => Some(TapQueue::of(File::from(next()?), Mac(mac))),
            None => None,
        };
        workers.push(Handover {
            worker: number,
            umem: Arc::clone(&umem),
            sockets,
            free: worker.free,
            tap,
            buffers: match text.has_several_buffers {
                true => Buffers::Several,
                false => Buffers::One,
            },
        });
    }
    let mut links = Vec::with_capacity(text.ports.len());
    for port in text.ports {
        let mut link = |has: bool| has.then(&mut next).transpose();
        links.push(PortLinks {
            program: link(port.has_program)?,
            guard: link(port.has_guard)?,
            mode: match port.is_native {
                true => AttachMode::Native,
                false => AttachMode::Generic,
            },
            why: port.why,
        });
    }
    Ok(Taken {
        workers,
        links,
        manager: text.manager,
        stopped_us: text.stopped_us,
    })
}

/// Goes on with what the service manager has kept since the process before this one has stopped.
pub(crate) fn take_kept(
    given: GivenPorts,
    (attached, options): (&SharedAttached, &Options),
    workers: &Gate,
) -> Result<()> {
    let Taken {
        workers: given,
        links,
        stopped_us,
        ..
    } = taken(given, options)?;
    let umem = given.first().map(|worker| Arc::clone(&worker.umem));
    workers.open(Some(attached.take(given)?));
    let silent_us = monotonic_us().saturating_sub(stopped_us);
    attached.take_links(links)?;
    tracing::info!(
        "goes on with the ports that the service manager has kept, after {silent_us} us"
    );
    let _ = umem.map(|umem| umem.populate());
    Ok(())
}

/// Takes over from the running process. No packet is served from here until the workers have their sockets.
pub(crate) fn take_over(
    running: &Predecessor,
    control: &Control,
    (attached, options): (&SharedAttached, &Options),
    (workers, manager): (&Gate, &ServiceManager),
) -> Result<()> {
    let given = running.take()?;
    let given_at = monotonic_us();
    let Taken {
        workers: given,
        links,
        manager: contact,
        stopped_us,
    } = taken(given, options)?;
    let umem = given.first().map(|worker| Arc::clone(&worker.umem));
    let sockets = attached.take(given)?;
    let taken_at = monotonic_us();
    control.change_sessions(&running.changes()?);
    let changed_at = monotonic_us();
    workers.open(Some(sockets));
    let micros = |until: u64| until.saturating_sub(stopped_us);
    tracing::info!(
        "took over within {} us: sockets given after {}, taken after {}, sessions after {}",
        micros(monotonic_us()),
        micros(given_at),
        micros(taken_at),
        micros(changed_at)
    );
    attached.take_links(links)?;
    // It works without, but each frame costs a page fault once.
    let _ = umem.map(|umem| umem.populate());
    running.serves()?;
    if let Some(Err(error)) = contact.map(|contact| manager.connect(contact)) {
        tracing::warn!("{error:#}");
    }
    Ok(())
}

/// Whether the running balancer's program is another file than this one, or was another one at its start.
pub(crate) fn is_replaced(config: &Path) -> Result<bool> {
    let reading = Config::read_file(config)?;
    let socket = &reading.config().admin.socket.value;
    let running = UnixStream::connect(socket)
        .with_context(|| format!("no waxwing answers at {}", socket.display()))?;
    let pid = rustix::net::sockopt::socket_peercred(&running)?.pid;
    let program = |process: &str| {
        let path = format!("/proc/{process}/exe");
        let file = std::fs::metadata(&path);
        let file = file.with_context(|| format!("cannot find out which program runs: {path}"))?;
        anyhow::Ok((file.dev(), file.ino()))
    };
    Ok(program(&pid.to_string())? != program("self")?)
}
