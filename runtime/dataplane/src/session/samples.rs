//! What a few new TCP connections show: how long the server takes to its first byte, and what is sent again.
//!
//! Invariant: the fast path leaves the packets of a sampled session to the general path, and so pays nothing
//! for the others. A sample ends with its session or after [`SEGMENTS_MAX`] segments; of two sessions with
//! one place, the later has it.

use super::sync::{AtomicU32, Mutex, Ordering, lock};
use super::{Direction, SessionRef};

/// How many segments with data are looked at. Later ones take the fast path.
const SEGMENTS_MAX: u16 = 256;
/// How many sessions are sampled at a time.
#[cfg(not(loom))]
const PLACES: u32 = 1024;
#[cfg(loom)]
const PLACES: u32 = 1;

/// Every link that carries IPv6 carries packets of this size (RFC 8200 section 5), and hardly one of IPv4
/// does not: it is no MTU that keeps them from arriving.
const ALWAYS_FITS: u32 = 1280;
/// A larger packet that was sent so many times and never acknowledged is stuck.
const STUCK_AFTER: u8 = 4;

/// A TCP segment with ACK, without SYN and RST.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub sequence: u32,
    pub acknowledgment: u32,
    /// Bytes of data.
    pub payload: u32,
    /// Bytes of the IP packet.
    pub packet: u32,
    /// Its sender sends nothing more.
    pub is_fin: bool,
}

/// What a packet of a sampled session shows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Observed {
    /// It carries data.
    pub has_data: bool,
    /// The first data in this direction.
    pub is_first: bool,
    /// All of its data passed here before.
    pub is_resent: bool,
    /// For the first time in this direction, it shows that large packets do not arrive.
    pub is_stuck: bool,
    /// The client has asked, and ends the connection before the server's first data.
    pub is_given_up: bool,
    /// The server's first data: the microseconds since the client's first.
    pub first_byte_us: Option<u64>,
    /// The sample ends with it.
    pub is_last: bool,
}

/// By slot, modulo the places.
pub(super) struct Samples {
    /// Of so many new sessions of a backend one is sampled; 0 for none.
    each: AtomicU32,
    places: Box<[Mutex<Option<Sample>>]>,
}

struct Sample {
    at: SessionRef,
    segments: u16,
    is_connected: bool,
    /// The time of the client's first data, in microseconds.
    asked: Option<u64>,
    /// The server has answered that, or the client has given up.
    is_answered: bool,
    ways: [Way; 2],
}

/// The data that one end sends.
#[derive(Clone, Copy, Default)]
struct Way {
    /// The end of what was seen.
    end: Option<u32>,
    /// Sequence numbers below `end`, from and to, among which some may not have been seen.
    hole: Option<[u32; 2]>,
    /// What the other end has acknowledged.
    acknowledged: Option<u32>,
    /// How often a large packet was sent that the other end waits for.
    sent: u8,
    is_stuck: bool,
}

impl Samples {
    pub(super) fn new() -> Self {
        Self {
            each: AtomicU32::new(0),
            places: (0..PLACES).map(|_| Mutex::new(None)).collect(),
        }
    }

    pub(super) fn set_each(&self, each: u32) {
        self.each.store(each, Ordering::Relaxed);
    }

    /// Whether a backend's session is sampled that `before` others came before.
    #[expect(clippy::cast_possible_truncation, reason = "the count may wrap")]
    pub(super) fn takes(&self, before: u64) -> bool {
        let each = self.each.load(Ordering::Relaxed);
        each > 0 && (before as u32).is_multiple_of(each)
    }

    pub(super) fn begin(&self, at: SessionRef) {
        *lock(self.place(at)) = Some(Sample {
            at,
            segments: 0,
            is_connected: false,
            asked: None,
            is_answered: false,
            ways: [Way::default(); 2],
        });
    }

    /// Whether this is the first SYN-ACK; `false` too if another session has the place.
    pub(super) fn connect(&self, at: SessionRef) -> bool {
        let mut place = lock(self.place(at));
        let sample = place.as_mut().filter(|sample| sample.at == at);
        sample.is_some_and(|sample| !std::mem::replace(&mut sample.is_connected, true))
    }

    /// What a segment shows that passes at this time, in microseconds.
    pub(super) fn observe(
        &self,
        at: SessionRef,
        direction: Direction,
        segment: Segment,
        now: u64,
    ) -> Observed {
        let mut place = lock(self.place(at));
        let Some(sample) = place.as_mut().filter(|sample| sample.at == at) else {
            return Observed {
                is_last: true,
                ..Observed::default()
            };
        };
        let observed = sample.observe(direction, segment, now);
        if observed.is_last {
            *place = None;
        }
        observed
    }

    fn place(&self, at: SessionRef) -> &Mutex<Option<Sample>> {
        &self.places[(at.slot % PLACES) as usize]
    }

    pub(super) const fn memory_bytes() -> usize {
        PLACES as usize * size_of::<Mutex<Option<Sample>>>()
    }
}

impl Sample {
    fn observe(&mut self, direction: Direction, segment: Segment, now: u64) -> Observed {
        let [forward, reply] = &mut self.ways;
        let (own, other) = match direction {
            Direction::Forward => (forward, reply),
            Direction::Reply => (reply, forward),
        };
        other.acknowledge(segment.acknowledgment);
        let is_given_up = direction == Direction::Forward
            && segment.is_fin
            && self.asked.is_some()
            && !std::mem::replace(&mut self.is_answered, true);
        if segment.payload == 0 {
            return Observed {
                is_given_up,
                ..Observed::default()
            };
        }
        let is_first = own.end.is_none();
        let is_stuck = own.note_sent(segment);
        let is_resent = own.pass(segment);
        self.segments += 1;
        let mut first_byte_us = None;
        match direction {
            Direction::Forward => self.asked = self.asked.or(Some(now)),
            Direction::Reply if !self.is_answered => {
                self.is_answered = true;
                first_byte_us = self.asked.map(|asked| now.saturating_sub(asked));
            }
            Direction::Reply => {}
        }
        Observed {
            has_data: true,
            is_first,
            is_resent,
            is_stuck,
            is_given_up,
            first_byte_us,
            is_last: self.segments == SEGMENTS_MAX,
        }
    }
}

impl Way {
    fn acknowledge(&mut self, number: u32) {
        if self.acknowledged.is_none_or(|it| is_after(number, it)) {
            self.acknowledged = Some(number);
            self.sent = 0;
        }
    }

    /// Counts how often a large packet was sent that the other end waits for. Whether it is stuck now, and
    /// was not before.
    fn note_sent(&mut self, segment: Segment) -> bool {
        let is_awaited = match self.acknowledged {
            Some(number) => number == segment.sequence,
            None => self.end.is_none() || self.sent > 0,
        };
        if segment.packet <= ALWAYS_FITS || !is_awaited || self.is_stuck {
            return false;
        }
        self.sent += 1;
        self.is_stuck = self.sent == STUCK_AFTER;
        self.is_stuck
    }

    /// Takes in a segment's data; whether all of it passed here before.
    fn pass(&mut self, segment: Segment) -> bool {
        let start = segment.sequence;
        let end = start.wrapping_add(segment.payload);
        let Some(seen) = self.end else {
            self.end = Some(end);
            return false;
        };
        if is_after(end, seen) {
            if is_after(start, seen) {
                let from = self.hole.map_or(seen, |[from, _]| from);
                self.hole = Some([from, start]);
            }
            self.end = Some(end);
            return false;
        }
        let Some([from, to]) = self.hole else {
            return true;
        };
        if !is_after(end, from) || !is_after(to, start) {
            return true;
        }
        // What it does not reach of the hole is left of it, on one side.
        let left = match is_after(start, from) {
            true => [from, start],
            false => [end, to],
        };
        self.hole = is_after(left[1], left[0]).then_some(left);
        false
    }
}

/// Whether a sequence number comes after another (RFC 9293 section 3.4).
const fn is_after(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() > 0
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const AT: SessionRef = SessionRef {
        slot: 7,
        version: 1,
    };
    const LARGE: u32 = 1460;

    fn begun() -> Samples {
        let samples = Samples::new();
        samples.begin(AT);
        samples
    }

    /// A segment of `direction` from this sequence number on; 40 bytes of headers.
    fn data(sequence: u32, acknowledgment: u32, payload: u32) -> Segment {
        Segment {
            sequence,
            acknowledgment,
            payload,
            packet: payload + 40,
            is_fin: false,
        }
    }

    #[test]
    fn of_so_many_new_sessions_the_first_is_sampled() {
        let samples = Samples::new();
        assert!(!samples.takes(0), "none unless wanted");
        samples.set_each(64);
        let taken: Vec<u64> = (0..200).filter(|before| samples.takes(*before)).collect();
        assert_eq!(taken, [0, 64, 128, 192]);
    }

    #[test]
    fn the_first_byte_is_timed_from_the_clients_first() {
        let samples = begun();
        let observe =
            |direction, segment, now| samples.observe(AT, direction, segment, now).first_byte_us;
        assert_eq!(observe(Direction::Forward, data(100, 500, 0), 1_000), None);
        assert_eq!(observe(Direction::Forward, data(100, 500, 20), 2_000), None);
        assert_eq!(observe(Direction::Forward, data(120, 500, 20), 9_000), None);
        assert_eq!(observe(Direction::Reply, data(500, 140, 0), 9_500), None);
        let first = observe(Direction::Reply, data(500, 140, 9), 42_000);
        assert_eq!(first, Some(40_000));
        assert_eq!(observe(Direction::Reply, data(509, 140, 9), 43_000), None);

        samples.begin(AT);
        assert_eq!(observe(Direction::Reply, data(500, 100, 9), 50_000), None);
        assert_eq!(observe(Direction::Forward, data(100, 509, 9), 60_000), None);
        let later = observe(Direction::Reply, data(509, 109, 9), 61_000);
        assert_eq!(later, None, "the server spoke first");
    }

    #[test]
    fn a_client_that_ends_before_the_first_byte_has_given_up() {
        let gives_up = |segments: &[(Direction, Segment)]| {
            let samples = begun();
            let observed = segments.iter();
            observed
                .filter(|(direction, segment)| {
                    samples.observe(AT, *direction, *segment, 0).is_given_up
                })
                .count()
        };
        let asks = (Direction::Forward, data(100, 500, 20));
        let answers = (Direction::Reply, data(500, 120, 9));
        let fin = Segment {
            is_fin: true,
            ..data(120, 500, 0)
        };
        let ends = (Direction::Forward, fin);
        assert_eq!(gives_up(&[asks, ends, ends]), 1);
        assert_eq!(gives_up(&[asks, answers, ends]), 0);
        assert_eq!(gives_up(&[ends]), 0, "it asked nothing");
        assert_eq!(gives_up(&[asks, (Direction::Reply, fin)]), 0);
    }

    /// Also over the end of the sequence numbers.
    #[test]
    fn data_is_resent_only_if_all_of_it_passed_here() {
        for base in [0, u32::MAX - 250] {
            let samples = begun();
            let resent = |from: u32, to: u32| {
                let segment = data(base.wrapping_add(from), 1, to - from);
                samples.observe(AT, Direction::Reply, segment, 0).is_resent
            };
            assert!(!resent(0, 100));
            assert!(resent(0, 100));
            assert!(!resent(50, 150), "half of it is new");
            // Two segments were lost before they came here, or are late.
            assert!(!resent(250, 300));
            assert!(!resent(150, 200), "the hole's first half");
            assert!(resent(150, 200));
            assert!(!resent(200, 250), "its second half");
            for (from, to) in [(200, 250), (150, 300), (0, 300)] {
                assert!(resent(from, to), "{from} to {to}");
            }
        }
    }

    #[test]
    fn a_large_packet_that_is_never_acknowledged_is_stuck_once() {
        let samples = begun();
        let mut stuck = Vec::new();
        let mut send = |acknowledgment| {
            let segments = [
                (Direction::Forward, data(10, acknowledgment, 0)),
                (Direction::Reply, data(500, 10, LARGE)),
            ];
            for (direction, segment) in segments {
                stuck.push(samples.observe(AT, direction, segment, 0).is_stuck);
            }
        };
        (0..6).for_each(|_| send(500));
        let at: Vec<usize> = (0..stuck.len()).filter(|at| stuck[*at]).collect();
        assert_eq!(at, [2 * usize::from(STUCK_AFTER) - 1]);
    }

    #[test]
    fn what_is_acknowledged_in_the_end_or_small_is_not_stuck() {
        for (payload, acknowledges) in [(LARGE, true), (ALWAYS_FITS - 40, false)] {
            let samples = begun();
            let observe = |direction, segment| samples.observe(AT, direction, segment, 0).is_stuck;
            for n in 0..3 {
                for _ in 1..STUCK_AFTER {
                    let sequence = if acknowledges { 500 + n * payload } else { 500 };
                    observe(Direction::Forward, data(10, sequence, 0));
                    assert!(!observe(Direction::Reply, data(sequence, 10, payload)));
                }
            }
        }
    }

    /// Nothing of the client's is acknowledged since the handshake, which the sample does not see.
    #[test]
    fn a_clients_first_data_can_be_stuck() {
        let samples = begun();
        let stuck = |segment| samples.observe(AT, Direction::Forward, segment, 0).is_stuck;
        assert!(!stuck(data(10, 500, LARGE)));
        assert!(!stuck(data(10, 500, LARGE)));
        assert!(!stuck(data(10, 500, LARGE)));
        assert!(stuck(data(10, 500, LARGE)));
    }

    #[test]
    fn a_sample_ends_after_its_segments_or_when_another_takes_its_place() {
        let samples = begun();
        let mut sequence = 0;
        let mut is_last = || {
            sequence += 10;
            samples
                .observe(AT, Direction::Forward, data(sequence, 1, 10), 0)
                .is_last
        };
        assert!((1..SEGMENTS_MAX).all(|_| !is_last()));
        assert!(is_last());
        assert!(is_last(), "it is not there any more");

        samples.begin(AT);
        assert!(samples.connect(AT));
        assert!(!samples.connect(AT), "a SYN-ACK that is sent again");
        samples.begin(SessionRef {
            slot: AT.slot + PLACES,
            version: 1,
        });
        assert!(!samples.connect(AT));
        assert!(is_last());
    }
}
