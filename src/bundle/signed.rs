//! The bundle of a cluster, and its signature.

use crate::domain::{ClusterPath, Fingerprint, PublicKey, Role, Serial, Timestamp, Uid, UserName, Version};
use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// The format that this code writes and reads.
pub const FORMAT: u32 = 1;

/// The largest payload that a node reads, in bytes: 100,000 logins of about 250 bytes each, and room.
pub const MAX_BUNDLE_BYTES: usize = 64 * 1024 * 1024;

/// What a signature is made over, before the payload: no signature of another kind of message can be passed off.
const DOMAIN: &[u8] = b"certgate bundle v1\0";

/// What the nodes of one cluster accept from `issued` on, until a bundle of a higher version says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// [`FORMAT`].
    pub format: u32,
    /// The cluster that it is for.
    pub cluster: ClusterPath,
    /// The version of the directory that it was made from. Never goes back.
    pub version: Version,
    /// When it was made.
    pub issued: Timestamp,
    /// Who may log in, each under their own user name; in order of names.
    pub logins: Vec<Login>,
    /// The project's group and its admins' group.
    pub groups: Vec<Group>,
    /// Logins that several people share; in order of names.
    pub shared_logins: Vec<SharedLogin>,
    /// Who was removed, and may keep open what they have open for a while: they may not log in; in order of names. Agents that
    /// do not know of it get bundles without it, and end what is open at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<Leaving>,
    /// Certificates that are refused though they have not run out; in order.
    pub denied_serials: Vec<DeniedSerial>,
    /// Keys that are refused; in order.
    pub denied_keys: Vec<DeniedKey>,
    /// CAs of user certificates.
    pub user_ca: Vec<PublicKey>,
    /// CAs of host certificates.
    pub host_ca: Vec<PublicKey>,
}

/// One person's login.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The POSIX user name.
    pub name: UserName,
    /// Its number.
    pub uid: Uid,
    /// The role in the project.
    pub role: Role,
    /// The principals with which this login may be used.
    pub principals: Vec<String>,
}

/// A POSIX group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its number.
    pub gid: Uid,
    /// Its members' user names, in order.
    pub members: Vec<UserName>,
}

/// A login that several people share, such as `ubuntu`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedLogin {
    /// The login's name on the node.
    pub name: String,
    /// The principals of everyone who may use it.
    pub principals: Vec<String>,
}

/// Somebody who was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaving {
    /// The POSIX user name.
    pub name: UserName,
    /// Its number.
    pub uid: Uid,
    /// Until when what they have open may stay open.
    pub until: Timestamp,
}

/// A revoked certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeniedSerial {
    /// Its serial number.
    pub serial: Serial,
    /// When it would have ended.
    pub until: Timestamp,
}

/// A removed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeniedKey {
    /// Its fingerprint.
    pub key: Fingerprint,
    /// When the last certificate on it ends.
    pub until: Timestamp,
}

/// Why a bundle is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Larger than [`MAX_BUNDLE_BYTES`].
    #[error("the bundle is larger than {MAX_BUNDLE_BYTES} bytes")]
    TooLarge,
    /// The signing key is not one that this node was given when it joined.
    #[error("the bundle is signed by a key that this node does not know")]
    UnknownKey,
    /// The signature does not fit.
    #[error("the bundle's signature is wrong")]
    Signature,
    /// Signed, but not what this code reads.
    #[error("the bundle cannot be read: {0}")]
    Format(String),
    /// Signed, but for another cluster.
    #[error("the bundle is for {found}, this node belongs to {expected}")]
    Cluster {
        /// The cluster that the bundle is for.
        found: ClusterPath,
        /// The cluster that the node belongs to.
        expected: ClusterPath,
    },
    /// Signed, but older than what the node has.
    #[error("the bundle has version {found}, this node has {have} already")]
    Rollback {
        /// The bundle's version.
        found: Version,
        /// The version that is installed.
        have: Version,
    },
}

/// The public half of a key that signs bundles: 32 bytes of ed25519, in base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BundleKey([u8; 32]);

impl From<&SigningKey> for BundleKey {
    fn from(key: &SigningKey) -> Self {
        Self(key.verifying_key().to_bytes())
    }
}

impl fmt::Display for BundleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for BundleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BundleKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a bundle key is 32 bytes in base64";
        STANDARD.decode(text).map_err(|_| FORM)?.try_into().map(Self).map_err(|_| FORM)
    }
}

impl Serialize for BundleKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BundleKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A bundle as it travels: the exact bytes that were signed, so that no re-encoding can change their meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBundle {
    /// The bundle as JSON.
    pub payload: String,
    /// The key that signed.
    pub key: BundleKey,
    /// The ed25519 signature in base64.
    pub signature: String,
}

impl SignedBundle {
    /// Signs a bundle.
    ///
    /// # Errors
    /// The bundle is too large for a node to read.
    pub fn sign(bundle: &Bundle, key: &SigningKey) -> Result<Self, BundleError> {
        let payload = serde_json::to_string(bundle).map_err(|e| BundleError::Format(e.to_string()))?;
        if payload.len() > MAX_BUNDLE_BYTES {
            return Err(BundleError::TooLarge);
        }
        let signature = seal(DOMAIN, &payload, key);
        Ok(Self { payload, key: BundleKey::from(key), signature })
    }

    /// Checks the signature and everything that makes this bundle one for `cluster` after version `have`; only then
    /// is the payload parsed.
    ///
    /// # Errors
    /// Whatever is wrong first: size, key, signature, format, cluster, version.
    pub fn open(
        &self,
        trusted: &[BundleKey],
        cluster: &ClusterPath,
        have: Option<Version>,
    ) -> Result<Bundle, BundleError> {
        if self.payload.len() > MAX_BUNDLE_BYTES {
            return Err(BundleError::TooLarge);
        }
        verify(DOMAIN, &self.payload, self.key, &self.signature, trusted)?;
        let bundle: Bundle = serde_json::from_str(&self.payload).map_err(|e| BundleError::Format(e.to_string()))?;
        if bundle.format != FORMAT {
            return Err(BundleError::Format(format!("format {}, this program reads {FORMAT}", bundle.format)));
        }
        if bundle.cluster != *cluster {
            return Err(BundleError::Cluster { found: bundle.cluster, expected: cluster.clone() });
        }
        if let Some(have) = have.filter(|have| *have > bundle.version) {
            return Err(BundleError::Rollback { found: bundle.version, have });
        }
        Ok(bundle)
    }
}

/// The signature of a payload, in base64. `domain` says what kind of payload it is.
pub(super) fn seal(domain: &[u8], payload: &str, key: &SigningKey) -> String {
    STANDARD.encode(key.sign(&[domain, payload.as_bytes()].concat()).to_bytes())
}

/// Checks that a payload of this kind was signed by one of the keys that are trusted.
pub(super) fn verify(
    domain: &[u8],
    payload: &str,
    key: BundleKey,
    signature: &str,
    trusted: &[BundleKey],
) -> Result<(), BundleError> {
    if !trusted.contains(&key) {
        return Err(BundleError::UnknownKey);
    }
    let key = VerifyingKey::from_bytes(&key.0).map_err(|_| BundleError::Signature)?;
    let bytes = STANDARD.decode(signature).map_err(|_| BundleError::Signature)?;
    let signature = Signature::from_slice(&bytes).map_err(|_| BundleError::Signature)?;
    key.verify_strict(&[domain, payload.as_bytes()].concat(), &signature).map_err(|_| BundleError::Signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(version: u64) -> Bundle {
        Bundle {
            format: FORMAT,
            cluster: "h100.acme".parse().unwrap(),
            version: Version(version),
            issued: Timestamp::from_secs(1_795_000_000),
            logins: vec![],
            groups: vec![],
            shared_logins: vec![],
            leaving: vec![],
            denied_serials: vec![],
            denied_keys: vec![],
            user_ca: vec![],
            host_ca: vec![],
        }
    }

    #[test]
    fn a_bundle_is_taken_only_with_the_right_key_signature_cluster_and_version() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let other = SigningKey::from_bytes(&[8; 32]);
        let trusted = [BundleKey::from(&key)];
        let cluster: ClusterPath = "h100.acme".parse().unwrap();
        let signed = SignedBundle::sign(&bundle(5), &key).unwrap();

        assert_eq!(signed.open(&trusted, &cluster, None).unwrap(), bundle(5));
        // The same version again is how a node that lost its table gets it back.
        assert!(signed.open(&trusted, &cluster, Some(Version(5))).is_ok());
        assert!(matches!(signed.open(&trusted, &cluster, Some(Version(6))), Err(BundleError::Rollback { .. })));
        let elsewhere = "b200.acme".parse().unwrap();
        assert!(matches!(signed.open(&trusted, &elsewhere, None), Err(BundleError::Cluster { .. })));
        assert_eq!(signed.open(&[BundleKey::from(&other)], &cluster, None), Err(BundleError::UnknownKey));

        let mut forged = SignedBundle::sign(&bundle(9), &other).unwrap();
        forged.key = BundleKey::from(&key);
        assert_eq!(forged.open(&trusted, &cluster, None), Err(BundleError::Signature));
        let mut changed = signed.clone();
        changed.payload = changed.payload.replace("\"version\":5", "\"version\":9");
        assert_eq!(changed.open(&trusted, &cluster, None), Err(BundleError::Signature));
    }
}
