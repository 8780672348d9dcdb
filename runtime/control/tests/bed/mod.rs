//! Two network namespaces joined by a veth pair: the balancer's with `p1` (10.77.0.1, fd77::1), and the
//! server's with `s1` (10.77.0.2, fd77::2).
//!
//! Invariant: tests act only in namespaces created here, named `wwn-…`, which are removed even after a
//! failure.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(unreachable_pub, reason = "several test programs include this module")]

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering};

use libtest_mimic::{Arguments, Failed, Trial};
use waxwing_packet::{Address, Mac};

/// The server's MAC address.
pub const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x11]);

/// Runs each test on its own thread, which enters a namespace for good.
pub fn run(mut arguments: Arguments, tests: &[(&str, fn())], one_by_one: bool) -> ExitCode {
    let missing = missing();
    if let Some(reason) = missing {
        eprintln!("skipping all tests: {reason}");
    }
    if one_by_one {
        arguments.test_threads = Some(1);
    }
    let trial = |(name, test): &(&str, fn())| {
        let test = *test;
        Trial::test(*name, move || on_thread(test)).with_ignored_flag(missing.is_some())
    };
    libtest_mimic::run(&arguments, tests.iter().map(trial).collect()).exit_code()
}

fn on_thread(test: fn()) -> Result<(), Failed> {
    std::thread::spawn(test).join().map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Failed::from(text.unwrap_or_default())
    })
}

/// Returns what this machine lacks for these tests.
fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("creating network namespaces needs root");
    }
    let ip = Command::new("ip").arg("-V").output();
    ip.is_err()
        .then_some("the `ip` command is missing (package iproute2)")
}

/// Two namespaces, removed with this value.
pub struct Namespaces {
    /// The balancer's.
    pub balancer: String,
    /// The server's.
    pub server: String,
}

impl Namespaces {
    /// Creates and joins them, sets addresses, and moves the calling thread into the balancer's.
    pub fn enter() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tag = format!(
            "{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let new = Self {
            balancer: format!("wwn-{tag}-lb"),
            server: format!("wwn-{tag}-sv"),
        };
        let Self { balancer, server } = &new;
        ip(&format!("netns add {balancer}"));
        ip(&format!("netns add {server}"));
        ip(&format!(
            "-n {balancer} link add p1 type veth peer name s1 netns {server}"
        ));
        // Without duplicate address detection, IPv6 addresses work at once.
        sysctl(balancer, "net.ipv6.conf.p1.accept_dad=0");
        sysctl(server, "net.ipv6.conf.s1.accept_dad=0");
        for (namespace, link, host) in [(balancer, "p1", 1), (server, "s1", 2)] {
            ip(&format!(
                "-n {namespace} addr add 10.77.0.{host}/24 dev {link}"
            ));
            ip(&format!(
                "-n {namespace} addr add fd77::{host}/64 dev {link}"
            ));
        }
        ip(&format!("-n {server} link set s1 address {SERVER_MAC} up"));
        ip(&format!("-n {balancer} link set p1 up"));
        let namespace = std::fs::File::open(format!("/run/netns/{balancer}")).unwrap();
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        new
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in [&self.balancer, &self.server] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .output();
        }
    }
}

/// Runs `ip` with these arguments.
pub fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

/// Sets `name=value` in a namespace.
pub fn sysctl(namespace: &str, setting: &str) {
    let (name, value) = setting.split_once('=').unwrap();
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let write = format!("echo {value} > {path}");
    let output = Command::new("ip")
        .args(["netns", "exec", namespace, "sh", "-c", &write])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{setting}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Parses an address.
pub fn parse(address: &str) -> Address {
    address.parse::<std::net::IpAddr>().unwrap().into()
}
