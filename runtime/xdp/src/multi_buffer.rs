//! Reassembles multi-buffer frames from received chunks.
//!
//! A frame longer than a chunk occupies consecutive entries of the receive ring; all but the last are
//! marked `XDP_PKT_CONTD`. A batch may end inside a frame.
//!
//! Invariant: a frame has its own chunks only, in the order received. The worker owns the chunks of an
//! incomplete frame.

/// The incomplete frame of a receive ring, if any.
pub(crate) struct PartialFrame<F>(Option<F>);

impl<F> PartialFrame<F> {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// Returns whether the next chunk starts a frame.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Adds the next chunk: starts a frame with `start`, or extends it with `append`. Returns the frame
    /// unless it has more chunks.
    #[cold]
    pub(crate) fn push<C>(
        &mut self,
        chunk: C,
        has_more: bool,
        start: impl FnOnce(C) -> F,
        append: impl FnOnce(&mut F, C),
    ) -> Option<F> {
        let frame = match self.0.take() {
            None => start(chunk),
            Some(mut frame) => {
                append(&mut frame, chunk);
                frame
            }
        };
        if has_more {
            self.0 = Some(frame);
            return None;
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Xorshift64: a seed replays a failure.
    fn random(seed: &mut u64, below: u64) -> usize {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        usize::try_from(*seed % below).expect("a few")
    }

    #[test]
    fn frames_are_reassembled_wherever_batches_end() {
        for seed in 1..500 {
            let state = &mut seed.clone();
            let lens: Vec<usize> = (0..50).map(|_| 1 + random(state, 4)).collect();
            let chunks = lens.iter().enumerate().flat_map(|(frame, &len)| {
                (0..len).map(move |chunk| ((frame, chunk), chunk + 1 < len))
            });
            let chunks: Vec<_> = chunks.collect();
            let mut partial = PartialFrame::new();
            let mut frames: Vec<Vec<(usize, usize)>> = Vec::new();
            let mut at = 0;
            while at < chunks.len() {
                let batch = 1 + random(state, 7);
                let end = (at + batch).min(chunks.len());
                for &(chunk, has_more) in &chunks[at..end] {
                    frames.extend(partial.push(chunk, has_more, |c| vec![c], Vec::push));
                }
                let whole = chunks[end - 1].1;
                assert_eq!(partial.is_empty(), !whole, "seed {seed}");
                at = end;
            }
            let expected = (0..).zip(&lens);
            let expected: Vec<Vec<_>> = expected
                .map(|(frame, &len)| (0..len).map(|chunk| (frame, chunk)).collect())
                .collect();
            assert_eq!(frames, expected, "seed {seed}");
        }
    }
}
