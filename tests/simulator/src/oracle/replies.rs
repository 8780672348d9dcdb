//! Frames of backends.

use waxwing_dataplane::session::Tuple;
use waxwing_packet::Protocol;

use super::adoption::is_by_kernel;
use super::drops::{is_excused, is_time_exceeded};
use super::routes::{is_from_server, route_of, route_to};
use super::session_model::{is_server_syn, touch};
use super::turn::{Turn, evictions};
use super::{Oracle, translation};
use crate::balancer::{Handled, Outcome};
use crate::view::{View, view};

impl Oracle {
    /// Checks a backend's frame in the session of this client's flow.
    pub(super) fn reply(
        &mut self,
        turn: &Turn<'_>,
        frame: &Handled,
        received: &View,
        tuple: Tuple,
    ) -> Result<(), String> {
        let fragment_routes = &self.fragment_routes;
        let Some(model) = self.models.get_mut(&tuple) else {
            return Ok(());
        };
        touch(model, self.turn, tuple, &mut self.touched);
        let now = turn.now.tick();
        let expired = model.is_expired(&self.timeouts, now);
        let opens_another = tuple.protocol == Protocol::Tcp && is_server_syn(received.flags);
        model.may_end |= model.is_expired(&self.timeouts, self.latest)
            || self.leaving.may_have_ended(model.backend, model.seen)
            || (opens_another && !model.stayed_open());
        let is_spoofed = !is_from_server(received.source, &route_of(frame));
        match frame.outcomes.first() {
            None if is_spoofed => return Ok(()),
            Some(Outcome::Sent(..)) if is_spoofed => {
                return Err(format!("a spoofed reply was believed: {model:?}"));
            }
            Some(Outcome::ToKernel(_)) => {
                let evicted = !model.was_established && evictions(turn.balancer) > model.evictions;
                // Replies are looked up before the new sessions of the batch are opened.
                let is_new = model.at.is_none();
                if !(model.may_end || evicted || model.uncertain || is_new) {
                    return Err(format!(
                        "a reply of a session went to the kernel: {model:?}"
                    ));
                }
                return Ok(());
            }
            Some(Outcome::Sent(port, out)) => {
                if expired && !model.uncertain {
                    return Err(format!("an expired session was used: {model:?} at {now:?}"));
                }
                let sent = view(out).ok_or("an incomplete packet was sent")?;
                let is_error = is_time_exceeded(received, &sent);
                if is_error {
                    let vip = received.destination == tuple.source;
                    let from = if vip {
                        tuple.destination
                    } else {
                        received.destination
                    };
                    translation::check_reject(frame, received, (*port, out), (from, &sent))?;
                } else {
                    translation::check_reply(frame, received, (*port, out), (&tuple, &sent))?;
                }
                let route = route_to(*port, out);
                if !(is_error || model.is_route(&route) || fragment_routes.has(&tuple, route)) {
                    return Err(format!(
                        "{route:?} is not the route to the client: {model:?}"
                    ));
                }
            }
            // It would have left by the kernel.
            None if turn.kernel_full && is_by_kernel(&model.route) => {}
            None if model.is_protected() && !is_excused(turn, received) => {
                return Err(format!(
                    "a reply of a protected session was dropped: {model:?}"
                ));
            }
            // The reply was looked up before this turn opened the session, or after the session's end.
            None if expired || model.at.is_none() => return Ok(()),
            None => {}
        }
        model.tcp.server_sent(received);
        model.is_seen(now);
        Ok(())
    }
}
