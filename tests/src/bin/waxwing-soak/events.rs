//! What happens in a soak.
//!
//! Invariant: after an event the balancer has to be right again, with the sessions that it had.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use waxwing_tests::log_pipe::Reader;
use waxwing_tests::netns::set_queues;
use waxwing_tests::waxwing::Copy;
use waxwing_tests::{Status, Topology, modules};

use crate::{QUEUES, QUEUES_MAX, Soak};

/// An address that no route leads to.
const LOST_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));

/// An event's name, and what it does: it happens, and ends or undoes itself.
pub(super) type Event = (&'static str, fn(&mut Soak<'_>) -> Result<()>);

pub(super) const ALL: &[Event] = &[
    ("reload", |soak| soak.reload()),
    ("reload a bad config", |soak| soak.reload_a_bad_config()),
    ("server added or removed", |soak| soak.toggle_server()),
    ("VIP added or removed", |soak| soak.toggle_vip()),
    ("backend drained", |soak| soak.drain()),
    ("backend disabled", |soak| soak.disable()),
    ("port down (front)", |soak| soak.port_down("front")),
    ("port down (back)", |soak| soak.port_down("back")),
    ("carrier lost", |soak| soak.lose_carrier()),
    ("route gone", |soak| soak.lose_route()),
    ("port made again", |soak| soak.remake_port()),
    ("port renamed", |soak| soak.rename_port()),
    ("queue added", |soak| soak.add_queue()),
    ("virtual MAC address", |soak| soak.add_virtual_mac()),
    ("strict reverse path check", |soak| {
        soak.check_reverse_paths()
    }),
    ("TAP deleted", |soak| soak.change_tap("del")),
    ("TAP down", |soak| soak.change_tap("set down")),
    ("server without a route", |soak| soak.add_lost_server()),
    ("second balancer", |soak| soak.start_second()),
    ("log not read", |soak| soak.trouble_log(Reader::Sleeps)),
    ("log reader gone", |soak| soak.trouble_log(Reader::Gone)),
    ("no threads", |soak| soak.refuse_threads()),
    ("signals", |soak| soak.signals()),
    ("module swapped", |soak| soak.swap_module()),
    ("module broken", |soak| soak.break_module()),
];

impl Soak<'_> {
    fn reload(&mut self) -> Result<()> {
        self.waxwing.reload(&self.config()?).map(drop)
    }

    fn reload_a_bad_config(&mut self) -> Result<()> {
        let mut config = self.config()?;
        let text = match self.random(3) {
            0 => "colour = \"red\"\n".to_owned(),
            1 => {
                config.service_mut("web")?.policy = "nonesuch".to_owned();
                config.to_toml()?
            }
            _ => {
                config.ports[0].interface = "nonesuch0".to_owned();
                config.to_toml()?
            }
        };
        self.waxwing.write_config(&text)?;
        let asked = self.waxwing.ask(&["reload"])?;
        ensure!(
            !asked.status.success(),
            "a bad config was accepted:\n{text}"
        );
        self.waxwing.write_config(&self.config()?.to_toml()?)
    }

    fn toggle_server(&mut self) -> Result<()> {
        self.has_server = !self.has_server;
        self.reload()
    }

    fn toggle_vip(&mut self) -> Result<()> {
        self.has_vip = !self.has_vip;
        self.reload()
    }

    fn drain(&mut self) -> Result<()> {
        self.take_out("drain")
    }

    fn disable(&mut self) -> Result<()> {
        self.take_out("disable")
    }

    /// Takes a server out of the spare service for a moment.
    fn take_out(&mut self, command: &str) -> Result<()> {
        if !self.has_vip {
            self.toggle_vip()?;
        }
        for command in [command, "enable"] {
            let asked = self
                .waxwing
                .ask(&["backend", command, "spare", "spare-1"])?;
            ensure!(asked.status.success(), "{command}: {}", asked.stderr);
            self.pause(1000);
        }
        Ok(())
    }

    fn port_down(&mut self, port: &str) -> Result<()> {
        let balancer = &self.topology.balancer;
        balancer.ip(&format!("link set {port} down\n"))?;
        let reported = self.wait_problem(&format!("{port} is down"));
        self.pause(500);
        balancer.ip(&format!("link set {port} up\n"))?;
        reported
    }

    /// The switch's end goes down, so the port has no carrier.
    fn lose_carrier(&mut self) -> Result<()> {
        let switch = &self.topology.switch;
        switch.ip("link set balancer down\n")?;
        let reported = self.wait_problem("back is down");
        self.pause(500);
        self.topology.switch.ip("link set balancer up\n")?;
        reported
    }

    fn lose_route(&mut self) -> Result<()> {
        let route = "10.2.0.0/24 dev back proto kernel scope link src 10.2.0.1";
        self.topology.balancer.ip(&format!("route del {route}\n"))?;
        self.pause(700);
        self.topology.balancer.ip(&format!("route add {route}\n"))
    }

    /// Interfaces are renamed while they are down.
    fn rename_port(&mut self) -> Result<()> {
        let rename = |from: &str, to: &str| {
            self.topology.balancer.ip(&format!(
                "link set {from} down\nlink set {from} name {to}\nlink set {to} up\n"
            ))
        };
        rename("back", "wan0")?;
        let reported = self.wait_problem("`ip link set wan0 name back`");
        self.pause(500);
        rename("wan0", "back")?;
        reported
    }

    /// It has the queues of the start again: while a balancer runs, the kernel takes none away.
    fn remake_port(&mut self) -> Result<()> {
        self.queues[1] = QUEUES;
        self.topology.replug_back()
    }

    /// Both ends of a port's cable get one more. The client's sends by the new queue at once.
    fn add_queue(&mut self) -> Result<()> {
        let mut port = usize::try_from(self.random(2))?;
        if self.queues[port] == QUEUES_MAX {
            port = 1;
        }
        if self.queues[port] == QUEUES_MAX {
            self.remake_port()?;
        }
        self.queues[port] += 1;
        let queues = self.queues[port];
        let Topology {
            balancer,
            client,
            switch,
            ..
        } = self.topology;
        let ends = [
            [(balancer, "front"), (client, "eth0")],
            [(balancer, "back"), (switch, "balancer")],
        ];
        for (namespace, interface) in ends[port] {
            set_queues(namespace, interface, queues)?;
        }
        let queues = usize::try_from(queues)?;
        let attached = |status: &Status| status.0["ports"][port]["queues"].as_array().map(Vec::len);
        let is_attached = |status: &Status| attached(status) == Some(queues);
        self.waxwing
            .wait_status("the new queue's socket", is_attached)
            .map(drop)
    }

    fn add_virtual_mac(&mut self) -> Result<()> {
        self.topology.balancer.ip(
            "link add vrrp7 link front address 00:00:5e:00:01:07 type macvlan mode private\n\
             link set vrrp7 up\n",
        )?;
        self.pause(1000);
        self.topology.balancer.ip("link del vrrp7\n")
    }

    fn check_reverse_paths(&mut self) -> Result<()> {
        let set = |value: u8| {
            let setting = format!("net.ipv4.conf.all.rp_filter={value}");
            self.topology.balancer.sysctl(&[&setting])
        };
        set(1)?;
        let reported = self.wait_problem("rp_filter=2");
        set(0)?;
        reported
    }

    fn change_tap(&mut self, change: &str) -> Result<()> {
        let balancer = &self.topology.balancer;
        let links = balancer.run("ip", &["-brief", "link", "show", "type", "tun"])?;
        let tap = links.split_whitespace().next();
        let tap = tap.context("there is no TAP device")?;
        let (verb, state) = change.split_once(' ').unwrap_or((change, ""));
        balancer.ip(&format!("link {verb} {tap} {state}\n"))
    }

    /// No route leads to the server, so it gets no flows.
    fn add_lost_server(&mut self) -> Result<()> {
        let mut config = self.config()?;
        let echo = config.service_mut("echo")?;
        let mut lost = echo.backends[0].clone();
        lost.address = LOST_SERVER;
        echo.backends.push(lost);
        self.waxwing.reload(&config)?;
        let is_told = |status: &Status| status.states("echo").contains(&"unreachable");
        let told = self.waxwing.wait_status("a lost server", is_told);
        self.pause(500);
        self.reload()?;
        told.map(drop)
    }

    /// It is refused, and leaves the first one's program, socket and files alone.
    fn start_second(&mut self) -> Result<()> {
        self.waxwing.start_second(&self.config()?)
    }

    fn trouble_log(&mut self, trouble: Reader) -> Result<()> {
        self.log.set(trouble)?;
        for _ in 0..20 {
            self.reload_a_bad_config()?;
        }
        self.reload()?;
        self.log.set(Reader::Reads)?;
        // The next line ends the problem.
        self.pause(500);
        self.reload()
    }

    fn refuse_threads(&mut self) -> Result<()> {
        let now = self.group.count()?;
        let room = u32::try_from(self.random(2))?;
        self.group.set(Some(now + room))?;
        let done = self.swap_module().and_then(|()| self.reload());
        self.pause(1000);
        self.group.set(None)?;
        done?;
        self.reload()
    }

    fn signals(&mut self) -> Result<()> {
        for signal in [
            Signal::SIGHUP,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGALRM,
        ] {
            self.waxwing.signal(signal)?;
        }
        Ok(())
    }

    fn swap_module(&mut self) -> Result<()> {
        let build = usize::try_from(self.random(2))?;
        self.waxwing
            .drop_in("own.wasm", &self.builds[build], Copy::Slow)
    }

    fn break_module(&mut self) -> Result<()> {
        let broken = modules::broken(&self.builds[0]);
        let choice = usize::try_from(self.random(broken.len() as u64))?;
        self.waxwing
            .drop_in("own.wasm", &broken[choice].bytes, Copy::Atomic)?;
        self.pause(2000);
        self.swap_module()
    }

    fn wait_problem(&self, text: &str) -> Result<()> {
        let is = |status: &Status| status.0["problems"].to_string().contains(text);
        self.waxwing.wait_status(text, is).map(drop)
    }
}
