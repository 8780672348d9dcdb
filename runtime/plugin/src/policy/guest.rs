//! One instance of a module: its memory, its functions, and how a call into it ends.
//!
//! Invariant: every call has a time budget; what goes wrong comes back as a [`Failure`], never
//! as a panic. Guest memory is reached through bounds-checked slices only.

use wasmtime::{
    Instance, Memory, Store, StoreLimits, StoreLimitsBuilder, Trap, TypedFunc, UpdateDeadline,
    WasmParams, WasmResults,
};
use waxwing_dataplane::PolicyFault;
use waxwing_sdk::abi::{ERROR_MAX, exports};

use crate::engine::{Budget, DEADLINE_TICKS, Engine, Pulse, TABLE_ENTRIES_MAX};
use crate::error::{ModuleError, Refusal};
use crate::module::CompiledModule;
use crate::words::{fit_for_people, unpack};

/// Memory that every instance may grow to, in bytes, and what each service adds to it: the
/// largest Maglev table and the room to build it. Only pages that are touched take memory.
const MEMORY_BASE: usize = 4 << 20;
const MEMORY_PER_SERVICE: usize = 4 << 20;
/// The most that all services of an instance get together: one bulk instruction cannot be
/// interrupted, and filling this takes some ten milliseconds.
const MEMORY_MAX: usize = 128 << 20;

/// How a call failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    pub(crate) fault: PolicyFault,
    pub(crate) text: String,
}

/// What the store carries: limits, and what is left of the call's budget.
struct State {
    limits: StoreLimits,
    budget: Budget,
}

/// The module's functions, looked up once.
#[derive(Clone)]
pub(crate) struct Functions {
    pub(crate) reserve: TypedFunc<i32, i32>,
    pub(crate) init: TypedFunc<(i32, i32), i32>,
    pub(crate) pick: TypedFunc<(i32, i32), i32>,
    pub(crate) backends_changed: Option<TypedFunc<i32, i32>>,
    pub(crate) closed: Option<TypedFunc<(i32, i32), ()>>,
    pub(crate) tick: Option<TypedFunc<i32, ()>>,
    error: Option<TypedFunc<(), i64>>,
}

/// An instance with its store.
pub(crate) struct Guest {
    store: Store<State>,
    memory: Memory,
    pulse: Pulse,
    error: Option<TypedFunc<(), i64>>,
}

impl Guest {
    /// Instantiates a module with memory for so many services, within a budget.
    pub(crate) fn new(
        engine: &Engine,
        module: &CompiledModule,
        services: usize,
        budget: Budget,
    ) -> Result<(Self, Functions), ModuleError> {
        let refuse = |why: String| Refusal::Instantiate(why).of(module.label());
        let mut store = store(engine, services);
        if let Some(fuel) = engine.fuel() {
            store
                .set_fuel(fuel)
                .map_err(|error| refuse(format!("{error:#}")))?;
        }
        arm(&mut store, &engine.pulse(), budget);
        let instance = Instance::new(&mut store, &module.code, &[])
            .map_err(|error| refuse(describe(&error).text))?;
        let memory = instance
            .get_memory(&mut store, exports::MEMORY)
            .ok_or_else(|| refuse("it has no memory".into()))?;
        let functions = functions(&instance, &mut store).map_err(|e| refuse(format!("{e:#}")))?;
        let error = functions.error.clone();
        Ok((
            Self {
                store,
                memory,
                pulse: engine.pulse(),
                error,
            },
            functions,
        ))
    }

    /// The module's memory.
    #[inline]
    pub(crate) fn memory(&mut self) -> &mut [u8] {
        self.memory.data_mut(&mut self.store)
    }

    /// What is left of the instance's fuel, where the engine counts it.
    pub(crate) fn fuel_left(&self) -> Option<u64> {
        self.store.get_fuel().ok()
    }

    /// Calls a function of this instance.
    #[inline]
    pub(crate) fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        function: &TypedFunc<P, R>,
        parameters: P,
        budget: Budget,
    ) -> Result<R, Failure> {
        arm(&mut self.store, &self.pulse, budget);
        match function.call(&mut self.store, parameters) {
            Ok(results) => Ok(results),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// The module's own words on its last refusal or panic, if it has any.
    pub(crate) fn words(&mut self) -> Option<String> {
        let function = self.error.clone()?;
        arm(&mut self.store, &self.pulse, Budget::BATCH);
        let packed = function.call(&mut self.store, ()).ok()?;
        let words = fit_for_people(self.memory().get(unpack(packed, ERROR_MAX))?);
        Some(words).filter(|words| !words.is_empty())
    }

    #[cold]
    fn failure(&mut self, error: &wasmtime::Error) -> Failure {
        let mut failure = describe(error);
        if failure.fault == PolicyFault::Trap
            && let Some(words) = self.words()
        {
            failure.text = format!("{}: {words}", failure.text);
        }
        failure
    }
}

fn store(engine: &Engine, services: usize) -> Store<State> {
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
        State {
            limits,
            budget: Budget::Ticks(0),
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
fn arm(store: &mut Store<State>, pulse: &Pulse, budget: Budget) {
    pulse.mark();
    store.data_mut().budget = budget;
    store.set_epoch_deadline(DEADLINE_TICKS);
}

pub(crate) fn describe(error: &wasmtime::Error) -> Failure {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Failure {
            fault: PolicyFault::Overrun,
            text: "ran past its time budget (an endless loop, or too much work in one call)".into(),
        },
        Some(trap) => {
            let text = trap.to_string();
            let what = text.strip_prefix("wasm trap: ").unwrap_or(&text);
            Failure {
                fault: PolicyFault::Trap,
                text: format!("trapped: {what}"),
            }
        }
        None => Failure {
            fault: PolicyFault::Trap,
            text: format!("{error:#}"),
        },
    }
}

fn functions(instance: &Instance, store: &mut Store<State>) -> wasmtime::Result<Functions> {
    Ok(Functions {
        reserve: instance.get_typed_func(&mut *store, exports::RESERVE)?,
        init: instance.get_typed_func(&mut *store, exports::INIT)?,
        pick: instance.get_typed_func(&mut *store, exports::PICK)?,
        backends_changed: optional(instance, store, exports::BACKENDS_CHANGED)?,
        closed: optional(instance, store, exports::CLOSED)?,
        tick: optional(instance, store, exports::TICK)?,
        error: optional(instance, store, exports::ERROR)?,
    })
}

fn optional<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    store: &mut Store<State>,
    name: &str,
) -> wasmtime::Result<Option<TypedFunc<P, R>>> {
    match instance.get_func(&mut *store, name) {
        Some(function) => function.typed(&*store).map(Some),
        None => Ok(None),
    }
}
