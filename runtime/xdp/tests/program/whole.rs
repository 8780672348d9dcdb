//! Frames of every length, multi-buffer frames, and changing rules.

use libtest_mimic::Failed;
use waxwing_dataplane::steering::Rules;
use waxwing_packet::Address;
use waxwing_xdp::{
    Class::{Fragment, Icmp, Ndp, Other, Pass, Service},
    Program,
};

use crate::fragments::fragments_of_servers;
use crate::frames::{
    ALL, BACKEND, BACKEND6, CLIENT, CLIENT6, FIRST, ICMP, ICMPV6, LOCAL, ROUTER, ROUTER6, TCP, UDP,
    VIP, VIP6, arp, error, ethernet, ip, ipv4, ipv6, ipv6_fragment, ports, rules, solicitation, v4,
    v6,
};
use crate::services::services_and_replies;

/// A truncated frame has the class of the whole frame, or passes.
pub(crate) fn every_length(program: &mut Program) -> Result<(), Failed> {
    let quoted = ipv4(CLIENT, BACKEND, TCP, 2, 0, &ports(9, 8080));
    let quoted6 = ipv6_fragment(CLIENT6, BACKEND6, FIRST, TCP, &ports(9, 8080));
    let whole = [
        v4(&ipv4(CLIENT, VIP, TCP, 2, 0, &ports(9, 80))),
        v6(&ipv6(CLIENT6, VIP6, &[(0, 1), (60, 2)], TCP, &ports(9, 80))),
        ethernet(ALL, &[[0x81, 0, 0, 5]], 0x0806, &arp(1, VIP)),
        v6(&ipv6(CLIENT6, VIP6, &[], ICMPV6, &solicitation(135, VIP6))),
        v4(&ipv4(ROUTER, CLIENT, ICMP, 2, 0, &error(3, &quoted))),
        v6(&ipv6(
            ROUTER6,
            CLIENT6,
            &[(0, 1)],
            ICMPV6,
            &error(2, &quoted6),
        )),
    ];
    for frame in whole {
        let expected = program.classify(&frame)?;
        for len in 14..frame.len() {
            let class = program.classify(&frame[..len])?;
            let icmp_without_target = class == Icmp && expected == Ndp;
            if class != Pass && class != expected && !icmp_without_target {
                return Err(format!("{len} bytes: {class:?}").into());
            }
        }
    }
    Ok(())
}

/// Removed rules no longer match; the others still do.
pub(crate) fn rules_change(program: &mut Program) -> Result<(), Failed> {
    let tcp = v4(&ipv4(CLIENT, VIP, TCP, 0, 0, &ports(9, 80)));
    let udp = v4(&ipv4(CLIENT, VIP, UDP, 0, 0, &ports(9, 53)));
    let reply = v4(&ipv4(BACKEND, CLIENT, TCP, 0, 0x0010, &[0; 24]));
    let mut fewer = rules();
    fewer.backends.clear();
    fewer.services.remove(&(ip(VIP).into(), 53, UDP));
    let mut seen = Vec::new();
    for set in [&fewer, &rules(), &Rules::default(), &rules()] {
        program.apply(set)?;
        let [tcp, udp, reply] = [&tcp, &udp, &reply].map(|frame| program.classify(frame));
        seen.push((tcp?, udp?, reply?));
    }
    let expected = [
        (Service, Other, Pass),
        (Service, Service, Fragment),
        (Pass, Pass, Pass),
        (Service, Service, Fragment),
    ];
    if seen == expected {
        Ok(())
    } else {
        Err(format!("{seen:?}").into())
    }
}

/// Rules above a limit are rejected, and the previous rules stay.
pub(crate) fn too_many_rules(program: &mut Program) -> Result<(), Failed> {
    let mut many = rules();
    let numbers = 0..65;
    many.backends = numbers
        .map(|port| (Address::from_bits(1), port, TCP))
        .collect();
    match program.apply(&many) {
        Err(error) if error.to_string().contains("65 backend endpoints") => {}
        other => return Err(format!("{other:?}").into()),
    }
    let reply = v4(&ipv4(BACKEND, LOCAL, TCP, 0, 0, &ports(8080, 9)));
    match program.classify(&reply)? {
        Pass => Ok(()),
        other => Err(format!("the previous rules are gone: {other:?}").into()),
    }
}

/// Only the headers decide the class: the program sees the first buffer only.
pub(crate) fn multi_buffer_frames(program: &mut Program) -> Result<(), Failed> {
    let rows = services_and_replies()
        .into_iter()
        .chain(fragments_of_servers());
    // A frame that passes because it is truncated may have another class when it is longer.
    for (name, frame, expected) in rows.filter(|(_, _, class)| *class != Pass) {
        for len in [4000, 9014, 40_000] {
            let mut frame = frame.clone();
            frame.resize(len, 0);
            let class = program.classify(&frame)?;
            if class != expected {
                return Err(format!("{name}, {len} bytes: {class:?}").into());
            }
        }
    }
    Ok(())
}
