//! The command line.
//!
//! Invariant: accepted arguments have two ports and valid addresses.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use waxwing_packet::{Mac, Protocol};

/// Forwards frames between two ports and changes only their MAC addresses.
#[derive(clap::Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// A port, and the destination MAC address of frames that leave by it; twice.
    #[arg(
        long = "port",
        value_name = "INTERFACE=MAC",
        required = true,
        num_args = 1
    )]
    pub(crate) ports: Vec<Port>,
    /// Forward frames to and from this address and port.
    #[arg(
        long = "service",
        value_name = "ADDRESS:PORT/PROTOCOL",
        required = true
    )]
    pub(crate) services: Vec<Service>,
    /// Pin the forwarder to this CPU.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// Never sleep; drive the device by the kernel's preferred busy polling.
    #[arg(long)]
    pub(crate) busy: bool,
}

impl Arguments {
    /// Parses this process's arguments; exits with a message if they are invalid.
    pub(crate) fn read() -> Self {
        Self::of(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    fn of(
        words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> clap::error::Result<Self> {
        let arguments = Self::try_parse_from(words)?;
        match arguments.ports.len() {
            2 => Ok(arguments),
            count => Err(Self::command().error(
                ErrorKind::WrongNumberOfValues,
                format!("expected two ports, got {count}: give --port INTERFACE=MAC twice"),
            )),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) interface: String,
    pub(crate) mac: Mac,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not INTERFACE=MAC, for example front=02:00:00:00:00:01");
        let (interface, mac) = text.split_once('=').ok_or_else(wrong)?;
        let octets: Option<Vec<u8>> = mac
            .split(':')
            .map(|octet| u8::from_str_radix(octet, 16).ok())
            .collect();
        let octets = octets.and_then(|octets| octets.try_into().ok());
        Ok(Self {
            interface: interface.to_owned(),
            mac: Mac(octets.ok_or_else(wrong)?),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not ADDRESS:PORT/PROTOCOL, for example 203.0.113.10:80/tcp");
        let (address, protocol) = text.split_once('/').ok_or_else(wrong)?;
        Ok(Self {
            address: address.parse().map_err(|_| wrong())?,
            protocol: match protocol {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => return Err(wrong()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_services_are_parsed() {
        let port = Port {
            interface: "front".to_owned(),
            mac: Mac([2, 0, 0, 0, 0, 0xab]),
        };
        assert_eq!("front=02:00:00:00:00:ab".parse(), Ok(port));
        let service = Service {
            address: ([203, 0, 113, 10], 80).into(),
            protocol: Protocol::Udp,
        };
        assert_eq!("203.0.113.10:80/udp".parse(), Ok(service));
    }

    #[test]
    fn exactly_two_ports_are_accepted() {
        let ports = [
            "--port=front=02:00:00:00:00:01",
            "--port=back=02:00:00:00:00:02",
            "--port=side=02:00:00:00:00:03",
        ];
        let of = |count| {
            let others = ["bare-forwarder", "--service=203.0.113.10:80/tcp"];
            Arguments::of(others.iter().chain(&ports[..count]))
        };
        assert_eq!(of(2).expect("two").ports.len(), 2);
        for count in [1, 3] {
            let error = of(count).err().expect("not two").to_string();
            assert!(error.contains("--port INTERFACE=MAC twice"), "{error}");
        }
        assert!(of(0).is_err());
    }

    #[test]
    fn errors_show_the_expected_form() {
        for text in [
            "front",
            "front=02:00:00:00:00",
            "front=02:00:00:00:00:00:00",
            "front=x:0:0:0:0:0",
        ] {
            let error = text.parse::<Port>().expect_err(text);
            assert!(error.contains("front=02:00:00:00:00:01"), "{error}");
        }
        for text in [
            "203.0.113.10:80",
            "203.0.113.10/tcp",
            "203.0.113.10:80/sctp",
        ] {
            let error = text.parse::<Service>().expect_err(text);
            assert!(error.contains("203.0.113.10:80/tcp"), "{error}");
        }
    }
}
