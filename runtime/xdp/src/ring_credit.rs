//! Ring arithmetic: how many frames the kernel holds of a ring pair, and how many more it may.
//!
//! A ring pair goes round: frames enter by one ring (fill, transmit), the kernel holds them a
//! while, and they come back by the other (receive, completion).
//!
//! Invariant: `lent <= size`, where `size` is that of both rings. So neither ring can overflow:
//! a slot for every frame in the kernel's hands is free in the ring it will come back by, and
//! what [`Loan::room`] allows fits the ring it goes in by, as soon as the kernel has freed the slots.

/// The frames lent to the kernel by one ring pair.
#[derive(Debug)]
pub(crate) struct Loan {
    size: u32,
    lent: u32,
}

impl Loan {
    /// Nothing lent, by rings of `size` entries each.
    pub(crate) const fn new(size: u32) -> Self {
        Self { size, lent: 0 }
    }

    /// How many more may be lent.
    pub(crate) const fn room(&self) -> usize {
        (self.size - self.lent) as usize
    }

    /// How many the kernel holds.
    pub(crate) const fn lent(&self) -> usize {
        self.lent as usize
    }

    /// `count` went in. At most [`Loan::room`].
    pub(crate) fn lend(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let lent = self
            .lent
            .checked_add(count)
            .filter(|&lent| lent <= self.size);
        assert!(lent.is_some(), "more frames lent than the ring has slots");
        self.lent = lent.unwrap_or(self.lent);
    }

    /// `count` came back. At most [`Loan::lent`].
    pub(crate) fn give_back(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let lent = self.lent.checked_sub(count);
        assert!(lent.is_some(), "more frames came back than were lent");
        self.lent = lent.unwrap_or(self.lent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_and_the_room_make_up_the_ring() {
        let mut loan = Loan::new(8);
        for (lend, back) in [(8, 3), (3, 8), (1, 1), (5, 2), (5, 8)] {
            loan.lend(lend);
            assert_eq!(loan.lent() + loan.room(), 8);
            loan.give_back(back);
            assert_eq!(loan.lent() + loan.room(), 8);
        }
        assert_eq!(loan.lent(), 0);
    }

    #[test]
    #[should_panic(expected = "more frames lent")]
    fn lending_over_the_ring_is_a_bug() {
        Loan::new(8).lend(9);
    }

    #[test]
    #[should_panic(expected = "more frames came back")]
    fn a_frame_cannot_come_back_twice() {
        let mut loan = Loan::new(8);
        loan.lend(1);
        loan.give_back(2);
    }
}
