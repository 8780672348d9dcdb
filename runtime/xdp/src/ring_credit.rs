//! Flow control of a ring pair: how many frames the kernel holds, and how many more it may get.
//!
//! Frames go to the kernel by one ring of the pair (fill, transmit) and come back by the other
//! (receive, completion).
//!
//! Invariant: `outstanding <= size`, the size of both rings. So neither ring overflows: the ring by
//! which frames come back has a slot for each outstanding frame, and the ring by which they go has
//! slots for [`RingCredit::available`] more as soon as the kernel has freed the used ones.

#[derive(Debug)]
pub(crate) struct RingCredit {
    size: u32,
    outstanding: u32,
}

impl RingCredit {
    /// Creates the credit of two rings with `size` entries each.
    pub(crate) const fn new(size: u32) -> Self {
        Self {
            size,
            outstanding: 0,
        }
    }

    /// Returns how many more frames may go to the kernel.
    pub(crate) const fn available(&self) -> usize {
        (self.size - self.outstanding) as usize
    }

    /// Returns how many frames the kernel holds.
    pub(crate) const fn outstanding(&self) -> usize {
        self.outstanding as usize
    }

    /// Records that `count` frames went to the kernel, at most [`RingCredit::available`].
    pub(crate) fn take(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let outstanding = self
            .outstanding
            .checked_add(count)
            .filter(|&outstanding| outstanding <= self.size);
        assert!(outstanding.is_some(), "more frames than ring slots");
        self.outstanding = outstanding.unwrap_or(self.outstanding);
    }

    /// Records that `count` frames came back, at most [`RingCredit::outstanding`].
    pub(crate) fn give_back(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let outstanding = self.outstanding.checked_sub(count);
        assert!(outstanding.is_some(), "more frames back than outstanding");
        self.outstanding = outstanding.unwrap_or(self.outstanding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outstanding_and_available_add_up_to_the_ring_size() {
        let mut credit = RingCredit::new(8);
        for (take, back) in [(8, 3), (3, 8), (1, 1), (5, 2), (5, 8)] {
            credit.take(take);
            assert_eq!(credit.outstanding() + credit.available(), 8);
            credit.give_back(back);
            assert_eq!(credit.outstanding() + credit.available(), 8);
        }
        assert_eq!(credit.outstanding(), 0);
    }

    #[test]
    #[should_panic(expected = "more frames than ring slots")]
    fn taking_more_than_available_panics() {
        RingCredit::new(8).take(9);
    }

    #[test]
    #[should_panic(expected = "more frames back than outstanding")]
    fn giving_back_more_than_outstanding_panics() {
        let mut credit = RingCredit::new(8);
        credit.take(1);
        credit.give_back(2);
    }
}
