//! Key revocation lists against OpenSSH itself: what a list of ours revokes is exactly what `ssh-keygen -Q` says that it
//! does, and what OpenSSH writes for the same numbers is read back as the same.
#![allow(clippy::unwrap_used, clippy::panic)]

use certgate::{
    domain::{PublicKey, Serial, Timestamp},
    krl::{Krl, KrlError},
};
use proptest::prelude::*;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A CA, another one, a subject key, and certificates on it.
struct Keys {
    dir: tempfile::TempDir,
}

fn keygen(dir: &Path, arguments: &[&str]) -> Output {
    Command::new("ssh-keygen").current_dir(dir).args(arguments).output().unwrap()
}

impl Keys {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ca", "other", "subject", "plain"] {
            assert!(keygen(dir.path(), &["-q", "-t", "ed25519", "-N", "", "-f", name]).status.success());
        }
        Self { dir }
    }

    fn key(&self, name: &str) -> PublicKey {
        fs::read_to_string(self.dir.path().join(format!("{name}.pub"))).unwrap().parse().unwrap()
    }

    /// Certificates on the subject key with these serial numbers, one command for each.
    fn certificate(&self, ca: &str, serial: u64) -> PathBuf {
        let serial = serial.to_string();
        let signed =
            keygen(self.dir.path(), &["-q", "-s", ca, "-I", "user1", "-n", "user1", "-z", &serial, "subject.pub"]);
        assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
        let kept = self.dir.path().join(format!("{ca}-{serial}-cert.pub"));
        fs::rename(self.dir.path().join("subject-cert.pub"), &kept).unwrap();
        kept
    }

    fn write(&self, krl: &Krl) {
        fs::write(self.dir.path().join("krl"), krl.to_bytes()).unwrap();
    }

    /// Whether OpenSSH finds a key or certificate revoked.
    fn revoked(&self, file: &Path) -> bool {
        let asked = keygen(self.dir.path(), &["-Q", "-f", "krl", file.to_str().unwrap()]);
        let said = format!("{}{}", String::from_utf8_lossy(&asked.stdout), String::from_utf8_lossy(&asked.stderr));
        match asked.status.code() {
            Some(0) if said.contains(": ok") => false,
            Some(1) if said.contains(": REVOKED") => true,
            other => panic!("{other:?}: {said}"),
        }
    }
}

fn krl(ca: PublicKey, serials: impl IntoIterator<Item = u64>) -> Krl {
    Krl {
        version: 118,
        generated: Timestamp::from_secs(1_800_000_000),
        comment: "certgate bastion.example.com".into(),
        authorities: vec![ca],
        serials: serials.into_iter().map(Serial).collect(),
        keys: BTreeSet::new(),
    }
}

#[test]
fn openssh_finds_revoked_what_is_and_nothing_else() {
    let keys = Keys::new();
    // A list, a range and a bitmap, and the largest number there is.
    let crowd: Vec<u64> = (0..40).map(|n| 1000 + 3 * n).collect();
    let revoked: Vec<u64> = [7, 500_000, u64::MAX].into_iter().chain(20..=30).chain(crowd.clone()).collect();
    let mut list = krl(keys.key("ca"), revoked);
    list.authorities.push(keys.key("plain"));
    keys.write(&list);
    for serial in [7, 20, 25, 30, 1000, 1003, 1117, 500_000, u64::MAX] {
        assert!(keys.revoked(&keys.certificate("ca", serial)), "{serial}");
    }
    for serial in [1, 6, 8, 19, 31, 999, 1001, 1116, 1118, 1120, 499_999, u64::MAX - 1] {
        assert!(!keys.revoked(&keys.certificate("ca", serial)), "{serial}");
    }
    // The number is revoked for the CA's other key too; not for somebody else's, and it is not a plain key's.
    assert!(keys.revoked(&keys.certificate("plain", 7)) && !keys.revoked(&keys.certificate("plain", 8)));
    assert!(!keys.revoked(&keys.certificate("other", 7)));
    assert!(!keys.revoked(&keys.dir.path().join("subject.pub")));
}

#[test]
fn a_removed_key_takes_its_certificates_with_it() {
    let keys = Keys::new();
    let mut list = krl(keys.key("ca"), []);
    list.keys.insert(keys.key("subject").fingerprint());
    keys.write(&list);
    assert!(keys.revoked(&keys.dir.path().join("subject.pub")));
    assert!(keys.revoked(&keys.certificate("ca", 5)));
    assert!(!keys.revoked(&keys.dir.path().join("plain.pub")));
}

#[test]
fn a_list_that_revokes_nothing_is_one() {
    let keys = Keys::new();
    keys.write(&krl(keys.key("ca"), []));
    assert!(!keys.revoked(&keys.dir.path().join("subject.pub")));
    assert!(!keys.revoked(&keys.certificate("ca", 1)));
}

#[test]
fn what_openssh_writes_is_read() {
    let keys = Keys::new();
    let specification = "serial: 7\nserial: 20-30\nserial: 1000\nserial: 1003\nserial: 1006\nserial: 1009\n";
    fs::write(keys.dir.path().join("specification"), specification).unwrap();
    let made = keygen(keys.dir.path(), &["-q", "-k", "-f", "krl", "-s", "ca.pub", "-z", "5", "specification"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = Krl::parse(&fs::read(keys.dir.path().join("krl")).unwrap()).unwrap();
    let expected: BTreeSet<Serial> = [7, 1000, 1003, 1006, 1009].into_iter().chain(20..=30).map(Serial).collect();
    assert_eq!((read.version, read.authorities, read.serials), (5, vec![keys.key("ca")], expected));
}

#[test]
fn what_is_never_written_is_refused() {
    let keys = Keys::new();
    fs::write(keys.dir.path().join("specification"), "id: user1\n").unwrap();
    keygen(keys.dir.path(), &["-q", "-k", "-f", "krl", "-s", "ca.pub", "specification"]);
    let bytes = fs::read(keys.dir.path().join("krl")).unwrap();
    assert_eq!(Krl::parse(&bytes), Err(KrlError::Foreign("key IDs")));
    keygen(keys.dir.path(), &["-q", "-k", "-f", "krl", "plain.pub"]);
    let bytes = fs::read(keys.dir.path().join("krl")).unwrap();
    assert_eq!(Krl::parse(&bytes), Err(KrlError::Foreign("keys in full")));
    assert!(matches!(Krl::parse(b"not a list at all"), Err(KrlError::Format(_))));
}

/// A list for one CA with these ranges, by hand.
fn ranges(ca: PublicKey, ranges: &[(u64, u64)]) -> Vec<u8> {
    let mut bytes = krl(ca, [1]).to_bytes();
    let list = bytes.len() - 8 - 5;
    bytes.truncate(list);
    for (first, last) in ranges {
        bytes.push(0x21);
        bytes.extend(16_u32.to_be_bytes());
        bytes.extend([first.to_be_bytes(), last.to_be_bytes()].concat());
    }
    let section = 8 + 4 + 8 + 8 + 8 + 4 + 4 + "certgate bastion.example.com".len() + 1;
    let length = u32::try_from(bytes.len() - section - 4).unwrap();
    bytes[section..section + 4].copy_from_slice(&length.to_be_bytes());
    bytes
}

#[test]
fn a_few_bytes_cannot_name_more_numbers_than_anybody_revokes() {
    let keys = Keys::new();
    let read = |list: &[(u64, u64)]| Krl::parse(&ranges(keys.key("ca"), list)).map(|krl| krl.serials.len());
    assert_eq!(read(&[(1, 1000), (500, 2000)]), Ok(2000));
    assert_eq!(read(&[(1, u64::MAX)]), Err(KrlError::TooLarge));
    assert_eq!(read(&[(0, u64::MAX)]), Err(KrlError::TooLarge));
    // Nor by the same range again and again.
    assert_eq!(read(&[(1, 100_000); 100]), Err(KrlError::TooLarge));
}

/// Numbers that come alone, in runs and in crowds.
fn numbers() -> impl Strategy<Value = Vec<u64>> {
    let part = (any::<u64>(), 0..3_u8, 1..200_u64, 1..70_u64).prop_map(|(start, kind, count, step)| {
        let start = if kind == 0 { start } else { start % 100_000 }.max(1);
        (0..if kind == 0 { 1 } else { count })
            .filter_map(move |n| start.checked_add(n * if kind == 1 { 1 } else { step }))
    });
    prop::collection::vec(part.prop_map(|numbers| numbers.collect::<Vec<_>>()), 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn what_was_written_is_read(serials in numbers(), keys in prop::collection::btree_set(any::<[u8; 32]>(), 0..5)) {
        let ca: PublicKey =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk8sJwgtvJwSAGHSLkJL7gTrZgcoLYZQ+9yCxGwBZ1R".parse().unwrap();
        let mut list = krl(ca, serials);
        list.keys = keys.into_iter().map(certgate::domain::Fingerprint::from_bytes).collect();
        let bytes = list.to_bytes();
        if list.serials.is_empty() {
            list.authorities.clear();
        }
        prop_assert_eq!(Krl::parse(&bytes).unwrap(), list);
        // Cut off anywhere it is no list, or a shorter one at the end of a section: never a crash.
        for end in (0..bytes.len()).step_by(7) {
            let _ = Krl::parse(&bytes[..end]);
        }
    }
}
