//! The bare AF_XDP forwarder (`examples/bare-forwarder`).

use anyhow::{Context as _, Result};
use waxwing_tests::actors::{built_program, wait_for};
use waxwing_tests::{Process, Topology};

use super::{Poll, Settings};
use crate::network::{Network, VIP};

/// Starts the forwarder for the first service. The one server has the VIP itself, so no NAT is needed.
pub(super) fn start(network: &Network, settings: &Settings<'_>) -> Result<Process> {
    let Topology {
        client,
        balancer,
        servers,
        ..
    } = &network.topology;
    let server = servers.first().context("the network has no server")?;
    let service = settings.services.first().context("no service")?;
    server.ip(&format!("addr add {VIP}/32 dev lo\n"))?;
    let port = |name, mac: [u8; 6]| {
        let octets = mac.map(|octet| format!("{octet:02x}"));
        format!("{name}={}", octets.join(":"))
    };
    let front = port("front", client.mac("eth0")?);
    let back = port("back", server.mac("eth0")?);
    let service = format!("{VIP}:{}/{}", service.port, service.protocol.label());
    let mut arguments = vec!["--port", &front, "--port", &back, "--service", &service];
    let cpu = network.cores.map(|cores| cores.contender.to_string());
    if let Some(cpu) = &cpu {
        arguments.extend(["--cpu", cpu]);
    }
    if settings.poll == Poll::Busy {
        arguments.push("--busy");
    }
    let program = built_program("bare-forwarder")?;
    let mut process = network.as_contender(|| balancer.spawn(program, &arguments))?;
    wait_for("the bare forwarder to be ready", &mut process, |process| {
        Ok(process.stdout().contains("ready"))
    })?;
    Ok(process)
}
