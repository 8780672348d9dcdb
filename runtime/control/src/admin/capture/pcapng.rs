//! Captured packets as a pcapng file (draft-ietf-opsawg-pcapng).
//!
//! Each packet is a block of the interface that it came by, with a comment that says what became of it; the
//! frames sent because of it follow, each of the interface that it left by.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use waxwing_dataplane::capture::{Captured, CapturedFrame};
use waxwing_dataplane::{Now, PortId};

use super::form::Form;
use super::traced::Describer;
use crate::admin::report::Reporter;

const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

/// Options of any block, of an interface, of a packet, and of statistics.
const COMMENT: u16 = 1;
const INTERFACE_NAME: u16 = 2;
const PACKET_FLAGS: u16 = 2;
const DROPPED_BY_FILTER: u16 = 5;

/// The link type of Ethernet.
const ETHERNET: u16 = 1;

/// The direction in a packet's flags.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Writes the blocks.
pub(super) struct PcapngWriter<'a, W> {
    out: &'a mut W,
    describer: Describer<'a>,
    clock_began: SystemTime,
    /// How many interfaces are written; a port that is new since then is the last one.
    interfaces: u32,
}

/// A block that is being put together.
struct Block(Vec<u8>);

impl Block {
    fn new(fields: &[&[u8]]) -> Self {
        Self(fields.concat())
    }

    /// Adds an option. The standard's ends at 65,535 bytes; none here is that long.
    fn option(mut self, code: u16, value: &[u8]) -> Self {
        let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.0.extend(code.to_le_bytes());
        self.0.extend(len.to_le_bytes());
        self.0.extend(&value[..usize::from(len)]);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn write(mut self, kind: u32, out: &mut impl Write) -> io::Result<()> {
        self.pad();
        let len = u32::try_from(self.0.len() + 12).map_err(io::Error::other)?;
        out.write_all(&kind.to_le_bytes())?;
        out.write_all(&len.to_le_bytes())?;
        out.write_all(&self.0)?;
        out.write_all(&len.to_le_bytes())
    }
}

/// Ends a block's options.
const END: [u8; 4] = [0; 4];

impl<'a, W: Write> PcapngWriter<'a, W> {
    pub(super) fn new(reporter: &'a Reporter, out: &'a mut W) -> io::Result<Self> {
        let describer = Describer::new(reporter);
        let version = [1, 0, 0, 0];
        Block::new(&[&BYTE_ORDER.to_le_bytes(), &version, &u64::MAX.to_le_bytes()])
            .write(SECTION, out)?;
        let mut interfaces = 0;
        for name in describer.port_names() {
            let bytes_max: u32 = 0;
            let fields: [&[u8]; 3] = [&ETHERNET.to_le_bytes(), &[0, 0], &bytes_max.to_le_bytes()];
            let block = Block::new(&fields).option(INTERFACE_NAME, name.as_bytes());
            Block::new(&[&block.0, &END]).write(INTERFACE, out)?;
            interfaces += 1;
        }
        Ok(Self {
            out,
            describer,
            clock_began: reporter.clock_began(),
            interfaces,
        })
    }

    /// Returns the two halves of a time in microseconds since 1970.
    fn time(&self, at: Now) -> [u32; 2] {
        let at = self.clock_began + Duration::from_nanos(at.nanos());
        halves(at)
    }

    fn frame(
        &mut self,
        at: Now,
        frame: &CapturedFrame,
        (flags, comment): (u32, &str),
    ) -> io::Result<()> {
        let PortId(port) = frame.port;
        let interface = u32::from(port).min(self.interfaces.saturating_sub(1));
        let [high, low] = self.time(at);
        let lens = [frame.bytes.len(), frame.len].map(|len| u32::try_from(len).unwrap_or(u32::MAX));
        let fields = [interface, high, low, lens[0], lens[1]].map(u32::to_le_bytes);
        let mut block = Block::new(&[fields.as_flattened(), &frame.bytes]);
        block.pad();
        let block = block
            .option(COMMENT, comment.as_bytes())
            .option(PACKET_FLAGS, &flags.to_le_bytes());
        Block::new(&[&block.0, &END]).write(PACKET, self.out)
    }
}

fn halves(at: SystemTime) -> [u32; 2] {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    [32, 0].map(|shift| u32::try_from(micros >> shift & 0xffff_ffff).unwrap_or(0))
}

impl<W: Write> Form for PcapngWriter<'_, W> {
    fn packet(&mut self, packet: &Captured) -> io::Result<()> {
        let comment = self.describer.comment(packet);
        self.frame(packet.at, &packet.arrived, (INBOUND, &comment))?;
        for frame in &packet.left {
            self.frame(
                packet.at,
                frame,
                (OUTBOUND, "sent because of the packet before"),
            )?;
        }
        Ok(())
    }

    fn heartbeat(&mut self, missed: u64) -> io::Result<()> {
        let [high, low] = halves(SystemTime::now());
        let fields = [0, high, low].map(u32::to_le_bytes);
        let block = Block::new(&[fields.as_flattened()])
            .option(
                COMMENT,
                format!("{missed} packets were missed so far").as_bytes(),
            )
            .option(DROPPED_BY_FILTER, &missed.to_le_bytes());
        Block::new(&[&block.0, &END]).write(STATISTICS, self.out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
