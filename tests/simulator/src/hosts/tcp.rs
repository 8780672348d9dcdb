//! One end of a TCP connection (RFC 9293), with the care for forged segments of RFC 5961.
//!
//! Invariant: a byte is taken only in its order, and is compared with the one byte that its
//! connection has at that place. So a byte that came to the wrong end, or was changed on its way
//! and not found out, is seen at once.
//!
//! Offsets count from the initial sequence number: the SYN is 0, the first byte 1, the FIN comes
//! behind the last byte.

use waxwing_packet::TcpFlags;

const FIN: u8 = TcpFlags::FIN;
const SYN: u8 = TcpFlags::SYN;
const RST: u8 = TcpFlags::RST;
const ACK: u8 = TcpFlags::ACK;

/// How far from the expected a sequence number may be.
const WINDOW: u32 = 1 << 16;
/// The first time to a retransmission, in microseconds, and the longest.
const RETRY_US: u64 = 300_000;
const RETRY_MAX_US: u64 = 8_000_000;
/// The least time between two challenges, in microseconds (RFC 5961 section 7).
const CHALLENGE_US: u64 = 100_000;
/// How often a segment is sent again before the end gives up.
const RETRIES_MAX: u32 = 20;

/// A segment without its ports.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) payload: Vec<u8>,
}

/// What an application does with its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Bytes that it sends, in segments of at most so many, so many of them unacknowledged.
    pub(crate) total: u32,
    pub(crate) segment: u32,
    pub(crate) flight: u32,
    /// It closes when it has sent all, and does not wait for the other end to close.
    pub(crate) closes_first: bool,
    /// It resets the connection when so many bytes were acknowledged.
    pub(crate) resets_at: Option<u32>,
    pub(crate) pause: Option<Pause>,
    /// It answers a SYN with a SYN of its own and no ACK first.
    pub(crate) opens_too: bool,
}

/// Before this byte it is idle for so many microseconds; and again whenever it has sent `every` more,
/// if that is not 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    pub(crate) at: u32,
    pub(crate) wait_us: u64,
    pub(crate) every: u32,
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
    /// Nobody answered any more.
    GaveUp,
}

#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) state: State,
    /// Whose bytes these are: the connection's number, and which way (0 or 1) this end sends.
    stream: (u32, u32),
    habits: Habits,
    initial: u32,
    acknowledged: u32,
    next: u32,
    /// Behind the last that was ever sent.
    highest: u32,
    their_initial: u32,
    /// Bytes taken, and how many there will be.
    pub(crate) received: u32,
    expected: u32,
    fin_received: bool,
    retries: u32,
    retry_at_us: u64,
    resume_at_us: u64,
    challenge_at_us: u64,
}

/// The byte at a place of a stream.
pub(crate) fn content((connection, way): (u32, u32), at: u32) -> u8 {
    let mixed = (connection ^ way << 31).wrapping_mul(0x9e37_79b1) ^ at.wrapping_mul(0x85eb_ca6b);
    (mixed >> 24) as u8
}

impl End {
    /// The end that sends the first SYN.
    pub(crate) fn client(
        (connection, expected): (u32, u32),
        habits: Habits,
        initial: u32,
        now_us: u64,
        out: &mut Vec<Segment>,
    ) -> Self {
        let mut end = Self {
            state: State::SynSent,
            stream: (connection, 0),
            habits,
            initial,
            acknowledged: 0,
            next: 0,
            highest: 0,
            their_initial: 0,
            received: 0,
            expected,
            fin_received: false,
            retries: 0,
            retry_at_us: 0,
            resume_at_us: 0,
            challenge_at_us: 0,
        };
        end.send_next(now_us, out);
        end
    }

    /// The end that gets it.
    pub(crate) fn server(
        (connection, expected): (u32, u32),
        habits: Habits,
        (initial, syn): (u32, u32),
        now_us: u64,
        out: &mut Vec<Segment>,
    ) -> Self {
        let mut end = Self::client((connection, expected), habits, initial, now_us, out);
        out.clear();
        end.stream.1 = 1;
        end.state = State::SynReceived;
        end.their_initial = syn;
        if habits.opens_too {
            out.push(Segment {
                flags: SYN,
                sequence: initial,
                acknowledgment: 0,
                payload: Vec::new(),
            });
        } else {
            end.next = 0;
            end.send_next(now_us, out);
        }
        end
    }

    /// When it wants to be woken, in microseconds.
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

    /// Whether all was sent and acknowledged, and all was received.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Open && self.fin_received && self.acknowledged == self.end()
    }

    /// Whether it still has something to say or to hear.
    pub(crate) fn is_at_work(&self) -> bool {
        self.is_alive() && !self.is_done()
    }

    /// The sequence number that it will accept next, for who wants to miss it.
    pub(crate) fn accepts(&self) -> u32 {
        self.their_initial
            .wrapping_add(1 + self.received + u32::from(self.fin_received))
    }

    /// The sequence number of what it sends next, for the same.
    pub(crate) fn sends(&self) -> u32 {
        self.initial.wrapping_add(self.next)
    }

    /// Bytes that it sends.
    pub(crate) const fn total(&self) -> u32 {
        self.habits.total
    }

    /// Behind the FIN.
    fn end(&self) -> u32 {
        self.habits.total + 2
    }

    fn segment(&self, flags: u8, offset: u32, payload: Vec<u8>) -> Segment {
        let knows_other = self.state != State::SynSent;
        Segment {
            flags: if knows_other { flags | ACK } else { flags },
            sequence: self.initial.wrapping_add(offset),
            acknowledgment: if knows_other { self.accepts() } else { 0 },
            payload,
        }
    }

    fn acknowledge(&self, out: &mut Vec<Segment>) {
        out.push(self.segment(0, self.next, Vec::new()));
    }

    /// Says where it stands; not too often, or two ends that disagree would never stop.
    fn challenge(&mut self, now_us: u64, out: &mut Vec<Segment>) {
        if now_us >= self.challenge_at_us {
            self.challenge_at_us = now_us + CHALLENGE_US;
            self.acknowledge(out);
        }
    }

    /// Sends what it may; of a connection that is not open yet, the SYN.
    fn send_next(&mut self, now_us: u64, out: &mut Vec<Segment>) {
        if self.next == 0 {
            out.push(self.segment(SYN, 0, Vec::new()));
            self.next = 1;
        }
        if self.state == State::Open {
            self.send_data(now_us, out);
            let all_sent = self.next == self.habits.total + 1;
            if all_sent && (self.habits.closes_first || self.fin_received) {
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
        let Habits {
            total,
            segment,
            flight,
            ..
        } = self.habits;
        while self.next <= total && self.next < self.acknowledged + flight * segment {
            let mut until = (self.next + segment).min(total + 1);
            match self.habits.pause {
                Some(pause) if self.next == pause.at => {
                    if self.resume_at_us == 0 {
                        self.resume_at_us = now_us + pause.wait_us;
                    }
                    if now_us < self.resume_at_us {
                        return;
                    }
                    let at = pause.at + pause.every;
                    self.habits.pause = (pause.every > 0).then_some(Pause { at, ..pause });
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

    /// Its time has come.
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
            // All that is not acknowledged is sent again.
            self.next = self.acknowledged;
        }
        self.send_next(now_us, out);
    }

    /// A segment came.
    ///
    /// # Errors
    /// A text that says which byte was wrong.
    pub(crate) fn receive(
        &mut self,
        (flags, sequence, acknowledgment): (u8, u32, u32),
        payload: &[u8],
        now_us: u64,
        out: &mut Vec<Segment>,
    ) -> Result<(), String> {
        let has = |flag: u8| flags & flag != 0;
        // How far it acknowledges, if that is something that was sent.
        let answered = acknowledgment.wrapping_sub(self.initial);
        let answers = has(ACK) && answered <= self.highest && answered >= self.acknowledged.max(1);
        match self.state {
            State::SynSent => {
                if has(ACK) && !answers {
                    if !has(RST) {
                        out.push(reset(acknowledgment));
                    }
                } else if has(RST) {
                    if answers {
                        self.state = State::Reset;
                    }
                } else if has(SYN) {
                    self.their_initial = sequence;
                    self.retries = 0;
                    if answers {
                        self.open(now_us, out);
                    } else {
                        self.state = State::SynReceived;
                        self.next = 0;
                        self.send_next(now_us, out);
                    }
                }
            }
            State::SynReceived if has(SYN) && !has(RST) && sequence == self.their_initial => {
                if answers {
                    self.open(now_us, out);
                } else {
                    out.push(self.segment(SYN, 0, Vec::new()));
                }
            }
            State::SynReceived | State::Open => {
                return self.receive_known(
                    (flags, sequence, answered),
                    answers,
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
        self.send_next(now_us, out);
    }

    /// A segment of a connection whose both initial sequence numbers are known.
    fn receive_known(
        &mut self,
        (flags, sequence, answered): (u8, u32, u32),
        answers: bool,
        payload: &[u8],
        now_us: u64,
        out: &mut Vec<Segment>,
    ) -> Result<(), String> {
        let has = |flag: u8| flags & flag != 0;
        let ahead = sequence.wrapping_sub(self.accepts()).cast_signed();
        let in_window = ahead.unsigned_abs() < WINDOW;
        if has(RST) {
            if ahead == 0 {
                self.state = State::Reset;
            } else if in_window {
                self.challenge(now_us, out);
            }
            return Ok(());
        }
        let stale = has(ACK) && answered <= self.highest && !answers;
        if !in_window || has(SYN) || !has(ACK) || (!answers && !stale) {
            // A challenge (RFC 5961); while the connection is not open, a refusal.
            if self.state == State::Open {
                self.challenge(now_us, out);
            } else if in_window && has(ACK) && !answers {
                out.push(reset(self.initial.wrapping_add(answered)));
            }
            return Ok(());
        }
        if self.state == State::SynReceived {
            if !answers {
                return Ok(());
            }
            self.state = State::Open;
        }
        if answers && answered > self.acknowledged {
            self.acknowledged = answered;
            self.next = self.next.max(answered);
            self.retries = 0;
        }
        self.take(ahead, payload, has(FIN), out)?;
        if self
            .habits
            .resets_at
            .is_some_and(|at| self.acknowledged > at)
            && self.is_at_work()
        {
            out.push(self.segment(RST, self.next, Vec::new()));
            self.state = State::Aborted;
            return Ok(());
        }
        self.send_next(now_us, out);
        Ok(())
    }

    /// Takes bytes in their order; what comes too early is not kept.
    fn take(
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
            let theirs = (self.stream.0, 1 - self.stream.1);
            for byte in &payload[known..] {
                let wanted = content(theirs, self.received + 1);
                if *byte != wanted || self.received == self.expected {
                    return Err(format!(
                        "byte {} of connection {} ({}) is {byte:#x}, not {wanted:#x}; {} were sent",
                        self.received,
                        theirs.0,
                        ["from its client", "from its server"][theirs.1 as usize],
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
                        theirs.0, self.received, self.expected
                    ));
                }
            }
        }
        self.acknowledge(out);
        Ok(())
    }
}

/// The answer to a segment of no connection (RFC 9293 section 3.10.7.1).
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
