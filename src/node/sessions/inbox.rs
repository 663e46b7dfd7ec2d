//! The socket on which the helper tells of logins.
//!
//! Only root and the user that the helper runs as can send there: the socket's mode says so, and the kernel's word on
//! who has sent (SCM_CREDENTIALS, unix(7)) is looked at for each datagram. What was sent is still only a hint.

use crate::{
    domain::{Fingerprint, Serial},
    node::{
        files::FileError,
        helper::notice::{LENGTH, Notice},
    },
};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, RecvMsg, recvmsg, setsockopt, sockopt::PassCred};
use std::{
    fs,
    io::{self, IoSliceMut},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{PermissionsExt, chown},
            net::UnixDatagram,
        },
    },
    path::Path,
};

use super::access::Claim;

/// A login that the helper has let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The process that has sent it.
    pub sender: i32,
    /// The process that the helper was asked by, as it says.
    pub parent: i32,
    /// The login.
    pub login: String,
    /// With what.
    pub claim: Claim,
}

/// See the module.
#[derive(Debug)]
pub struct Inbox {
    socket: UnixDatagram,
    helper: u32,
}

impl Inbox {
    /// Listens at this path, for root and for the user that the helper runs as.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn bind(path: &Path, helper: u32) -> Result<Self, FileError> {
        let bind = || {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let socket = UnixDatagram::bind(path)?;
            setsockopt(&socket, PassCred, &true)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            chown(path, Some(helper), None)?;
            Ok(Self { socket, helper })
        };
        bind().map_err(|why| FileError { path: path.to_owned(), why })
    }

    /// Waits for the next one. What nobody sends who may is passed over.
    ///
    /// # Errors
    /// The socket is of no use any more.
    pub fn receive(&self) -> io::Result<Heard> {
        loop {
            let (mut bytes, mut space) = ([0; LENGTH + 1], nix::cmsg_space!(libc::ucred));
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let received =
                recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC);
            let received = match received {
                Err(nix::Error::EINTR) => continue,
                received => received?,
            };
            let (length, sender) = (received.bytes, self.sender(&received));
            let heard = sender.and_then(|sender| heard(sender, bytes.get(..length)?));
            if let Some(heard) = heard {
                return Ok(heard);
            }
        }
    }

    fn sender(&self, received: &RecvMsg<'_, '_, ()>) -> Option<i32> {
        let credentials = received.cmsgs().ok()?.find_map(|message| match message {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials),
            _ => None,
        })?;
        let uid = credentials.uid();
        // 0: the kernel cannot say it, because the sender lives in another PID namespace.
        (uid == 0 || uid == self.helper).then(|| credentials.pid()).filter(|pid| *pid > 0)
    }
}

fn heard(sender: i32, bytes: &[u8]) -> Option<Heard> {
    let notice = Notice::parse(bytes)?;
    // Names in their alphabet, checked by `parse`.
    let text = |name: &[u8]| String::from_utf8(name.to_vec()).ok();
    let claim =
        Claim { owner: text(notice.key_id)?, serial: Serial(notice.serial), key: Fingerprint::from_bytes(notice.key) };
    Some(Heard { sender, parent: i32::try_from(notice.parent).ok()?, login: text(notice.login)?, claim })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_arrives_with_the_one_who_sent_it_and_anything_else_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logins.sock");
        let own = rustix::process::geteuid().as_raw();
        let inbox = Inbox::bind(&path, own).unwrap();
        let send = |bytes: &[u8]| UnixDatagram::unbound().unwrap().send_to(bytes, &path).unwrap();
        let notice =
            Notice { parent: 42, serial: 7, key: [9; 32], login: b"user1", key_id: b"user1" }.encode().unwrap();
        send(b"nonsense");
        send(&[0; 4000]);
        send(&[&notice[..], b"more"].concat());
        send(&notice);
        let heard = inbox.receive().unwrap();
        assert_eq!((heard.sender, heard.parent), (i32::try_from(std::process::id()).unwrap(), 42));
        assert_eq!((heard.login.as_str(), heard.claim.serial), ("user1", Serial(7)));
        // What a former agent has left is replaced.
        drop(inbox);
        assert!(Inbox::bind(&path, own).is_ok());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
