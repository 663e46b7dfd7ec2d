//! What is written is read by the one recipient, and nothing but what was signed is ever written to a disk.

use super::*;
use crate::domain::Timestamp;
use std::{fs, io::Write, path::Path};
use zeroize::Zeroizing;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_ed25519(key.verifying_key().to_bytes())
}

fn identity() -> (Zeroizing<String>, Recipient) {
    let identity = age::x25519::Identity::generate();
    let text = age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_owned();
    (Zeroizing::new(text), identity.to_public().to_string().parse().unwrap())
}

fn manifest() -> Manifest {
    Manifest {
        format: 0,
        program: "0.1.0".into(),
        created: Timestamp::from_secs(1_795_000_000),
        bastion: "bastion.example.com".into(),
        version: Version(7),
        next_serial: Serial(12),
        audit: Head::EMPTY,
        accounts: 2,
        projects: 1,
        keys: [("audit_key".into(), public(&key())), ("user_ca".into(), public(&SigningKey::from_bytes(&[8; 32])))]
            .into(),
        sha256: BTreeMap::new(),
    }
}

const CONTENT: &[u8] = &[0xab; 200_000];

fn database() -> fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(CONTENT).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file
}

/// A backup with one of the two keys in it.
fn made(recipient: &Recipient, signer: &SigningKey) -> Vec<u8> {
    let mut out = Vec::new();
    let keys = [("user_ca", Zeroizing::new("secret".to_owned()))];
    write(manifest(), &keys, database(), signer, std::slice::from_ref(recipient), &mut out).unwrap();
    out
}

fn extracted(backup: &[u8], identity: &Zeroizing<String>, dir: &Path) -> Result<(Manifest, PublicKey), BackupError> {
    open(backup, identity, |opened| {
        let (manifest, signed_by) = (opened.manifest.clone(), opened.signed_by.clone());
        opened.extract(dir).map(|()| (manifest, signed_by))
    })
}

#[test]
fn what_was_written_is_read_by_the_recipient_alone() {
    let (identity, recipient) = identity();
    let backup = made(&recipient, &key());
    let dir = tempfile::tempdir().unwrap();
    let (read, signed_by) = extracted(&backup, &identity, dir.path()).unwrap();
    assert_eq!(signed_by, public(&key()));
    assert!(read.with_keys());
    assert_eq!(Manifest { format: 0, sha256: BTreeMap::new(), ..read }, manifest());
    assert_eq!(fs::read(dir.path().join(DATABASE)).unwrap(), CONTENT);
    assert_eq!(fs::read(dir.path().join("user_ca")).unwrap(), b"secret");
    assert_eq!(dir.path().read_dir().unwrap().count(), 2);
    let mode = std::os::unix::fs::PermissionsExt::mode(&dir.path().join("user_ca").metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(!backup.windows(6).any(|bytes| bytes == b"secret"));
    let (other, _) = super::tests::identity();
    let elsewhere = tempfile::tempdir().unwrap();
    let error = extracted(&backup, &other, elsewhere.path()).unwrap_err();
    assert!(matches!(error, BackupError::Decrypt(_)), "{error}");
    assert_eq!(elsewhere.path().read_dir().unwrap().count(), 0);
}

#[test]
fn what_was_altered_or_cut_off_is_refused() {
    let (identity, recipient) = identity();
    let backup = made(&recipient, &key());
    for at in [0, 40, backup.len() / 4, backup.len() / 2] {
        let mut altered = backup.clone();
        altered[at] ^= 1;
        assert!(extracted(&altered, &identity, tempfile::tempdir().unwrap().path()).is_err(), "{at}");
    }
    for length in [0, 10, 300, backup.len() / 4, backup.len() / 2, backup.len() - 70_000] {
        assert!(extracted(&backup[..length], &identity, tempfile::tempdir().unwrap().path()).is_err(), "{length}");
    }
}

/// What somebody can make who knows the recipient, which is no secret: an archive of their own.
fn forged(recipient: &Recipient, files: &[(&str, &[u8])], kind: tar::EntryType) -> Vec<u8> {
    let mut out = Vec::new();
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient.0 as _)).unwrap();
    let mut archive = tar::Builder::new(encryptor.wrap_output(&mut out).unwrap());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_entry_type(kind);
        // As it is, and not made harmless.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap();
    out
}

#[test]
fn nothing_but_what_was_signed_is_written_anywhere() {
    let (identity, recipient) = identity();
    let outside = tempfile::tempdir().unwrap();
    let dir = outside.path().join("state");
    let text = |change: &dyn Fn(&mut Manifest)| {
        let hash = sha256(CONTENT).unwrap().0;
        let mut manifest = Manifest { format: FORMAT, sha256: [(DATABASE.into(), hash)].into(), ..manifest() };
        change(&mut manifest);
        serde_json::to_string(&manifest).unwrap()
    };
    let good = text(&|_| ());
    let signature = |text: &str| Manifest::sign(text, &key()).unwrap();
    let other = Manifest::sign(&good, &SigningKey::from_bytes(&[9; 32])).unwrap();
    let regular = tar::EntryType::Regular;
    let attempt = |manifest: &str, signature: &str, rest: &[(&str, &[u8])], kind| {
        fs::remove_dir_all(&dir).ok();
        fs::create_dir(&dir).unwrap();
        let mut files = vec![(MANIFEST, manifest.as_bytes()), (SIGNATURE, signature.as_bytes())];
        files.extend(rest);
        let outcome = extracted(&forged(&recipient, &files, kind), &identity, &dir);
        assert_eq!(outside.path().read_dir().unwrap().count(), 1, "something was written elsewhere");
        outcome.map(drop).map_err(|error| error.to_string())
    };
    let database: (&str, &[u8]) = (DATABASE, CONTENT);
    assert_eq!(attempt(&good, &signature(&good), &[database], regular), Ok(()));
    let refused = |manifest: &str, signature: &str, rest: &[(&str, &[u8])], kind, why: &str| {
        let error = attempt(manifest, signature, rest, kind).unwrap_err();
        assert!(error.contains(why), "{why}: {error}");
    };
    refused(&good, "", &[database], regular, "it is not one");
    refused(&format!("{good} "), &signature(&good), &[database], regular, "it does not fit");
    refused(&good, &other, &[database], regular, "none of the authority's");
    refused(&good, &signature(&good), &[(DATABASE, b"other")], regular, "is not what was signed");
    refused(&good, &signature(&good), &[("../evil", b"x"), database], regular, "should not be there");
    refused(&good, &signature(&good), &[("user_ca", b"x"), database], regular, "should not be there");
    refused(&good, &signature(&good), &[], regular, "cut off");
    refused(&good, &signature(&good), &[database], tar::EntryType::Symlink, "should not be there");
    for (change, why) in [
        ((&|m: &mut Manifest| m.format = 2) as &dyn Fn(&mut Manifest), "format 2"),
        (&|m| m.sha256.clear(), "not what it should have"),
        (&|m| drop(m.sha256.insert("../evil".into(), String::new())), "not what it should have"),
        (&|m| drop(m.keys.insert("../evil".into(), public(&key()))), "a name that is none"),
        (&|m| m.bastion = "a\u{1b}[2A".into(), "a name that is none"),
        (&|m| m.program = "1\n2".into(), "a name that is none"),
    ] {
        let changed = text(change);
        refused(&changed, &signature(&changed), &[database], regular, why);
    }
}

#[test]
fn a_recipient_is_a_public_key_and_never_a_secret_one() {
    let (secret, recipient) = identity();
    assert_eq!(recipient.to_string().parse::<Recipient>().unwrap().to_string(), recipient.to_string());
    let error = secret.parse::<Recipient>().unwrap_err();
    assert!(error.contains("secret key") && !error.contains(&secret[20..]), "{error}");
    let file = format!("# created: today\n{}\n", *secret).parse::<Recipient>().unwrap_err();
    assert!(file.contains("secret key") && !file.contains(&secret[20..]), "{file}");
    for bad in ["", "age1", "ssh-ed25519 AAAA", "me@example.com"] {
        assert!(bad.parse::<Recipient>().unwrap_err().contains("age-keygen"), "{bad}");
    }
}
