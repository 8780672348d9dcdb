//! What is measured: fields, which are a balancer with its tables and pools, and the floods on each.

use self::Packets::{SynThenAck, Tcp, Udp};

/// The ports at the VIP.
pub(super) const WEB: u16 = 80;
pub(super) const ECHO: u16 = 53;
pub(super) const REFUSING: u16 = 81;

/// The packets a second that a full rate is taken for where one is needed.
pub(super) const FULL_RATE: f64 = 1e6;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FIN_ACK: u8 = 0x11;

/// The packets that each source of a flood sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Packets {
    Udp,
    /// One segment with these flags.
    Tcp(u8),
    /// A SYN, and any acknowledgment 30 ms later.
    SynThenAck,
}

/// A flood.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flood {
    pub(super) packets: Packets,
    pub(super) port: u16,
    /// Packets a second; `None`: as many as possible.
    pub(super) rate: Option<f64>,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) flood: Flood,
    /// How many times as fast the flood is until the table, or the pool, is full.
    pub(super) filling: f64,
}

/// A balancer's tables and pools, and the floods that it gets one after another.
pub(super) struct Field {
    /// Room for sessions.
    pub(super) sessions: u64,
    /// Whether all services use source NAT, with a pool of 1,000 ports.
    pub(super) few_ports: bool,
    pub(super) rows: &'static [Row],
}

const fn row(name: &'static str, packets: Packets, port: u16, rate: Option<f64>) -> Row {
    Row {
        name,
        flood: Flood {
            packets,
            port,
            rate,
        },
        filling: 1.0,
    }
}

/// A slow flood, whose table is filled ten times as fast.
const fn slow(row: Row) -> Row {
    Row {
        filling: 10.0,
        ..row
    }
}

/// The session table of the largest fields.
const MILLION: u64 = 1_000_000;

pub(super) const FIELDS: &[Field] = &[
    Field {
        sessions: MILLION,
        few_ports: false,
        rows: &[
            row(
                "UDP at a service that answers, 50 k/s",
                Udp,
                ECHO,
                Some(50_000.0),
            ),
            row("the same, 10 k/s", Udp, ECHO, Some(10_000.0)),
        ],
    },
    Field {
        sessions: 5_000,
        few_ports: false,
        rows: &[slow(row(
            "SYN and any ACK 30 ms later, 300 pairs/s",
            SynThenAck,
            WEB,
            Some(600.0),
        ))],
    },
    Field {
        sessions: 5_000,
        few_ports: true,
        rows: &[
            slow(row(
                "SYN and any ACK, 300 pairs/s, 1,000 source ports",
                SynThenAck,
                WEB,
                Some(600.0),
            )),
            row("UDP, 10 k/s, 1,000 source ports", Udp, ECHO, Some(10_000.0)),
        ],
    },
    Field {
        sessions: 20_000,
        few_ports: false,
        rows: &[
            row(
                "bare ACK to a refusing port, 20 k/s",
                Tcp(ACK),
                REFUSING,
                Some(20_000.0),
            ),
            row(
                "FIN to a refusing port, 20 k/s",
                Tcp(FIN_ACK),
                REFUSING,
                Some(20_000.0),
            ),
            row(
                "SYN to a refusing port, 20 k/s",
                Tcp(SYN),
                REFUSING,
                Some(20_000.0),
            ),
            row("SYN, 60 k/s", Tcp(SYN), WEB, Some(60_000.0)),
        ],
    },
    Field {
        sessions: MILLION,
        few_ports: false,
        rows: &[
            row("UDP, full rate", Udp, ECHO, None),
            row("SYN and any ACK, full rate", SynThenAck, WEB, None),
            row(
                "bare ACK to a refusing port, full rate",
                Tcp(ACK),
                REFUSING,
                None,
            ),
            row(
                "FIN to a refusing port, full rate",
                Tcp(FIN_ACK),
                REFUSING,
                None,
            ),
            row(
                "SYN to a refusing port, full rate",
                Tcp(SYN),
                REFUSING,
                None,
            ),
            row("SYN, full rate", Tcp(SYN), WEB, None),
        ],
    },
];
