//! The state directory: what a crash, a damaged file or a full disk leaves behind.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

use certgate::{
    bundle::{Bundle, BundleKey, FORMAT, Login, SignedBundle, compile},
    domain::{ClusterPath, Role, Timestamp, Ttl, Uid, Version},
    node::state_dir::{LoadError, StateDir},
};
use ed25519_dalek::SigningKey;
use std::{fs, path::Path, process::Command, time::Duration};

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

    let state = StateDir::new(dir.path(), None);
    let before = install(&state, 5);
    let files = || [state.bundle(), state.table(), state.user_ca()].map(|path| fs::read(path).unwrap());
    let kept = files();
    let (large, signed) = bundle(6, 2_000);
    let error = state.install(&large, &signed).unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");
    assert_eq!(files(), kept);
    assert_eq!(names(dir.path()), ["access.table", "bundle.json", "user_ca.pub"]);
    assert_eq!(state.load(&trusted(), &cluster()).bundle.unwrap(), before);
    // With room again the next one goes through.
    assert_eq!(install(&state, 7).version, Version(7));
    assert!(Command::new("umount").arg(dir.path()).status().unwrap().success());
}
