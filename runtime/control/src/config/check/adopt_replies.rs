//! Checks of `adopt_replies`: a reply must name its session by its addresses and ports alone.

use std::collections::HashMap;

use waxwing_dataplane::model::SourceUse;
use waxwing_packet::{Address, Protocol};

use crate::config::model::Config;
use crate::config::model::service::{Backend, Service};
use crate::config::problem::Problems;

pub(super) fn check(config: &Config, problems: &mut Problems) {
    let adopting = || {
        let services = config.services.iter();
        services.filter_map(|service| Some((service, service.adopt_replies?)))
    };
    if adopting().next().is_none() {
        return;
    }
    let mut servers: HashMap<(Address, Protocol), Vec<(&Service, &Backend)>> = HashMap::new();
    for service in &config.services {
        for backend in &service.backends {
            let server = (backend.address.value, service.protocol.value);
            servers.entry(server).or_default().push((service, backend));
        }
    }
    for (service, span) in adopting() {
        if service
            .source_nat
            .is_some_and(|uses| uses.value == SourceUse::Always)
        {
            let text = "with `source_nat = \"always\"` a reply does not name its client, so its session \
                        cannot be opened from it; remove `adopt_replies` or `source_nat`";
            problems.error(span, text);
        }
        for backend in &service.backends {
            let port = |backend: &Backend| backend.port.map(|port| port.value);
            let server = (backend.address.value, service.protocol.value);
            let others = servers.get(&server).into_iter().flatten();
            let mut same = others.filter(|(other, it)| {
                let is_port =
                    port(it).is_none() || port(backend).is_none() || port(it) == port(backend);
                !std::ptr::eq(*other, service) && is_port
            });
            if let Some((other, _)) = same.next() {
                let text = format!(
                    "{} serves \"{}\" at the same port, so a reply of it does not name its service; \
                     remove `adopt_replies`, or give it another port there",
                    backend.address.value, other.name.value
                );
                problems.error(backend.address.span, text);
            }
        }
    }
}
