//! What is known of the balancer and its services, for [`judge`].

use waxwing_dataplane::BackendId;

use crate::admin::availability::{BackendFacts, HealthFacts, ServiceFacts, judge};
use crate::admin::filter::ServiceFilter;
use crate::admin::report::Reporter;
use crate::admin::status::HealthReport;
use crate::config;
use crate::publish::keys::{service_in, snapshot_key};
use crate::publish::view::View;

impl Reporter {
    /// Judges the balancer and the filter's services.
    pub(crate) fn health(&self, filter: &ServiceFilter) -> HealthReport {
        let view = self.view.get();
        let services = view.config.services.iter();
        let services = services.filter(|entry| filter.passes(&entry.name.value));
        judge(&HealthFacts {
            ports: self.ports(),
            sessions: (self.sessions.len(), self.sessions.capacity()),
            problems: self.problems(&view),
            lost_gateways: self.lost_gateways(),
            services: services
                .filter_map(|entry| self.facts(&view, entry))
                .collect(),
        })
    }

    fn facts(&self, view: &View, entry: &config::Service) -> Option<ServiceFacts> {
        // The snapshot was made from this config, and has its backends in the same order.
        let service = service_in(&view.snapshot, entry)?;
        let backends = entry.backends.iter().zip(&service.backends);
        let facts = |(entry, id): (&config::Backend, &BackendId)| {
            let backend = view.snapshot.backend(*id)?;
            let (state, reason) = self.health.state(snapshot_key(backend))?;
            Some(BackendFacts {
                title: entry.title(),
                state,
                reason,
                takes_new: backend.takes_new(),
            })
        };
        Some(ServiceFacts {
            name: service.name.to_string(),
            backends: backends.filter_map(facts).collect(),
        })
    }

    /// Returns the gateways that replies by the kernel's routes cannot be sent to.
    fn lost_gateways(&self) -> Vec<String> {
        let known = self.resolver.return_state();
        let gateways = known.gateways.iter().filter(|_| known.by_routes);
        let lost = gateways.filter(|(_, hop)| !hop.is_resolved());
        lost.map(|(via, hop)| {
            format!(
                "gateway {via}: {}; its replies go to the last hop",
                hop.condition
            )
        })
        .collect()
    }
}
