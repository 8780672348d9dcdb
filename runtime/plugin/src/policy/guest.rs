//! An instance's memory and functions, and how a call into it ends.
//!
//! Invariant: every call has a time budget; a failed call returns a [`CallFailure`] and never
//! panics. Guest memory is accessed through bounds-checked slices only.

use wasmtime::{
    Instance, Memory, Store, StoreLimits, StoreLimitsBuilder, Trap, TypedFunc, UpdateDeadline,
    WasmParams, WasmResults,
};
use waxwing_dataplane::PolicyFault;
use waxwing_sdk::abi::{ERROR_MAX, LOG_MAX, exports};

use crate::build::engine::{CallBudget, ClockWaker, DEADLINE_TICKS, Engine, TABLE_ENTRIES_MAX};
use crate::build::module::CompiledModule;
use crate::error::{ModuleError, Refusal};
use crate::text::{sanitize, unpack};

/// The memory limit of an instance, in bytes, and what each service adds to it: room for the
/// largest Maglev table and for building it. Only touched pages take memory.
const MEMORY_BASE: usize = 4 << 20;
const MEMORY_PER_SERVICE: usize = 4 << 20;
/// The limit for all services of an instance together: a bulk instruction cannot be interrupted,
/// and filling this much takes some ten milliseconds.
const MEMORY_MAX: usize = 128 << 20;

/// A call that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CallFailure {
    pub(crate) fault: PolicyFault,
    pub(crate) text: String,
}

/// The store's data: limits, and the rest of the call's budget.
struct GuestState {
    limits: StoreLimits,
    budget: CallBudget,
}

#[derive(Clone)]
pub(crate) struct PolicyExports {
    pub(crate) reserve: TypedFunc<i32, i32>,
    pub(crate) init: TypedFunc<(i32, i32), i32>,
    pub(crate) pick: TypedFunc<(i32, i32), i32>,
    pub(crate) backends_changed: Option<TypedFunc<i32, i32>>,
    pub(crate) closed: Option<TypedFunc<(i32, i32), ()>>,
    pub(crate) tick: Option<TypedFunc<i32, ()>>,
    pub(crate) save: Option<TypedFunc<i32, i64>>,
    pub(crate) restore: Option<TypedFunc<(i32, i32), i32>>,
    error: Option<TypedFunc<(), i64>>,
    log: Option<TypedFunc<(), i64>>,
}

/// An instance and its store.
pub(crate) struct PolicyGuest {
    store: Store<GuestState>,
    memory: Memory,
    waker: ClockWaker,
    error: Option<TypedFunc<(), i64>>,
    log: Option<TypedFunc<(), i64>>,
}

impl PolicyGuest {
    /// Instantiates a module with memory for this many services, within a budget.
    pub(crate) fn new(
        engine: &Engine,
        module: &CompiledModule,
        services: usize,
        budget: CallBudget,
    ) -> Result<(Self, PolicyExports), ModuleError> {
        let refuse = |why: String| Refusal::Instantiate(why).of(module.label());
        let mut store = store(engine, services);
        if let Some(fuel) = engine.fuel() {
            store
                .set_fuel(fuel)
                .map_err(|error| refuse(format!("{error:#}")))?;
        }
        arm(&mut store, &engine.waker(), budget);
        let instance = Instance::new(&mut store, &module.code, &[])
            .map_err(|error| refuse(describe_error(&error).text))?;
        let memory = instance
            .get_memory(&mut store, exports::MEMORY)
            .ok_or_else(|| refuse("it exports no memory".into()))?;
        let functions =
            policy_exports(&instance, &mut store).map_err(|e| refuse(format!("{e:#}")))?;
        let (error, log) = (functions.error.clone(), functions.log.clone());
        Ok((
            Self {
                store,
                memory,
                waker: engine.waker(),
                error,
                log,
            },
            functions,
        ))
    }

    /// Returns the module's memory.
    #[inline]
    pub(crate) fn memory(&mut self) -> &mut [u8] {
        self.memory.data_mut(&mut self.store)
    }

    /// Returns the instance's remaining fuel, if the engine counts fuel.
    pub(crate) fn fuel_left(&self) -> Option<u64> {
        self.store.get_fuel().ok()
    }

    /// Calls a function of this instance within a budget.
    #[inline]
    pub(crate) fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        function: &TypedFunc<P, R>,
        parameters: P,
        budget: CallBudget,
    ) -> Result<R, CallFailure> {
        arm(&mut self.store, &self.waker, budget);
        match function.call(&mut self.store, parameters) {
            Ok(results) => Ok(results),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Returns the module's text on its last refusal or panic, if it has one.
    pub(crate) fn error_text(&mut self) -> Option<String> {
        let function = self.error.clone()?;
        arm(&mut self.store, &self.waker, CallBudget::BATCH);
        let packed = function.call(&mut self.store, ()).ok()?;
        let text = sanitize(self.memory().get(unpack(packed, ERROR_MAX))?);
        Some(text).filter(|text| !text.is_empty())
    }

    /// Returns the lines that the module wrote for the operator since the last call; the text may be empty.
    pub(crate) fn log_text(&mut self) -> Result<&[u8], CallFailure> {
        let Some(function) = self.log.clone() else {
            return Ok(&[]);
        };
        let packed = self.call(&function, (), CallBudget::BATCH)?;
        let text = self.memory().get(unpack(packed, LOG_MAX));
        text.ok_or_else(|| CallFailure {
            fault: PolicyFault::BadAnswer,
            text: "waxwing_log returned a text outside of memory".into(),
        })
    }

    #[cold]
    fn failure(&mut self, error: &wasmtime::Error) -> CallFailure {
        let mut failure = describe_error(error);
        if failure.fault == PolicyFault::Trap
            && let Some(own) = self.error_text()
        {
            failure.text = format!("{}: {own}", failure.text);
        }
        failure
    }
}

fn store(engine: &Engine, services: usize) -> Store<GuestState> {
    let memory = MEMORY_BASE
        .saturating_add(services.saturating_mul(MEMORY_PER_SERVICE))
        .min(MEMORY_MAX);
    let limits = StoreLimitsBuilder::new()
        .memories(1)
        .memory_size(memory)
        .tables(1)
        .table_elements(TABLE_ENTRIES_MAX)
        .instances(1)
        .build();
    let mut store = Store::new(
        engine.wasmtime(),
        GuestState {
            limits,
            budget: CallBudget::Ticks(0),
        },
    );
    store.limiter(|state| &mut state.limits);
    store.epoch_deadline_callback(|mut context| {
        Ok(if context.data_mut().budget.take_tick() {
            UpdateDeadline::Continue(1)
        } else {
            UpdateDeadline::Interrupt
        })
    });
    store
}

#[inline]
fn arm(store: &mut Store<GuestState>, waker: &ClockWaker, budget: CallBudget) {
    waker.mark_call();
    store.data_mut().budget = budget;
    store.set_epoch_deadline(DEADLINE_TICKS);
}

pub(crate) fn describe_error(error: &wasmtime::Error) -> CallFailure {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => CallFailure {
            fault: PolicyFault::Overrun,
            text: "ran past its time budget (an endless loop, or too much work in one call)".into(),
        },
        Some(trap) => {
            let text = trap.to_string();
            let what = text.strip_prefix("wasm trap: ").unwrap_or(&text);
            CallFailure {
                fault: PolicyFault::Trap,
                text: format!("trapped: {what}"),
            }
        }
        None => CallFailure {
            fault: PolicyFault::Trap,
            text: format!("{error:#}"),
        },
    }
}

fn policy_exports(
    instance: &Instance,
    store: &mut Store<GuestState>,
) -> wasmtime::Result<PolicyExports> {
    Ok(PolicyExports {
        reserve: instance.get_typed_func(&mut *store, exports::RESERVE)?,
        init: instance.get_typed_func(&mut *store, exports::INIT)?,
        pick: instance.get_typed_func(&mut *store, exports::PICK)?,
        backends_changed: optional(instance, store, exports::BACKENDS_CHANGED)?,
        closed: optional(instance, store, exports::CLOSED)?,
        tick: optional(instance, store, exports::TICK)?,
        save: optional(instance, store, exports::SAVE)?,
        restore: optional(instance, store, exports::RESTORE)?,
        error: optional(instance, store, exports::ERROR)?,
        log: optional(instance, store, exports::LOG)?,
    })
}

fn optional<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    store: &mut Store<GuestState>,
    name: &str,
) -> wasmtime::Result<Option<TypedFunc<P, R>>> {
    match instance.get_func(&mut *store, name) {
        Some(function) => function.typed(&*store).map(Some),
        None => Ok(None),
    }
}
