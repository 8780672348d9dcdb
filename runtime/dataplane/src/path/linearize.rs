//! Frames in one contiguous buffer, for when the whole payload is needed: to verify a checksum before an
//! error is sent, to fragment a packet, to hold a fragment.
//!
//! Invariant: a frame that lies in one buffer is not copied. A jumbo frame is copied to the worker's own
//! buffer, and only if its packet is not simply forwarded.

use crate::FrameBuf;

/// The longest frame: offsets in it have 16 bits.
const FRAME_LEN_MAX: usize = u16::MAX as usize;

/// A worker's buffers for one frame, and for one fragment of it.
pub(crate) struct Linearizer {
    frame: Box<[u8]>,
    fragment: Box<[u8]>,
}

impl Linearizer {
    pub(crate) fn new() -> Self {
        let buffer = || vec![0; FRAME_LEN_MAX].into();
        Self {
            frame: buffer(),
            fragment: buffer(),
        }
    }

    /// The whole frame.
    pub(crate) fn whole<'a, F: FrameBuf>(&'a mut self, frame: &'a F) -> &'a [u8] {
        self.whole_and_scratch(frame).0
    }

    /// The whole frame, and a buffer for a fragment of it that lies in several buffers itself.
    pub(crate) fn whole_and_scratch<'a, F: FrameBuf>(
        &'a mut self,
        frame: &'a F,
    ) -> (&'a [u8], &'a mut [u8]) {
        if frame.rest_len() == 0 {
            return (frame.bytes(), &mut self.fragment);
        }
        let len = frame.copy_to(&mut self.frame);
        (&self.frame[..len], &mut self.fragment)
    }
}
