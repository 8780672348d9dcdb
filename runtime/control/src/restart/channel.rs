//! Messages between the two processes of an upgrade: bytes, and descriptors with them.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// How long the other process may take for its next message.
const PATIENCE: Duration = Duration::from_secs(15);

/// The most descriptors of one message of the socket (`SCM_MAX_FD` is 253).
const AT_ONCE: usize = 200;

/// The most descriptors of a message: a full machine has some thousand queues.
const DESCRIPTORS_MAX: u32 = 1 << 16;

/// One end of the connection.
pub(super) struct Channel {
    stream: UnixStream,
    /// When all must have been said, if ever.
    ends: Option<Instant>,
}

/// A message in the making, or on its way here.
struct Talk<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl Talk<'_> {
    /// Bounds the next call of the socket.
    fn limit(&self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.set_write_timeout(Some(left))
    }
}

/// What a socket's own time-out is called, too.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

impl Read for Talk<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.limit()?;
        self.stream.read(into).map_err(timed_out)
    }
}

impl Write for Talk<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.limit()?;
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self { stream, ends: None })
    }

    /// Bounds the whole conversation, whatever the other process says meanwhile.
    pub(super) fn within(self, max: Duration) -> Self {
        Self {
            ends: Instant::now().checked_add(max),
            ..self
        }
    }

    fn talk(&self) -> Talk<'_> {
        let patience = Instant::now() + PATIENCE;
        Talk {
            stream: &self.stream,
            until: self.ends.map_or(patience, |ends| ends.min(patience)),
        }
    }

    /// Returns the id of the process at the other end.
    pub(super) fn peer(&self) -> io::Result<u32> {
        let peer = rustix::net::sockopt::socket_peercred(&self.stream)?;
        Ok(peer.pid.as_raw_pid().cast_unsigned())
    }

    /// Waits until the other end is closed, or patience ends.
    pub(super) fn wait_closed(&self) -> io::Result<()> {
        self.talk().read_to_end(&mut Vec::new()).map(drop)
    }

    /// Sends a message: its length, the number of its descriptors, its bytes; then a byte for each group of
    /// descriptors.
    pub(super) fn send(&self, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
        let mut talk = self.talk();
        let count = u32::try_from(descriptors.len()).map_err(io::Error::other)?;
        talk.write_all(&(bytes.len() as u64).to_be_bytes())?;
        talk.write_all(&count.to_be_bytes())?;
        talk.write_all(bytes)?;
        for group in descriptors.chunks(AT_ONCE) {
            let group: Vec<_> = group.iter().map(OwnedFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut rights = SendAncillaryBuffer::new(&mut space);
            rights.push(SendAncillaryMessage::ScmRights(&group));
            talk.limit()?;
            sendmsg(
                &self.stream,
                &[IoSlice::new(&[0])],
                &mut rights,
                SendFlags::NOSIGNAL,
            )?;
        }
        Ok(())
    }

    /// Receives a message of at most `max` bytes.
    pub(super) fn receive(&self, max: u64) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut talk = self.talk();
        let (mut len, mut count) = ([0; 8], [0; 4]);
        talk.read_exact(&mut len)?;
        talk.read_exact(&mut count)?;
        let (len, count) = (u64::from_be_bytes(len), u32::from_be_bytes(count));
        if len > max || count > DESCRIPTORS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the message is too long",
            ));
        }
        let mut bytes = Vec::new();
        Read::by_ref(&mut talk).take(len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut descriptors = Vec::new();
        while descriptors.len() < count as usize {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut rights = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let into = &mut [IoSliceMut::new(&mut byte)];
            talk.limit()?;
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = recvmsg(&self.stream, into, &mut rights, flags)?;
            let before = descriptors.len();
            for message in rights.drain() {
                if let RecvAncillaryMessage::ScmRights(group) = message {
                    descriptors.extend(group);
                }
            }
            if received.bytes == 0 || descriptors.len() == before {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok((bytes, descriptors))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    fn pair() -> [Channel; 2] {
        let (a, b) = UnixStream::pair().unwrap();
        [a, b].map(|end| Channel::new(end).unwrap())
    }

    #[test]
    fn bytes_and_descriptors_arrive_together_and_in_order() {
        let [a, b] = pair();
        let files: Vec<OwnedFd> = (0..AT_ONCE + 3)
            .map(|_| UnixStream::pair().unwrap().0.into())
            .collect();
        let inode = |file: &OwnedFd| rustix::fs::fstat(file).unwrap().st_ino;
        let expected: Vec<u64> = files.iter().map(inode).collect();
        let sender = std::thread::spawn(move || {
            a.send(b"first", &files).unwrap();
            a.send(&[7; 100_000], &[]).unwrap();
        });
        let (bytes, files) = b.receive(10).unwrap();
        assert_eq!((&bytes[..], files.len()), (&b"first"[..], AT_ONCE + 3));
        assert_eq!(files.iter().map(inode).collect::<Vec<_>>(), expected);
        assert_eq!(b.receive(100_000).unwrap().0, [7; 100_000]);
        sender.join().unwrap();
        assert_eq!(
            b.receive(1).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    /// Each of its bytes comes in time, but not all of them.
    #[test]
    fn a_conversation_has_an_end() {
        let [a, b] = pair();
        let b = b.within(Duration::from_millis(300));
        let begun = Instant::now();
        let talks = std::thread::spawn(move || {
            // Until the other end is closed.
            while (&a.stream).write_all(&[0]).is_ok() {
                std::thread::sleep(Duration::from_millis(60));
            }
        });
        let outcomes = [b.receive(1).map(drop), b.send(&[], &[]), b.wait_closed()];
        assert!(begun.elapsed() < PATIENCE, "it goes on");
        for outcome in outcomes {
            assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        drop(b);
        talks.join().unwrap();
    }

    #[test]
    fn a_message_that_is_too_long_is_refused() {
        let [a, b] = pair();
        a.send(&[7; 11], &[]).unwrap();
        assert!(b.receive(10).unwrap_err().to_string().contains("too long"));
    }
}
