//! Short messages of the authority to nodes, that gateways pass on and cannot make: [`super::Current`], [`super::Order`].

use super::signed::{BundleError, BundleKey, seal, verify};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::marker::PhantomData;

/// What can be signed so.
pub trait Message: Serialize + DeserializeOwned {
    /// What a signature is made over, before the payload: no signature over another kind can be passed off as one.
    const DOMAIN: &'static [u8];

    /// Longer than any payload that makes sense, in bytes.
    const MAX_BYTES: usize;
}

/// A message as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound = "")]
pub struct Signed<M> {
    /// The message as JSON: the exact bytes that were signed.
    pub payload: String,
    /// The key that signed.
    pub key: BundleKey,
    /// The ed25519 signature in base64.
    pub signature: String,
    #[serde(skip)]
    pub(super) message: PhantomData<M>,
}

impl<M: Message> Signed<M> {
    /// Signs it.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn sign(message: &M, key: &SigningKey) -> Result<Self, BundleError> {
        let payload = serde_json::to_string(message).map_err(|e| BundleError::Format(e.to_string()))?;
        let signature = seal(M::DOMAIN, &payload, key);
        Ok(Self { payload, key: BundleKey::from(key), signature, message: PhantomData })
    }

    /// Checks the signature; only then is the payload parsed. Whom it is for is still to be looked at.
    pub(super) fn read(&self, trusted: &[BundleKey]) -> Result<M, BundleError> {
        if self.payload.len() > M::MAX_BYTES {
            return Err(BundleError::TooLarge);
        }
        verify(M::DOMAIN, &self.payload, self.key, &self.signature, trusted)?;
        serde_json::from_str(&self.payload).map_err(|e| BundleError::Format(e.to_string()))
    }
}
