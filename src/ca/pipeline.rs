//! From a permit to a certificate: build, sign, read back, compare.

use super::{ed25519::verifies, keys::Signer};
use crate::{
    domain::PublicKey,
    policy::{HostPermit, IssuePermit},
};
use ssh_key::{
    Algorithm, Certificate,
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
        critical: critical_options(permit),
        extensions: permit.extensions.clone(),
    };
    make(&wanted, signer, nonce)
}

/// In the order that PROTOCOL.certkeys demands: lexical.
fn critical_options(permit: &IssuePermit) -> Vec<(&'static str, String)> {
    let command = permit.force_command.iter().map(|command| ("force-command", command.to_string()));
    command.chain(permit.source_address.iter().map(|value| ("source-address", value.clone()))).collect()
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
        ("signature", is_signed(certificate)?),
    ];
    match checks.into_iter().find(|(_, same)| !same) {
        None => Ok(()),
        Some((what, _)) => Err(SigningError::Differs(what)),
    }
}

/// Whether a certificate is signed by the key in it. Other types than the usual one are ssh-key's matter.
fn is_signed(certificate: &Certificate) -> Result<bool, ssh_key::Error> {
    let (KeyData::Ed25519(key), Algorithm::Ed25519) =
        (certificate.signature_key(), certificate.signature().algorithm())
    else {
        return Ok(certificate.verify_signature().is_ok());
    };
    let bytes = certificate.to_bytes()?;
    // The last field (PROTOCOL.certkeys), and all before it is what is signed.
    let field = Vec::<u8>::try_from(certificate.signature().clone())?;
    let signed = bytes.len().checked_sub(4 + field.len()).and_then(|length| bytes.get(..length));
    Ok(signed.is_some_and(|signed| verifies(key.0, signed, certificate.signature().as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ca::CaKeys, domain::Serial, policy::IssuePermit};
    use std::process::Command;

    fn permit() -> IssuePermit {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk8sJwgtvJwSAGHSLkJL7gTrZgcoLYZQ+9yCxGwBZ1R";
        IssuePermit {
            account: crate::domain::AccountId(1),
            user: "user1".parse().unwrap(),
            key: key.parse().unwrap(),
            serial: Serial(u64::MAX),
            principals: crate::domain::Principals::new(
                ["user1@acme/ml", "user1@acme/research/b200"].map(|text| text.parse().unwrap()),
            )
            .unwrap(),
            valid_after: 1_800_000_000,
            valid_before: 1_800_000_300,
            force_command: Some("rsync --server 'all' . \"/data\"".parse().unwrap()),
            source_address: Some("192.0.2.0/24,2001:db8::/32".into()),
            extensions: vec!["permit-X11-forwarding", "permit-pty"],
        }
    }

    /// Encoding of options was wrong in two well-known libraries: OpenSSH is who has to understand them.
    #[test]
    fn openssh_reads_what_was_decided() {
        let dir = tempfile::tempdir().unwrap();
        CaKeys::make(dir.path()).unwrap();
        let keys = CaKeys::load(dir.path(), dir.path()).unwrap();
        let path = dir.path().join("cert.pub");
        std::fs::write(&path, sign_user(&permit(), keys.user.as_ref(), [5; 32]).unwrap()).unwrap();
        let shown = Command::new("ssh-keygen").arg("-Lf").arg(&path).env("TZ", "UTC").output().unwrap();
        let text = String::from_utf8(shown.stdout).unwrap();
        let ca = format!("Signing CA: ED25519 {} (using ssh-ed25519)", keys.user.public_key().fingerprint());
        for line in [
            "Type: ssh-ed25519-cert-v01@openssh.com user certificate",
            ca.as_str(),
            "Key ID: \"user1\"",
            "Serial: 18446744073709551615",
            "Valid: from 2027-01-15T08:00:00 to 2027-01-15T08:05:00",
            "user1@acme/ml\n                user1@acme/research/b200",
            "Critical Options: \n                force-command rsync --server 'all' . \"/data\"\n                \
             source-address 192.0.2.0/24,2001:db8::/32",
            "Extensions: \n                permit-X11-forwarding\n                permit-pty",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }

    /// A key source that signs with another key, or something else, gets nothing out of the door.
    struct Wrong<'a>(&'a dyn Signer, &'a dyn Signer);

    impl Signer for Wrong<'_>
    where
        Self: 'static,
    {
        fn public_key(&self) -> &PublicKey {
            self.0.public_key()
        }

        fn sign(&self, message: &[u8]) -> Result<ssh_key::Signature, signature::Error> {
            self.1.sign(message)
        }

        fn waits(&self) -> bool {
            false
        }
    }

    #[test]
    fn what_differs_from_the_permit_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        CaKeys::make(dir.path()).unwrap();
        let keys = CaKeys::load(dir.path(), dir.path()).unwrap();
        let made = sign_user(&permit(), keys.user.as_ref(), [5; 32]).unwrap();
        let certificate = Certificate::from_openssh(&made).unwrap();
        let permit = permit();
        let wanted = || Wanted {
            kind: CertType::User,
            key: &permit.key,
            serial: permit.serial.0,
            key_id: "user1",
            principals: permit.principals.iter().map(ToString::to_string).collect(),
            valid: (permit.valid_after, permit.valid_before),
            critical: critical_options(&permit),
            extensions: permit.extensions.clone(),
        };
        let differs = |wanted: Wanted<'_>, signer: &dyn Signer| match compare(&certificate, &wanted, signer) {
            Err(SigningError::Differs(what)) => what,
            other => panic!("{other:?}"),
        };
        assert!(compare(&certificate, &wanted(), keys.user.as_ref()).is_ok());
        let user = keys.user.as_ref();
        assert_eq!(differs(Wanted { kind: CertType::Host, ..wanted() }, user), "type");
        assert_eq!(differs(Wanted { key: keys.host.public_key(), ..wanted() }, user), "key");
        assert_eq!(differs(Wanted { serial: 1, ..wanted() }, user), "serial");
        assert_eq!(differs(Wanted { key_id: "user2", ..wanted() }, user), "key ID");
        assert_eq!(differs(Wanted { principals: vec!["user1@acme/ml".into()], ..wanted() }, user), "principals");
        assert_eq!(differs(Wanted { principals: vec![], ..wanted() }, user), "principals");
        assert_eq!(differs(Wanted { valid: (0, permit.valid_before), ..wanted() }, user), "validity");
        assert_eq!(differs(Wanted { critical: vec![], ..wanted() }, user), "critical options");
        // Of each option: that it is there, and what it says.
        for left_out in 0..2 {
            let mut critical = critical_options(&permit);
            critical.remove(left_out);
            assert_eq!(differs(Wanted { critical, ..wanted() }, user), "critical options");
            let mut critical = critical_options(&permit);
            critical[left_out].1.push(' ');
            assert_eq!(differs(Wanted { critical, ..wanted() }, user), "critical options");
        }
        assert_eq!(differs(Wanted { extensions: vec!["permit-pty"], ..wanted() }, user), "extensions");
        assert_eq!(differs(wanted(), keys.host.as_ref()), "CA");
        // Of what is signed every byte counts, and of the signature.
        let bytes = certificate.to_bytes().unwrap();
        let nonce = 4 + "ssh-ed25519-cert-v01@openssh.com".len() + 4;
        for spoilt in [nonce, bytes.len() - 64, bytes.len() - 1] {
            let mut bytes = bytes.clone();
            bytes[spoilt] ^= 1;
            let certificate = Certificate::from_bytes(&bytes).unwrap();
            assert!(certificate.verify_signature().is_err());
            match compare(&certificate, &wanted(), user) {
                Err(SigningError::Differs("signature")) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_key_source_that_signs_with_another_key_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        CaKeys::make(dir.path()).unwrap();
        let keys: &'static CaKeys = Box::leak(Box::new(CaKeys::load(dir.path(), dir.path()).unwrap()));
        let wrong = Wrong(keys.user.as_ref(), keys.host.as_ref());
        // In debug builds ssh-key's builder finds it out itself, in release builds the comparison does.
        assert!(sign_user(&permit(), &wrong, [5; 32]).is_err());
    }
}
