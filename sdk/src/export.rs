//! The functions that [`crate::export_policy!`] and [`crate::export_health_check!`] export.
//!
//! Invariant: all `unsafe` that exports need is here and is compiled only for Wasm. It relies on
//! two facts. A module has one thread: no import starts another, and the host makes one call at a
//! time. And the host passes only handles that `waxwing_init` returned, of services that live as
//! long as the module.

/// Exports a [`crate::Policy`] as a Wasm module: the functions that the host calls, and the custom
/// section that describes the module. Use it once in a crate. It exports nothing in a native build.
#[macro_export]
macro_rules! export_policy {
    ($policy:ty) => {
        const _: () = {
            const SECTION: $crate::export::Section = $crate::export::Section {
                kind: $crate::abi::Kind::Policy,
                name: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
                payload: <$policy as $crate::Policy>::PAYLOAD_BYTES,
                tick_ms: <$policy as $crate::Policy>::TICK_MS,
                counters: <$policy as $crate::Policy>::COUNTERS,
                gauges: <$policy as $crate::Policy>::GAUGES,
                shared: <$policy as $crate::Policy>::SHARED,
                saves: <$policy as $crate::Policy>::SAVES,
            };
            // Evaluated on every target, so that a native build reports what exceeds a limit.
            const TEXT: [u8; SECTION.len()] = SECTION.text();
            const _: usize = TEXT.len();

            #[cfg(target_arch = "wasm32")]
            const _: () = {
                #[used]
                #[unsafe(link_section = "waxwing.module")]
                static IN_MODULE: [u8; TEXT.len()] = TEXT;

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_reserve(len: u32) -> u32 {
                    $crate::export::reserve(len)
                }

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_init(config_len: u32, backends_max: u32) -> u32 {
                    $crate::export::init::<$policy>(config_len, backends_max)
                }

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_backends_changed(header: u32) -> u32 {
                    $crate::export::backends_changed::<$policy>(header)
                }

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_pick(header: u32, n: u32) -> u32 {
                    $crate::export::pick::<$policy>(header, n)
                }

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_closed(header: u32, n: u32) {
                    $crate::export::closed::<$policy>(header, n);
                }

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_tick(header: u32) {
                    $crate::export::tick::<$policy>(header);
                }

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_error() -> u64 {
                    $crate::export::error()
                }

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_log() -> u64 {
                    $crate::export::take_log()
                }

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_save(header: u32) -> u64 {
                    $crate::export::save::<$policy>(header)
                }

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_restore(header: u32, len: u32) -> u32 {
                    $crate::export::restore::<$policy>(header, len)
                }
            };
        };
    };
}

/// Exports a [`crate::HealthCheck`] as a Wasm module, like [`crate::export_policy!`] for a policy.
#[cfg(feature = "std")]
#[macro_export]
macro_rules! export_health_check {
    ($check:ty) => {
        const _: () = {
            const SECTION: $crate::export::Section =
                $crate::export::Section::health(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
            const TEXT: [u8; SECTION.len()] = SECTION.text();
            const _: usize = TEXT.len();
            // Makes a native build fail if the type is no health check.
            const fn is_health_check<H: $crate::HealthCheck>() {}
            const _: () = is_health_check::<$check>();

            #[cfg(target_arch = "wasm32")]
            const _: () = {
                #[used]
                #[unsafe(link_section = "waxwing.module")]
                static IN_MODULE: [u8; TEXT.len()] = TEXT;

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_reserve(len: u32) -> u32 {
                    $crate::export::reserve(len)
                }

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_configure(len: u32) -> u32 {
                    $crate::export::configure::<$check>(len)
                }

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_check(len: u32) -> u32 {
                    $crate::export::check(len)
                }

                #[unsafe(no_mangle)]
                extern "C" fn waxwing_error() -> u64 {
                    $crate::export::error()
                }
            };
        };
    };
}

#[doc(hidden)]
pub use crate::section::Section;

/// Prints a line; the function behind [`crate::log!`].
#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub fn log(line: core::fmt::Arguments<'_>) {
    #[cfg(feature = "std")]
    std::eprintln!("{line}");
    #[cfg(not(feature = "std"))]
    let _ = line;
}

#[cfg(target_arch = "wasm32")]
pub use wasm::*;

#[cfg(target_arch = "wasm32")]
#[expect(
    unsafe_code,
    reason = "handles become references, and statics need no lock"
)]
mod wasm {
    use alloc::boxed::Box;
    use alloc::string::String;
    use alloc::vec::Vec;
    use core::cell::RefCell;
    use core::fmt;

    use crate::Policy;
    #[cfg(feature = "std")]
    use crate::abi::health::VerdictRecord;
    use crate::abi::{ERROR_MAX, STATE_MAX};
    #[cfg(feature = "std")]
    use crate::health::{HealthCheck, run};
    use crate::log::Lines;
    use crate::service::{Batch, Service, as_u32};

    /// A static variable of a module.
    struct Single<T>(RefCell<T>);

    // SAFETY: a module has one thread, so no two threads share the cell.
    unsafe impl<T> Sync for Single<T> {}

    /// What the host writes: a config, a state, or a target.
    static INPUT: Single<Vec<u8>> = Single(RefCell::new(Vec::new()));
    static STATE: Single<Vec<u8>> = Single(RefCell::new(Vec::new()));
    static BATCH: Single<Option<Batch>> = Single(RefCell::new(None));
    static ERROR: Single<String> = Single(RefCell::new(String::new()));
    static LOG: Single<Lines> = Single(RefCell::new(Lines::new()));

    /// `waxwing_reserve`.
    #[must_use]
    pub fn reserve(len: u32) -> u32 {
        hook_panics();
        let len = len as usize;
        if len > STATE_MAX {
            refuse(format_args!(
                "{len} bytes of config or state; expected at most {STATE_MAX}"
            ));
            return 0;
        }
        let mut input = INPUT.0.borrow_mut();
        input.resize(len.max(1), 0);
        as_u32(input.as_ptr().addr())
    }

    /// `waxwing_init`.
    #[must_use]
    pub fn init<P: Policy>(config_len: u32, backends_max: u32) -> u32 {
        hook_panics();
        let config = INPUT.0.borrow();
        let config = &config[..config.len().min(config_len as usize)];
        let mut batch = BATCH.0.borrow_mut();
        let batch = batch.get_or_insert_with(Batch::new::<P>);
        match Service::<P>::new(config, backends_max as usize, batch) {
            Ok(service) => as_u32(Box::into_raw(Box::new(service)).expose_provenance()),
            Err(why) => {
                refuse(why);
                0
            }
        }
    }

    /// `waxwing_backends_changed`.
    #[must_use]
    pub fn backends_changed<P: Policy>(header: u32) -> u32 {
        match service::<P>(header).backends_changed() {
            Ok(()) => 1,
            Err(why) => {
                refuse(why);
                0
            }
        }
    }

    /// `waxwing_save`.
    #[must_use]
    pub fn save<P: Policy>(header: u32) -> u64 {
        let mut state = STATE.0.borrow_mut();
        state.clear();
        service::<P>(header).save(&mut state);
        if state.len() > STATE_MAX {
            let len = state.len();
            *state = Vec::new();
            log(format_args!(
                "{len} bytes of state are not kept: at most {STATE_MAX} are"
            ));
        }
        pack(&state)
    }

    /// `waxwing_restore`.
    #[must_use]
    pub fn restore<P: Policy>(header: u32, len: u32) -> u32 {
        // The buffer of a state is not kept: it may be large.
        let state = INPUT.0.take();
        let state = &state[..state.len().min(len as usize)];
        match service::<P>(header).restore(state) {
            Ok(()) => 1,
            Err(why) => {
                refuse(why);
                0
            }
        }
    }

    /// `waxwing_pick`.
    #[must_use]
    pub fn pick<P: Policy>(header: u32, n: u32) -> u32 {
        match &mut *BATCH.0.borrow_mut() {
            Some(batch) => as_u32(service::<P>(header).pick(batch, n as usize)),
            None => 0,
        }
    }

    /// `waxwing_closed`.
    pub fn closed<P: Policy>(header: u32, n: u32) {
        if let Some(batch) = &*BATCH.0.borrow() {
            service::<P>(header).closed(batch, n as usize);
        }
    }

    /// `waxwing_tick`.
    pub fn tick<P: Policy>(header: u32) {
        service::<P>(header).tick();
    }

    /// A configured check of any type; called with the target's JSON text.
    #[cfg(feature = "std")]
    type Check = Box<dyn FnMut(&[u8]) -> Result<(VerdictRecord, String), String>>;

    #[cfg(feature = "std")]
    static CHECK: Single<Option<Check>> = Single(RefCell::new(None));
    #[cfg(feature = "std")]
    static VERDICT: Single<Option<KeptVerdict>> = Single(RefCell::new(None));

    /// The last verdict, which the host reads after `waxwing_check`.
    #[cfg(feature = "std")]
    #[repr(C, align(8))]
    struct KeptVerdict {
        record: VerdictRecord,
        reason: String,
    }

    /// `waxwing_configure`.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn configure<H: HealthCheck>(len: u32) -> u32 {
        hook_panics();
        let config = INPUT.0.borrow();
        let config = &config[..config.len().min(len as usize)];
        match run::configure::<H>(config) {
            Ok(mut check) => {
                *CHECK.0.borrow_mut() =
                    Some(Box::new(move |target| run::check(&mut check, target)));
                1
            }
            Err(why) => {
                refuse(why);
                0
            }
        }
    }

    /// `waxwing_check`.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn check(len: u32) -> u32 {
        let target = INPUT.0.borrow();
        let target = &target[..target.len().min(len as usize)];
        let found = match &mut *CHECK.0.borrow_mut() {
            Some(check) => check(target),
            None => Err("waxwing_check was called before waxwing_configure".into()),
        };
        match found {
            Ok((mut record, reason)) => {
                record.reason_address = as_u32(reason.as_ptr().addr());
                let mut kept = VERDICT.0.borrow_mut();
                as_u32(core::ptr::from_ref(kept.insert(KeptVerdict { record, reason })).addr())
            }
            Err(why) => {
                refuse(why);
                0
            }
        }
    }

    /// `waxwing_error`.
    #[must_use]
    pub fn error() -> u64 {
        match ERROR.0.try_borrow() {
            Ok(text) => pack(text.as_bytes()),
            Err(_) => 0,
        }
    }

    /// `waxwing_log`.
    #[must_use]
    pub fn take_log() -> u64 {
        match LOG.0.try_borrow_mut() {
            Ok(mut lines) => pack(lines.take().as_bytes()),
            Err(_) => 0,
        }
    }

    /// The function behind [`crate::log!`].
    pub fn log(line: fmt::Arguments<'_>) {
        // Taken if the line's own formatting writes a line.
        if let Ok(mut lines) = LOG.0.try_borrow_mut() {
            lines.add(line);
        }
    }

    /// Returns where bytes are, as the host reads it; 0 if there are none.
    fn pack(bytes: &[u8]) -> u64 {
        if bytes.is_empty() {
            return 0;
        }
        (bytes.as_ptr().addr() as u64) << 32 | bytes.len() as u64
    }

    /// Keeps a text for `waxwing_error`: why the module refuses, or the message of its panic.
    pub fn refuse(why: impl fmt::Display) {
        if let Ok(mut text) = ERROR.0.try_borrow_mut() {
            text.clear();
            let _ = fmt::write(&mut *text, format_args!("{why}"));
            let cut = (0..=ERROR_MAX.min(text.len()))
                .rev()
                .find(|at| text.is_char_boundary(*at));
            text.truncate(cut.unwrap_or(0));
        }
    }

    /// Installs a hook that keeps a panic's message for the host, which sees only a trap.
    fn hook_panics() {
        #[cfg(feature = "std")]
        std::panic::set_hook(Box::new(|info| refuse(info)));
    }

    /// Returns the service behind a handle.
    fn service<P: Policy>(header: u32) -> &'static mut Service<P> {
        let service = core::ptr::with_exposed_provenance_mut::<Service<P>>(header as usize);
        // SAFETY: the host passes what `init` of this module, and so of this `P`, returned: a
        // leaked box, exposed and never freed. One thread and one call at a time make the reference
        // unique.
        unsafe { &mut *service }
    }
}
