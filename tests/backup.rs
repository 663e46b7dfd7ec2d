//! Backups of a running authority, and authorities from backups: the real programs, and `age` and `tar`, which know nothing of
//! certgate.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;
#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod process_support;

use process_support::Site;
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Output},
};

const USER: &str = "user1@acme.example";
const KEYS: [&str; 4] = ["audit_key", "bundle_key", "host_ca", "user_ca"];

/// A key of age, made by its own tool: the file, and the recipient.
fn age_key(dir: &Path, name: &str) -> (PathBuf, String) {
    let file = dir.join(name);
    let made = Command::new("age-keygen").arg("-o").arg(&file).output().unwrap();
    assert!(made.status.success());
    let recipient = Command::new("age-keygen").arg("-y").arg(&file).output().unwrap();
    (file, String::from_utf8(recipient.stdout).unwrap().trim().to_owned())
}

fn populated() -> Site {
    let site = Site::start();
    site.done(&["org", "create", "acme"]);
    site.done(&["user", "create", USER, "--org", "acme", "--name", "user1"]);
    site
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// `certgate restore`, which needs no authority.
fn restore(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_certgate")).arg("restore").args(words).output().unwrap()
}

fn refused(words: &[&str], why: &str) {
    let output = restore(words);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words:?}: {told}");
    assert!(told.contains(why) && told.ends_with("Nothing was restored\n"), "{why}: {told}");
}

#[test]
fn an_authority_from_a_backup_goes_on_and_gives_nothing_out_twice() {
    let mut site = populated();
    let dir = site.dir.path().to_owned();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (_, recipient) = age_key(&dir, "identity");
    let last = |site: &Site| {
        let output = site.certgate(&["status", "--json"], "");
        json(std::str::from_utf8(&output.stdout).unwrap())["last_backup"].clone()
    };
    assert!(last(&site).is_null());
    let made = json(&site.done(&["--json", "backup", "--to", &recipient, "--with-ca-keys", &path("backup.age")]));
    let length = fs::metadata(path("backup.age")).unwrap();
    assert_eq!((made["bytes"].as_u64(), length.permissions().mode() & 0o777), (Some(length.len()), 0o600));
    assert!(last(&site).is_string());
    let ca = site.done(&["ca", "show"]);
    // What the backup does not know: an account, whose user number must not be somebody else's one day.
    site.done(&["user", "create", "later@acme.example", "--org", "acme", "--name", "later"]);
    let uid = |text: String| json(&text)["uid"].as_u64().unwrap();
    let lost = uid(site.done(&["user", "show", "later@acme.example", "--json"]));
    let version = |site: &Site| {
        let output = site.certgate(&["status", "--json"], "");
        json(std::str::from_utf8(&output.stdout).unwrap())["version"].as_u64().unwrap()
    };
    let before = version(&site);
    site.stop();

    let (backup, identity) = (path("backup.age"), path("identity"));
    let into = path("restored");
    let order = [&*backup, "--identity", &identity, "--into", &into];
    let shown = restore(&[&order[..], &["--dry-run"]].concat());
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("of bastion.example.com") && text.contains("1 accounts") && text.contains("in it"), "{text}");
    refused(&order, "add --yes");
    let audit_key = json(&{
        let output = restore(&[&order[..], &["--dry-run", "--json"]].concat());
        String::from_utf8(output.stdout).unwrap()
    })["signed_by"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(ca.contains(&audit_key), "{ca}");
    let foreign = format!("SHA256:{}", "A".repeat(43));
    refused(&[&order[..], &["--yes", "--audit-key", &foreign]].concat(), "not of this authority");
    let (other, _) = age_key(&dir, "other");
    let wrong = [&*backup, "--identity", other.to_str().unwrap(), "--into", &into, "--yes"];
    refused(&wrong, "cannot be decrypted");
    refused(&[&*backup, "--identity", &identity, "--into", &path("state"), "--yes"], "is not empty");
    assert!(!Path::new(&into).exists(), "something was made before there was anything to restore");

    let restored = restore(&[&order[..], &["--yes", "--audit-key", &audit_key]].concat());
    let told = String::from_utf8(restored.stderr).unwrap();
    assert!(restored.status.success() && told.contains("\nNext: "), "{told}");
    let names = Path::new(&into).read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // SQLite's own two beside the database are empty, or not there.
    let mut names: Vec<_> = names.filter(|name| !name.starts_with("directory.sqlite3-")).collect();
    names.sort();
    let mut expected = [&KEYS[..], &["directory.sqlite3", "lock"]].concat();
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(fs::metadata(&into).unwrap().permissions().mode() & 0o777, 0o700);
    refused(&[&order[..], &["--yes"]].concat(), "is not empty");

    fs::rename(site.state(), path("lost")).unwrap();
    fs::rename(&into, site.state()).unwrap();
    site.again();
    assert_eq!(site.done(&["ca", "show"]), ca);
    let users = site.done(&["user", "list"]);
    assert!(users.contains(USER) && !users.contains("later"), "{users}");
    site.done(&["user", "create", "new@acme.example", "--org", "acme", "--name", "new"]);
    assert!(uid(site.done(&["user", "show", "new@acme.example", "--json"])) > lost);
    assert!(version(&site) > before);
    let actions = site.done(&["audit", "list"]);
    for action in ["backup.create", "backup.restore"] {
        assert!(actions.contains(action), "{actions}");
    }
    assert!(!actions.contains("backup.complete"), "the backup was made before it was complete");
    site.done(&["audit", "verify"]);
}

#[test]
fn a_backup_without_the_keys_is_read_by_age_and_tar_and_waits_for_the_keys() {
    let mut site = populated();
    let dir = site.dir.path().to_owned();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let ((identity, first), (second, recipient)) = (age_key(&dir, "first"), age_key(&dir, "second"));
    // Straight into whatever keeps it; for two.
    let output = site.certgate(&["backup", "--to", &first, "--to", &recipient, "-"], "");
    assert!(output.status.success());
    fs::write(path("backup.age"), &output.stdout).unwrap();
    let listed = Command::new("sh")
        .args(["-c", "age -d -i \"$1\" \"$2\" | tar -t", "sh"])
        .args([second.to_str().unwrap(), &path("backup.age")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), "manifest.json\nmanifest.sig\ndirectory.sqlite3\n");
    let log = site.done(&["audit", "list", "--what", "backup"]);
    assert!(log.contains("without the CA keys") && log.contains(&first) && log.contains("backup.complete"), "{log}");
    site.stop();
    let order = [&*path("backup.age"), "--identity", identity.to_str().unwrap(), "--into", &path("restored"), "--yes"]
        .map(str::to_owned);
    let restored = restore(&order.each_ref().map(String::as_str));
    let told = String::from_utf8(restored.stderr).unwrap();
    assert!(restored.status.success() && told.contains("audit_key, bundle_key, host_ca, user_ca"), "{told}");
    fs::rename(site.state(), path("lost")).unwrap();
    fs::rename(path("restored"), site.state()).unwrap();
    let told = site.refuses();
    assert!(told.contains("user_ca is missing"), "{told}");
    for key in KEYS {
        fs::copy(dir.join("lost").join(key), site.state().join(key)).unwrap();
    }
    site.again();
    assert!(site.done(&["user", "list"]).contains(USER));
}

/// Operators need not be root, and whatever else they do can be undone.
#[tokio::test]
async fn the_ca_keys_are_for_those_who_have_them_anyway() {
    let world = authority_support::World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let to = [age_key(dir.path(), "identity").1];
    let other = certgate::app::Asker::Operator { uid: 64_321 };
    let refused = world.app.begin_backup(&other, &to, true).await.err().unwrap().to_string();
    assert!(refused.contains("is for root"), "{refused}");
    let last = world.log().await.pop().unwrap().event;
    assert_eq!((last.action.as_str(), last.reason.as_deref()), ("backup.create", Some("operators-only")));
    // Without them, and root with them, it is the store in memory that has none to give.
    for (asker, keys) in [(other, false), (certgate::app::Asker::Operator { uid: 0 }, true)] {
        let error = world.app.begin_backup(&asker, &to, keys).await.err().unwrap().to_string();
        assert!(error.contains("nothing is durable"), "{error}");
    }
}

/// A directory that belongs to somebody else, as the packages make it: what is restored is theirs, and was made as them.
#[test]
fn root_restores_as_the_owner_of_the_directory() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let site = populated();
    // Everybody may go through it, to their own.
    let dir = site.dir.path();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (identity, recipient) = age_key(dir, "identity");
    site.done(&["backup", "--to", &recipient, "--with-ca-keys", &path("backup.age")]);
    let into = path("restored");
    fs::create_dir(&into).unwrap();
    std::os::unix::fs::chown(&into, Some(64_321), Some(64_322)).unwrap();
    let order =
        [&*path("backup.age"), "--identity", identity.to_str().unwrap(), "--into", &into, "--yes"].map(str::to_owned);
    let restored = restore(&order.each_ref().map(String::as_str));
    let told = String::from_utf8(restored.stderr).unwrap();
    assert!(restored.status.success() && told.contains("SIGNED BY"), "{told}");
    for entry in Path::new(&into).read_dir().unwrap() {
        let metadata = entry.unwrap().metadata().unwrap();
        let owner = (std::os::unix::fs::MetadataExt::uid(&metadata), std::os::unix::fs::MetadataExt::gid(&metadata));
        assert_eq!(owner, (64_321, 64_322));
    }
    // Where the owner may not write, root does not either.
    let into = path("foreign");
    fs::create_dir(&into).unwrap();
    std::os::unix::fs::chown(&into, Some(64_321), Some(64_322)).unwrap();
    fs::set_permissions(&into, fs::Permissions::from_mode(0o555)).unwrap();
    refused(
        &[&*path("backup.age"), "--identity", identity.to_str().unwrap(), "--into", &into, "--yes"],
        "ermission denied",
    );
}

#[test]
fn no_authority_begins_anew_where_one_is_being_restored() {
    let mut site = populated();
    site.stop();
    fs::rename(site.state(), site.dir.path().join("lost")).unwrap();
    fs::create_dir(site.state()).unwrap();
    fs::set_permissions(site.state(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(site.state().join("restore.unfinished")).unwrap();
    let told = site.refuses();
    assert!(told.contains("a backup is being restored here"), "{told}");
    assert_eq!(site.state().read_dir().unwrap().count(), 1, "something was made there");
}

#[test]
fn what_cannot_be_a_backup_leaves_nothing() {
    let site = populated();
    let dir = site.dir.path();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (identity, recipient) = age_key(dir, "identity");
    let secret = fs::read_to_string(&identity).unwrap();
    let secret = secret.lines().last().unwrap();
    let told = site.refused(&["backup", "--to", secret, &path("backup.age")]);
    assert!(told.contains("secret key") && !told.contains(&secret[20..]), "{told}");
    let told = site.refused(&["backup", "--to", "me@example.com", &path("backup.age")]);
    assert!(told.contains("age-keygen"), "{told}");
    fs::write(path("there"), "before").unwrap();
    let told = site.refused(&["backup", "--to", &recipient, &path("there")]);
    assert!(told.contains("is there already"), "{told}");
    assert_eq!(fs::read_to_string(path("there")).unwrap(), "before");
    // The authority cannot make its copy.
    fs::create_dir(site.state().join("directory.sqlite3.snapshot")).unwrap();
    let told = site.refused(&["backup", "--to", &recipient, &path("backup.age")]);
    assert!(told.contains("directory.sqlite3.snapshot"), "{told}");
    fs::remove_dir(site.state().join("directory.sqlite3.snapshot")).unwrap();
    for name in ["backup.age", "backup.age.part"] {
        assert!(!dir.join(name).exists(), "{name}");
    }
    // What was refused stands in no way.
    site.done(&["backup", "--to", &recipient, &path("backup.age")]);
}

/// An authority that dies in the middle of it.
#[test]
fn an_answer_that_breaks_off_is_no_backup() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let dying = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 4096];
        assert!(stream.read(&mut asked).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nage-e\r\n").unwrap();
    });
    let file = dir.path().join("backup.age");
    let mut command = Command::new(env!("CARGO_BIN_EXE_certgate"));
    command.arg("--socket").arg(&socket).args(["backup", "--to", "age1x"]).arg(&file);
    let output = command.output().unwrap();
    dying.join().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(dir.path().read_dir().unwrap().count(), 1, "only the socket is left");
}
