//! The steps of a packet's path, as text.

use waxwing_dataplane::DropReason::{self, *};
use waxwing_dataplane::dry_run::{Fate, Outcome, Passage, is_decided_by_flow};
use waxwing_dataplane::policy::PolicyFault;
use waxwing_dataplane::session::Tuple;
use waxwing_dataplane::{Pick, Service, Snapshot};

use waxwing_packet::VlanTags;

use super::Explainer;
use super::status::{Candidate, Explanation, PacketOutcome, Step};
use crate::admin::status::endpoint;

/// The reasons for which a packet is dropped at each step.
const DROPS: &[(&str, &[DropReason])] = &[
    ("arrives", &[Malformed, Martian, SpoofedRequest]),
    ("service", &[NoService]),
    ("session", &[BackendDown, RefusedRetried, MidStream]),
    ("limits", &[SourceLimit, ServiceFull, SessionTableFull]),
    ("pick", &[Policy, NoBackend]),
    ("rewrite", &[TupleClash, NoSourceAddress, SourcePorts]),
    ("next hop", &[NeighborUnresolved]),
    (
        "leaves",
        &[PortMissing, HopLimit, TooBig, NoHeadroom, TransmitRingFull],
    ),
    ("reply", &[SpoofedReply, NoRoute]),
    ("large", &[TooBig, NoFrame]),
];

/// Returns a step, with the reason for which a packet was dropped if that belongs to the step.
pub(super) fn step(name: &str, text: String, dropped: Option<DropReason>) -> Step {
    let known = DROPS.iter().find(|(step, _)| *step == name);
    let may_drop = known.map_or(&[][..], |(_, reasons)| reasons);
    let label = |reason: &DropReason| reason.label().to_owned();
    Step {
        step: name.to_owned(),
        text,
        may_drop: may_drop.iter().map(label).collect(),
        drops: dropped
            .filter(|it| may_drop.contains(it))
            .map(|it| label(&it)),
    }
}

/// Returns why a packet is dropped.
pub(super) const fn dropped(passage: &Passage) -> Option<DropReason> {
    match passage.fate {
        Fate::Dropped(reason) => Some(reason),
        _ => None,
    }
}

/// Returns what became of a packet.
pub(super) fn packet(name: &str, passage: &Passage, snapshot: &Snapshot) -> PacketOutcome {
    let interface = |id| snapshot.port(id).map(|port| port.name.to_string());
    let sent = passage.sent.as_ref();
    let tuple = sent.and_then(|sent| sent.tuple);
    let ends = |tuple: &Tuple| {
        let source = endpoint(tuple.source, tuple.source_port);
        (source, endpoint(tuple.destination, tuple.destination_port))
    };
    let (source, destination) = tuple.as_ref().map(ends).unzip();
    let tags = sent.map(|sent| sent.ethernet.tags);
    let vlans = tags.iter().flat_map(VlanTags::as_slice);
    PacketOutcome {
        packet: name.to_owned(),
        from: interface(passage.port).unwrap_or_default(),
        outcome: passage.fate.label().to_owned(),
        dropped: dropped(passage).map(|reason| reason.label().to_owned()),
        to: sent.and_then(|sent| interface(sent.port)),
        mtu: sent.and_then(|sent| Some(snapshot.port(sent.port)?.mtu)),
        vlans: vlans.map(|tag| tag.tci & 0xfff).collect(),
        mac: sent.map(|sent| sent.ethernet.destination.to_string()),
        source,
        destination,
    }
}

/// Returns the outcome in one line.
pub(super) fn outcome(request: &PacketOutcome) -> String {
    let to = || request.destination.clone().unwrap_or_default();
    match &*request.outcome {
        "forwarded" | "fragmented" => format!("goes to {}", to()),
        "rejected" => "is answered with an RST or port unreachable".to_owned(),
        "too_big" => "is answered with the MTU".to_owned(),
        "time_exceeded" => "is answered with time exceeded".to_owned(),
        "dropped" => {
            format!(
                "is dropped: {}",
                request.dropped.as_deref().unwrap_or_default()
            )
        }
        _ => "is left to the kernel".to_owned(),
    }
}

/// Returns what the policy answered, and what came of it.
pub(super) fn pick(outcome: &Outcome, candidates: &[Candidate], service: &Service) -> String {
    let name = |candidate: &Candidate| {
        let backend = &candidate.backend;
        backend
            .name
            .clone()
            .unwrap_or_else(|| backend.address.clone())
    };
    let chosen = candidates.iter().find(|it| it.chosen);
    let what = |pick: &Result<Pick, PolicyFault>| match pick {
        Ok(Pick::Backend(place) | Pick::Keep(place)) => candidates
            .get(*place as usize)
            .map_or_else(|| format!("the missing backend {place}"), name),
        Ok(Pick::Drop) => "drop".to_owned(),
        Ok(Pick::Fallback) => "the fallback".to_owned(),
        Err(fault) => format!("nothing ({fault:?})"),
    };
    let Some(first) = outcome.picks.first() else {
        return match (chosen, service.backends.is_empty()) {
            (Some(chosen), _) => format!("none: the session is of {}", name(chosen)),
            (None, true) => "none: the service has no backends".to_owned(),
            (None, false) => "none: the packet does not come so far".to_owned(),
        };
    };
    let mut text = format!(
        "a new instance of the policy, with the numbers of now, picks {}",
        what(first)
    );
    if !is_decided_by_flow(&outcome.picks) {
        let picks: Vec<String> = outcome.picks.iter().map(what).collect();
        text += &format!(
            "; asked again for the same flow: {} (it depends on more than the flow: the workers' instances \
             have states of their own)",
            picks[1..].join(", ")
        );
    }
    if outcome.is_fallback {
        let to = chosen.map_or_else(|| "none".to_owned(), name);
        text += &format!("; that takes no new sessions, and the fallback gives the flow to {to}");
    }
    text
}

impl Explainer<'_> {
    /// Returns the steps behind the pick.
    pub(super) fn exits(&self, outcome: &Outcome, explanation: &Explanation) -> Vec<Step> {
        let request = dropped(&outcome.request);
        let mut steps = Vec::new();
        let packets = explanation.packets.iter();
        let [mut asked, mut reply, mut large] = [None, None, None];
        for packet in packets {
            match &*packet.packet {
                "reply" => reply = Some(packet),
                "large" => large = Some(packet),
                _ => asked = Some(packet),
            }
        }
        let chosen = explanation.backends.iter().find(|it| it.chosen);
        let Some(asked) = asked else {
            return steps;
        };
        let sent = |packet: &PacketOutcome| {
            let [source, destination, to, mac] =
                [&packet.source, &packet.destination, &packet.to, &packet.mac]
                    .map(|part| part.clone().unwrap_or_default());
            let tags: String = packet
                .vlans
                .iter()
                .map(|id| format!(", VLAN {id}"))
                .collect();
            let mtu = packet.mtu.unwrap_or_default();
            (
                format!("{source} -> {destination}"),
                format!("by {to}{tags} to {mac}, MTU {mtu}"),
            )
        };
        let is_sent = matches!(&*asked.outcome, "forwarded" | "fragmented");
        let (rewrite, exit) = sent(asked);
        let not_so_far = || "the packet does not come so far".to_owned();
        let text = if is_sent { rewrite } else { not_so_far() };
        steps.push(step("rewrite", text, request));
        let hop = chosen.map(|it| it.backend.next_hop.state.clone());
        steps.push(step("next hop", hop.unwrap_or_else(not_so_far), request));
        let text = if is_sent { exit } else { not_so_far() };
        steps.push(step("leaves", text, request));
        if let (Some(reply), Some(passage)) = (reply, &outcome.reply) {
            let (rewrite, exit) = sent(reply);
            let mut text = format!(
                "arrives by {}, {}: {rewrite} {exit}",
                reply.from, reply.outcome
            );
            if passage.is_last_hop {
                text +=
                    "; the kernel's route cannot be used, so it goes where the request came from";
            }
            steps.push(step("reply", text, dropped(passage)));
        }
        if let (Some(large), Some(passage)) = (large, &outcome.large) {
            let text = match &*large.outcome {
                "too_big" => "its sender is told a smaller MTU (ICMP)".to_owned(),
                other => other.to_owned(),
            };
            let text = format!("{} bytes, not to be fragmented: {text}", self.large);
            steps.push(step("large", text, dropped(passage)));
        }
        steps
    }
}
