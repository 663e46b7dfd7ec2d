//! Host certificates, as values that can be compared.

use crate::{
    domain::PublicKey,
    node::{
        doctor::facts::{Blind, HostCertificate, Seen},
        host_cert,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use ssh_key::{Algorithm, Certificate, HashAlg};

/// From what OpenSSH writes into a file.
pub(super) fn parse(line: &str) -> Seen<HostCertificate> {
    let failed = |why: String| Blind::Failed(why);
    of(&host_cert::parse(line).map_err(|error| failed(error.to_string()))?).ok_or_else(|| failed("it is none".into()))
}

/// From one that was read or shown.
pub(super) fn of(certificate: &Certificate) -> Option<HostCertificate> {
    Some(HostCertificate {
        key: PublicKey::from_key_data(certificate.public_key()).ok()?,
        line: STANDARD.encode(certificate.to_bytes().ok()?),
        from: certificate.valid_after(),
        until: certificate.valid_before(),
    })
}

/// With which algorithm a certificate for such a key is asked for.
pub(super) fn algorithm(key: &PublicKey) -> Algorithm {
    match key.key_data().algorithm() {
        Algorithm::Rsa { .. } => Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        other => other,
    }
}
