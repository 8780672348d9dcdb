//! The functions that a health check imports: its only way out of the sandbox.
//!
//! Invariant: a memory range is checked before use, and an invalid one is a trap; any other invalid
//! argument returns an error to the module. No reference to guest memory is held across an await.

use std::ops::Range;
use std::time::{Duration, Instant};

use tracing::debug;
use wasmtime::{Caller, Engine, Extern, Linker, bail};
use waxwing_packet::Protocol;
use waxwing_sdk::abi::health::errors::{INVALID, LIMIT, TLS as TLS_FAILED};
use waxwing_sdk::abi::health::imports::{
    CLOSE, CONNECT, ERROR_TEXT, LOG, MODULE, NOW_MS, RECV, SEND, SLEEP_MS, TLS,
};
use waxwing_sdk::abi::{PROTOCOL_TCP, PROTOCOL_UDP, exports};

use super::connection::{Connection, ImportError};
use super::cpu_budget::Activity;
use super::run_state::{OpenConnection, RunState};
use crate::lock::lock;
use crate::text::sanitize;

/// The most bytes that one call receives from a stream.
const RECEIVE_MAX: usize = 16 << 10;

/// The size of the receive buffer for a datagram, in bytes.
const DATAGRAM_MAX: usize = 64 << 10;

/// The longest log line, in bytes.
const LINE_MAX: usize = 512;

/// The longest list of ALPN protocols, in bytes.
const ALPN_MAX: usize = 256;

type ImportCaller<'a> = Caller<'a, RunState>;

/// Links all imports.
pub(super) fn link(engine: &Engine) -> wasmtime::Result<Linker<RunState>> {
    let mut linker = Linker::new(engine);
    link_target(&mut linker)?;
    link_host(&mut linker)?;
    Ok(linker)
}

/// Links the functions that use the target.
fn link_target(linker: &mut Linker<RunState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        CONNECT,
        |mut caller: ImportCaller<'_>, (protocol,)| {
            Box::new(async move {
                begin_call(&caller, CONNECT, Activity::Connecting)?;
                let done = connect(&mut caller, protocol).await;
                Ok(end_call(&mut caller, done))
            })
        },
    )?;
    let exchanges = [
        (TLS, Activity::Tls),
        (SEND, Activity::Sending),
        (RECV, Activity::Receiving),
    ];
    for (name, activity) in exchanges {
        linker.func_wrap_async(MODULE, name, move |caller: ImportCaller<'_>, given| {
            Box::new(exchange(caller, name, activity, given))
        })?;
    }
    linker.func_wrap(
        MODULE,
        CLOSE,
        |mut caller: ImportCaller<'_>, number: i32| {
            begin_call(&caller, CLOSE, Activity::Computing)?;
            caller.data_mut().close(number);
            Ok(())
        },
    )?;
    Ok(())
}

/// Links the functions that use only the host.
fn link_host(linker: &mut Linker<RunState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        SLEEP_MS,
        |caller: ImportCaller<'_>, (ms,): (i32,)| {
            Box::new(async move {
                begin_call(&caller, SLEEP_MS, Activity::Sleeping)?;
                tokio::time::sleep(Duration::from_millis(ms.cast_unsigned().into())).await;
                caller.data().budget.set_activity(Activity::Computing);
                Ok(())
            })
        },
    )?;
    linker.func_wrap(MODULE, NOW_MS, |caller: ImportCaller<'_>| {
        begin_call(&caller, NOW_MS, Activity::Computing)?;
        let now = Instant::now().duration_since(caller.data().start);
        Ok(i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
    })?;
    linker.func_wrap(
        MODULE,
        ERROR_TEXT,
        |mut caller: ImportCaller<'_>, address: i32, len: i32| {
            begin_call(&caller, ERROR_TEXT, Activity::Computing)?;
            let place = place(&mut caller, ERROR_TEXT, (address, len))?;
            Ok(error_text(&mut caller, place))
        },
    )?;
    linker.func_wrap(
        MODULE,
        LOG,
        |mut caller: ImportCaller<'_>, address: i32, len: i32| {
            let place = place(&mut caller, LOG, (address, len))?;
            log(&mut caller, place);
            Ok(())
        },
    )?;
    Ok(())
}

/// Runs an import that takes a connection and a memory range.
async fn exchange(
    mut caller: ImportCaller<'_>,
    name: &'static str,
    activity: Activity,
    (number, address, len): (i32, i32, i32),
) -> wasmtime::Result<i32> {
    begin_call(&caller, name, activity)?;
    let place = place(&mut caller, name, (address, len))?;
    let done = match activity {
        Activity::Tls => secure(&mut caller, number, place).await,
        Activity::Sending => send(&mut caller, number, place).await,
        _ => receive(&mut caller, number, place).await,
    };
    Ok(end_call(&mut caller, done))
}

/// Fails unless `waxwing_check` runs: only then may a module use its target, or wait.
fn begin_call(caller: &ImportCaller<'_>, name: &str, activity: Activity) -> wasmtime::Result<()> {
    let state = caller.data();
    if !state.may_connect {
        bail!("called `{name}` outside waxwing_check, where only `{LOG}` may be called");
    }
    state.budget.set_activity(activity);
    Ok(())
}

/// Returns the number that the module gets: a result, or an error code.
fn end_call(caller: &mut ImportCaller<'_>, done: Result<i32, ImportError>) -> i32 {
    let state = caller.data_mut();
    state.budget.set_activity(Activity::Computing);
    done.unwrap_or_else(|failed| {
        if failed.is_local {
            state.budget.note_local_shortage(&failed.text);
        }
        state.error_text = failed.text;
        failed.code
    })
}

/// Checks a memory range. It stays valid while the instance lives, because memory never shrinks.
fn place(
    caller: &mut ImportCaller<'_>,
    name: &str,
    (address, len): (i32, i32),
) -> wasmtime::Result<Range<usize>> {
    let (start, len) = (
        address.cast_unsigned() as usize,
        len.cast_unsigned() as usize,
    );
    let place = start..start.saturating_add(len);
    if split(caller).0.get(place.clone()).is_none() {
        bail!("passed {len} bytes at {start:#x} to `{name}`, which are outside of memory");
    }
    Ok(place)
}

/// Returns the module's memory and the run's state.
fn split<'a>(caller: &'a mut ImportCaller<'_>) -> (&'a mut [u8], &'a mut RunState) {
    match caller.get_export(exports::MEMORY) {
        Some(Extern::Memory(memory)) => memory.data_and_store_mut(caller),
        _ => (&mut [], caller.data_mut()),
    }
}

async fn connect(caller: &mut ImportCaller<'_>, protocol: i32) -> Result<i32, ImportError> {
    let protocol = match u8::try_from(protocol) {
        Ok(PROTOCOL_TCP) => Protocol::Tcp,
        Ok(PROTOCOL_UDP) => Protocol::Udp,
        _ => {
            let text = format!("{protocol} is neither the protocol number of TCP nor of UDP");
            return Err(ImportError::new(INVALID, text));
        }
    };
    let state = caller.data_mut();
    let file = state.take_file()?;
    let connection = Connection::open(state.context.target.address, protocol).await?;
    state.keep(OpenConnection { connection, file })
}

async fn secure(
    caller: &mut ImportCaller<'_>,
    number: i32,
    alpn: Range<usize>,
) -> Result<i32, ImportError> {
    let (memory, state) = split(caller);
    if alpn.len() > ALPN_MAX {
        let text = format!("the list of ALPN protocols is longer than {ALPN_MAX} bytes");
        return Err(ImportError::new(LIMIT, text));
    }
    let alpn = memory[alpn].to_vec();
    let target = &state.context.target;
    let (address, tls) = (target.address, target.tls.clone());
    let slot = state.slot(number)?;
    // After a failed handshake the connection is unusable, so it is not put back.
    let Some(OpenConnection { connection, file }) = slot.take() else {
        return Err(ImportError::new(INVALID, "the connection is closed"));
    };
    let tls = tls.ok_or_else(|| {
        let text = "TLS is not set up; write `tls = {}` for this check";
        ImportError::new(TLS_FAILED, text)
    })?;
    let connection = connection.secure(&tls, address, &alpn).await?;
    *slot = Some(OpenConnection { connection, file });
    Ok(0)
}

async fn send(
    caller: &mut ImportCaller<'_>,
    number: i32,
    bytes: Range<usize>,
) -> Result<i32, ImportError> {
    let (memory, state) = split(caller);
    let (len, room, max) = (bytes.len(), state.left.sent, state.limits.sent);
    let connection = state.connection(number)?;
    let (overhead, is_datagram) = (connection.overhead(), connection.is_udp());
    if len > 0 && room == 0 || is_datagram && len + overhead > room {
        let text = format!("a check may send at most {max} bytes");
        return Err(ImportError::new(LIMIT, text));
    }
    let bytes = memory[bytes][..len.min(room)].to_vec();
    state.left.sent -= bytes.len() + overhead;
    let sent = state.connection(number)?.send(&bytes).await?;
    Ok(count(sent))
}

async fn receive(
    caller: &mut ImportCaller<'_>,
    number: i32,
    place: Range<usize>,
) -> Result<i32, ImportError> {
    let state = caller.data_mut();
    let (len, room, max) = (place.len(), state.left.received, state.limits.received);
    let connection = state.connection(number)?;
    if len > 0 && room == 0 {
        let text = format!("a check may receive at most {max} bytes");
        return Err(ImportError::new(LIMIT, text));
    }
    let once = if connection.is_udp() {
        DATAGRAM_MAX
    } else {
        RECEIVE_MAX
    };
    let mut buffer = vec![0; len.min(room).min(once)];
    if buffer.is_empty() {
        return Ok(0);
    }
    let received = connection.receive(&mut buffer).await?;
    let cost = received + connection.overhead();
    state.left.received = room.saturating_sub(cost);
    let (memory, _) = split(caller);
    memory[place][..received].copy_from_slice(&buffer[..received]);
    Ok(count(received))
}

fn error_text(caller: &mut ImportCaller<'_>, place: Range<usize>) -> i32 {
    let (memory, state) = split(caller);
    let len = state.error_text.floor_char_boundary(place.len());
    memory[place][..len].copy_from_slice(&state.error_text.as_bytes()[..len]);
    count(len)
}

fn log(caller: &mut ImportCaller<'_>, line: Range<usize>) {
    let (memory, state) = split(caller);
    let Some(left) = state.left.log_lines.checked_sub(1) else {
        return;
    };
    state.left.log_lines = left;
    let line = &memory[line];
    let line = sanitize(&line[..line.len().min(LINE_MAX)]);
    let (module, target) = (&state.context.module.name, &state.context.target);
    let (service, backend) = (&target.service, &target.backend);
    debug!(%module, %service, %backend, "{line}");
    lock(&state.context.log).push(line);
}

/// Converts a byte count for the module. It is below 2^31, because the bytes are in the module's
/// memory.
fn count(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}
