//! Steering rules: which frames the XDP program gives to the workers.

use waxwing_dataplane::Snapshot;
use waxwing_dataplane::steering::{Rules, SteeringError};

use super::Controller;

impl Controller {
    /// Applies the snapshot's steering rules, once every worker has taken the snapshot. A failure is
    /// retried at the next call.
    pub(crate) fn update_steering(&mut self) {
        if self.workers.iter().any(|worker| worker.unacknowledged > 0) {
            return;
        }
        let rules = self.rules(&self.snapshot);
        if rules == self.steering_rules {
            return;
        }
        let outcome = self.steering.apply(&rules);
        match &outcome {
            Ok(()) => self.steering_rules = rules,
            Err(why) if self.steering_problem.as_ref() == Some(&why.0) => {}
            Err(why) => tracing::error!("steering: {why}; trying again"),
        }
        self.steering_problem = outcome.err().map(|why| why.0);
    }

    /// Adds the rules of a snapshot's backends to those in effect.
    pub(crate) fn add_reply_rules(&mut self, snapshot: &Snapshot) -> Result<(), SteeringError> {
        let next = self.rules(snapshot);
        let added = Rules {
            backends: &self.steering_rules.backends | &next.backends,
            locals: next.locals,
            further_macs: next.further_macs,
            ..self.steering_rules.clone()
        };
        if added != self.steering_rules {
            self.steering.apply(&added)?;
            self.steering_rules = added;
        }
        Ok(())
    }

    /// Returns the rules of a snapshot. A removed service's endpoint and VIP stay while its backends do,
    /// because the packets of their sessions must still reach the workers. Nobody resolves the VIP any more.
    fn rules(&self, snapshot: &Snapshot) -> Rules {
        let host = self.resolver.host().borrow().clone();
        let mut rules = Rules::new(snapshot, host.locals());
        rules.further_macs = host.further_macs(&self.links);
        for backend in snapshot.backends() {
            let port = backend.vip_ports.single().unwrap_or(Rules::ANY_PORT);
            rules
                .services
                .insert((backend.vip, port, backend.protocol as u8));
            rules.vips.insert(backend.vip);
        }
        rules
    }
}
