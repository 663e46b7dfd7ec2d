//! The state directory: what a crash, a damaged file or a full disk leaves behind.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

use certgate::{
    bundle::{Bundle, BundleKey, DeniedKey, DeniedSerial, FORMAT, Login, SignedBundle, compile},
    domain::{ClusterPath, Fingerprint, Role, Serial, Timestamp, Ttl, Uid, Version},
    krl::Krl,
    node::state_dir::{LoadError, StateDir},
};
use ed25519_dalek::SigningKey;
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

fn authority() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn trusted() -> [BundleKey; 1] {
    [BundleKey::from(&authority())]
}

fn cluster() -> ClusterPath {
    "h100.acme".parse().unwrap()
}

fn bundle(version: u64, logins: usize) -> (Bundle, SignedBundle) {
    let login = |n| Login {
        name: format!("user{n}").parse().unwrap(),
        uid: Uid(12_345),
        role: Role::Member,
        principals: vec![format!("user{n}@acme/ml")],
    };
    let bundle = Bundle {
        format: FORMAT,
        cluster: cluster(),
        version: Version(version),
        issued: Timestamp::from_secs(1_795_000_000),
        logins: (0..logins).map(login).collect(),
        groups: vec![],
        shared_logins: vec![],
        leaving: vec![],
        denied_serials: vec![],
        denied_keys: vec![],
        user_ca: vec![],
        host_ca: vec![],
    };
    let signed = SignedBundle::sign(&bundle, &authority()).unwrap();
    (bundle, signed)
}

fn install(state: &StateDir, version: u64) -> Bundle {
    let (bundle, signed) = bundle(version, 3);
    state.install(&bundle, &signed).unwrap();
    bundle
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_installed_is_found_again_and_a_lost_table_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(dir.path(), None);
    let bundle = install(&state, 5);
    assert_eq!(names(dir.path()), ["access.table", "bundle.json", "user_ca.pub"]);
    let found = state.load(&trusted(), &cluster());
    assert_eq!((found.bundle.unwrap(), found.floor, found.repaired), (bundle.clone(), Some(Version(5)), false));

    let table = compile(&bundle).unwrap();
    for damage in [None, Some(&table[..table.len() - 1]), Some(b"".as_slice())] {
        match damage {
            None => fs::remove_file(state.table()).unwrap(),
            Some(bytes) => fs::write(state.table(), bytes).unwrap(),
        }
        assert!(state.load(&trusted(), &cluster()).repaired);
        assert_eq!(fs::read(state.table()).unwrap(), table);
    }
    fs::write(state.user_ca(), "ssh-ed25519 AAAA stranger\n").unwrap();
    assert!(state.load(&trusted(), &cluster()).repaired);
    assert_eq!(fs::read(state.user_ca()).unwrap(), b"");
}

#[test]
fn a_bundle_on_disk_is_believed_no_more_than_one_that_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(dir.path(), None);
    install(&state, 5);
    let table = fs::read(state.table()).unwrap();
    let good = fs::read_to_string(state.bundle()).unwrap();

    fs::write(state.bundle(), good.replace("user1", "user9")).unwrap();
    assert!(matches!(state.load(&trusted(), &cluster()).bundle, Err(LoadError::Refused { .. })));
    fs::write(state.bundle(), &good[..good.len() / 2]).unwrap();
    assert!(matches!(state.load(&trusted(), &cluster()).bundle, Err(LoadError::Format { .. })));
    fs::remove_file(state.bundle()).unwrap();
    assert!(matches!(state.load(&trusted(), &cluster()).bundle, Err(LoadError::File(_))));
    // An older one, put back by hand or by a restored backup.
    fs::write(state.bundle(), serde_json::to_vec(&bundle(4, 1).1).unwrap()).unwrap();
    let found = state.load(&trusted(), &cluster());
    assert!(matches!(found.bundle, Err(LoadError::Older { .. })));
    assert_eq!(found.floor, Some(Version(5)));
    // Whatever it was, the last good table is in force.
    assert_eq!(fs::read(state.table()).unwrap(), table);
}

#[test]
fn a_table_is_as_old_as_its_last_confirmation_however_often_it_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let day = Ttl::from_secs(86_400);
    let state = StateDir::new(dir.path(), day);
    let issued = install(&state, 5).issued;
    assert_eq!(state.confirmed(), Some(issued));
    let later = issued.after(Duration::from_secs(7200));
    state.confirm(later).unwrap();
    assert_eq!(state.confirmed(), Some(later));
    // The same bundle once more, as a gateway could send it, makes nothing newer or older.
    install(&state, 5);
    assert_eq!(state.confirmed(), Some(later));
    assert!(!state.load(&trusted(), &cluster()).repaired);
    // Another max_age makes another table, as old as it was.
    let state = StateDir::new(dir.path(), None);
    assert!(state.load(&trusted(), &cluster()).repaired);
    assert_eq!(state.confirmed(), Some(later));
    // What was lost is as old as the bundle.
    fs::write(state.table(), "").unwrap();
    assert!(state.load(&trusted(), &cluster()).repaired);
    assert_eq!(state.confirmed(), Some(issued));
    fs::remove_file(state.table()).unwrap();
    assert!(state.confirm(later).is_err());
    assert!(state.load(&trusted(), &cluster()).repaired);
    assert_eq!(state.confirmed(), Some(issued));
}

/// A bundle that denies these serial numbers and a key, and is of that version.
fn denying(version: u64, serials: &[u64]) -> (Bundle, SignedBundle) {
    let until = Timestamp::from_secs(1_795_100_000);
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk8sJwgtvJwSAGHSLkJL7gTrZgcoLYZQ+9yCxGwBZ1R".parse().unwrap();
    let bundle = Bundle {
        leaving: vec![],
        denied_serials: serials.iter().map(|serial| DeniedSerial { serial: Serial(*serial), until }).collect(),
        denied_keys: vec![DeniedKey { key: Fingerprint::from_bytes([9; 32]), until }],
        user_ca: vec![key],
        ..bundle(version, 3).0
    };
    let signed = SignedBundle::sign(&bundle, &authority()).unwrap();
    (bundle, signed)
}

#[test]
fn sshds_list_of_revoked_keys_says_what_the_bundle_says_where_it_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let (bundle, signed) = denying(5, &[7, 8, 9, 1_000]);
    let plain = StateDir::new(dir.path(), None);
    plain.install(&bundle, &signed).unwrap();
    assert!(!plain.revoked_keys().exists());

    // Turned on: made at the next start, from the bundle that lies there.
    let state = plain.clone().revoking(true);
    assert!(state.load(&trusted(), &cluster()).repaired);
    let list = Krl::parse(&fs::read(state.revoked_keys()).unwrap()).unwrap();
    assert_eq!(list.version, 5);
    assert_eq!(list.serials, [7, 8, 9, 1_000].map(Serial).into());
    assert_eq!(list.keys, BTreeSet::from([Fingerprint::from_bytes([9; 32])]));
    assert_eq!(list.authorities, bundle.user_ca);
    state.check_revoked_keys(&bundle).unwrap();
    assert!(!state.load(&trusted(), &cluster()).repaired);

    let good = fs::read(state.revoked_keys()).unwrap();
    for damage in [&b""[..], &good[..good.len() - 1], b"SSHKRL\n"] {
        fs::write(state.revoked_keys(), damage).unwrap();
        assert!(state.check_revoked_keys(&bundle).is_err());
        assert!(state.load(&trusted(), &cluster()).repaired);
        assert_eq!(fs::read(state.revoked_keys()).unwrap(), good);
    }
    // Turned off: an sshd that still reads it finds it, and up to date.
    let (bundle, signed) = denying(6, &[]);
    plain.install(&bundle, &signed).unwrap();
    plain.check_revoked_keys(&bundle).unwrap();
    plain.remove(None).unwrap();
    fs::create_dir_all(dir.path()).unwrap();
    plain.install(&bundle, &signed).unwrap();
    assert!(!plain.revoked_keys().exists());
}

#[test]
fn without_a_bundle_sshd_gets_a_list_that_refuses_nobody_instead_of_none() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(dir.path(), None).revoking(true);
    assert!(!StateDir::new(dir.path(), None).stand_in(&cluster()).unwrap(), "not wanted");
    for damage in [None, Some(&b""[..]), Some(b"SSHKRL\n\0\0"), Some(b"ssh-ed25519")] {
        let _ = damage.map_or_else(|| fs::remove_file(state.revoked_keys()), |d| fs::write(state.revoked_keys(), d));
        assert!(state.stand_in(&cluster()).unwrap(), "{damage:?}");
        let list = Krl::parse(&fs::read(state.revoked_keys()).unwrap()).unwrap();
        assert!(list.serials.is_empty() && list.keys.is_empty());
    }
    // One that revokes something stays.
    let (bundle, signed) = denying(5, &[7]);
    state.install(&bundle, &signed).unwrap();
    fs::remove_file(state.bundle()).unwrap();
    assert!(state.load(&trusted(), &cluster()).bundle.is_err());
    assert!(!state.stand_in(&cluster()).unwrap());
    state.check_revoked_keys(&bundle).unwrap();
}

/// As sshd reads it, while one bundle after the other is installed: each time it is there, whole, and revokes what all of
/// them revoke.
#[test]
fn a_list_is_never_absent_or_damaged_while_it_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(dir.path(), None).revoking(true);
    let keygen = |words: &[&str]| Command::new("ssh-keygen").current_dir(&dir).args(words).output().unwrap();
    assert!(keygen(&["-q", "-t", "ed25519", "-N", "", "-f", "ca"]).status.success());
    assert!(keygen(&["-q", "-t", "ed25519", "-N", "", "-f", "key"]).status.success());
    assert!(keygen(&["-q", "-s", "ca", "-I", "user1", "-n", "user1", "-z", "7", "key.pub"]).status.success());
    let ca: certgate::domain::PublicKey = fs::read_to_string(dir.path().join("ca.pub")).unwrap().parse().unwrap();
    let install = |version: u64| {
        // Longer and shorter ones in turn.
        let more: Vec<u64> = (1..version % 7 * 500).map(|n| 100 + 3 * n).chain([7]).collect();
        let bundle = Bundle { user_ca: vec![ca.clone()], ..denying(version, &more).0 };
        state.install(&bundle, &SignedBundle::sign(&bundle, &authority()).unwrap()).unwrap();
    };
    install(1);
    let looking = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let installer = scope.spawn(|| {
            let mut version = 1;
            while looking.load(Ordering::Relaxed) {
                version += 1;
                install(version);
            }
            version
        });
        for _ in 0..150 {
            let asked = keygen(&["-Q", "-f", state.revoked_keys().to_str().unwrap(), "key-cert.pub"]);
            let said = String::from_utf8_lossy(&asked.stdout);
            assert!(asked.status.code() == Some(1) && said.contains("REVOKED"), "{asked:?}");
        }
        looking.store(false, Ordering::Relaxed);
        assert!(installer.join().unwrap() > 20, "nothing was replaced");
    });
}

/// A real full disk: a small file system, in a mount namespace that ends with the thread.
#[test]
fn a_full_disk_changes_nothing() {
    assert!(rustix::process::geteuid().is_root(), "mounting wants root: run the tests as root");
    std::thread::spawn(fill_a_disk).join().unwrap();
}

fn fill_a_disk() {
    // SAFETY: no memory is involved; the thread, and what it starts, gets a mount namespace of its own.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    let dir = tempfile::tempdir().unwrap();
    let mount = |words: &[&str]| assert!(Command::new("mount").args(words).status().unwrap().success());
    mount(&["--make-rprivate", "/"]);
    mount(&["-t", "tmpfs", "-o", "size=256k,mode=755", "tmpfs", dir.path().to_str().unwrap()]);

    let state = StateDir::new(dir.path(), None).revoking(true);
    let before = install(&state, 5);
    let paths = [state.bundle(), state.table(), state.user_ca(), state.revoked_keys()];
    let files = || paths.clone().map(|path| fs::read(path).unwrap());
    let kept = files();
    let (large, signed) = bundle(6, 2_000);
    let error = state.install(&large, &signed).unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");
    assert_eq!(files(), kept);
    assert_eq!(names(dir.path()), ["access.table", "bundle.json", "revoked_keys", "user_ca.pub"]);
    assert_eq!(state.load(&trusted(), &cluster()).bundle.unwrap(), before);
    // Where all fits but the list, or the table after it.
    let serials: Vec<u64> = (1..1_000).map(|n| n * 1_000_003).collect();
    let room = || fs::write(dir.path().join("filler"), vec![0; 1 << 20]).is_err();
    let (denying, signed) = denying(6, &serials);
    assert!(room(), "the file system is full");
    for _ in 0..40 {
        let filler = fs::OpenOptions::new().write(true).open(dir.path().join("filler")).unwrap();
        let length = filler.metadata().unwrap().len();
        let Err(error) = state.install(&denying, &signed) else { break };
        assert!(error.to_string().contains("No space left"), "{error}");
        assert_eq!(files(), kept);
        // A page of tmpfs at a time.
        filler.set_len(length.saturating_sub(4096)).unwrap();
    }
    state.check_revoked_keys(&denying).unwrap();
    fs::remove_file(dir.path().join("filler")).unwrap();
    // With room again the next one goes through.
    assert_eq!(install(&state, 7).version, Version(7));
    assert!(Command::new("umount").arg(dir.path()).status().unwrap().success());
}
