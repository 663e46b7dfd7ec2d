//! What the helper tells the agent of a login that it has answered: one datagram of a fixed layout. It is a hint: the
//! agent believes of it what the kernel bears out (see `node::sessions`).

/// The name of the agent's socket, beside the access table.
pub const SOCKET: &str = "logins.sock";

/// The length of a notice in bytes.
pub const LENGTH: usize = 120;

/// How a notice begins.
const MAGIC: [u8; 8] = *b"CGLOGIN1";

/// The longest name in it, in bytes: Linux's own limit.
const NAME: usize = 32;

/// Somebody may log in, as far as the access table is concerned; whether they do is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice<'a> {
    /// The process that asked: sshd's privileged monitor of the connection.
    pub parent: u32,
    /// The certificate's serial number.
    pub serial: u64,
    /// The SHA-256 fingerprint of the key that it certifies.
    pub key: [u8; 32],
    /// The login.
    pub login: &'a [u8],
    /// The certificate's key ID: whose it is.
    pub key_id: &'a [u8],
}

impl<'a> Notice<'a> {
    /// As it is sent. None if a name does not fit: no certificate of ours has such a one.
    #[must_use]
    pub fn encode(&self) -> Option<[u8; LENGTH]> {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.parent.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.serial.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.key);
        bytes[56..56 + NAME].get_mut(..self.login.len())?.copy_from_slice(self.login);
        bytes[88..88 + NAME].get_mut(..self.key_id.len())?.copy_from_slice(self.key_id);
        Some(bytes)
    }

    /// From what was received.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        if bytes[..8] != MAGIC || bytes[12..16] != [0; 4] {
            return None;
        }
        Some(Self {
            parent: u32::from_le_bytes(bytes[8..12].try_into().ok()?),
            serial: u64::from_le_bytes(bytes[16..24].try_into().ok()?),
            key: bytes[24..56].try_into().ok()?,
            login: name(&bytes[56..88])?,
            key_id: name(&bytes[88..120])?,
        })
    }
}

/// A name without the zeros that fill its field.
fn name(field: &[u8]) -> Option<&[u8]> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let (name, rest) = field.split_at(end);
    (super::is_name(name) && rest.iter().all(|byte| *byte == 0)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_received_and_anything_else_is_nothing() {
        let long = [b'a'; NAME];
        let notice = Notice { parent: 4242, serial: u64::MAX, key: [7; 32], login: b"ubuntu", key_id: &long };
        let bytes = notice.encode().unwrap();
        assert_eq!(Notice::parse(&bytes), Some(notice));
        assert_eq!(Notice { login: &[b'a'; NAME + 1], ..notice }.encode(), None);
        for length in 0..LENGTH {
            assert_eq!(Notice::parse(&bytes[..length]), None);
        }
        assert_eq!(Notice::parse(&[&bytes[..], b"\0"].concat()), None);
        // Another kind of message, something in the gap, a name that is none, something behind a name.
        for (place, byte) in [(0, b'X'), (13, 1), (56, 0), (57, b'\n'), (57, b'/'), (70, b'x'), (90, 0x80)] {
            let mut bad = bytes;
            bad[place] = byte;
            assert_eq!(Notice::parse(&bad), None, "{place}");
        }
    }
}
