//! SSH public keys and fingerprints, checked before they are parsed further.

use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use ssh_key::{HashAlg, public::KeyData};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// The most bytes of a key or certificate that are ever parsed. ssh-key's parser recurses into nested certificates
/// without a bound, so what could nest deeply is refused by size first. RSA 16384 needs about 2 kB.
pub const MAX_KEY_BYTES: usize = 16 * 1024;

/// The smallest RSA modulus that is accepted, in bits.
const MIN_RSA_BITS: u32 = 3072;
/// OpenSSH's own upper limit (`OPENSSL_RSA_MAX_MODULUS_BITS`): larger ones only cost time.
const MAX_RSA_BITS: u32 = 16384;

/// Why a text or blob is not a key that can be registered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// A private key was given. It was not kept.
    #[error(
        "that is a PRIVATE key; it was not stored or logged. If anyone may have seen it, make a new one. Give the \
         public key, the one-line file that ends in .pub"
    )]
    Private,
    /// A certificate was given instead of a key.
    #[error("that is a certificate, not a key; give the public key itself")]
    Certificate,
    /// More than [`MAX_KEY_BYTES`].
    #[error("that is too long for a public key")]
    TooLong,
    /// Not one line of OpenSSH's public key format.
    #[error("that is not an OpenSSH public key; it should be one line like 'ssh-ed25519 AAAA… comment'")]
    Format,
    /// An algorithm that is broken or that nobody here verifies.
    #[error(
        "keys of type {0} are not accepted; use ed25519 (ssh-keygen -t ed25519), ECDSA, a FIDO key of these, or RSA of \
         at least {MIN_RSA_BITS} bits"
    )]
    Algorithm(String),
    /// An RSA key outside the accepted sizes.
    #[error("an RSA key of {0} bits is not accepted: at least {MIN_RSA_BITS} and at most {MAX_RSA_BITS}")]
    RsaSize(u32),
}

/// A public key of a type and size that is accepted. Carries no comment: nothing that the owner wrote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublicKey(KeyData);

impl PublicKey {
    /// From the wire format of RFC 4253, 6.6.
    ///
    /// # Errors
    /// Too long, not a key, or not of an accepted type and size.
    pub fn from_wire(blob: &[u8]) -> Result<Self, KeyError> {
        if blob.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong);
        }
        // The algorithm is looked at before anything is decoded: a nested certificate never reaches the parser.
        accepted_algorithm(wire_algorithm(blob).ok_or(KeyError::Format)?)?;
        let key = ssh_key::PublicKey::from_bytes(blob).map_err(|_| KeyError::Format)?;
        Self::from_key_data(key.key_data())
    }

    /// From a key that a library has parsed already.
    ///
    /// # Errors
    /// Not of an accepted type and size.
    pub fn from_key_data(key: &KeyData) -> Result<Self, KeyError> {
        accepted_algorithm(key.algorithm().as_str())?;
        if let KeyData::Rsa(rsa) = key {
            let bits = rsa.key_size();
            if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
                return Err(KeyError::RsaSize(bits));
            }
        }
        Ok(Self(key.clone()))
    }

    /// From the 32 bytes of an ed25519 key (RFC 8032), which is always of an accepted type.
    #[must_use]
    pub fn from_ed25519(bytes: [u8; 32]) -> Self {
        Self(KeyData::Ed25519(ssh_key::public::Ed25519PublicKey(bytes)))
    }

    /// Its 32 bytes, if it is one of ed25519.
    #[must_use]
    pub fn ed25519(&self) -> Option<&[u8; 32]> {
        match &self.0 {
            KeyData::Ed25519(key) => Some(&key.0),
            _ => None,
        }
    }

    /// As ssh-key has it.
    #[must_use]
    pub fn key_data(&self) -> &KeyData {
        &self.0
    }

    /// SHA-256 of the wire format.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }

    /// The algorithm's name (RFC 4253 and OpenSSH's PROTOCOL), such as `ssh-ed25519`.
    #[must_use]
    pub fn algorithm(&self) -> String {
        self.0.algorithm().as_str().to_owned()
    }

    /// The wire format of RFC 4253, 6.6.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        // Encoding what was decoded has no error case; an empty blob would match no key.
        ssh_key::PublicKey::new(self.0.clone(), "").to_bytes().unwrap_or_default()
    }
}

/// One line of OpenSSH's format, `TYPE BASE64 [COMMENT]`; options before it are refused.
impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.contains("PRIVATE KEY") || text.contains("PuTTY-User-Key-File") {
            return Err(KeyError::Private);
        }
        if text.len() > 2 * MAX_KEY_BYTES {
            return Err(KeyError::TooLong);
        }
        let line = text.trim();
        if line.contains(['\n', '\r', '\0']) {
            return Err(KeyError::Format);
        }
        let mut fields = line.split_ascii_whitespace();
        let (Some(kind), Some(encoded)) = (fields.next(), fields.next()) else { return Err(KeyError::Format) };
        let blob = STANDARD.decode(encoded).map_err(|_| KeyError::Format)?;
        if wire_algorithm(&blob) != Some(kind) {
            return Err(KeyError::Format);
        }
        Self::from_wire(&blob)
    }
}

/// One line of OpenSSH's format without a comment.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm(), STANDARD.encode(self.to_wire()))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The first string of a blob: the name of its algorithm.
fn wire_algorithm(blob: &[u8]) -> Option<&str> {
    let (length, rest) = blob.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    std::str::from_utf8(rest.get(..length)?).ok()
}

fn accepted_algorithm(name: &str) -> Result<(), KeyError> {
    match name {
        "ssh-ed25519"
        | "sk-ssh-ed25519@openssh.com"
        | "ecdsa-sha2-nistp256"
        | "ecdsa-sha2-nistp384"
        | "ecdsa-sha2-nistp521"
        | "sk-ecdsa-sha2-nistp256@openssh.com"
        | "ssh-rsa" => Ok(()),
        // Only what looks like an algorithm's name is repeated to the one who gave it.
        name if name.ends_with("-cert-v01@openssh.com") => Err(KeyError::Certificate),
        name if name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-@.".contains(&b)) => {
            Err(KeyError::Algorithm(name.to_owned()))
        }
        _ => Err(KeyError::Format),
    }
}

/// SHA-256 fingerprint of a public key, written as OpenSSH does: `SHA256:` and base64 without padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a key.
    #[must_use]
    pub fn of(key: &KeyData) -> Self {
        // ssh-key gives 32 bytes for SHA-256; zeros would be nobody's fingerprint.
        Self(key.fingerprint(HashAlg::Sha256).sha256().unwrap_or([0; 32]))
    }

    /// From the digest itself.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("SHA256:{}", STANDARD_NO_PAD.encode(self.0)))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a fingerprint is written SHA256:… as ssh-keygen -l prints it";
        let encoded = text.strip_prefix("SHA256:").ok_or(FORM)?;
        let bytes = STANDARD_NO_PAD.decode(encoded).map_err(|_| FORM)?;
        bytes.try_into().map(Self).map_err(|_| FORM)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk8sJwgtvJwSAGHSLkJL7gTrZgcoLYZQ+9yCxGwBZ1R someone@somewhere";

    #[test]
    fn a_key_loses_its_comment_and_keeps_the_rest() {
        let key: PublicKey = ED25519.parse().unwrap();
        assert_eq!(key.to_string(), ED25519.rsplit_once(' ').unwrap().0);
        assert_eq!(PublicKey::from_wire(&key.to_wire()), Ok(key.clone()));
        assert_eq!(key.fingerprint().to_string().parse(), Ok(key.fingerprint()));
    }

    #[test]
    fn what_is_not_a_public_key_is_named() {
        let private =
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
        assert_eq!(private.parse::<PublicKey>(), Err(KeyError::Private));
        assert_eq!("PuTTY-User-Key-File-3: ssh-ed25519".parse::<PublicKey>(), Err(KeyError::Private));
        assert_eq!("".parse::<PublicKey>(), Err(KeyError::Format));
        assert_eq!(format!("command=\"x\" {ED25519}").parse::<PublicKey>(), Err(KeyError::Format));
        assert_eq!(format!("{ED25519}\n{ED25519}").parse::<PublicKey>(), Err(KeyError::Format));
        assert_eq!(ED25519.replacen("ssh-ed25519", "ssh-rsa", 1).parse::<PublicKey>(), Err(KeyError::Format));
        assert_eq!("x".repeat(40_000).parse::<PublicKey>(), Err(KeyError::TooLong));
    }

    fn blob_of(algorithm: &str) -> Vec<u8> {
        let mut blob = u32::try_from(algorithm.len()).unwrap().to_be_bytes().to_vec();
        blob.extend(algorithm.as_bytes());
        blob
    }

    #[test]
    fn dsa_certificates_and_strangers_are_refused_by_name() {
        assert_eq!(PublicKey::from_wire(&blob_of("ssh-dss")), Err(KeyError::Algorithm("ssh-dss".into())));
        assert_eq!(PublicKey::from_wire(&blob_of("ssh-ed25519-cert-v01@openssh.com")), Err(KeyError::Certificate));
        assert_eq!(PublicKey::from_wire(&blob_of("\u{1b}[2J")), Err(KeyError::Format));
        assert_eq!(PublicKey::from_wire(&vec![0; MAX_KEY_BYTES + 1]), Err(KeyError::TooLong));
    }
}
