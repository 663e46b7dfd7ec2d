//! OpenSSH Key Revocation Lists, for sshds that do not run our helper: what one says, written and read as bytes
//! (PROTOCOL.krl). No I/O, no decision about who is denied.
//!
//! Of the format's sections three are written: certificates by serial (as lists, ranges and bitmaps, whatever is
//! shortest), and keys by their SHA-256. No signature: OpenSSH has refused lists that carry one since 9.4.

mod read;
mod serials;
mod write;

use crate::domain::{Fingerprint, PublicKey, Serial, Timestamp};
use std::collections::BTreeSet;
use thiserror::Error;

/// `SSHKRL\n\0`.
const MAGIC: u64 = 0x5353_484b_524c_0a00;
const FORMAT: u32 = 1;

/// Kinds of sections.
const CERTIFICATES: u8 = 1;
const EXPLICIT_KEY: u8 = 2;
const FINGERPRINT_SHA1: u8 = 3;
const SIGNATURE: u8 = 4;
const FINGERPRINT_SHA256: u8 = 5;
const EXTENSION: u8 = 255;

/// Kinds of sections within one of certificates.
const SERIAL_LIST: u8 = 0x20;
const SERIAL_RANGE: u8 = 0x21;
const SERIAL_BITMAP: u8 = 0x22;
const KEY_ID: u8 = 0x23;
const CERTIFICATE_EXTENSION: u8 = 0x39;

/// The largest list that is read, in bytes.
pub const MAX_KRL_BYTES: usize = 64 * 1024 * 1024;

/// The most serial numbers that a list which is read may stand for, repeats counted: a range of a few bytes can name
/// 2^64, and the same range can come again in every section.
const MAX_SERIALS: u64 = 1 << 20;

/// The largest distance of two serial numbers of one bitmap: OpenSSH's limit is 2^24 bits (bitmap.c), and a reader pays
/// for each of them.
const MAX_BITMAP_BITS: u64 = 1 << 16;

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Krl {
    /// Its version; a later list has a higher one.
    pub version: u64,
    /// When it was made.
    pub generated: Timestamp,
    /// For people: `ssh-keygen -Q -l` shows it.
    pub comment: String,
    /// The CAs whose certificates the serial numbers are of: an authority never gives a number out twice, also with
    /// another key.
    pub authorities: Vec<PublicKey>,
    /// Serial numbers of certificates, none of them zero: that is OpenSSH's 'no serial'.
    pub serials: BTreeSet<Serial>,
    /// SHA-256 fingerprints of keys; a certificate on such a key is revoked with it.
    pub keys: BTreeSet<Fingerprint>,
}

/// Why bytes are not a list of ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KrlError {
    /// More than [`MAX_KRL_BYTES`], or more serial numbers than anybody revokes.
    #[error("the key revocation list is too large")]
    TooLarge,
    /// Cut off, or not a list at all.
    #[error("this is not an OpenSSH key revocation list, or it is cut off ({0})")]
    Format(&'static str),
    /// A list, but with something that is not written here.
    #[error("the key revocation list has {0}, which certgate does not write")]
    Foreign(&'static str),
}
