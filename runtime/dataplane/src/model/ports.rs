//! TCP and UDP ports: one, a range, or all.
//!
//! Invariant: a range has at least one port, and port 0 is none (reserved by RFC 6335 section 6).

use std::fmt;

/// A range of ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    pub const ALL: Self = Self {
        first: 1,
        last: u16::MAX,
    };

    /// One port. (Port 0 is allowed for lookups: packets may be sent to it, and match nothing.)
    #[must_use]
    pub const fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// `first..=last`; `None` if that is empty or contains 0.
    #[must_use]
    pub const fn range(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last < first {
            return None;
        }
        Some(Self { first, last })
    }

    #[inline]
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    #[inline]
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// The port, if there is only one.
    #[inline]
    #[must_use]
    pub const fn single(self) -> Option<u16> {
        if self.first == self.last {
            Some(self.first)
        } else {
            None
        }
    }

    #[inline]
    #[must_use]
    pub const fn count(self) -> u32 {
        (self.last - self.first) as u32 + 1
    }

    #[inline]
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether the ranges overlap and neither contains the other, so that neither is more specific.
    #[must_use]
    pub const fn crosses(self, other: Self) -> bool {
        let (low, high) = if self.first <= other.first {
            (self, other)
        } else {
            (other, self)
        };
        low.first < high.first && high.first <= low.last && low.last < high.last
    }
}

/// Formats as the config does.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(port) => port.fmt(f),
            None if *self == Self::ALL => f.write_str("all"),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// Finds the narrowest range that contains a port. If ranges cross (see [`Ports::crosses`]), one of them
/// wins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Narrowest<T> {
    /// Sorted; each entry holds from its port to the next entry's.
    from: Box<[(u16, Option<T>)]>,
}

impl<T: Copy> Narrowest<T> {
    /// Prepares the ranges for binary search.
    pub(crate) fn new(mut ranges: Vec<(Ports, T)>) -> Self {
        // Of two with the same start the wider one comes first, and the narrower one opens inside it.
        ranges.sort_by_key(|(ports, _)| (ports.first, u16::MAX - ports.last));
        let mut from = Vec::with_capacity(2 * ranges.len());
        let mut open: Vec<(Ports, T)> = Vec::new();
        for (ports, of) in ranges {
            close(&mut open, &mut from, ports.first);
            from.push((ports.first, Some(of)));
            open.push((ports, of));
        }
        close(&mut open, &mut from, u16::MAX);
        Self { from: from.into() }
    }

    pub(crate) fn at(&self, port: u16) -> Option<T> {
        let after = self.from.partition_point(|(from, _)| *from <= port);
        self.from.get(after.checked_sub(1)?)?.1
    }
}

/// Closes the open ranges that end before a port: after each, the enclosing one continues.
fn close<T: Copy>(open: &mut Vec<(Ports, T)>, from: &mut Vec<(u16, Option<T>)>, before: u16) {
    while let Some((ended, _)) = open.pop_if(|(ports, _)| ports.last < before) {
        from.push((ended.last + 1, open.last().map(|(_, of)| *of)));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    fn ports(first: u16, last: u16) -> Ports {
        Ports::range(first, last).unwrap()
    }

    #[test]
    fn ports_are_written_as_a_config_writes_them() {
        assert_eq!(Ports::one(80).to_string(), "80");
        assert_eq!(ports(80, 80), Ports::one(80));
        assert_eq!(ports(8000, 8010).to_string(), "8000-8010");
        assert_eq!(ports(1, 65_535).to_string(), "all");
        assert_eq!(Ports::range(0, 9), None);
        assert_eq!(Ports::range(9, 8), None);
        assert_eq!((Ports::ALL.count(), Ports::one(7).count()), (65_535, 1));
    }

    #[test]
    fn ranges_cross_where_neither_contains_the_other() {
        let rows = [
            (ports(1, 5), ports(6, 9), false),
            (ports(1, 5), ports(5, 9), true),
            (ports(1, 9), ports(5, 9), false),
            (ports(1, 5), ports(1, 9), false),
            (ports(3, 5), ports(1, 9), false),
            (ports(3, 5), ports(3, 5), false),
            (ports(1, 7), ports(3, 9), true),
        ];
        for (a, b, expected) in rows {
            assert_eq!(
                (a.crosses(b), b.crosses(a)),
                (expected, expected),
                "{a} {b}"
            );
        }
    }

    #[test]
    fn the_narrowest_range_wins_at_each_port() {
        let ranges = [
            ports(1, 65_535),
            ports(8000, 8010),
            ports(8003, 8005),
            ports(8003, 8003),
            ports(8010, 8010),
            ports(65_000, 65_535),
            ports(65_535, 65_535),
        ];
        let narrowest = |port| {
            let around = ranges.iter().enumerate().filter(|(_, r)| r.contains(port));
            around.min_by_key(|(_, r)| r.count()).map(|(at, _)| at)
        };
        for rotated in 0..ranges.len() {
            let mut given: Vec<_> = ranges.iter().copied().zip(0..).collect();
            given.rotate_left(rotated);
            let sorted = Narrowest::new(given);
            for port in 0..=u16::MAX {
                assert_eq!(sorted.at(port), narrowest(port), "port {port}");
            }
        }
        assert_eq!(Narrowest::<u8>::default().at(80), None);
    }

    #[test]
    fn crossing_ranges_do_no_harm() {
        let sorted = Narrowest::new(vec![(ports(1, 10), 1), (ports(5, 20), 2)]);
        for port in 0..=u16::MAX {
            assert!(sorted.at(port).is_none_or(|of| of <= 2), "port {port}");
        }
    }
}
