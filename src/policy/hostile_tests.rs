//! Certificates that must not be believed. Each differs from a good one in one thing, and its record is there, so that
//! only the check for that one thing can refuse it.

use super::{
    Denial, Origin, Reason, check_certificate, identify, parse_certificate,
    test_world::{NOW, World, key, peer},
};
use crate::domain::*;
use ed25519_dalek::{Signer as _, SigningKey};
use ssh_key::{
    Certificate, PrivateKey,
    certificate::{Builder, CertType},
    private::Ed25519Keypair,
    public::KeyData,
};

fn ca(number: u8) -> PrivateKey {
    PrivateKey::new(Ed25519Keypair::from_seed(&[number; 32]).into(), "").unwrap()
}

/// What a certificate says; the default is good.
#[derive(Clone)]
struct Said {
    ca: u8,
    kind: CertType,
    key: KeyData,
    key_id: &'static str,
    serial: u64,
    principals: Vec<&'static str>,
    after: u64,
    before: u64,
    critical: Vec<(&'static str, &'static str)>,
}

fn good() -> Said {
    Said {
        ca: 100,
        kind: CertType::User,
        key: key(12).key_data().clone(),
        key_id: "user1",
        serial: 7,
        principals: vec!["user1@acme/ml"],
        after: NOW.secs() - 60,
        before: NOW.secs() + 300,
        critical: vec![],
    }
}

impl Said {
    fn sign(&self) -> Certificate {
        let mut builder = Builder::new([1; 16], self.key.clone(), self.after, self.before).unwrap();
        builder.cert_type(self.kind).unwrap().key_id(self.key_id).unwrap().serial(self.serial).unwrap();
        if self.principals.is_empty() {
            builder.all_principals_valid().unwrap();
        }
        for principal in &self.principals {
            builder.valid_principal(*principal).unwrap();
        }
        for (name, value) in &self.critical {
            builder.critical_option(*name, *value).unwrap();
        }
        builder.sign(&ca(self.ca)).unwrap()
    }
}

fn record() -> CertificateRecord {
    CertificateRecord {
        serial: Serial(7),
        account: AccountId(12),
        key: key(12).fingerprint(),
        principals: vec!["user1@acme/ml".into()],
        valid_after: Timestamp::from_secs(NOW.secs() - 60),
        // Later than any certificate here, so that the record's own end refuses nothing that a test is about.
        valid_before: Timestamp::from_secs(NOW.secs() + 10_000),
        source: "192.0.2.1".into(),
        issued: NOW,
    }
}

fn check_at(world: &World, certificate: &Certificate, now: Timestamp) -> Result<AccountId, Reason> {
    let authorities = [Fingerprint::of(ca(100).public_key().key_data())];
    let record = record();
    let peer = "192.0.2.1".parse().unwrap();
    // Through the bytes, as a gateway sends them.
    let certificate = parse_certificate(&certificate.to_bytes().unwrap()).map_err(|denial| denial.reason)?;
    check_certificate(&world.directory, &certificate, &authorities, Some(&record), peer, now)
        .map(|identity| identity.account().id)
        .map_err(|denial: Denial| {
            assert!(denial.user == "permission denied" || denial.user.contains("your"), "tells: {}", denial.user);
            denial.reason
        })
}

fn check(said: &Said) -> Result<AccountId, Reason> {
    check_at(&World::new(), &said.sign(), NOW)
}

#[test]
fn a_plain_good_certificate_is_accepted() {
    assert_eq!(check(&good()), Ok(AccountId(12)));
}

#[test]
fn each_hostile_certificate_is_refused_for_its_own_reason() {
    let table: Vec<(&str, Said, Reason)> = vec![
        ("wrong CA", Said { ca: 101, ..good() }, Reason::CertificateAuthority),
        ("host type", Said { kind: CertType::Host, ..good() }, Reason::CertificateType),
        ("expired", Said { before: NOW.secs() - 1, ..good() }, Reason::CertificateValidity),
        ("at the boundary", Said { before: NOW.secs(), ..good() }, Reason::CertificateValidity),
        ("not yet valid", Said { after: NOW.secs() + 1, ..good() }, Reason::CertificateValidity),
        ("no principals", Said { principals: vec![], ..good() }, Reason::CertificatePrincipals),
        ("another's principal", Said { principals: vec!["admin1@acme/ml"], ..good() }, Reason::CertificatePrincipals),
        (
            "a principal beyond the record",
            Said { principals: vec!["user1@acme/ml", "user1@acme/research"], ..good() },
            Reason::CertificatePrincipals,
        ),
        ("a principal of no form of ours", Said { principals: vec!["root"], ..good() }, Reason::CertificatePrincipals),
        (
            "two principals in one",
            Said { principals: vec!["user1@acme/ml,root"], ..good() },
            Reason::CertificatePrincipals,
        ),
        ("another's key ID", Said { key_id: "admin1", ..good() }, Reason::CertificatePrincipals),
        (
            "unknown critical option",
            Said { critical: vec![("verify-required", "")], ..good() },
            Reason::CertificateOption,
        ),
        ("force-command", Said { critical: vec![("force-command", "id")], ..good() }, Reason::CertificateOption),
        (
            "other source address",
            Said { critical: vec![("source-address", "192.0.2.99/32")], ..good() },
            Reason::CertificateSource,
        ),
        (
            "nonsense source address",
            Said { critical: vec![("source-address", "*")], ..good() },
            Reason::CertificateSource,
        ),
        ("another user's key", Said { key: key(11).key_data().clone(), ..good() }, Reason::CertificateRecord),
        ("a key that nobody has", Said { key: key(99).key_data().clone(), ..good() }, Reason::UnknownKey),
        ("a serial that was never issued", Said { serial: 8, ..good() }, Reason::CertificateRecord),
    ];
    for (what, said, reason) in table {
        assert_eq!(check(&said), Err(reason), "{what}");
    }
}

#[test]
fn a_source_address_that_fits_is_accepted() {
    for fits in ["192.0.2.0/24", "198.51.100.1,192.0.2.1", "192.0.2.1/32"] {
        assert_eq!(check(&Said { critical: vec![("source-address", fits)], ..good() }), Ok(AccountId(12)), "{fits}");
    }
}

/// What the certificates of a robot say that is bound to `sync`, all but what is given here.
fn robots(critical: &[(&'static str, &'static str)]) -> Said {
    Said {
        key: key(16).key_data().clone(),
        key_id: "svc-ci",
        principals: vec!["svc-ci@acme/ml"],
        critical: critical.to_vec(),
        ..good()
    }
}

fn check_robots(command: Option<&str>, said: &Said, peer: &str) -> Result<AccountId, Reason> {
    let authorities = [Fingerprint::of(ca(100).public_key().key_data())];
    let (account, key, principals) = (AccountId(16), key(16).fingerprint(), vec!["svc-ci@acme/ml".into()]);
    let record = CertificateRecord { account, key, principals, ..record() };
    let certificate = parse_certificate(&said.sign().to_bytes().unwrap()).unwrap();
    let directory = World::with_service(command).directory;
    check_certificate(&directory, &certificate, &authorities, Some(&record), peer.parse().unwrap(), NOW)
        .map(|identity| identity.account().id)
        .map_err(|denial| denial.reason)
}

#[test]
fn a_robot_s_certificate_says_what_its_terms_say_now() {
    const SOURCE: (&str, &str) = ("source-address", "192.0.2.0/24,198.51.100.1/32");
    const COMMAND: (&str, &str) = ("force-command", "sync");
    let here = "192.0.2.1";
    assert_eq!(check_robots(Some("sync"), &robots(&[COMMAND, SOURCE]), here), Ok(AccountId(16)));
    assert_eq!(check_robots(None, &robots(&[SOURCE]), here), Ok(AccountId(16)));
    // Another command, one too few, and one too many.
    for (command, options) in [
        (Some("sync"), vec![("force-command", "sync "), SOURCE]),
        (Some("sync"), vec![("force-command", ""), SOURCE]),
        (Some("sync"), vec![SOURCE]),
        (None, vec![COMMAND, SOURCE]),
        // Bound to no address.
        (Some("sync"), vec![COMMAND]),
        (None, vec![]),
        // Every other option still refuses.
        (Some("sync"), vec![COMMAND, SOURCE, ("verify-required", "")]),
    ] {
        assert_eq!(check_robots(command, &robots(&options), here), Err(Reason::CertificateOption), "{options:?}");
    }
    // From a gateway's address the certificate is good for nodes; the robot itself does not come from there.
    assert_eq!(check_robots(None, &robots(&[SOURCE]), "198.51.100.1"), Err(Reason::Source));
    assert_eq!(check_robots(None, &robots(&[SOURCE]), "203.0.113.1"), Err(Reason::CertificateSource));
}

#[test]
fn a_robot_is_somebody_only_where_it_is_used_from() {
    let world = World::with_service(None);
    let from = |origin| identify(&world.directory, AccountId(16), key(16).fingerprint(), None, origin, NOW).map(|_| ());
    let at = |peer: &str| from(Origin::Peer(peer.parse().unwrap()));
    for fits in ["192.0.2.1", "192.0.2.255", "::ffff:192.0.2.9"] {
        assert!(at(fits).is_ok(), "{fits}");
    }
    for elsewhere in ["192.0.3.1", "127.0.0.1", "::1", "::", "2001:db8::192.0.2.1", "::ffff:192.0.3.1"] {
        let denial = at(elsewhere).unwrap_err();
        assert_eq!(denial.reason, Reason::Source, "{elsewhere}");
        // Whose it is and where it would work is not for whoever has the key there.
        assert!(!denial.user.contains("ci@") && !denial.user.contains("192.0.2."), "{}", denial.user);
        assert!(denial.operator.contains("ci@ml.acme.service") && denial.operator.contains("192.0.2.0/24"));
    }
    assert!(from(Origin::Unstated).is_ok());
    // People come from everywhere.
    let user1 = |origin| identify(&world.directory, AccountId(12), key(12).fingerprint(), None, origin, NOW);
    assert!(user1(Origin::Peer("203.0.113.1".parse().unwrap())).is_ok());
}

#[test]
fn the_last_second_counts_and_the_one_after_does_not() {
    let (world, certificate) = (World::new(), good().sign());
    let end = NOW.secs() + 300;
    assert_eq!(check_at(&world, &certificate, Timestamp::from_millis(end * 1000 - 1)), Ok(AccountId(12)));
    assert_eq!(check_at(&world, &certificate, Timestamp::from_secs(end)), Err(Reason::CertificateValidity));
}

#[test]
fn a_revoked_serial_is_refused() {
    let mut world = World::new();
    let until = Timestamp::from_secs(NOW.secs() + 300);
    world.apply(Mutation::SerialDenied { serial: Serial(7), account: AccountId(12), until });
    assert_eq!(check_at(&world, &good().sign(), NOW), Err(Reason::CertificateRevoked));
}

#[test]
fn a_suspended_account_and_a_removed_key_take_their_certificates_with_them() {
    let mut world = World::new();
    let by = Actor::Operator { uid: 0 };
    let suspended = AccountState::Suspended;
    world.apply(Mutation::AccountStateSet { account: AccountId(12), state: suspended, at: NOW, by });
    assert_eq!(check_at(&world, &good().sign(), NOW), Err(Reason::Suspended));

    let mut world = World::new();
    let denied_until = Timestamp::from_secs(NOW.secs() + 300);
    world.apply(Mutation::KeyRemoved { account: AccountId(12), key: key(12).fingerprint(), denied_until });
    assert_eq!(check_at(&world, &good().sign(), NOW), Err(Reason::UnknownKey));
}

/// The bytes of a certificate with another signature than the CA's own.
fn with_signature(replace: impl Fn(&[u8], &mut Vec<u8>)) -> Vec<u8> {
    let bytes = good().sign().to_bytes().unwrap();
    let signature = good().sign().signature().as_bytes().to_vec();
    // string(string(algorithm) string(signature)): 4 + 4 + 11 + 4 + 64 bytes at the end.
    let (body, end) = bytes.split_at(bytes.len() - 87);
    assert!(end.ends_with(&signature));
    let mut changed = body.to_vec();
    replace(body, &mut changed);
    changed
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn check_bytes(bytes: &[u8]) -> Reason {
    let authorities = [Fingerprint::of(ca(100).public_key().key_data())];
    let record = record();
    let peer = "192.0.2.1".parse().unwrap();
    let denial = parse_certificate(bytes)
        .and_then(|c| check_certificate(&World::new().directory, &c, &authorities, Some(&record), peer, NOW))
        .unwrap_err();
    denial.reason
}

#[test]
fn only_the_ca_key_s_own_signature_counts() {
    let sign = |body: &[u8], seed: u8| SigningKey::from_bytes(&[seed; 32]).sign(body).to_bytes();
    let blob = |algorithm: &str, signature: &[u8]| string(&[string(algorithm.as_bytes()), string(signature)].concat());
    // The helper is right: with the CA's signature the certificate is good.
    let same = with_signature(|body, out| out.extend(blob("ssh-ed25519", &sign(body, 100))));
    assert_eq!(same, good().sign().to_bytes().unwrap());

    let forged = with_signature(|body, out| out.extend(blob("ssh-ed25519", &sign(body, 101))));
    assert_eq!(check_bytes(&forged), Reason::CertificateSignature);
    // SHA-1, and RSA at all: an ed25519 CA makes neither.
    for algorithm in ["ssh-rsa", "rsa-sha2-512"] {
        let other = with_signature(|_, out| out.extend(blob(algorithm, &[1; 256])));
        assert!(matches!(check_bytes(&other), Reason::CertificateSignature | Reason::CertificateFormat), "{algorithm}");
    }
    let mut altered = good().sign().to_bytes().unwrap();
    let at = altered.windows(5).position(|window| window == b"user1").unwrap();
    altered[at] = b'x';
    assert_eq!(check_bytes(&altered), Reason::CertificateSignature);
}

#[test]
fn a_certificate_within_a_certificate_never_reaches_the_parser() {
    let inner = good().sign();
    // As the CA: everything up to the signature key of a good one, then a certificate in its place.
    let bytes = inner.to_bytes().unwrap();
    let nested = [&bytes[..bytes.len() - 87 - 55], &string(&bytes), &bytes[bytes.len() - 87..]].concat();
    assert_eq!(parse_certificate(&nested).unwrap_err().reason, Reason::CertificateNested);
    // Deep enough to overflow a stack, were it parsed.
    let deep = bytes[..60].repeat(200);
    assert_eq!(parse_certificate(&deep).unwrap_err().reason, Reason::CertificateNested);
    assert_eq!(parse_certificate(&vec![0; 17_000]).unwrap_err().reason, Reason::CertificateFormat);
    assert_eq!(parse_certificate(b"").unwrap_err().reason, Reason::CertificateFormat);
}

#[test]
fn without_an_authority_nobody_is_believed() {
    let (world, record) = (World::new(), record());
    let peer = "192.0.2.1".parse().unwrap();
    let denial = check_certificate(&world.directory, &good().sign(), &[], Some(&record), peer, NOW).unwrap_err();
    assert_eq!(denial.reason, Reason::CertificateAuthority);
}

#[test]
fn a_connection_is_believed_only_what_the_directory_says_now() {
    let world = World::new();
    let fingerprint = key(12).fingerprint();
    let reason = |account: u64, key: Fingerprint| {
        identify(&world.directory, AccountId(account), key, None, peer(), NOW).map(|_| ()).unwrap_err().reason
    };
    assert!(identify(&world.directory, AccountId(12), fingerprint, None, peer(), NOW).is_ok());
    // A gateway that was taken over names another account for the key it has seen.
    assert_eq!(reason(11, fingerprint), Reason::ForeignKey);
    assert_eq!(reason(12, key(99).fingerprint()), Reason::UnknownKey);
    let record = record();
    let with =
        |serial, record| identify(&world.directory, AccountId(12), fingerprint, Some((serial, record)), peer(), NOW);
    assert!(with(Serial(7), Some(&record)).is_ok());
    assert_eq!(with(Serial(7), None).unwrap_err().reason, Reason::CertificateRecord);
    assert_eq!(with(Serial(8), Some(&record)).unwrap_err().reason, Reason::CertificateRecord);
}
