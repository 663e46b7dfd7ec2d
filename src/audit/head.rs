//! Signed heads: that the log had this entry with this hash at this time, signed with a key of its own. Whoever holds one
//! can show later that the log was cut off or made anew, to somebody who trusts neither them nor the bastion.
//!
//! The signature is one of OpenSSH's (PROTOCOL.sshsig), so that it can be checked with `ssh-keygen -Y verify` and
//! nothing else.

use super::Head;
use crate::domain::Timestamp;
use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Serialize, Serializer, ser::SerializeStruct};
use ssh_key::{
    Algorithm, HashAlg, LineEnding, SshSig,
    public::{Ed25519PublicKey, KeyData},
};
use std::{fmt, str::FromStr};

/// What keeps these signatures apart from all others that an SSH key may make (PROTOCOL.sshsig, `namespace`).
pub const NAMESPACE: &str = "audit-head@certgate";

/// What a signed message begins with.
const PREFIX: &str = "certgate audit head v1 ";

/// A head of the log, when it was signed, and the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedHead {
    /// 1 for the first signed head, then without a gap.
    pub number: u64,
    /// Where the log ended.
    pub head: Head,
    /// When it was signed.
    pub at: Timestamp,
    /// ed25519 (RFC 8032).
    pub signature: [u8; 64],
}

impl SignedHead {
    /// Signs a head.
    #[must_use]
    pub fn sign(number: u64, head: Head, at: Timestamp, key: &SigningKey) -> Self {
        let unsigned = Self { number, head, at, signature: [0; 64] };
        Self { signature: key.sign(&unsigned.signed_bytes()).to_bytes(), ..unsigned }
    }

    /// Whether the signature is `key`'s over this head.
    #[must_use]
    pub fn is_by(&self, key: &VerifyingKey) -> bool {
        key.verify_strict(&self.signed_bytes(), &Signature::from_bytes(&self.signature)).is_ok()
    }

    /// The message that is signed: one line of text, without its end.
    #[must_use]
    pub fn message(&self) -> String {
        format!("{PREFIX}{}:{}:{}", self.head, self.number, self.at.millis())
    }

    fn signed_bytes(&self) -> Vec<u8> {
        // The one error is an empty namespace; no signature would be one over nothing.
        SshSig::signed_data(NAMESPACE, HashAlg::Sha512, self.message().as_bytes()).unwrap_or_default()
    }

    /// The signature as `ssh-keygen -Y verify` reads it; none if ssh-key cannot write it, which would be a defect.
    #[must_use]
    pub fn to_sshsig(&self, key: &VerifyingKey) -> Option<String> {
        let key = KeyData::Ed25519(Ed25519PublicKey(key.to_bytes()));
        let signature = ssh_key::Signature::new(Algorithm::Ed25519, self.signature.to_vec()).ok()?;
        SshSig::new(key, NAMESPACE, HashAlg::Sha512, signature).ok()?.to_pem(LineEnding::LF).ok()
    }
}

/// `NUMBER:HASH` of the entry, the signed head's own number, milliseconds since 1970, the signature in base64; all
/// separated by colons.
impl fmt::Display for SignedHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.head, self.number, self.at.millis(), STANDARD.encode(self.signature))
    }
}

impl FromStr for SignedHead {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a signed head is written NUMBER:HASH:NUMBER:MILLISECONDS:SIGNATURE";
        let parts: Vec<&str> = text.split(':').collect();
        let [seq, hash, number, at, signature] = parts.as_slice() else { return Err(FORM) };
        let millis = at.parse().map_err(|_| FORM)?;
        let signed = Self {
            number: number.parse().map_err(|_| FORM)?,
            head: format!("{seq}:{hash}").parse().map_err(|_| FORM)?,
            at: Timestamp::from_millis(millis),
            signature: STANDARD.decode(signature).map_err(|_| FORM)?.try_into().map_err(|_| FORM)?,
        };
        // One signed head has one text: no sign, no leading zeros, no time past the last.
        if signed.to_string() == text { Ok(signed) } else { Err(FORM) }
    }
}

impl Serialize for SignedHead {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("SignedHead", 6)?;
        fields.serialize_field("number", &self.number)?;
        fields.serialize_field("seq", &self.head.seq)?;
        fields.serialize_field("hash", &self.head.hash)?;
        fields.serialize_field("at", &self.at)?;
        fields.serialize_field("signature", &STANDARD.encode(self.signature))?;
        fields.serialize_field("text", &self.to_string())?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::ChainHash;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn signed() -> SignedHead {
        let head = Head { seq: 41, hash: ChainHash([0xab; 32]) };
        SignedHead::sign(3, head, Timestamp::from_millis(1_795_000_000_123), &key())
    }

    #[test]
    fn a_signature_is_for_one_head_one_number_one_time_and_one_key() {
        let signed = signed();
        assert!(signed.is_by(&key().verifying_key()));
        assert!(!signed.is_by(&SigningKey::from_bytes(&[8; 32]).verifying_key()));
        type Tamper = fn(&mut SignedHead);
        let tampers: &[(&str, Tamper)] = &[
            ("number", |s| s.number += 1),
            ("seq", |s| s.head.seq += 1),
            ("hash", |s| s.head.hash.0[31] ^= 1),
            ("at", |s| s.at = Timestamp::from_millis(1_795_000_000_124)),
            ("signature", |s| s.signature[0] ^= 1),
        ];
        for (field, tamper) in tampers {
            let mut altered = signed;
            tamper(&mut altered);
            assert!(!altered.is_by(&key().verifying_key()), "{field}");
        }
    }

    #[test]
    fn digits_do_not_move_from_one_number_to_the_next() {
        let message = |seq, number| SignedHead { number, head: Head { seq, ..signed().head }, ..signed() }.message();
        assert_ne!(message(4, 13), message(41, 3));
        assert_eq!(
            signed().message(),
            format!("certgate audit head v1 41:{}:3:1795000000123", "ab".repeat(32)),
            "the message is documented in docs/audit.md"
        );
    }

    #[test]
    fn a_signed_head_has_one_text() {
        let signed = signed();
        let text = signed.to_string();
        assert_eq!(text.parse(), Ok(signed));
        assert!(text.starts_with(&signed.head.to_string()));
        for bad in [
            String::new(),
            signed.head.to_string(),
            format!("0{text}"),
            format!("+{text}"),
            format!("{text} "),
            format!("{text}:"),
            text.replace(":3:", ":03:"),
            text.replace(":1795000000123:", ":18446744073709551615:"),
            text.trim_end_matches('=').to_owned(),
        ] {
            assert!(bad.parse::<SignedHead>().is_err(), "{bad}");
        }
    }

    /// The counterpart that everybody has.
    #[test]
    fn ssh_keygen_verifies_a_signed_head_and_refuses_an_altered_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let public = crate::domain::PublicKey::from_key_data(&KeyData::Ed25519(Ed25519PublicKey(
            key().verifying_key().to_bytes(),
        )));
        std::fs::write(path("signers"), format!("certgate {}\n", public.unwrap())).unwrap();
        std::fs::write(path("head.sig"), signed().to_sshsig(&key().verifying_key()).unwrap()).unwrap();
        let verifies = |message: &str, namespace: &str| {
            std::fs::write(path("message"), message).unwrap();
            let ssh_keygen = std::process::Command::new("ssh-keygen")
                .args(["-Y", "verify", "-I", "certgate", "-n", namespace, "-f"])
                .arg(path("signers"))
                .arg("-s")
                .arg(path("head.sig"))
                .stdin(std::fs::File::open(path("message")).unwrap())
                .output();
            ssh_keygen.unwrap().status.success()
        };
        assert!(verifies(&signed().message(), NAMESPACE));
        assert!(!verifies(&signed().message().replace(":3:", ":4:"), NAMESPACE));
        assert!(!verifies(&signed().message(), "file"));
    }
}
