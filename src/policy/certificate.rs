//! Whether a user certificate that somebody has proved to hold is one of ours and still good.
//!
//! russh checks the validity window and the signature by *the CA key inside the certificate*, whoever's that is; all
//! that makes a certificate ours is checked here, in order, before its account is looked at.

use super::{
    denial::{Denial, Reason},
    identity::{Identity, identify, recognize},
};
use crate::domain::{
    CertificateRecord, Directory, Fingerprint, MAX_KEY_BYTES, Principal, PublicKey, Serial, Timestamp,
};
use ipnet::IpNet;
use ssh_key::{Algorithm, Certificate, certificate::CertType, public::KeyData};
use std::net::IpAddr;

/// The most bytes of a certificate that are ever parsed.
pub const MAX_CERTIFICATE_BYTES: usize = MAX_KEY_BYTES;

/// The one critical option that is known here (PROTOCOL.certkeys).
pub(super) const SOURCE_ADDRESS: &str = "source-address";

/// Reads a certificate from its wire format, after a look at its size and nesting.
///
/// # Errors
/// Too long, nested, or not a certificate.
pub fn parse_certificate(blob: &[u8]) -> Result<Certificate, Denial> {
    if blob.len() > MAX_CERTIFICATE_BYTES {
        return Err(refuse(Reason::CertificateFormat, format!("{} bytes", blob.len())));
    }
    // Every certificate format's name ends so (PROTOCOL.certkeys). One may stand at the beginning; a second one is a
    // certificate within, and ssh-key would recurse into it.
    let marker = b"-cert-v01@openssh.com";
    if blob.windows(marker.len()).filter(|window| window == marker).count() > 1 {
        return Err(refuse(Reason::CertificateNested, "a certificate within a certificate".into()));
    }
    Certificate::from_bytes(blob).map_err(|e| refuse(Reason::CertificateFormat, e.to_string()))
}

/// Checks a certificate whose key signed the handshake, and says who its holder is.
///
/// `record` is what was recorded when a certificate of this serial was issued.
///
/// # Errors
/// The first check that it does not pass.
pub fn check_certificate(
    directory: &Directory,
    certificate: &Certificate,
    authorities: &[Fingerprint],
    record: Option<&CertificateRecord>,
    peer: IpAddr,
    now: Timestamp,
) -> Result<Identity, Denial> {
    check_authority(certificate, authorities)?;
    match certificate.cert_type() {
        CertType::User => {}
        CertType::Host => return Err(refuse(Reason::CertificateType, "a host certificate".into())),
    }
    let subject = PublicKey::from_key_data(certificate.public_key())
        .map_err(|e| refuse(Reason::CertificateNested, format!("subject key: {e}")))?
        .fingerprint();
    // OpenSSH: valid_after <= now < valid_before (sshkey.c, sshkey_cert_check_authority).
    let seconds = now.secs();
    if seconds < certificate.valid_after() || seconds >= certificate.valid_before() {
        let window = format!("valid from {} to {}", certificate.valid_after(), certificate.valid_before());
        return Err(refuse(Reason::CertificateValidity, window));
    }
    check_options(certificate, peer)?;
    let account = recognize(directory, &subject)?;
    let serial = Serial(certificate.serial());
    let identity = identify(directory, account, subject, Some((serial, record)), now)?;
    check_principals(certificate, &identity)?;
    Ok(identity)
}

fn check_authority(certificate: &Certificate, authorities: &[Fingerprint]) -> Result<(), Denial> {
    let authority = match certificate.signature_key() {
        KeyData::Ed25519(_) => Fingerprint::of(certificate.signature_key()),
        KeyData::Certificate(_) => return Err(refuse(Reason::CertificateNested, "its CA is a certificate".into())),
        other => {
            let algorithm = other.algorithm();
            return Err(refuse(Reason::CertificateAuthority, format!("signed by a key of type {algorithm}")));
        }
    };
    if !authorities.contains(&authority) {
        return Err(refuse(Reason::CertificateAuthority, format!("signed by {authority}")));
    }
    // An ed25519 key makes no other signature; anything else here is a forgery, SHA-1 included.
    if certificate.signature().algorithm() != Algorithm::Ed25519 {
        let algorithm = certificate.signature().algorithm();
        return Err(refuse(Reason::CertificateSignature, format!("a signature of type {algorithm}")));
    }
    certificate
        .verify_signature()
        .map_err(|_| refuse(Reason::CertificateSignature, "the signature does not fit".into()))
}

fn check_options(certificate: &Certificate, peer: IpAddr) -> Result<(), Denial> {
    for (name, value) in certificate.critical_options().iter() {
        if name != SOURCE_ADDRESS {
            return Err(refuse(Reason::CertificateOption, format!("critical option {name:?}")));
        }
        let allowed = value.split(',').any(|entry| match entry.parse::<IpNet>() {
            Ok(network) => network.contains(&peer),
            Err(_) => entry.parse::<IpAddr>() == Ok(peer),
        });
        if !allowed {
            return Err(refuse(Reason::CertificateSource, format!("used from {peer}, it is for {value:?}")));
        }
    }
    Ok(())
}

/// Every principal is one of the account's own, and the record's. A certificate without principals once meant
/// everybody's (CVE-2024-7594).
fn check_principals(certificate: &Certificate, identity: &Identity) -> Result<(), Denial> {
    let principals = certificate.valid_principals();
    if principals.is_empty() {
        return Err(refuse(Reason::CertificatePrincipals, "no principal".into()));
    }
    let on_record = match identity.scope() {
        super::Scope::Principals(principals) => principals.as_slice(),
        super::Scope::Account => &[],
    };
    for text in principals {
        let own = text
            .parse::<Principal>()
            .is_ok_and(|principal| principal.user == identity.account().user && on_record.contains(&principal));
        if !own {
            return Err(refuse(Reason::CertificatePrincipals, format!("principal {text:?}")));
        }
    }
    if certificate.key_id() != identity.account().user.as_str() {
        return Err(refuse(Reason::CertificatePrincipals, format!("key ID {:?}", certificate.key_id())));
    }
    Ok(())
}

fn refuse(reason: Reason, detail: String) -> Denial {
    Denial::told(reason, format!("the certificate was refused: {detail}"), "permission denied")
}
