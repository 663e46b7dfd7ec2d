//! Writing a list.

use super::{
    CERTIFICATES, FINGERPRINT_SHA256, FORMAT, Krl, MAGIC, SERIAL_BITMAP, SERIAL_LIST, SERIAL_RANGE,
    serials::{Group, groups},
};
use crate::domain::PublicKey;

/// A string of RFC 4251, 5. What is written here is far below its limit of 2^32 bytes.
fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(bytes);
}

fn section(out: &mut Vec<u8>, kind: u8, data: &[u8]) {
    out.push(kind);
    string(out, data);
}

impl Krl {
    /// As OpenSSH reads it (`RevokedKeys`, `ssh-keygen -Q`).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + 8 * self.serials.len() + 36 * self.keys.len());
        out.extend(MAGIC.to_be_bytes());
        out.extend(FORMAT.to_be_bytes());
        out.extend(self.version.to_be_bytes());
        out.extend(self.generated.secs().to_be_bytes());
        // No flags are defined; then the reserved string.
        out.extend(0_u64.to_be_bytes());
        string(&mut out, b"");
        string(&mut out, self.comment.as_bytes());
        // Zero is no serial: OpenSSH refuses a list that names it.
        let serials = groups(self.serials.iter().map(|serial| serial.0).filter(|serial| *serial != 0));
        for ca in self.authorities.iter().filter(|_| !serials.is_empty()) {
            section(&mut out, CERTIFICATES, &certificates(ca, &serials));
        }
        if !self.keys.is_empty() {
            let mut hashes = Vec::with_capacity(36 * self.keys.len());
            for key in &self.keys {
                string(&mut hashes, key.as_bytes());
            }
            section(&mut out, FINGERPRINT_SHA256, &hashes);
        }
        out
    }
}

fn certificates(ca: &PublicKey, serials: &[Group]) -> Vec<u8> {
    let mut out = Vec::new();
    string(&mut out, &ca.to_wire());
    string(&mut out, b"");
    for group in serials {
        match group {
            Group::List(list) => {
                let data: Vec<u8> = list.iter().flat_map(|serial| serial.to_be_bytes()).collect();
                section(&mut out, SERIAL_LIST, &data);
            }
            Group::Range(first, last) => {
                section(&mut out, SERIAL_RANGE, &[first.to_be_bytes(), last.to_be_bytes()].concat());
            }
            Group::Bitmap(first, offsets) => {
                let mut data = first.to_be_bytes().to_vec();
                string(&mut data, &bitmap(offsets));
                section(&mut out, SERIAL_BITMAP, &data);
            }
        }
    }
    out
}

/// Bits as a multiple precision integer (RFC 4251, 5): the most significant byte first, and never negative.
fn bitmap(offsets: &[u64]) -> Vec<u8> {
    let bytes = usize::try_from(offsets.last().map_or(0, |last| last / 8 + 1)).unwrap_or(0);
    let mut bits = vec![0_u8; bytes];
    for offset in offsets {
        // In range: the last offset is the largest.
        if let Some(byte) = usize::try_from(offset / 8).ok().and_then(|n| bits.iter_mut().rev().nth(n)) {
            *byte |= 1 << (offset % 8);
        }
    }
    if bits.first().is_some_and(|byte| byte & 0x80 != 0) {
        bits.insert(0, 0);
    }
    bits
}
