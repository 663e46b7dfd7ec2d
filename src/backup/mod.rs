//! A backup: one file with the directory, the record of certificates and the audit log of an authority (what was archived of
//! it is in files of its own), and if wanted its private keys, encrypted so that only whoever has the recipient's key can
//! read it, and signed so that it can be told from one that somebody else has made.
//!
//! It is an age file (<https://age-encryption.org/v1>) around a tar archive (POSIX.1-1988 ustar), so that it can be opened
//! without certgate: `age -d -i KEY FILE | tar x`. In the archive stand, in this order, `manifest.json`, its signature by the
//! authority's audit key (`manifest.sig`, PROTOCOL.sshsig), the private keys if they were wanted, and the database. The
//! manifest has the SHA-256 of each of them.

mod read;
mod write;

pub use read::{Opened, open};
pub use write::write;

use crate::{
    audit::Head,
    domain::{PublicKey, Serial, Timestamp, Version},
};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use ssh_key::{
    Algorithm, HashAlg, LineEnding, SshSig,
    public::{Ed25519PublicKey, KeyData},
};
use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read},
    str::FromStr,
};
use thiserror::Error;

/// What keeps these signatures apart from all others that an SSH key may make (PROTOCOL.sshsig, `namespace`).
pub const NAMESPACE: &str = "backup@certgate";

/// The name of the database in the archive.
pub const DATABASE: &str = "directory.sqlite3";

const MANIFEST: &str = "manifest.json";
const SIGNATURE: &str = "manifest.sig";
const FORMAT: u32 = 1;

/// The largest of everything but the database, in bytes.
const SMALL: u64 = 64 * 1024;

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this description. A reader refuses one that it does not know.
    pub format: u32,
    /// The version of certgate that made it.
    pub program: String,
    /// When.
    pub created: Timestamp,
    /// The bastion, as people connect to it.
    pub bastion: String,
    /// The directory's version.
    pub version: Version,
    /// The serial number that the next certificate would have had.
    pub next_serial: Serial,
    /// Where the audit log ends.
    pub audit: Head,
    /// How many accounts there are.
    pub accounts: u64,
    /// How many projects there are.
    pub projects: u64,
    /// The public halves of the authority's keys, by the names of their files.
    pub keys: BTreeMap<String, PublicKey>,
    /// SHA-256 of what is in the archive, by name, as 64 lower-case hexadecimal digits.
    pub sha256: BTreeMap<String, String>,
}

impl Manifest {
    /// Whether the private keys are in it.
    #[must_use]
    pub fn with_keys(&self) -> bool {
        self.keys.keys().any(|name| self.sha256.contains_key(name))
    }

    /// Its signature, as `ssh-keygen -Y verify` reads it.
    fn sign(text: &str, key: &SigningKey) -> Result<String, BackupError> {
        let defect = |error: ssh_key::Error| BackupError::Signature(error.to_string());
        let message = SshSig::signed_data(NAMESPACE, HashAlg::Sha512, text.as_bytes()).map_err(defect)?;
        let signature = ssh_key::Signature::new(Algorithm::Ed25519, key.sign(&message).to_bytes().to_vec());
        let public = KeyData::Ed25519(Ed25519PublicKey(key.verifying_key().to_bytes()));
        let signed = SshSig::new(public, NAMESPACE, HashAlg::Sha512, signature.map_err(defect)?).map_err(defect)?;
        signed.to_pem(LineEnding::LF).map_err(defect)
    }
}

/// Whose signature this is over a text.
fn signer(text: &str, signature: &str) -> Result<PublicKey, BackupError> {
    let bad = |what: &str| BackupError::Signature(what.to_owned());
    let signed = SshSig::from_pem(signature).map_err(|_| bad("it is not one"))?;
    if signed.namespace() != NAMESPACE || signed.hash_alg() != HashAlg::Sha512 {
        return Err(bad("it is one of something else"));
    }
    let KeyData::Ed25519(public) = signed.public_key() else { return Err(bad("it is by another kind of key")) };
    let key = VerifyingKey::from_bytes(&public.0).map_err(|_| bad("its key is none"))?;
    let bytes = <[u8; 64]>::try_from(signed.signature_bytes()).map_err(|_| bad("it is not one of ed25519"))?;
    let message = SshSig::signed_data(NAMESPACE, HashAlg::Sha512, text.as_bytes())
        .map_err(|error| BackupError::Signature(error.to_string()))?;
    key.verify_strict(&message, &Signature::from_bytes(&bytes)).map_err(|_| bad("it does not fit"))?;
    Ok(PublicKey::from_ed25519(public.0))
}

/// Who can read a backup: a public key of age, `age1…`.
#[derive(Clone)]
pub struct Recipient(age::x25519::Recipient);

impl FromStr for Recipient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.to_ascii_uppercase().contains("AGE-SECRET-KEY-") {
            return Err(
                "this is a secret key: whoever has seen it can read the backup. Give its public half (age1…), which \
                        'age-keygen -y FILE' prints, and make another key"
                    .into(),
            );
        }
        let unknown =
            |_| format!("{text:?} is not a recipient: one begins with age1; 'age-keygen' makes a key and prints it");
        text.parse().map(Self).map_err(unknown)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a backup could not be written or read.
#[derive(Debug, Error)]
pub enum BackupError {
    /// It cannot be decrypted.
    #[error("it cannot be decrypted: {0}. Is this the key that it was made for?")]
    Decrypt(String),
    /// The key that was given is none.
    #[error("the identity is not a secret key of age (AGE-SECRET-KEY-1…): {0}")]
    Identity(String),
    /// It could not be encrypted.
    #[error("it could not be encrypted: {0}")]
    Encrypt(String),
    /// Its signature.
    #[error("the signature of the backup: {0}. It was not made by an authority, or it was altered")]
    Signature(String),
    /// What is in it.
    #[error("this is not a backup of certgate, or a damaged one: {0}")]
    Format(String),
    /// Reading or writing.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// SHA-256 of all that is left to read, and how long it was.
///
/// # Errors
/// It cannot be read.
pub fn sha256(mut from: impl Read) -> io::Result<(String, u64)> {
    let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 256 * 1024]);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok((hex(&hash.finalize()), length));
        }
        hash.update(buffer.get(..read).unwrap_or_default());
        length += read as u64;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
