//! Keeps what the log has lines of for `waxwing event list`.

use std::fmt::{Debug, Write as _};
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use waxwing_control::admin::events::Severity;
use waxwing_control::admin::log::LogState;

/// Adds each event to the state of the log. Its filter decides which there are.
pub(crate) struct EventLayer(pub(crate) Arc<LogState>);

/// The parts of the balancer, by what their modules' paths contain; the first that fits.
const AREAS: [(&str, &str); 8] = [
    ("::health", "health"),
    ("::network", "network"),
    ("::reload", "config"),
    ("::config", "config"),
    ("::admin", "admin"),
    ("waxwing_plugin", "module"),
    ("::policies", "module"),
    ("waxwing_xdp", "port"),
];

impl<S: Subscriber> Layer<S> for EventLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let severity = match level {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warn,
            _ => Severity::Info,
        };
        let area = AREAS.iter().find(|(part, _)| target.contains(part));
        let area = area.map_or("balancer", |(_, area)| area);
        self.0.events().add(severity, area, &text.0);
    }
}

/// An event's message; other fields follow it, as in the log.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn lines_of_the_log_become_events() {
        let state = Arc::new(LogState::default());
        let layer = EventLayer(Arc::clone(&state));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "waxwing_control::health::monitor", "web: backend {} is down", "b");
            tracing::info!(target: "waxwing_plugin::registry", worker = 1, "serves");
        });
        let events = state.events().since(0);
        let seen: Vec<_> = events
            .iter()
            .map(|it| (it.severity, &*it.area, &*it.text))
            .collect();
        let expected = [
            (Severity::Warn, "health", "web: backend b is down"),
            (Severity::Info, "module", "serves worker=1"),
        ];
        assert_eq!(seen, expected);
    }
}
