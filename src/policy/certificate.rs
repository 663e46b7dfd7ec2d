//! Whether a user certificate that somebody has proved to hold is one of ours and still good.
//!
//! russh checks the validity window and the signature by *the CA key inside the certificate*, whoever's that is; all
//! that makes a certificate ours is checked here, in order, before its account is looked at.

use super::{
    denial::{Denial, Reason},
    identity::{Identity, Origin, identify, recognize},
};
use crate::domain::{
    Account, CertificateRecord, Directory, Fingerprint, ForceCommand, MAX_KEY_BYTES, Principal, PublicKey, Serial,
    Timestamp,
};
use ipnet::IpNet;
use ssh_key::{Algorithm, Certificate, certificate::CertType, public::KeyData};
use std::net::IpAddr;

/// The most bytes of a certificate that are ever parsed.
pub const MAX_CERTIFICATE_BYTES: usize = MAX_KEY_BYTES;

/// The critical options that are known here (PROTOCOL.certkeys).
const SOURCE_ADDRESS: &str = "source-address";
const FORCE_COMMAND: &str = "force-command";

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
    let restrictions = Restrictions::of(certificate)?;
    restrictions.check_source(peer)?;
    let account = recognize(directory, &subject)?;
    let serial = Serial(certificate.serial());
    let identity = identify(directory, account, subject, Some((serial, record)), Origin::Peer(peer), now)?;
    restrictions.check_terms(identity.account())?;
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

/// What a certificate's critical options say; there is no other.
struct Restrictions<'c> {
    source_address: Option<&'c str>,
    force_command: Option<&'c str>,
}

impl<'c> Restrictions<'c> {
    fn of(certificate: &'c Certificate) -> Result<Self, Denial> {
        let mut restrictions = Self { source_address: None, force_command: None };
        for (name, value) in certificate.critical_options().iter() {
            match name.as_str() {
                SOURCE_ADDRESS => restrictions.source_address = Some(value),
                FORCE_COMMAND => restrictions.force_command = Some(value),
                _ => return Err(refuse(Reason::CertificateOption, format!("critical option {name:?}"))),
            }
        }
        Ok(restrictions)
    }

    fn check_source(&self, peer: IpAddr) -> Result<(), Denial> {
        let Some(list) = self.source_address else { return Ok(()) };
        let allowed = list.split(',').any(|entry| match entry.parse::<IpNet>() {
            Ok(network) => network.contains(&peer),
            Err(_) => entry.parse::<IpAddr>() == Ok(peer),
        });
        if allowed {
            return Ok(());
        }
        Err(refuse(Reason::CertificateSource, format!("used from {peer}, it is for {list:?}")))
    }

    /// They are those that the account's certificates have now: a command that is forced is the one that its terms name,
    /// and what its terms demand is there. A certificate that says less is none of ours.
    fn check_terms(&self, account: &Account) -> Result<(), Denial> {
        let terms = account.service();
        let command = terms.and_then(|terms| terms.force_command.as_ref()).map(ForceCommand::as_str);
        if self.force_command != command {
            let detail = format!("it forces the command {:?}, and should {command:?}", self.force_command);
            return Err(refuse(Reason::CertificateOption, detail));
        }
        if terms.is_some() && self.source_address.is_none() {
            return Err(refuse(Reason::CertificateOption, "a service account's, without source-address".into()));
        }
        Ok(())
    }
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
