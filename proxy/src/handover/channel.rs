//! Messages between two processes, with descriptors on them.
//!
//! A pair of connected sockets without a name: nobody can find it, and nobody has an end of it but the process that
//! made it and the child that was started with the other one. One message is one packet, so nothing has to be framed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Of one message; paths and names are bounded by far less, reasons are cut to it.
pub const MAX_BYTES: usize = 64 << 10;
/// The kernel takes 253 on one message (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 128;
/// For a message to find room. The other side reads all the time.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Our end, and the one for the child.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self::new(ours)?, theirs))
    }

    /// Anything but an end of such a pair is refused.
    pub fn new(end: OwnedFd) -> io::Result<Self> {
        if sockopt::socket_type(&end)? != SocketType::SEQPACKET {
            return Err(io::Error::other("not the socket of a handover"));
        }
        sockopt::set_socket_timeout(&end, Timeout::Send, Some(SEND_TIMEOUT))?;
        Ok(Self(end))
    }

    /// The process that made the pair: its user's number.
    pub fn peer_user(&self) -> io::Result<u32> {
        Ok(sockopt::socket_peercred(&self.0)?.uid.as_raw())
    }

    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_BYTES || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        loop {
            match rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }

    /// The next message and what came on it. `UnexpectedEof` when the other process has ended, `TimedOut` when nothing
    /// comes.
    pub fn receive<T: DeserializeOwned>(&self, within: Duration) -> io::Result<(T, Vec<OwnedFd>)> {
        // Zero would be no timeout at all.
        let within = within.max(Duration::from_millis(1));
        sockopt::set_socket_timeout(&self.0, Timeout::Recv, Some(within))?;
        let mut bytes = vec![0; MAX_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.0, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                // It ended with something of ours unread.
                Err(rustix::io::Errno::CONNRESET) => return Err(io::ErrorKind::UnexpectedEof.into()),
                received => break received?,
            }
        };
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        // Also before an error: what came is closed when it is dropped.
        let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::other("a message was cut; too many descriptors are open?"));
        }
        match received.bytes {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok((serde_json::from_slice(&bytes[..count])?, descriptors)),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn messages_and_descriptors_arrive_together_and_in_order() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let theirs = Channel::new(theirs).expect("an end");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        ours.send(&"first", &[]).expect("sent");
        ours.send(&"second", &[writer.as_fd(), writer.as_fd()]).expect("sent");
        drop(writer);
        let (first, none): (String, _) = theirs.receive(SOON).expect("received");
        assert_eq!((first.as_str(), none.len()), ("first", 0));
        let (second, came): (String, _) = theirs.receive(SOON).expect("received");
        assert_eq!((second.as_str(), came.len()), ("second", 2));
        for end in came {
            File::from(end).write_all(b"x").expect("it is the pipe");
        }
        let mut read = String::new();
        reader.read_to_string(&mut read).expect("both ends are closed");
        assert_eq!(read, "xx");
    }

    #[test]
    fn the_bounds_hold() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let theirs = Channel::new(theirs).expect("an end");
        let many = vec![ours.as_fd(); MAX_DESCRIPTORS];
        ours.send(&"many", &many).expect("sent");
        let (_, came) = theirs.receive::<String>(SOON).expect("received");
        assert_eq!(came.len(), MAX_DESCRIPTORS);
        let more = vec![ours.as_fd(); MAX_DESCRIPTORS + 1];
        assert!(ours.send(&"more", &more).is_err());
        assert!(ours.send(&"x".repeat(MAX_BYTES), &[]).is_err());
        ours.send(&"x".repeat(MAX_BYTES - 2), &[])
            .expect("sent, with its quotes");
        assert_eq!(theirs.receive::<String>(SOON).expect("received").0.len(), MAX_BYTES - 2);
    }

    #[test]
    fn silence_and_the_end_are_told_apart() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let silence = ours
            .receive::<String>(Duration::from_millis(20))
            .expect_err("nothing came");
        assert_eq!(silence.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
        let end = ours.receive::<String>(SOON).expect_err("nobody is there");
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        assert!(ours.send(&"anybody?", &[]).is_err());
    }

    #[test]
    fn only_such_a_pair_will_do() {
        let (stream, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert!(Channel::new(stream.into()).is_err());
        let file = File::open("/dev/null").expect("it is there");
        assert!(Channel::new(file.into()).is_err());
        let (ours, _theirs) = Channel::pair().expect("a pair");
        assert_eq!(
            ours.peer_user().expect("it has a peer"),
            rustix::process::geteuid().as_raw()
        );
    }
}
