//! An instance of a health check, from its first call to its verdict.
//!
//! Invariant: every call ends at the run's limit of processor time, and yields to other runs at
//! every tick; a failure is returned as a [`RunFailure`] and never panics.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use wasmtime::{
    Engine, Instance, InstancePre, Memory, Store, Trap, TypedFunc, UpdateDeadline, WasmParams,
    WasmResults,
};
use waxwing_sdk::abi::health::exports::{CHECK, CONFIGURE};
use waxwing_sdk::abi::{ERROR_MAX, exports};

use super::run_state::RunState;
use super::verdict::RunVerdict;
use crate::error::Refusal;
use crate::policy::guest::describe_error;
use crate::text::{sanitize, unpack};

/// A run that failed because of its module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum RunFailure {
    /// The module could not be instantiated.
    Instantiate(String),
    /// A call trapped or returned nothing.
    Call(String),
    /// The module refused its input.
    Refused(String),
    /// The module returned something that the ABI does not allow.
    Abi(String),
}

impl fmt::Display for RunFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instantiate(why) => write!(f, "the check cannot be instantiated: {why}"),
            Self::Call(why) => write!(f, "the check failed: {why}"),
            Self::Refused(why) => write!(f, "the check refuses: {why}"),
            Self::Abi(why) => write!(f, "the check breaks the ABI: {why}"),
        }
    }
}

impl RunFailure {
    /// Turns the failure into the refusal of a build for a service.
    pub(super) fn refusal(self, service: &str) -> Refusal {
        let service = service.to_owned();
        match self {
            Self::Instantiate(why) => Refusal::Instantiate(why),
            Self::Call(why) => Refusal::SetUp { service, why },
            Self::Refused(why) => Refusal::Refused {
                service,
                why,
                setting: "config",
            },
            Self::Abi(why) => Refusal::Abi { service, why },
        }
    }
}

/// An instance and its store.
pub(super) struct CheckGuest {
    store: Store<RunState>,
    instance: Instance,
    memory: Memory,
}

impl CheckGuest {
    pub(super) async fn new(
        engine: &Engine,
        code: &InstancePre<RunState>,
        state: RunState,
    ) -> Result<Self, RunFailure> {
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.memory);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| {
            let budget = &context.data().budget;
            Ok(if budget.is_over() {
                UpdateDeadline::Interrupt
            } else {
                UpdateDeadline::YieldCustom(1, Box::pin(Arc::clone(budget).yield_to_others()))
            })
        });
        let instantiated = code.instantiate_async(&mut store).await;
        let instance = instantiated
            .map_err(|error| RunFailure::Instantiate(describe_call(&store, "its start", &error)))?;
        let memory = instance
            .get_memory(&mut store, exports::MEMORY)
            .ok_or_else(|| RunFailure::Instantiate("it exports no memory".into()))?;
        Ok(Self {
            store,
            instance,
            memory,
        })
    }

    /// Passes the config to the module.
    pub(super) async fn configure(&mut self, json: &str) -> Result<(), RunFailure> {
        let len = self.write_text(json).await?;
        match self.call(CONFIGURE, len).await? {
            1 => Ok(()),
            _ => Err(self.refused().await),
        }
    }

    /// Lets the module check its target.
    pub(super) async fn check(&mut self, target: &str) -> Result<RunVerdict, RunFailure> {
        let len = self.write_text(target).await?;
        self.store.data_mut().may_connect = true;
        let verdict: Result<i32, _> = self.call(CHECK, len).await;
        self.store.data_mut().may_connect = false;
        match verdict? {
            0 => {
                let text = self.error_text().await;
                let text = text.unwrap_or_else(|| "it returned no verdict".into());
                Err(RunFailure::Call(text))
            }
            address => RunVerdict::read(self.memory.data(&self.store), address.cast_unsigned())
                .map_err(RunFailure::Abi),
        }
    }

    /// Writes a text into the buffer that the module reserves for it. Returns its length.
    async fn write_text(&mut self, text: &str) -> Result<i32, RunFailure> {
        let len = i32::try_from(text.len())
            .map_err(|_| RunFailure::Abi(format!("a text of {} bytes is too long", text.len())))?;
        let buffer: i32 = self.call(exports::RESERVE, len.max(1)).await?;
        if buffer == 0 {
            return Err(self.refused().await);
        }
        let start = buffer.cast_unsigned() as usize;
        let memory = self.memory.data_mut(&mut self.store);
        memory
            .get_mut(start..start.saturating_add(text.len()))
            .ok_or_else(|| {
                let reserve = exports::RESERVE;
                RunFailure::Abi(format!("{reserve} returned {start:#x}, outside of memory"))
            })?
            .copy_from_slice(text.as_bytes());
        Ok(len)
    }

    async fn call<P, R>(&mut self, name: &str, parameters: P) -> Result<R, RunFailure>
    where
        P: WasmParams + Sync,
        R: WasmResults + Sync,
    {
        let called = match self.function(name) {
            Ok(function) => function.call_async(&mut self.store, parameters).await,
            Err(error) => Err(error),
        };
        let error = match called {
            Ok(results) => return Ok(results),
            Err(error) => error,
        };
        self.store.data_mut().may_connect = false;
        let mut text = describe_call(&self.store, name, &error);
        if error.downcast_ref::<Trap>() != Some(&Trap::Interrupt)
            && let Some(own) = self.error_text().await
        {
            text = format!("{text}: {own}");
        }
        Err(RunFailure::Call(text))
    }

    fn function<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &str,
    ) -> wasmtime::Result<TypedFunc<P, R>> {
        self.instance.get_typed_func(&mut self.store, name)
    }

    /// Reads the reason of a refusal.
    async fn refused(&mut self) -> RunFailure {
        let text = self.error_text().await;
        RunFailure::Refused(text.unwrap_or_else(|| "it gives no reason".into()))
    }

    /// Returns the module's text on its last refusal or panic, if it has one.
    async fn error_text(&mut self) -> Option<String> {
        let function = self.function::<(), i64>(exports::ERROR).ok()?;
        let packed = function.call_async(&mut self.store, ()).await.ok()?;
        let memory = self.memory.data(&self.store);
        let text = sanitize(memory.get(unpack(packed, ERROR_MAX))?);
        Some(text).filter(|text| !text.is_empty())
    }
}

/// Describes how a call failed.
fn describe_call(store: &Store<RunState>, call: &str, error: &wasmtime::Error) -> String {
    if error.downcast_ref::<Trap>() == Some(&Trap::Interrupt) {
        let limit = store.data().budget.limit().as_millis();
        return format!("{call} used up the {limit} ms of processor time that a check has");
    }
    format!("{call} {}", describe_error(error).text)
}

/// Polls a future to its end. For futures that only yield and wait for nothing.
pub(super) fn poll_to_end<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
