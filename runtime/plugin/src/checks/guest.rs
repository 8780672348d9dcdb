//! One instance of a health check, from its first call to its verdict.
//!
//! Invariant: every call is cut at the run's limit of processor time, and gives way to others at
//! every tick; what goes wrong comes back as a [`Failure`], never as a panic.

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

use super::state::State;
use super::verdict::Findings;
use crate::error::Refusal;
use crate::guest::describe;
use crate::words::{fit_for_people, unpack};

/// How a run failed by the module's own doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// It could not be instantiated.
    Instantiate(String),
    /// A call ended in a trap, or gave nothing.
    Call(String),
    /// It refused what it was given.
    Refused(String),
    /// It gave what the ABI does not allow.
    Abi(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instantiate(why) => write!(f, "the check cannot be instantiated: {why}"),
            Self::Call(why) => write!(f, "the check failed: {why}"),
            Self::Refused(why) => write!(f, "the check refuses: {why}"),
            Self::Abi(why) => write!(f, "the check breaks the ABI: {why}"),
        }
    }
}

impl Failure {
    /// Why a build is not taken for a service.
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

/// An instance with its store.
pub(super) struct Guest {
    store: Store<State>,
    instance: Instance,
    memory: Memory,
}

impl Guest {
    /// Instantiates a module for one run.
    pub(super) async fn new(
        engine: &Engine,
        code: &InstancePre<State>,
        state: State,
    ) -> Result<Self, Failure> {
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.memory);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| {
            let meter = &context.data().meter;
            Ok(if meter.is_over() {
                UpdateDeadline::Interrupt
            } else {
                UpdateDeadline::YieldCustom(1, Box::pin(Arc::clone(meter).give_way()))
            })
        });
        let instantiated = code.instantiate_async(&mut store).await;
        let instance = instantiated
            .map_err(|error| Failure::Instantiate(said(&store, "its start", &error)))?;
        let memory = instance
            .get_memory(&mut store, exports::MEMORY)
            .ok_or_else(|| Failure::Instantiate("it has no memory".into()))?;
        Ok(Self {
            store,
            instance,
            memory,
        })
    }

    /// Has it take its config.
    pub(super) async fn configure(&mut self, json: &str) -> Result<(), Failure> {
        let len = self.hand_over(json).await?;
        match self.call(CONFIGURE, len).await? {
            1 => Ok(()),
            _ => Err(self.refused().await),
        }
    }

    /// Has it check its target.
    pub(super) async fn check(&mut self, target: &str) -> Result<Findings, Failure> {
        let len = self.hand_over(target).await?;
        self.store.data_mut().may_connect = true;
        let verdict: Result<i32, _> = self.call(CHECK, len).await;
        self.store.data_mut().may_connect = false;
        match verdict? {
            0 => {
                let words = self.words().await;
                let words = words.unwrap_or_else(|| "it gave no verdict".into());
                Err(Failure::Call(words))
            }
            address => Findings::read(self.memory.data(&self.store), address.cast_unsigned())
                .map_err(Failure::Abi),
        }
    }

    /// Writes a text into the buffer that the module reserves for it; gives its length.
    async fn hand_over(&mut self, text: &str) -> Result<i32, Failure> {
        let len = i32::try_from(text.len())
            .map_err(|_| Failure::Abi(format!("{} bytes are too long a text", text.len())))?;
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
                Failure::Abi(format!("{reserve} gave {start:#x}, outside of memory"))
            })?
            .copy_from_slice(text.as_bytes());
        Ok(len)
    }

    async fn call<P, R>(&mut self, name: &str, parameters: P) -> Result<R, Failure>
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
        let mut text = said(&self.store, name, &error);
        if error.downcast_ref::<Trap>() != Some(&Trap::Interrupt)
            && let Some(words) = self.words().await
        {
            text = format!("{text}: {words}");
        }
        Err(Failure::Call(text))
    }

    fn function<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &str,
    ) -> wasmtime::Result<TypedFunc<P, R>> {
        self.instance.get_typed_func(&mut self.store, name)
    }

    /// It has said no, and may say why.
    async fn refused(&mut self) -> Failure {
        let words = self.words().await;
        Failure::Refused(words.unwrap_or_else(|| "it does not say why".into()))
    }

    /// The module's own words on its last refusal or panic, if it has any.
    async fn words(&mut self) -> Option<String> {
        let function = self.function::<(), i64>(exports::ERROR).ok()?;
        let packed = function.call_async(&mut self.store, ()).await.ok()?;
        let memory = self.memory.data(&self.store);
        let words = fit_for_people(memory.get(unpack(packed, ERROR_MAX))?);
        Some(words).filter(|words| !words.is_empty())
    }
}

/// How a call ended.
fn said(store: &Store<State>, call: &str, error: &wasmtime::Error) -> String {
    if error.downcast_ref::<Trap>() == Some(&Trap::Interrupt) {
        let limit = store.data().meter.limit().as_millis();
        return format!("{call} used up the {limit} ms of processor time that a check has");
    }
    format!("{call} {}", describe(error).text)
}

/// Runs a future that waits for nothing, and only gives way.
pub(super) fn run_through<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
