//! Frames in one piece, where all of a payload is needed: to verify its checksum before its sender is
//! told something, to cut it, to hold it.
//!
//! Invariant: a frame that lies in one buffer is never copied for it; a jumbo frame is, into one
//! worker's one room, and only where its packet goes no further as it is.

use crate::FrameBuf;

/// The longest frame: offsets in it are sixteen bits.
const FRAME_LEN_MAX: usize = u16::MAX as usize;

/// One worker's room for one frame, and for one piece of it.
pub(crate) struct Gather {
    frame: Box<[u8]>,
    piece: Box<[u8]>,
}

impl Gather {
    pub(crate) fn new() -> Self {
        let room = || vec![0; FRAME_LEN_MAX].into();
        Self {
            frame: room(),
            piece: room(),
        }
    }

    /// The whole frame.
    pub(crate) fn whole<'a, F: FrameBuf>(&'a mut self, frame: &'a F) -> &'a [u8] {
        self.with_room(frame).0
    }

    /// The whole frame, and the room for a piece that lies in several buffers itself.
    pub(crate) fn with_room<'a, F: FrameBuf>(
        &'a mut self,
        frame: &'a F,
    ) -> (&'a [u8], &'a mut [u8]) {
        if frame.rest_len() == 0 {
            return (frame.bytes(), &mut self.piece);
        }
        let len = frame.copy_to(&mut self.frame);
        (&self.frame[..len], &mut self.piece)
    }
}
