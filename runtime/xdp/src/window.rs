//! Where a packet lies in its frame's data segment.
//!
//! The kernel puts a received packet at a fixed place, and a packet is sent from that place. So
//! cutting the head only moves `start`, growing it takes that back, and where there is nothing
//! to take back the bytes move instead.
//!
//! Invariant: `start <= end <= capacity`.

use std::ops::Range;

/// A packet's place: offsets into the data segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    start: u32,
    end: u32,
    capacity: u32,
}

/// Bytes to move within the segment, before the new window is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) from: Range<usize>,
    pub(crate) to: usize,
}

impl Window {
    /// A packet of `len` bytes at the start of a segment of `capacity` bytes.
    pub(crate) fn new(len: usize, capacity: usize) -> Self {
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
        Self {
            start: 0,
            end: u32::try_from(len).unwrap_or(u32::MAX).min(capacity),
            capacity,
        }
    }

    /// The packet's bytes.
    pub(crate) const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The segment's length in bytes.
    pub(crate) const fn capacity(self) -> usize {
        self.capacity as usize
    }

    const fn len(self) -> u32 {
        self.end - self.start
    }

    /// The window with its start moved by `by`, negative towards the head, and what has to move
    /// for it. `None` where there is no room.
    pub(crate) fn move_start(self, by: isize) -> Option<(Self, Option<Move>)> {
        let distance = u32::try_from(by.unsigned_abs()).ok()?;
        if by >= 0 {
            let start = self
                .start
                .checked_add(distance)
                .filter(|&start| start <= self.end)?;
            return Some((Self { start, ..self }, None));
        }
        if let Some(start) = self.start.checked_sub(distance) {
            return Some((Self { start, ..self }, None));
        }
        let end = self
            .len()
            .checked_add(distance)
            .filter(|&end| end <= self.capacity)?;
        let shifted = Move {
            from: self.range(),
            to: distance as usize,
        };
        Some((
            Self {
                start: 0,
                end,
                ..self
            },
            Some(shifted),
        ))
    }

    /// The window with a packet of `len` bytes. `None` where there is no room.
    pub(crate) fn set_len(self, len: usize) -> Option<Self> {
        let end = self.start.checked_add(u32::try_from(len).ok()?)?;
        (end <= self.capacity).then_some(Self { end, ..self })
    }

    /// The window at the segment's start, from where packets are sent, and what has to move.
    pub(crate) fn at_start(self) -> (Self, Option<Move>) {
        if self.start == 0 {
            return (self, None);
        }
        let shifted = Move {
            from: self.range(),
            to: 0,
        };
        (
            Self {
                start: 0,
                end: self.len(),
                ..self
            },
            Some(shifted),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies a move to bytes as the frame does.
    fn apply(bytes: &mut [u8], (window, moved): (Window, Option<Move>)) -> Window {
        if let Some(Move { from, to }) = moved {
            bytes.copy_within(from, to);
        }
        window
    }

    #[test]
    fn cutting_and_growing_back_moves_no_byte() {
        let window = Window::new(60, 100);
        let (cut, moved) = window.move_start(4).expect("room");
        assert_eq!((cut.range(), moved), (4..60, None));
        let (back, moved) = cut.move_start(-4).expect("room");
        assert_eq!((back, moved), (window, None));
    }

    #[test]
    fn a_grown_packet_keeps_its_bytes_behind_the_new_ones() {
        let mut bytes: Vec<u8> = (0..100).collect();
        let window = Window::new(60, 100).move_start(2).expect("room").0;
        let grown = window.move_start(-6).expect("room");
        let window = apply(&mut bytes, grown);
        assert_eq!(window.range(), 0..64);
        assert_eq!(bytes[6..64], (2..60).collect::<Vec<u8>>());
    }

    #[test]
    fn a_packet_is_sent_from_the_start() {
        let mut bytes: Vec<u8> = (0..100).collect();
        let cut = Window::new(60, 100).move_start(14).expect("room").0;
        let window = apply(&mut bytes, cut.at_start());
        assert_eq!(bytes[window.range()], (14..60).collect::<Vec<u8>>());
    }

    #[test]
    fn no_room_changes_nothing() {
        let window = Window::new(60, 64);
        assert_eq!(window.move_start(61), None);
        assert_eq!(window.move_start(-5), None);
        assert_eq!(window.move_start(isize::MIN), None);
        assert_eq!(window.move_start(isize::MAX), None);
        assert_eq!(window.set_len(65), None);
        assert_eq!(window.set_len(usize::MAX), None);
    }
}
