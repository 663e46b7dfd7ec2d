//! Ed25519 as certificates are signed and verified with it: aws-lc's, which is faster than ed25519-dalek. Built
//! without what talks to the world, there is no aws-lc, and ed25519-dalek does the same.

pub(super) use chosen::{Pair, verifies};

#[cfg(feature = "processes")]
mod chosen {
    use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
    use ed25519_dalek::SigningKey;
    use zeroize::Zeroizing;

    /// A key in memory.
    pub(in crate::ca) struct Pair(Ed25519KeyPair);

    impl Pair {
        pub(in crate::ca) fn new(key: &SigningKey) -> Result<Self, signature::Error> {
            let seed = Zeroizing::new(key.to_bytes());
            let pair = Ed25519KeyPair::from_seed_and_public_key(&*seed, key.verifying_key().as_bytes());
            pair.map(Self).map_err(signature::Error::from_source)
        }

        pub(in crate::ca) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
            self.0.try_sign(message).map(|signed| signed.as_ref().to_vec()).map_err(signature::Error::from_source)
        }
    }

    pub(in crate::ca) fn verifies(key: [u8; 32], message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
    }
}

#[cfg(not(feature = "processes"))]
mod chosen {
    use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};

    pub(in crate::ca) struct Pair(SigningKey);

    impl Pair {
        pub(in crate::ca) fn new(key: &SigningKey) -> Result<Self, signature::Error> {
            Ok(Self(key.clone()))
        }

        pub(in crate::ca) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
            self.0.try_sign(message).map(|signature| signature.to_bytes().to_vec())
        }
    }

    pub(in crate::ca) fn verifies(key: [u8; 32], message: &[u8], signature: &[u8]) -> bool {
        let (key, signature) = (VerifyingKey::from_bytes(&key), Signature::from_slice(signature));
        matches!((key, signature), (Ok(key), Ok(signature)) if key.verify(message, &signature).is_ok())
    }
}
