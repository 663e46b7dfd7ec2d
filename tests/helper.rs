//! The real helper against every table that must let nobody in, and against a naive model of its decision. Runs as
//! root: the helper believes root's files only.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

use certgate::{
    bundle::{Bundle, DeniedKey, DeniedSerial, FORMAT, Login, SharedLogin, compile, compile_with, table::Table},
    domain::{Fingerprint, PublicKey, Role, Serial, Timestamp, Ttl, Uid, Version},
    node::helper::{
        Question, answer,
        notice::{LENGTH, Notice, SOCKET},
    },
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::PermissionsExt,
        net::{UnixDatagram, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Command, Output},
};

const HELPER: &str = env!("CARGO_BIN_EXE_certgate-principals");
const CA: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk8sJwgtvJwSAGHSLkJL7gTrZgcoLYZQ+9yCxGwBZ1R";

fn ca() -> PublicKey {
    CA.parse().unwrap()
}

fn key(byte: u8) -> Fingerprint {
    Fingerprint::from_bytes([byte; 32])
}

fn login(name: &str, principals: impl IntoIterator<Item = impl Into<String>>) -> Login {
    let principals = principals.into_iter().map(Into::into).collect();
    Login { name: name.parse().unwrap(), uid: Uid(10_000), role: Role::Member, principals }
}

fn bundle(logins: Vec<Login>, shared_logins: Vec<SharedLogin>) -> Bundle {
    let until = Timestamp::from_secs(1_795_000_300);
    Bundle {
        format: FORMAT,
        cluster: "h100.acme".parse().unwrap(),
        version: Version(7),
        issued: Timestamp::from_secs(1_795_000_000),
        logins,
        groups: vec![],
        shared_logins,
        leaving: vec![],
        denied_serials: vec![DeniedSerial { serial: Serial(666), until }],
        denied_keys: vec![DeniedKey { key: key(66), until }],
        user_ca: vec![ca()],
        host_ca: vec![],
    }
}

fn small() -> Bundle {
    let ubuntu = vec!["user1@acme/ml".to_owned(), "user2@acme/ml".to_owned()];
    bundle(
        vec![login("user1", ["user1@acme/ml", "user1@acme/ml/h100"]), login("user2", ["user2@acme/ml"])],
        vec![SharedLogin { name: "ubuntu".into(), principals: ubuntu }],
    )
}

/// A table on disk as the agent leaves it.
struct OnDisk {
    dir: tempfile::TempDir,
}

impl OnDisk {
    fn new(bytes: &[u8]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "the helper believes root's files only: run the tests as root");
        let disk = Self { dir: tempfile::tempdir().unwrap() };
        disk.write(bytes);
        disk
    }

    fn write(&self, bytes: &[u8]) {
        fs::write(self.path(), bytes).unwrap();
        fs::set_permissions(self.path(), fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("access.table")
    }
}

fn ask(path: &Path, words: &[Vec<u8>]) -> Output {
    let words = words.iter().map(|word| OsStr::from_bytes(word));
    Command::new(HELPER).arg("--table").arg(path).args(words).output().unwrap()
}

/// The words for a login that is all right.
fn good(login: &str) -> Vec<Vec<u8>> {
    [login, "1", &key(1).to_string(), &ca().fingerprint().to_string(), login].map(|s| s.as_bytes().to_vec()).to_vec()
}

fn assert_nobody(output: &Output, status: i32, why: &str) {
    assert_eq!(output.stdout, b"", "{why}");
    assert_eq!(output.status.code(), Some(status), "{why}");
}

/// Nobody, and one line that says why.
fn assert_broken(output: &Output, why: &str) {
    assert_nobody(output, 1, why);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(why), "'{said}' should say '{why}'");
}

#[test]
fn who_may_log_in_gets_their_principals_one_a_line() {
    let disk = OnDisk::new(&compile(&small()).unwrap());
    let output = ask(&disk.path(), &good("user1"));
    assert_eq!(output.stdout, b"user1@acme/ml\nuser1@acme/ml/h100\n");
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
    let mut shared = good("user2");
    shared[0] = b"ubuntu".to_vec();
    assert_eq!(ask(&disk.path(), &shared).stdout, b"user1@acme/ml\nuser2@acme/ml\n");
}

#[test]
fn who_may_not_gets_nothing() {
    let disk = OnDisk::new(&compile(&small()).unwrap());
    let long = vec![b'a'; 100_000];
    let (denied, foreign) = (key(66).to_string(), key(1).to_string());
    let cases: &[(&str, usize, &[u8])] = &[
        ("unknown login", 0, b"user3"),
        ("root", 0, b"root"),
        ("empty login", 0, b""),
        ("another login's prefix", 0, b"user"),
        ("login with a line break", 0, b"user1\n"),
        ("login in capitals", 0, b"USER1"),
        ("huge login", 0, &long),
        ("somebody else's login", 0, b"user2"),
        ("denied serial", 1, b"666"),
        ("empty serial", 1, b""),
        ("negative serial", 1, b"-1"),
        ("signed serial", 1, b"+1"),
        ("serial past 64 bits", 1, b"18446744073709551616"),
        ("serial in words", 1, b"one"),
        ("denied key", 2, denied.as_bytes()),
        ("another kind of fingerprint", 2, b"MD5:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff"),
        ("empty fingerprint", 2, b""),
        ("foreign CA", 3, foreign.as_bytes()),
        ("no CA", 3, b""),
        ("another's key ID", 4, b"user2"),
        ("empty key ID", 4, b""),
        ("key ID with an escape", 4, b"user1\x1b[2J"),
        ("key ID that is not UTF-8", 4, b"\xff\xfe"),
        ("huge key ID", 4, &long),
    ];
    for (name, place, word) in cases {
        let mut words = good("user1");
        words[*place] = word.to_vec();
        assert_nobody(&ask(&disk.path(), &words), 0, name);
    }
    let mut words = good("ubuntu");
    words[4] = b"user1;rm -rf".to_vec();
    assert_nobody(&ask(&disk.path(), &words), 0, "strange key ID for a shared login");
}

#[test]
fn called_wrongly_it_lets_nobody_in() {
    let disk = OnDisk::new(&compile(&small()).unwrap());
    for count in [0, 1, 4, 6] {
        let mut words = good("user1");
        words.resize(count, b"x".to_vec());
        assert_nobody(&ask(&disk.path(), &words), 2, "number of arguments");
    }
}

#[test]
fn a_file_that_is_not_roots_own_lets_nobody_in() {
    let disk = OnDisk::new(&compile(&small()).unwrap());
    let path = disk.path();
    let ask_good = || ask(&path, &good("user1"));
    assert!(!ask_good().stdout.is_empty());

    std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
    assert_broken(&ask_good(), "not owned by root");
    std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    for mode in [0o664, 0o646, 0o666] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_broken(&ask_good(), "writable by others");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(!ask_good().stdout.is_empty());

    let real = disk.dir.path().join("real");
    fs::rename(&path, &real).unwrap();
    assert_broken(&ask_good(), "No such file");
    std::os::unix::fs::symlink(&real, &path).unwrap();
    assert_broken(&ask_good(), "symbolic link");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_broken(&ask_good(), "not a file");
    fs::remove_dir(&path).unwrap();
    // With nobody at the other end: opening it must not wait.
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert_broken(&ask_good(), "FIFO");
    assert_broken(&ask(Path::new("/dev/zero"), &good("user1")), "not a file");
}

#[test]
fn a_table_that_is_cut_anywhere_lets_nobody_in() {
    let table = compile(&small()).unwrap();
    let disk = OnDisk::new(&table);
    for length in 0..table.len() {
        disk.write(&table[..length]);
        assert_broken(&ask(&disk.path(), &good("user1")), "truncated");
    }
    disk.write(&[&table[..], b"\0"].concat());
    assert_broken(&ask(&disk.path(), &good("user1")), "truncated");
    disk.write(&[0; 4096]);
    assert_broken(&ask(&disk.path(), &good("user1")), "not an access table");
}

#[test]
fn a_table_that_nobody_has_confirmed_for_too_long_lets_nobody_in() {
    let day = Ttl::from_secs(86_400);
    let disk = OnDisk::new(&compile_with(&small(), day).unwrap());
    let touch =
        |when: &str| assert!(Command::new("touch").arg("-d").arg(when).arg(disk.path()).status().unwrap().success());
    let ask_good = || ask(&disk.path(), &good("user1"));
    assert!(!ask_good().stdout.is_empty());
    for (when, why) in [("25 hours ago", "confirmed 90"), ("1970-01-01", "(max_age)"), ("26 hours", "in the future")] {
        touch(when);
        assert_broken(&ask_good(), why);
    }
    for when in ["23 hours ago", "23 hours"] {
        touch(when);
        assert!(!ask_good().stdout.is_empty(), "{when}");
    }
    disk.write(&compile(&small()).unwrap());
    touch("1970-01-01");
    assert!(!ask_good().stdout.is_empty(), "turned off");
}

/// The helper's decision without a process, over every login of the small table and some that are not in it.
fn answers(bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
    let (key, ca) = (key(1).to_string(), ca().fingerprint().to_string());
    ["user1", "user2", "ubuntu", "user3", "user0", "aaaa"]
        .map(|login| {
            let [login, key, ca] = [login, &key, &ca].map(str::as_bytes);
            let question = Question { login, serial: b"1", key, ca, key_id: login };
            Table::open(bytes).and_then(|table| answer(&table, &question).map(<[u8]>::to_vec)).ok()
        })
        .to_vec()
}

#[test]
fn a_flipped_bit_never_lets_in_who_was_not_let_in_before() {
    let table = compile(&small()).unwrap();
    let before = answers(&table);
    assert!(before.iter().all(Option::is_some));
    for byte in 0..table.len() {
        let mut noticed = false;
        for bit in 0..8 {
            let mut damaged = table.clone();
            damaged[byte] ^= 1 << bit;
            for (login, (now, before)) in answers(&damaged).into_iter().zip(&before).enumerate() {
                // Either exactly what it was, or no answer at all.
                assert!(now.is_none() || now == *before, "byte {byte}, bit {bit}, login {login}");
                assert!(byte >= 72 || now.is_none(), "header, byte {byte}, bit {bit}");
                noticed |= now.is_none();
            }
        }
        // With so few records somebody's answer depends on every byte.
        assert!(noticed, "byte {byte}");
    }
}

#[test]
fn the_program_says_so_when_what_it_reads_is_damaged() {
    let table = compile(&small()).unwrap();
    let disk = OnDisk::new(&table);
    for (place, why) in [(9, "format"), (20, "header is damaged"), (table.len() - 1, "record")] {
        let mut damaged = table.clone();
        damaged[place] ^= 0x10;
        disk.write(&damaged);
        // The last list is that of the last login in order.
        assert_broken(&ask(&disk.path(), &good("user2")), why);
    }
}

#[test]
fn a_denial_cannot_be_hidden_by_damage_on_the_way_to_it() {
    let mut bundle = small();
    let until = Timestamp::from_secs(1);
    bundle.denied_serials = (0..200).map(|n| DeniedSerial { serial: Serial(n * 10), until }).collect();
    let table = compile(&bundle).unwrap();
    let start = 72 + 64 * 3;
    for byte in start..start + 24 * 200 {
        let mut damaged = table.clone();
        damaged[byte] ^= 0xff;
        let damaged = Table::open(&damaged).unwrap();
        for serial in [0, 500, 990, 1990] {
            assert_ne!(damaged.serial_is_denied(serial), Ok(false), "byte {byte}, serial {serial}");
        }
    }
}

/// What the helper does for somebody who may log in, within a time in which nobody would call it stuck.
fn ask_soon(path: &Path, words: &[Vec<u8>]) -> Output {
    let words = words.iter().map(|word| OsStr::from_bytes(word));
    Command::new("timeout").args(["20", HELPER, "--table"]).arg(path).args(words).output().unwrap()
}

#[test]
fn the_agent_is_told_of_who_may_log_in_and_of_nobody_else() {
    let disk = OnDisk::new(&compile(&small()).unwrap());
    let agent = UnixDatagram::bind(disk.dir.path().join(SOCKET)).unwrap();
    agent.set_nonblocking(true).unwrap();
    let mut bytes = [0; 2 * LENGTH];
    let mut refused = good("user1");
    refused[1] = b"666".to_vec();
    ask(&disk.path(), &refused);
    ask(&disk.path(), &good("user3"));
    assert!(agent.recv(&mut bytes).is_err());
    let mut shared = good("user2");
    (shared[0], shared[1]) = (b"ubuntu".to_vec(), b"18446744073709551615".to_vec());
    assert!(!ask(&disk.path(), &shared).stdout.is_empty());
    let length = agent.recv(&mut bytes).unwrap();
    let notice = Notice::parse(&bytes[..length]).unwrap();
    assert_eq!(notice.parent, std::process::id());
    assert_eq!((notice.login, notice.key_id), (&b"ubuntu"[..], &b"user2"[..]));
    assert_eq!((notice.serial, notice.key), (u64::MAX, [1; 32]));
    assert!(agent.recv(&mut bytes).is_err(), "once");
}

#[test]
fn an_agent_that_does_not_listen_changes_nothing_and_nobody_waits_for_it() {
    let disk = OnDisk::new(&compile(&small()).unwrap());
    let socket = disk.dir.path().join(SOCKET);
    let expected = ask_soon(&disk.path(), &good("user1"));
    assert_eq!((expected.status.code(), expected.stdout.is_empty()), (Some(0), false));
    let check = |what: &str| {
        assert_eq!(ask_soon(&disk.path(), &good("user1")), expected, "{what}");
        assert_nobody(&ask_soon(&disk.path(), &good("user3")), 0, what);
        let _ = fs::remove_file(&socket).or_else(|_| fs::remove_dir(&socket));
    };
    check("nothing is there");
    // Full: nobody reads.
    let agent = UnixDatagram::bind(&socket).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(b"x", &socket).is_ok() {}
    check("the socket is full");
    drop(agent);
    drop(UnixDatagram::bind(&socket).unwrap());
    check("nobody has the socket any more");
    let stream = UnixListener::bind(&socket).unwrap();
    check("another kind of socket");
    drop(stream);
    fs::write(&socket, "").unwrap();
    check("a file");
    fs::create_dir(&socket).unwrap();
    check("a directory");
    assert!(Command::new("mkfifo").arg(&socket).status().unwrap().success());
    check("a FIFO");
    std::os::unix::fs::symlink("/dev/zero", &socket).unwrap();
    check("a link to a device");
}

#[test]
fn the_environment_changes_nothing() {
    let disk = OnDisk::new(&compile(&small()).unwrap());
    let words = good("user1");
    let mut command = Command::new(HELPER);
    command.arg("--table").arg(disk.path()).args(words.iter().map(|word| OsStr::from_bytes(word)));
    let plain = command.env_clear().output().unwrap();
    let strange = command.env("TZ", "../../etc").env("LANG", "\u{1}").env("RUST_BACKTRACE", "full").output().unwrap();
    assert_eq!((plain.status.code(), &plain.stdout), (Some(0), &strange.stdout));
    assert!(!plain.stdout.is_empty());
}

/// What a table holds, in the plainest terms.
#[derive(Debug)]
struct Model {
    own: BTreeMap<String, BTreeSet<String>>,
    shared: BTreeMap<String, BTreeSet<String>>,
    serials: BTreeSet<u64>,
    keys: BTreeSet<u8>,
}

prop_compose! {
    fn models()(
        own in prop::collection::btree_map(
            "u[a-c]{0,2}[0-9]?",
            prop::collection::btree_set(prop::sample::select(vec!["ml", "x", "research"]), 0..3),
            0..40,
        ),
        shared in prop::collection::btree_map(
            "s[a-c]{0,2}",
            prop::collection::btree_set("u[a-c][0-9]@acme/ml", 0..4),
            0..6,
        ),
        serials in prop::collection::btree_set(prop_oneof![0..30_u64, any::<u64>()], 0..30),
        keys in prop::collection::btree_set(0..20_u8, 0..10),
    ) -> Model {
        let principals = |name: &String, projects: &BTreeSet<&str>| {
            projects.iter().map(|project| format!("{name}@acme/{project}")).collect()
        };
        let own = own.iter().map(|(name, projects)| (name.clone(), principals(name, projects))).collect();
        Model { own, shared, serials, keys }
    }
}

impl Model {
    fn bundle(&self) -> Bundle {
        let logins = self.own.iter().map(|(name, principals)| login(name, principals)).collect();
        let shared = |(name, principals): (&String, &BTreeSet<String>)| SharedLogin {
            name: name.clone(),
            principals: principals.iter().cloned().collect(),
        };
        let mut bundle = bundle(logins, self.shared.iter().map(shared).collect());
        let until = Timestamp::from_secs(1);
        bundle.denied_serials = self.serials.iter().map(|s| DeniedSerial { serial: Serial(*s), until }).collect();
        bundle.denied_keys = self.keys.iter().map(|k| DeniedKey { key: key(*k), until }).collect();
        bundle
    }

    fn answer(&self, login: &str, serial: u64, key: u8, ours: bool, key_id: &str) -> String {
        if !ours || self.serials.contains(&serial) || self.keys.contains(&key) {
            return String::new();
        }
        let own = self.own.get(login).filter(|_| login == key_id);
        let lines = own.or_else(|| self.shared.get(login));
        lines.into_iter().flatten().map(|line| format!("{line}\n")).collect()
    }
}

proptest! {
    #[test]
    fn the_table_answers_as_the_model_does(
        model in models(),
        questions in prop::collection::vec(
            ("[us][a-c]{0,2}[0-9]?", prop_oneof![0..30_u64, any::<u64>()], 0..20_u8, any::<u8>(), any::<bool>()),
            1..60,
        ),
    ) {
        let bytes = compile(&model.bundle()).unwrap();
        let table = Table::open(&bytes).unwrap();
        prop_assert_eq!(table.version(), 7);
        let known = model.own.keys().chain(model.shared.keys()).cloned();
        let logins: Vec<String> = known.chain(questions.iter().map(|q| q.0.clone())).collect();
        for (login, (_, serial, key, ours, same)) in logins.iter().zip(questions.iter().cycle()) {
            let ours = *ours < 250;
            let key_id = if *same { login } else { &logins[0] };
            let expected = model.answer(login, *serial, *key, ours, key_id);
            let key = self::key(*key).to_string();
            let ca = if ours { ca().fingerprint() } else { self::key(9) }.to_string();
            let [login, serial, key, ca, key_id] =
                [login, &serial.to_string(), &key, &ca, key_id].map(|text| text.as_bytes().to_vec());
            let question = Question { login: &login, serial: &serial, key: &key, ca: &ca, key_id: &key_id };
            prop_assert_eq!(str::from_utf8(answer(&table, &question).unwrap()).unwrap(), expected);
        }
    }

    #[test]
    fn any_bytes_are_answered_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), name in ".{0,40}") {
        let good = compile(&small()).unwrap();
        let half_good = [&good[..bytes.len().min(good.len())], &bytes[..]].concat();
        for source in [bytes, half_good] {
            if let Ok(table) = Table::open(&source) {
                let _ = (table.login(name.as_bytes()), table.serial_is_denied(1), table.key_is_denied(&[1; 32]));
            }
        }
    }
}
