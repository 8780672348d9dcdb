//! The packet's place in its chunk's data segment.
//!
//! The kernel stores a received packet at a fixed offset and sends a packet from the same offset. So
//! removing bytes at the packet's start only moves `start` forward; adding bytes moves `start` back as far
//! as possible, and otherwise shifts the packet.
//!
//! Invariant: `start <= end <= capacity`.

use std::ops::Range;

/// A packet's place, as offsets in the data segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    start: u32,
    end: u32,
    capacity: u32,
}

/// Bytes to move in the segment before the new window applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) from: Range<usize>,
    pub(crate) to: usize,
}

impl Window {
    /// Creates the window of a packet of `len` bytes at the start of a segment of `capacity` bytes.
    pub(crate) fn new(len: usize, capacity: usize) -> Self {
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
        Self {
            start: 0,
            end: u32::try_from(len).unwrap_or(u32::MAX).min(capacity),
            capacity,
        }
    }

    /// Returns the packet's range in the segment.
    pub(crate) const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Returns the segment's length in bytes.
    pub(crate) const fn capacity(self) -> usize {
        self.capacity as usize
    }

    const fn len(self) -> u32 {
        self.end - self.start
    }

    /// Returns the window with its start moved by `by` bytes (a negative `by` adds bytes), and the move
    /// that it needs. Returns `None` when there is no room.
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

    /// Returns the window with length `len`, or `None` when there is no room.
    pub(crate) fn set_len(self, len: usize) -> Option<Self> {
        let end = self.start.checked_add(u32::try_from(len).ok()?)?;
        (end <= self.capacity).then_some(Self { end, ..self })
    }

    /// Returns the window at the segment's start, from which packets are sent, and the move that it needs.
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

    /// Applies a move like `XdpFrame`.
    fn apply(bytes: &mut [u8], (window, moved): (Window, Option<Move>)) -> Window {
        if let Some(Move { from, to }) = moved {
            bytes.copy_within(from, to);
        }
        window
    }

    #[test]
    fn removing_and_adding_back_moves_no_bytes() {
        let window = Window::new(60, 100);
        let (cut, moved) = window.move_start(4).expect("room");
        assert_eq!((cut.range(), moved), (4..60, None));
        let (back, moved) = cut.move_start(-4).expect("room");
        assert_eq!((back, moved), (window, None));
    }

    #[test]
    fn a_grown_packet_keeps_its_bytes_behind_the_added_ones() {
        let mut bytes: Vec<u8> = (0..100).collect();
        let window = Window::new(60, 100).move_start(2).expect("room").0;
        let grown = window.move_start(-6).expect("room");
        let window = apply(&mut bytes, grown);
        assert_eq!(window.range(), 0..64);
        assert_eq!(bytes[6..64], (2..60).collect::<Vec<u8>>());
    }

    #[test]
    fn a_packet_to_send_moves_to_the_segment_start() {
        let mut bytes: Vec<u8> = (0..100).collect();
        let cut = Window::new(60, 100).move_start(14).expect("room").0;
        let window = apply(&mut bytes, cut.at_start());
        assert_eq!(bytes[window.range()], (14..60).collect::<Vec<u8>>());
    }

    #[test]
    fn without_room_there_is_no_window() {
        let window = Window::new(60, 64);
        assert_eq!(window.move_start(61), None);
        assert_eq!(window.move_start(-5), None);
        assert_eq!(window.move_start(isize::MIN), None);
        assert_eq!(window.move_start(isize::MAX), None);
        assert_eq!(window.set_len(65), None);
        assert_eq!(window.set_len(usize::MAX), None);
    }
}
