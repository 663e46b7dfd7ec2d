//! The authority's word that a version is still the last one of a cluster.
//!
//! A gateway can hold bundles back. It cannot make this: so a node that has not seen it for a while knows that it may
//! have missed something, whatever the gateway says.

use super::{
    message::{Message, Signed},
    signed::{BundleError, BundleKey},
};
use crate::domain::{ClusterPath, Timestamp, Version};
use serde::{Deserialize, Serialize};

/// At this time, whoever had this version of the cluster's bundle, or a higher one, had missed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Current {
    /// The cluster.
    pub cluster: ClusterPath,
    /// The version.
    pub version: Version,
    /// The time, by the authority's clock.
    pub at: Timestamp,
}

impl Message for Current {
    const DOMAIN: &'static [u8] = b"certgate current v1\0";
    const MAX_BYTES: usize = 1024;
}

/// The same as it travels.
pub type SignedCurrent = Signed<Current>;

impl SignedCurrent {
    /// Checks the signature, and that it is about `cluster`; only then is the payload parsed.
    ///
    /// # Errors
    /// Whatever is wrong first: size, key, signature, format, cluster.
    pub fn open(&self, trusted: &[BundleKey], cluster: &ClusterPath) -> Result<Current, BundleError> {
        let current = self.read(trusted)?;
        if current.cluster != *cluster {
            return Err(BundleError::Cluster { found: current.cluster, expected: cluster.clone() });
        }
        Ok(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::SignedBundle;
    use ed25519_dalek::SigningKey;

    #[test]
    fn the_word_of_the_authority_is_taken_from_nobody_else_and_for_nothing_else() {
        let (key, other) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
        let trusted = [BundleKey::from(&key)];
        let cluster: ClusterPath = "h100.acme".parse().unwrap();
        let current = Current { cluster: cluster.clone(), version: Version(5), at: Timestamp::from_secs(1) };
        let signed = SignedCurrent::sign(&current, &key).unwrap();
        assert_eq!(signed.open(&trusted, &cluster), Ok(current.clone()));
        assert!(matches!(signed.open(&trusted, &"b200.acme".parse().unwrap()), Err(BundleError::Cluster { .. })));
        let foreign = SignedCurrent::sign(&current, &other).unwrap();
        assert_eq!(foreign.open(&trusted, &cluster), Err(BundleError::UnknownKey));
        let forged = SignedCurrent { key: trusted[0], ..foreign };
        assert_eq!(forged.open(&trusted, &cluster), Err(BundleError::Signature));
        let changed = SignedCurrent { payload: signed.payload.replace(":5", ":6"), ..signed.clone() };
        assert_eq!(changed.open(&trusted, &cluster), Err(BundleError::Signature));
        // A signature over one kind of message is none over another.
        let SignedCurrent { payload, key, signature, .. } = signed;
        let bundle = SignedBundle { payload, key, signature };
        assert_eq!(bundle.open(&trusted, &cluster, None), Err(BundleError::Signature));
    }
}
