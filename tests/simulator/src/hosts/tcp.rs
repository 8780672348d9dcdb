//! One end of a TCP connection (RFC 9293), protected against forged segments by RFC 5961.
//!
//! Invariant: bytes are accepted only in order, and each is compared with the one byte that belongs at that
//! place of the connection. Bytes that reach the wrong end, or are modified undetected, are found at once.
//!
//! Offsets count from the initial sequence number: the SYN is 0, the first byte 1; the FIN follows the last
//! byte.

use waxwing_packet::TcpFlags;

use super::behaviour::{Behaviour, Pause};

const FIN: u8 = TcpFlags::FIN;
const SYN: u8 = TcpFlags::SYN;
const RST: u8 = TcpFlags::RST;
const ACK: u8 = TcpFlags::ACK;

/// The largest distance of a sequence number from the expected one.
const WINDOW: u32 = 1 << 16;
/// The first and the longest retransmission timeout, in microseconds.
const RETRY_US: u64 = 300_000;
const RETRY_MAX_US: u64 = 8_000_000;
/// The least time between two challenge ACKs, in microseconds (RFC 5961 section 7).
const CHALLENGE_US: u64 = 100_000;
/// Retransmissions before the end gives up.
const RETRIES_MAX: u32 = 20;

/// A segment without its ports.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    SynSent,
    SynReceived,
    Open,
    /// Reset by the other end.
    Reset,
    /// Reset by this end.
    Aborted,
    /// The retransmissions were not acknowledged.
    GaveUp,
}

#[derive(Clone, Debug)]
pub(crate) struct TcpEnd {
    pub(crate) state: State,
    /// The identity of the bytes sent: the connection's number, and 0 (from the client) or 1 (from the
    /// server).
    stream: (u32, u32),
    behaviour: Behaviour,
    initial: u32,
    acknowledged: u32,
    next: u32,
    /// The offset after the last one ever sent.
    highest: u32,
    peer_initial: u32,
    /// Bytes accepted.
    received: u32,
    /// Bytes that the peer will send in all.
    expected: u32,
    fin_received: bool,
    retries: u32,
    retry_at_us: u64,
    resume_at_us: u64,
    challenge_at_us: u64,
}

/// The byte at a place of a stream.
fn content((connection, direction): (u32, u32), at: u32) -> u8 {
    let mixed =
        (connection ^ direction << 31).wrapping_mul(0x9e37_79b1) ^ at.wrapping_mul(0x85eb_ca6b);
    (mixed >> 24) as u8
}

impl TcpEnd {
    /// Opens the end that sends the first SYN.
    pub(crate) fn client(
        (connection, expected): (u32, u32),
        behaviour: Behaviour,
        initial: u32,
        now_us: u64,
        out: &mut Vec<Segment>,
    ) -> Self {
        let mut end = Self {
            state: State::SynSent,
            stream: (connection, 0),
            behaviour,
            initial,
            acknowledged: 0,
            next: 0,
            highest: 0,
            peer_initial: 0,
            received: 0,
            expected,
            fin_received: false,
            retries: 0,
            retry_at_us: 0,
            resume_at_us: 0,
            challenge_at_us: 0,
        };
        end.send_more(now_us, out);
        end
    }

    /// Opens the end that received a SYN.
    pub(crate) fn server(
        (connection, expected): (u32, u32),
        behaviour: Behaviour,
        (initial, syn): (u32, u32),
        now_us: u64,
        out: &mut Vec<Segment>,
    ) -> Self {
        let mut end = Self::client((connection, expected), behaviour, initial, now_us, out);
        out.clear();
        end.stream.1 = 1;
        end.state = State::SynReceived;
        end.peer_initial = syn;
        if behaviour.opens_simultaneously {
            out.push(Segment {
                flags: SYN,
                sequence: initial,
                acknowledgment: 0,
                payload: Vec::new(),
            });
        } else {
            end.next = 0;
            end.send_more(now_us, out);
        }
        end
    }

    /// When the end must be woken, in microseconds.
    pub(crate) fn wake_at_us(&self) -> Option<u64> {
        if !self.is_alive() {
            return None;
        }
        let times = [self.retry_at_us, self.resume_at_us];
        times.into_iter().filter(|at| *at > 0).min()
    }

    pub(crate) fn is_alive(&self) -> bool {
        matches!(
            self.state,
            State::SynSent | State::SynReceived | State::Open
        )
    }

    /// Whether everything was sent and acknowledged, and everything was received.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Open && self.fin_received && self.acknowledged == self.end()
    }

    /// Whether the connection is open or opening, and not done.
    pub(crate) fn is_active(&self) -> bool {
        self.is_alive() && !self.is_done()
    }

    /// The sequence number that it accepts next.
    pub(crate) fn receive_next(&self) -> u32 {
        self.peer_initial
            .wrapping_add(1 + self.received + u32::from(self.fin_received))
    }

    /// The sequence number that it sends next.
    pub(crate) fn send_next(&self) -> u32 {
        self.initial.wrapping_add(self.next)
    }

    /// The number of bytes that it sends.
    pub(crate) const fn total(&self) -> u32 {
        self.behaviour.total
    }

    /// The offset after the FIN.
    fn end(&self) -> u32 {
        self.behaviour.total + 2
    }

    fn segment(&self, flags: u8, offset: u32, payload: Vec<u8>) -> Segment {
        let knows_peer = self.state != State::SynSent;
        Segment {
            flags: if knows_peer { flags | ACK } else { flags },
            sequence: self.initial.wrapping_add(offset),
            acknowledgment: if knows_peer { self.receive_next() } else { 0 },
            payload,
        }
    }

    fn acknowledge(&self, out: &mut Vec<Segment>) {
        out.push(self.segment(0, self.next, Vec::new()));
    }

    /// Sends a challenge ACK; rate-limited, because two ends that disagree would never stop.
    fn challenge(&mut self, now_us: u64, out: &mut Vec<Segment>) {
        if now_us >= self.challenge_at_us {
            self.challenge_at_us = now_us + CHALLENGE_US;
            self.acknowledge(out);
        }
    }

    /// Sends all that it may; the SYN if the connection is not open yet.
    fn send_more(&mut self, now_us: u64, out: &mut Vec<Segment>) {
        if self.next == 0 {
            out.push(self.segment(SYN, 0, Vec::new()));
            self.next = 1;
        }
        if self.state == State::Open {
            self.send_data(now_us, out);
            let all_sent = self.next == self.behaviour.total + 1;
            if all_sent && (self.behaviour.closes_first || self.fin_received) {
                out.push(self.segment(FIN, self.next, Vec::new()));
                self.next += 1;
            }
        }
        self.highest = self.highest.max(self.next);
        self.retry_at_us = if self.next > self.acknowledged {
            now_us + (RETRY_US << self.retries.min(6)).min(RETRY_MAX_US)
        } else {
            0
        };
    }

    fn send_data(&mut self, now_us: u64, out: &mut Vec<Segment>) {
        let Behaviour {
            total,
            segment,
            flight,
            ..
        } = self.behaviour;
        while self.next <= total && self.next < self.acknowledged + flight * segment {
            let mut until = (self.next + segment).min(total + 1);
            match self.behaviour.pause {
                Some(pause) if self.next == pause.at => {
                    if self.resume_at_us == 0 {
                        self.resume_at_us = now_us + pause.wait_us;
                    }
                    if now_us < self.resume_at_us {
                        return;
                    }
                    let at = pause.at + pause.every;
                    self.behaviour.pause = (pause.every > 0).then_some(Pause { at, ..pause });
                    self.resume_at_us = 0;
                    continue;
                }
                Some(pause) if self.next < pause.at => until = until.min(pause.at),
                _ => {}
            }
            let bytes = (self.next..until).map(|at| content(self.stream, at));
            out.push(self.segment(TcpFlags::PSH, self.next, bytes.collect()));
            self.next = until;
        }
    }

    /// Handles a timeout: of the retransmission timer or of a pause.
    pub(crate) fn wake(&mut self, now_us: u64, out: &mut Vec<Segment>) {
        if !self.is_alive() {
            return;
        }
        if self.retry_at_us > 0 && now_us >= self.retry_at_us {
            self.retries += 1;
            if self.retries > RETRIES_MAX {
                self.state = State::GaveUp;
                return;
            }
            // Sends everything again that is not acknowledged.
            self.next = self.acknowledged;
        }
        self.send_more(now_us, out);
    }

    /// Handles a segment.
    ///
    /// # Errors
    /// A byte is wrong.
    pub(crate) fn receive(
        &mut self,
        (flags, sequence, acknowledgment): (u8, u32, u32),
        payload: &[u8],
        now_us: u64,
        out: &mut Vec<Segment>,
    ) -> Result<(), String> {
        let has = |flag: u8| flags & flag != 0;
        // The acknowledged offset, and whether it is valid and not outdated.
        let acknowledged = acknowledgment.wrapping_sub(self.initial);
        let acknowledges =
            has(ACK) && acknowledged <= self.highest && acknowledged >= self.acknowledged.max(1);
        match self.state {
            State::SynSent => {
                if has(ACK) && !acknowledges {
                    if !has(RST) {
                        out.push(reset(acknowledgment));
                    }
                } else if has(RST) {
                    if acknowledges {
                        self.state = State::Reset;
                    }
                } else if has(SYN) {
                    self.peer_initial = sequence;
                    self.retries = 0;
                    if acknowledges {
                        self.open(now_us, out);
                    } else {
                        self.state = State::SynReceived;
                        self.next = 0;
                        self.send_more(now_us, out);
                    }
                }
            }
            State::SynReceived if has(SYN) && !has(RST) && sequence == self.peer_initial => {
                if acknowledges {
                    self.open(now_us, out);
                } else {
                    out.push(self.segment(SYN, 0, Vec::new()));
                }
            }
            State::SynReceived | State::Open => {
                return self.receive_synchronized(
                    (flags, sequence, acknowledged),
                    acknowledges,
                    payload,
                    now_us,
                    out,
                );
            }
            State::Reset | State::Aborted | State::GaveUp => {}
        }
        Ok(())
    }

    fn open(&mut self, now_us: u64, out: &mut Vec<Segment>) {
        self.state = State::Open;
        self.acknowledged = 1;
        self.retries = 0;
        self.acknowledge(out);
        self.send_more(now_us, out);
    }

    /// Handles a segment when both initial sequence numbers are known.
    fn receive_synchronized(
        &mut self,
        (flags, sequence, acknowledged): (u8, u32, u32),
        acknowledges: bool,
        payload: &[u8],
        now_us: u64,
        out: &mut Vec<Segment>,
    ) -> Result<(), String> {
        let has = |flag: u8| flags & flag != 0;
        let ahead = sequence.wrapping_sub(self.receive_next()).cast_signed();
        let in_window = ahead.unsigned_abs() < WINDOW;
        if has(RST) {
            if ahead == 0 {
                self.state = State::Reset;
            } else if in_window {
                self.challenge(now_us, out);
            }
            return Ok(());
        }
        let stale = has(ACK) && acknowledged <= self.highest && !acknowledges;
        if !in_window || has(SYN) || !has(ACK) || (!acknowledges && !stale) {
            // A challenge ACK (RFC 5961); an RST while the connection is not open.
            if self.state == State::Open {
                self.challenge(now_us, out);
            } else if in_window && has(ACK) && !acknowledges {
                out.push(reset(self.initial.wrapping_add(acknowledged)));
            }
            return Ok(());
        }
        if self.state == State::SynReceived {
            if !acknowledges {
                return Ok(());
            }
            self.state = State::Open;
        }
        if acknowledges && acknowledged > self.acknowledged {
            self.acknowledged = acknowledged;
            self.next = self.next.max(acknowledged);
            self.retries = 0;
        }
        self.accept_bytes(ahead, payload, has(FIN), out)?;
        if self
            .behaviour
            .resets_at
            .is_some_and(|at| self.acknowledged > at)
            && self.is_active()
        {
            out.push(self.segment(RST, self.next, Vec::new()));
            self.state = State::Aborted;
            return Ok(());
        }
        self.send_more(now_us, out);
        Ok(())
    }

    /// Accepts bytes in order; discards bytes that arrive too early.
    fn accept_bytes(
        &mut self,
        ahead: i32,
        payload: &[u8],
        fin: bool,
        out: &mut Vec<Segment>,
    ) -> Result<(), String> {
        if payload.is_empty() && !fin {
            return Ok(());
        }
        let known = ahead.unsigned_abs() as usize;
        if ahead <= 0 && !self.fin_received && known <= payload.len() {
            let peer_stream = (self.stream.0, 1 - self.stream.1);
            for byte in &payload[known..] {
                let right = content(peer_stream, self.received + 1);
                if *byte != right || self.received == self.expected {
                    return Err(format!(
                        "byte {} of connection {} ({}) is {byte:#x}, not {right:#x}; {} were sent",
                        self.received,
                        peer_stream.0,
                        ["from its client", "from its server"][peer_stream.1 as usize],
                        self.expected,
                    ));
                }
                self.received += 1;
            }
            if fin {
                self.fin_received = true;
                if self.received != self.expected {
                    return Err(format!(
                        "connection {} ends after {} of {} bytes",
                        peer_stream.0, self.received, self.expected
                    ));
                }
            }
        }
        self.acknowledge(out);
        Ok(())
    }
}

/// The answer to a segment without a connection (RFC 9293 section 3.10.7.1).
pub(crate) fn refuse(
    (flags, sequence, acknowledgment): (u8, u32, u32),
    len: u32,
) -> Option<Segment> {
    if flags & RST != 0 {
        return None;
    }
    if flags & ACK != 0 {
        return Some(reset(acknowledgment));
    }
    let controls = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    Some(Segment {
        flags: RST | ACK,
        sequence: 0,
        acknowledgment: sequence.wrapping_add(len + controls),
        payload: Vec::new(),
    })
}

fn reset(sequence: u32) -> Segment {
    Segment {
        flags: RST,
        sequence,
        acknowledgment: 0,
        payload: Vec::new(),
    }
}
