//! From a permit to a certificate: build, sign, read back, compare.

use super::keys::Signer;
use crate::{
    domain::PublicKey,
    policy::{HostPermit, IssuePermit},
};
use ssh_key::{
    Certificate,
    certificate::{Builder, CertType},
    public::KeyData,
};
use thiserror::Error;

/// Why a permit did not become a certificate. The record of its serial stays: it may be in a log somewhere.
#[derive(Debug, Error)]
pub enum SigningError {
    /// The key source failed.
    #[error("the CA key could not sign: {0}")]
    Key(String),
    /// It could not be encoded.
    #[error("the certificate could not be encoded: {0}")]
    Encoding(#[from] ssh_key::Error),
    /// What came out is not what was decided. Nobody gets it.
    #[error("the certificate that was made differs from what was decided in its {0}; it was thrown away")]
    Differs(&'static str),
}

/// Lets ssh-key's builder sign with any [`Signer`].
struct Signing<'a>(&'a dyn Signer);

impl signature::Signer<ssh_key::Signature> for Signing<'_> {
    fn try_sign(&self, message: &[u8]) -> Result<ssh_key::Signature, signature::Error> {
        self.0.sign(message)
    }
}

impl From<&Signing<'_>> for KeyData {
    fn from(signing: &Signing<'_>) -> Self {
        signing.0.public_key().key_data().clone()
    }
}

/// What a certificate has to say, for users and hosts alike.
struct Wanted<'a> {
    kind: CertType,
    key: &'a PublicKey,
    serial: u64,
    key_id: &'a str,
    principals: Vec<String>,
    valid: (u64, u64),
    critical: Vec<(&'static str, String)>,
    extensions: Vec<&'static str>,
}

/// Signs a user certificate. `nonce` is 32 random bytes (PROTOCOL.certkeys: so that the CA never signs what others
/// chose in full). Returns one line in OpenSSH's format.
///
/// # Errors
/// The key source failed, or what came out differs from the permit.
pub fn sign_user(permit: &IssuePermit, signer: &dyn Signer, nonce: [u8; 32]) -> Result<String, SigningError> {
    let wanted = Wanted {
        kind: CertType::User,
        key: &permit.key,
        serial: permit.serial.0,
        key_id: permit.user.as_str(),
        principals: permit.principals.iter().map(ToString::to_string).collect(),
        valid: (permit.valid_after, permit.valid_before),
        critical: permit.source_address.iter().map(|value| ("source-address", value.clone())).collect(),
        extensions: permit.extensions.clone(),
    };
    make(&wanted, signer, nonce)
}

/// Signs a host certificate; see [`sign_user`].
///
/// # Errors
/// As [`sign_user`].
pub fn sign_host(permit: &HostPermit, signer: &dyn Signer, nonce: [u8; 32]) -> Result<String, SigningError> {
    let wanted = Wanted {
        kind: CertType::Host,
        key: &permit.key,
        serial: permit.serial.0,
        key_id: &permit.key_id,
        principals: permit.names.clone(),
        valid: (permit.valid_after, permit.valid_before),
        critical: Vec::new(),
        extensions: Vec::new(),
    };
    make(&wanted, signer, nonce)
}

fn make(wanted: &Wanted<'_>, signer: &dyn Signer, nonce: [u8; 32]) -> Result<String, SigningError> {
    let (after, before) = wanted.valid;
    let mut builder = Builder::new(nonce, wanted.key.key_data().clone(), after, before)?;
    builder.serial(wanted.serial)?.key_id(wanted.key_id)?.cert_type(wanted.kind)?;
    for principal in &wanted.principals {
        builder.valid_principal(principal)?;
    }
    for (name, value) in &wanted.critical {
        builder.critical_option(*name, value)?;
    }
    for name in &wanted.extensions {
        builder.extension(*name, "")?;
    }
    let bytes = builder.sign(&Signing(signer)).map_err(|e| SigningError::Key(e.to_string()))?.to_bytes()?;
    let certificate = Certificate::from_bytes(&bytes)?;
    compare(&certificate, wanted, signer)?;
    Ok(certificate.to_openssh()?)
}

fn compare(certificate: &Certificate, wanted: &Wanted<'_>, signer: &dyn Signer) -> Result<(), SigningError> {
    let critical: Vec<_> = certificate.critical_options().iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let extensions: Vec<_> = certificate.extensions().iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let checks = [
        ("type", certificate.cert_type() == wanted.kind),
        ("key", certificate.public_key() == wanted.key.key_data()),
        ("serial", certificate.serial() == wanted.serial),
        ("key ID", certificate.key_id() == wanted.key_id),
        ("principals", !wanted.principals.is_empty() && certificate.valid_principals() == wanted.principals),
        ("validity", (certificate.valid_after(), certificate.valid_before()) == wanted.valid),
        ("critical options", critical == wanted.critical.iter().map(|(n, v)| (*n, v.as_str())).collect::<Vec<_>>()),
        ("extensions", extensions == wanted.extensions.iter().map(|n| (*n, "")).collect::<Vec<_>>()),
        ("CA", certificate.signature_key() == signer.public_key().key_data()),
        ("signature", certificate.verify_signature().is_ok()),
    ];
    match checks.into_iter().find(|(_, same)| !same) {
        None => Ok(()),
        Some((what, _)) => Err(SigningError::Differs(what)),
    }
}
