//! Explanations: what would happen to a packet, without one.

use waxwing_control::admin::client::ClientError;
use waxwing_control::admin::explain::Explanation;
use waxwing_dataplane::BackendId;

use crate::balancer::{Bed, DNS, WEB};

impl Bed {
    fn explain(&self, query: &[(&str, &str)]) -> Result<Explanation, ClientError> {
        let query: Vec<_> = query
            .iter()
            .map(|(k, v)| (*k, Some((*v).to_owned())))
            .collect();
        self.wait(self.client.get("/v1/explain", &query))
    }
}

const TO_WEB: [(&str, &str); 3] = [
    ("protocol", "tcp"),
    ("client", "198.51.100.7:4000"),
    ("vip", "203.0.113.10:80"),
];

pub(crate) fn explain() {
    let two = "[[service.backend]]\naddress = \"10.77.0.3\"\nport = 8080\nweight = 3\n";
    let bed = Bed::new(&format!("{WEB}{two}{DNS}"));
    let step = |explained: &Explanation, name: &str| {
        let mut steps = explained.steps.iter();
        let found = steps.find(|step| step.step == name).cloned();
        found.unwrap_or_else(|| panic!("no step {name}: {explained:#?}"))
    };

    // The module picks the first backend always; nobody answers for its address there.
    bed.shared.next_hops.set(BackendId(0), None);
    let explained = bed.explain(&TO_WEB).unwrap();
    assert_eq!(explained.service.as_deref(), Some("web"));
    assert_eq!(explained.dropped.as_deref(), Some("neighbor_unresolved"));
    let hop = step(&explained, "next hop");
    assert_eq!(hop.drops.as_deref(), Some("neighbor_unresolved"));
    assert!(
        step(&explained, "pick").text.contains("picks 10.77.0.2"),
        "{explained:#?}"
    );
    assert!(explained.backends[0].chosen && !explained.backends[1].chosen);
    assert_eq!(explained.backends[1].weight_percent, 75.0);
    assert_eq!(explained.backends[0].expected_percent, Some(100.0));
    assert_eq!(bed.shared.sessions.len(), 0, "nothing is opened");

    // No service: of a VIP, and elsewhere.
    let closed = [TO_WEB[0], TO_WEB[1], ("vip", "203.0.113.10:81")];
    let explained = bed.explain(&closed).unwrap();
    assert!(explained.service.is_none());
    assert!(
        step(&explained, "service")
            .text
            .contains("none has port 81")
    );
    let other = [TO_WEB[0], TO_WEB[1], ("vip", "203.0.113.11:80")];
    let explained = bed.explain(&other).unwrap();
    assert!(step(&explained, "steering").text.contains("is no VIP"));

    for (changed, part) in [
        (("protocol", "icmp"), "write tcp or udp"),
        (("client", "[2001:db8::1]:1"), "families"),
        (("client", "nobody"), "client"),
        (("port", "p9"), "the ports are"),
    ] {
        let mut query = TO_WEB.to_vec();
        query.retain(|(name, _)| *name != changed.0);
        query.push(changed);
        let error = bed.explain(&query).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
