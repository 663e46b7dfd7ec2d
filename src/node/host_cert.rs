//! Checks a host certificate before sshd gets it: one that clients refuse would lock everybody out of the plain path,
//! and one for another key would stop sshd from starting.

use crate::domain::{Fingerprint, MAX_KEY_BYTES, NodePath, PublicKey, Timestamp};
use ssh_key::{Certificate, HashAlg, certificate::CertType};
use thiserror::Error;

/// Why a host certificate is not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostCertError {
    /// Not a certificate in OpenSSH's one-line format.
    #[error("the host certificate cannot be read")]
    Format,
    /// A certificate for users.
    #[error("the host certificate is not one for hosts")]
    Type,
    /// It certifies another key.
    #[error("the host certificate is for another host key")]
    Key,
    /// It certifies another name.
    #[error("the host certificate does not name this node")]
    Name,
    /// OpenSSH knows no critical option of host certificates.
    #[error("the host certificate has a critical option")]
    Options,
    /// The signature is wrong, not from a CA of this cluster's bundle, or the time is outside of its validity.
    #[error("the host certificate is not valid now, or not signed by this cluster's host CA")]
    Signature,
}

/// Checks a certificate for the host key `own` of `node`; says when it ends, in seconds since 1970.
///
/// # Errors
/// What is wrong first.
pub fn check(
    line: &str,
    own: &PublicKey,
    node: &NodePath,
    cas: &[PublicKey],
    now: Timestamp,
) -> Result<u64, HostCertError> {
    let certificate = parse(line)?;
    if certificate.cert_type() != CertType::Host {
        return Err(HostCertError::Type);
    }
    if PublicKey::from_key_data(certificate.public_key()).as_ref() != Ok(own) {
        return Err(HostCertError::Key);
    }
    // A certificate without principals is one for every name.
    if !certificate.valid_principals().iter().any(|name| *name == node.to_string()) {
        return Err(HostCertError::Name);
    }
    if !certificate.critical_options().is_empty() {
        return Err(HostCertError::Options);
    }
    let known = certificate.signature_key();
    let ours = PublicKey::from_key_data(known).is_ok_and(|key| cas.contains(&key));
    let fingerprint = known.fingerprint(HashAlg::Sha256);
    if !ours || certificate.validate_at(now.secs(), [&fingerprint]).is_err() {
        return Err(HostCertError::Signature);
    }
    Ok(certificate.valid_before())
}

/// When a certificate that is installed ends, if it is for the host key with this fingerprint.
#[must_use]
pub fn ends(line: &str, own: Fingerprint) -> Option<u64> {
    let certificate = parse(line).ok()?;
    (Fingerprint::of(certificate.public_key()) == own).then(|| certificate.valid_before())
}

pub(super) fn parse(line: &str) -> Result<Certificate, HostCertError> {
    // ssh-key's parser recurses into nested certificates: bounded by size.
    let line = Some(line.trim()).filter(|line| line.len() <= 2 * MAX_KEY_BYTES && !line.contains('\n'));
    Certificate::from_openssh(line.ok_or(HostCertError::Format)?).map_err(|_| HostCertError::Format)
}
