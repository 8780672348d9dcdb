//! Frames from the chunks that the kernel received them in.
//!
//! A frame that is longer than a chunk lies in several that follow one another in the receive ring; all
//! but the last are marked to go on. A batch may end between two of them.
//!
//! Invariant: chunks are in the order they came in, and no frame has a chunk of another. What there is
//! of a frame waits here for the rest of it, and is the worker's meanwhile.

/// The frame of which not all was taken from the ring yet, if there is one.
pub(crate) struct Assembly<F>(Option<F>);

impl<F> Assembly<F> {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// Whether the next chunk begins a frame.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Takes the next chunk: it begins a frame, by `begin`, or goes on with one, by `go_on`. The frame,
    /// where this was its last.
    #[cold]
    pub(crate) fn take<C>(
        &mut self,
        chunk: C,
        has_more: bool,
        begin: impl FnOnce(C) -> F,
        go_on: impl FnOnce(&mut F, C),
    ) -> Option<F> {
        let frame = match self.0.take() {
            None => begin(chunk),
            Some(mut frame) => {
                go_on(&mut frame, chunk);
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

    /// A small generator (xorshift64), so that a seed replays a failure.
    fn random(seed: &mut u64, below: u64) -> usize {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        usize::try_from(*seed % below).expect("a few")
    }

    #[test]
    fn frames_come_out_as_they_went_in_wherever_batches_end() {
        for seed in 1..500 {
            let state = &mut seed.clone();
            let lens: Vec<usize> = (0..50).map(|_| 1 + random(state, 4)).collect();
            let chunks = lens.iter().enumerate().flat_map(|(frame, &len)| {
                (0..len).map(move |chunk| ((frame, chunk), chunk + 1 < len))
            });
            let chunks: Vec<_> = chunks.collect();
            let mut assembly = Assembly::new();
            let mut frames: Vec<Vec<(usize, usize)>> = Vec::new();
            let mut at = 0;
            while at < chunks.len() {
                let batch = 1 + random(state, 7);
                let end = (at + batch).min(chunks.len());
                for &(chunk, has_more) in &chunks[at..end] {
                    frames.extend(assembly.take(chunk, has_more, |c| vec![c], Vec::push));
                }
                let whole = chunks[end - 1].1;
                assert_eq!(assembly.is_empty(), !whole, "seed {seed}");
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
