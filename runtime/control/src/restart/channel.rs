//! Messages between the two processes of an upgrade: bytes, and descriptors with them.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// How long the other process may take for its next message: less than a service manager waits for a control
/// loop that does not turn (`WatchdogSec=` of the unit).
const PATIENCE: Duration = Duration::from_secs(15);

/// The most descriptors of one message of the socket (`SCM_MAX_FD` is 253).
const AT_ONCE: usize = 200;

/// The most descriptors of a message: a full machine has some thousand queues.
const DESCRIPTORS_MAX: u32 = 1 << 16;

/// One end of the connection.
pub(super) struct Channel(UnixStream);

impl Channel {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// Returns the id of the process at the other end.
    pub(super) fn peer(&self) -> io::Result<u32> {
        let peer = rustix::net::sockopt::socket_peercred(&self.0)?;
        Ok(peer.pid.as_raw_pid().cast_unsigned())
    }

    /// Waits until the other end is closed, or patience ends.
    pub(super) fn wait_closed(&self) -> io::Result<()> {
        let mut stream = &self.0;
        stream.read_to_end(&mut Vec::new()).map(drop)
    }

    /// Sends a message: its length, the number of its descriptors, its bytes; then a byte for each group of
    /// descriptors.
    pub(super) fn send(&self, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
        let mut stream = &self.0;
        let count = u32::try_from(descriptors.len()).map_err(io::Error::other)?;
        stream.write_all(&(bytes.len() as u64).to_be_bytes())?;
        stream.write_all(&count.to_be_bytes())?;
        stream.write_all(bytes)?;
        for group in descriptors.chunks(AT_ONCE) {
            let group: Vec<_> = group.iter().map(OwnedFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut rights = SendAncillaryBuffer::new(&mut space);
            rights.push(SendAncillaryMessage::ScmRights(&group));
            sendmsg(
                stream,
                &[IoSlice::new(&[0])],
                &mut rights,
                SendFlags::NOSIGNAL,
            )?;
        }
        Ok(())
    }

    /// Receives a message of at most `max` bytes.
    pub(super) fn receive(&self, max: u64) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut stream = &self.0;
        let (mut len, mut count) = ([0; 8], [0; 4]);
        stream.read_exact(&mut len)?;
        stream.read_exact(&mut count)?;
        let (len, count) = (u64::from_be_bytes(len), u32::from_be_bytes(count));
        if len > max || count > DESCRIPTORS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the message is too long",
            ));
        }
        let mut bytes = Vec::new();
        stream.take(len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut descriptors = Vec::new();
        while descriptors.len() < count as usize {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut rights = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let into = &mut [IoSliceMut::new(&mut byte)];
            let received = recvmsg(stream, into, &mut rights, RecvFlags::CMSG_CLOEXEC)?;
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

    #[test]
    fn a_message_that_is_too_long_is_refused() {
        let [a, b] = pair();
        a.send(&[7; 11], &[]).unwrap();
        assert!(b.receive(10).unwrap_err().to_string().contains("too long"));
    }
}
