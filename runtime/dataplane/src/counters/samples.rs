//! What the sampled sessions have shown, by backend and by service.
//!
//! Invariant: written only for packets of sampled sessions, by any worker.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Distribution, Histogram, moving_average};
use crate::session::{Direction, Observed};
use crate::{BackendId, ServiceId};

/// Counts over all sampled sessions (see [`crate::session::SessionTable::set_sampling`]).
#[derive(Default, Debug)]
pub struct SampleCounters {
    backends: Box<[Backend]>,
    services: Box<[Service]>,
}

#[derive(Default, Debug)]
#[repr(align(64))]
struct Backend {
    /// By direction.
    sessions: [AtomicU64; 2],
    segments: [AtomicU64; 2],
    resent: [AtomicU64; 2],
    stuck: [AtomicU64; 2],
    given_up: AtomicU64,
    first_byte_us: AtomicU32,
}

#[derive(Default, Debug)]
struct Service {
    connect: Histogram,
    first_byte: Histogram,
}

/// What was counted in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SampledSegments {
    /// Sampled sessions with data.
    pub sessions: u64,
    /// Segments with data.
    pub segments: u64,
    /// Those whose data had passed here before.
    pub resent: u64,
    /// Sessions in which a packet of more than 1,280 bytes was sent four times and never acknowledged.
    pub stuck: u64,
    /// Sessions whose client ended them before the server's first data; none in the other direction.
    pub given_up: u64,
}

/// The unit of a service's times, in microseconds: so they are told up to 16 seconds.
pub const SAMPLED_TIME_UNIT_US: u32 = 16;

/// A service's times, in units of [`SAMPLED_TIME_UNIT_US`].
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SampledTimes {
    /// From SYN to SYN-ACK.
    pub connect: Distribution,
    /// From the client's first data to the server's, if the client speaks first.
    pub first_byte: Distribution,
}

impl SampleCounters {
    pub(super) fn new(backends_max: usize) -> Self {
        Self {
            backends: (0..backends_max).map(|_| Backend::default()).collect(),
            services: Box::default(),
        }
    }

    pub(super) fn with_services(self, services_max: usize) -> Self {
        Self {
            services: (0..services_max).map(|_| Service::default()).collect(),
            ..self
        }
    }

    /// The sampled sessions' data to the backend, and from it.
    #[must_use]
    pub fn segments(&self, backend: BackendId) -> [SampledSegments; 2] {
        let Some(of) = self.backends.get(backend.index()) else {
            return Default::default();
        };
        [0, 1].map(|way: usize| SampledSegments {
            sessions: of.sessions[way].load(Ordering::Relaxed),
            segments: of.segments[way].load(Ordering::Relaxed),
            resent: of.resent[way].load(Ordering::Relaxed),
            stuck: of.stuck[way].load(Ordering::Relaxed),
            given_up: match way {
                0 => of.given_up.load(Ordering::Relaxed),
                _ => 0,
            },
        })
    }

    /// Moving average of the time from the client's first data to the server's, in microseconds; 0 if not
    /// measured.
    #[must_use]
    pub fn first_byte_us(&self, backend: BackendId) -> u32 {
        let of = self.backends.get(backend.index());
        of.map_or(0, |it| it.first_byte_us.load(Ordering::Relaxed))
    }

    /// The service's times, for service ids below `services_max`.
    #[must_use]
    pub fn times(&self, service: ServiceId) -> SampledTimes {
        let of = self.services.get(service.index());
        of.map_or_else(SampledTimes::default, |it| SampledTimes {
            connect: it.connect.read(),
            first_byte: it.first_byte.read(),
        })
    }

    pub(crate) fn count_connect(&self, service: ServiceId, us: u32) {
        if let Some(times) = self.services.get(service.index()) {
            times
                .connect
                .count_shared((us / SAMPLED_TIME_UNIT_US).into());
        }
    }

    pub(crate) fn count(
        &self,
        (service, backend): (ServiceId, BackendId),
        direction: Direction,
        observed: Observed,
    ) {
        let Some(of) = self.backends.get(backend.index()) else {
            return;
        };
        let way = match direction {
            Direction::Forward => 0,
            Direction::Reply => 1,
        };
        for (counter, counts) in [
            (&of.sessions[way], observed.is_first),
            (&of.segments[way], observed.has_data),
            (&of.resent[way], observed.is_resent),
            (&of.stuck[way], observed.is_stuck),
            (&of.given_up, observed.is_given_up),
        ] {
            counter.fetch_add(counts.into(), Ordering::Relaxed);
        }
        if let Some(us) = observed.first_byte_us {
            let us = u32::try_from(us).unwrap_or(u32::MAX);
            moving_average(&of.first_byte_us, us);
            if let Some(times) = self.services.get(service.index()) {
                let units = us / SAMPLED_TIME_UNIT_US;
                times.first_byte.count_shared(units.into());
            }
        }
    }

    /// Clears a service's times when another gets its id.
    pub fn forget_service(&self, service: ServiceId) {
        if let Some(times) = self.services.get(service.index()) {
            times.connect.clear();
            times.first_byte.clear();
        }
    }

    /// See [`super::Gauges::forget`].
    pub(super) fn forget(&self, backend: BackendId) {
        if let Some(of) = self.backends.get(backend.index()) {
            of.first_byte_us.store(0, Ordering::Relaxed);
            of.given_up.store(0, Ordering::Relaxed);
            let counters = [&of.sessions, &of.segments, &of.resent, &of.stuck];
            for counter in counters.into_iter().flatten() {
                counter.store(0, Ordering::Relaxed);
            }
        }
    }
}
