//! Proxies: each terminates the client's TCP connection and opens another to a server.

use anyhow::{Context as _, Result};
use waxwing_tests::Process;
use waxwing_tests::actors::wait_listening;

use crate::network::{Network, Service, VIP};

/// HAProxy in TCP mode, with one thread and a balancing algorithm: what follows `balance` in its config.
pub(crate) fn haproxy(network: &Network, services: &[Service], algorithm: &str) -> Result<Process> {
    let service = services.first().context("no service")?;
    let servers: String = network
        .server_addresses()
        .map(|address| format!("  server {address} {address}:{}\n", service.backend_port))
        .collect();
    let config = format!(
        "global\n  nbthread 1\n  maxconn 4096\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         listen bench\n  bind {VIP}:{}\n  balance {algorithm}\n{servers}",
        service.port
    );
    let file = network.topology.scratch.write("haproxy.cfg", config)?;
    let file = file.to_str().context("the path is not UTF-8")?;
    start(network, "haproxy", &["-db", "-f", file], service.port)
}

/// nginx with its stream module and one worker.
pub(super) fn nginx(network: &Network, services: &[Service]) -> Result<Process> {
    let service = services.first().context("no service")?;
    let servers: String = network
        .server_addresses()
        .map(|address| format!("server {address}:{}; ", service.backend_port))
        .collect();
    let scratch = &network.topology.scratch;
    let root = scratch.path().display();
    let port = service.port;
    let config = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         daemon off; worker_processes 1; user root; pid {root}/stream.pid;\n\
         error_log {root}/stream.log;\n\
         events {{ worker_connections 8192; }}\n\
         stream {{\n\
           upstream bench {{ {servers}}}\n\
           server {{ listen {VIP}:{port} backlog=4096; tcp_nodelay on; proxy_pass bench; }}\n\
         }}\n"
    );
    let file = scratch.write("stream.conf", config)?;
    let file = file.to_str().context("the path is not UTF-8")?;
    start(network, "nginx", &["-c", file], port)
}

/// Adds the VIP to the host, starts the program, and waits until it listens.
fn start(network: &Network, program: &str, arguments: &[&str], port: u16) -> Result<Process> {
    let balancer = &network.topology.balancer;
    balancer.ip(&format!("addr add {VIP}/32 dev lo\n"))?;
    let mut process = network.as_contender(|| balancer.spawn(program, arguments))?;
    wait_listening(balancer, &mut process, port)?;
    Ok(process)
}
