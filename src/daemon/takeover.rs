//! One gateway takes over from another: the old process starts the new one, gives it the sockets that it listens on, and
//! takes connections until the new one does. The sockets stay open all the while, so nobody who connects is refused.
//!
//! They talk over a socket that is the new one's standard input: the old one sends the descriptors (`SCM_RIGHTS`), one
//! letter for each; the new one looks whether the authority takes it, and says that it is [`PREPARED`], and which process it is; the
//! old one steps aside and says [`GO`]; the new one accepts, and says that it is [`SERVING`]; the old one drains. Whatever fails
//! before that leaves the old one as it was.

use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
    process::{Pid, Signal},
};
use std::{
    ffi::OsString,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::{Shutdown, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

/// How long each step may take: starting, and being known to the authority.
const STEP: Duration = Duration::from_secs(30);

/// How often who is to take over looks whether that is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Sockets that are handed over at most.
pub(super) const MAX_SOCKETS: usize = 64;

/// The flag of a process that only starts the one that stays.
pub(super) const ORPHAN: &str = "--orphan";

/// How long the authority may take to answer the one who is to take over: it may just be coming back from a restart.
pub(super) const REACH_WITHIN: Duration = Duration::from_secs(10);

const PREPARED: u8 = b'p';
const UNREACHABLE: u8 = b'u';
const GO: u8 = b'g';
const SERVING: u8 = b's';

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// SSH, at an address of the configuration.
    Ssh,
    /// SSH, opened by systemd.
    Activated,
    /// Monitoring.
    Monitor,
}

impl Use {
    fn letter(self) -> u8 {
        match self {
            Self::Ssh => b'S',
            Self::Activated => b'A',
            Self::Monitor => b'M',
        }
    }

    fn of(letter: u8) -> io::Result<Self> {
        let uses = [Self::Ssh, Self::Activated, Self::Monitor];
        uses.into_iter().find(|of| of.letter() == letter).ok_or_else(|| broken("a socket of an unknown kind"))
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Starts this program again as an orphan, with the same words but [`ORPHAN`] and the same standard input.
///
/// # Errors
/// It cannot be started.
pub(super) fn orphan(start: &Start) -> io::Result<()> {
    Command::new(&start.program).args(&start.arguments).stdin(Stdio::inherit()).spawn().map(drop)
}

/// How this process was started, so that it can be started again.
#[derive(Clone, Debug)]
pub(super) struct Start {
    /// The program, by the path that it had when it was started: an upgrade puts another file there.
    pub(super) program: PathBuf,
    /// Its words.
    pub(super) arguments: Vec<OsString>,
}

/// Ends the conversation of two processes when it is dropped: neither waits for the other's next word any more.
pub(super) struct HangUp(UnixStream);

impl Drop for HangUp {
    fn drop(&mut self) {
        // It fails only when it has ended already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Both ends of what the two processes talk over, and what ends it.
///
/// # Errors
/// There are no more descriptors.
pub(super) fn line() -> io::Result<((UnixStream, UnixStream), HangUp)> {
    let (ours, theirs) = UnixStream::pair()?;
    let hang_up = HangUp(ours.try_clone()?);
    Ok(((ours, theirs), hang_up))
}

/// The process that is to take over. Unless it is left in charge, it is ended when this is dropped.
///
/// It is no child of this process, but of the one that looks after orphans: systemd, which learns by that when the service's
/// main process ends, whatever has become of the one that started it.
pub(super) struct Successor {
    pid: Option<Pid>,
    socket: UnixStream,
    serving: bool,
    in_charge: bool,
}

impl Successor {
    /// Starts it with these sockets, and returns when it is prepared. Waits: not for an async thread.
    ///
    /// # Errors
    /// It cannot be started, or it does not reach the authority, or it has ended, most likely because of its configuration,
    /// which its log tells.
    pub(super) fn start(
        start: &Start,
        sockets: &[(Use, OwnedFd)],
        (socket, theirs): (UnixStream, UnixStream),
    ) -> io::Result<Self> {
        let mut command = Command::new(&start.program);
        command.args(&start.arguments).arg(ORPHAN).stdin(Stdio::from(OwnedFd::from(theirs)));
        // It ends at once, having started the one that stays.
        let started = command.status()?;
        drop(command);
        if !started.success() {
            return Err(broken("the new process has ended; its log tells why"));
        }
        let mut successor = Self { pid: None, socket, serving: false, in_charge: false };
        successor.socket.set_read_timeout(Some(STEP))?;
        send(&successor.socket, sockets)?;
        successor.hear(PREPARED)?;
        let mut pid = [0; 4];
        successor.socket.read_exact(&mut pid)?;
        successor.pid = Pid::from_raw(i32::from_ne_bytes(pid));
        Ok(successor)
    }

    /// Lets it begin, and returns it when it serves. Waits.
    ///
    /// # Errors
    /// It has ended, or does not answer.
    pub(super) fn go(mut self) -> io::Result<Self> {
        self.socket.write_all(&[GO])?;
        self.hear(SERVING)?;
        self.serving = true;
        Ok(self)
    }

    /// Leaves it in charge.
    pub(super) fn leave_in_charge(mut self) {
        self.in_charge = true;
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.pid.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    fn hear(&mut self, word: u8) -> io::Result<()> {
        hear(&mut self.socket, word).map_err(|error| match error.kind() {
            io::ErrorKind::NotConnected => broken("the new process does not reach the authority; its log tells why"),
            io::ErrorKind::WouldBlock => broken("the new process does not answer"),
            io::ErrorKind::UnexpectedEof => broken("the new process has ended; its log tells why"),
            _ => error,
        })
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(pid) = self.pid.filter(|_| !self.in_charge) {
            // It has ended already, or is to. Who serves does it in order; who has not said who it is ends with its socket.
            let signal = if self.serving { Signal::TERM } else { Signal::KILL };
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// The process that is taken over from.
pub(super) struct Predecessor {
    socket: UnixStream,
}

impl Predecessor {
    /// Takes the sockets. Waits.
    ///
    /// # Errors
    /// Standard input is not what a predecessor gives.
    pub(super) fn take() -> io::Result<(Self, Vec<(Use, TcpListener)>)> {
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let sockets = receive(&socket)?;
        Ok((Self { socket }, sockets))
    }

    /// Returns when the predecessor has hung up.
    pub(super) async fn gone(&self) {
        use rustix::net::{RecvFlags, recv};
        loop {
            // It says nothing before it is told that all is prepared.
            let heard = recv(&self.socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            if !matches!(heard, Err(Errno::AGAIN | Errno::INTR)) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Says that nothing will come of it: the authority cannot be reached from here.
    pub(super) fn unreachable(&mut self) {
        // It fails only if nobody is there to be told.
        let _ = self.socket.write_all(&[UNREACHABLE]);
    }

    /// Says that all is prepared, and returns when it is time to begin. Waits.
    ///
    /// # Errors
    /// The predecessor has changed its mind.
    pub(super) fn prepared(&mut self) -> io::Result<()> {
        self.socket.set_read_timeout(Some(STEP))?;
        self.socket.write_all(&[PREPARED])?;
        self.socket.write_all(&rustix::process::getpid().as_raw_nonzero().get().to_ne_bytes())?;
        hear(&mut self.socket, GO)
    }

    /// Says that connections are taken.
    ///
    /// # Errors
    /// The predecessor is gone, which changes nothing.
    pub(super) fn serving(&mut self) -> io::Result<()> {
        self.socket.write_all(&[SERVING])
    }
}

fn hear(socket: &mut UnixStream, word: u8) -> io::Result<()> {
    let mut heard = [0];
    socket.read_exact(&mut heard)?;
    match heard {
        [said] if said == word => Ok(()),
        [UNREACHABLE] => Err(io::ErrorKind::NotConnected.into()),
        _ => Err(broken("another word than was expected")),
    }
}

fn send(socket: &UnixStream, sockets: &[(Use, OwnedFd)]) -> io::Result<()> {
    let letters: Vec<u8> = sockets.iter().map(|(of, _)| of.letter()).collect();
    let fds: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    if fds.is_empty() || fds.len() > MAX_SOCKETS {
        return Err(broken("none, or too many sockets to hand over"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(broken("too many sockets to hand over"));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&letters)], &mut rights, SendFlags::NOSIGNAL)?;
    if sent == letters.len() { Ok(()) } else { Err(Errno::MSGSIZE.into()) }
}

fn receive(socket: &UnixStream) -> io::Result<Vec<(Use, TcpListener)>> {
    let mut letters = [0; MAX_SOCKETS];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut letters)], &mut rights, flags)?;
    let fds: Vec<OwnedFd> = rights
        .drain()
        .filter_map(|message| if let RecvAncillaryMessage::ScmRights(fds) = message { Some(fds) } else { None })
        .flatten()
        .collect();
    let letters = letters.get(..got.bytes).unwrap_or_default();
    if fds.is_empty() || fds.len() != letters.len() {
        return Err(broken("the sockets of a predecessor were expected on standard input"));
    }
    let uses = letters.iter().map(|letter| Use::of(*letter));
    uses.zip(fds).map(|(of, fd)| Ok((of?, TcpListener::from(fd)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_arrive_as_they_were_sent_and_nothing_else_is_taken() {
        let (old, new) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let copy = || listener.as_fd().try_clone_to_owned().unwrap();
        send(&old, &[(Use::Activated, copy()), (Use::Monitor, copy())]).unwrap();
        let got = receive(&new).unwrap();
        assert_eq!(got.iter().map(|(of, _)| *of).collect::<Vec<_>>(), [Use::Activated, Use::Monitor]);
        assert!(got.iter().all(|(_, socket)| socket.local_addr().unwrap() == address));

        assert!(send(&old, &[]).is_err());
        assert!(send(&old, &(0..=MAX_SOCKETS).map(|_| (Use::Ssh, copy())).collect::<Vec<_>>()).is_err());
        (&old).write_all(b"S").unwrap();
        assert!(receive(&new).is_err(), "a letter without a socket");
        drop(old);
        assert!(receive(&new).is_err(), "nobody is there");
    }

    fn successor(child: &std::process::Child, serving: bool) -> Successor {
        let pid = Some(Pid::from_child(child));
        Successor { pid, socket: UnixStream::pair().unwrap().0, serving, in_charge: false }
    }

    #[test]
    fn who_is_not_left_in_charge_is_ended_and_in_order_if_it_serves() {
        use std::os::unix::process::ExitStatusExt;
        let child = || Command::new("sleep").arg("600").spawn().unwrap();
        for (serving, signal) in [(false, Signal::KILL), (true, Signal::TERM)] {
            let mut child = child();
            drop(successor(&child, serving));
            assert_eq!(child.wait().unwrap().signal(), Some(signal.as_raw()));
        }
        let mut child = child();
        successor(&child, true).leave_in_charge();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_was_said_before_it_was_hung_up_is_heard_and_nothing_is_waited_for() {
        for (said, heard) in [(&[SERVING][..], true), (&[][..], false), (&[UNREACHABLE][..], false)] {
            let ((mut ours, mut theirs), hang_up) = line().unwrap();
            theirs.write_all(said).unwrap();
            drop(hang_up);
            assert_eq!(hear(&mut ours, SERVING).is_ok(), heard);
            assert!(theirs.write_all(&[SERVING]).is_err());
        }
    }
}
