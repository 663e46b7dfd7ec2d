//! The helper, called as nobody should call it: a hostile environment, libraries put before its own, strange arguments,
//! closed descriptors, no memory. What it prints is what it prints always, or nothing, with an error. Also linked statically
//! as it is shipped, and under valgrind.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

use certgate::{
    bundle::{Bundle, FORMAT, Login, compile},
    domain::{Fingerprint, PublicKey, Role, Timestamp, Uid, Version},
    node::helper::notice::{LENGTH, Notice, SOCKET},
};
use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::PermissionsExt,
            net::UnixDatagram,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// As cargo builds it for tests: with a loader.
const DYNAMIC: &str = env!("CARGO_BIN_EXE_certgate-principals");
const CA: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk8sJwgtvJwSAGHSLkJL7gTrZgcoLYZQ+9yCxGwBZ1R";
/// What it prints for user1.
const ANSWER: &[u8] = b"user1@acme/ml\nuser1@acme/ml/h100\n";

/// A table that lets user1 in, with what else a test needs beside it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "the helper believes root's files only: run the tests as root");
        let place = Self(tempfile::tempdir().unwrap());
        let principals = vec!["user1@acme/ml".to_owned(), "user1@acme/ml/h100".to_owned()];
        let bundle = Bundle {
            format: FORMAT,
            cluster: "h100.acme".parse().unwrap(),
            version: Version(7),
            issued: Timestamp::from_secs(1_795_000_000),
            logins: vec![Login { name: "user1".parse().unwrap(), uid: Uid(10_000), role: Role::Member, principals }],
            groups: vec![],
            shared_logins: vec![],
            leaving: vec![],
            denied_serials: vec![],
            denied_keys: vec![],
            user_ca: vec![CA.parse().unwrap()],
            host_ca: vec![],
        };
        fs::write(place.path("access.table"), compile(&bundle).unwrap()).unwrap();
        fs::set_permissions(place.path("access.table"), fs::Permissions::from_mode(0o644)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Asks a helper for user1's principals.
    fn ask(&self, helper: &Path) -> Command {
        let mut command = Command::new(helper);
        command.arg("--table").arg(self.path("access.table")).args(words());
        command
    }

    fn table_is_untouched(&self, before: &[u8]) {
        assert!(fs::read(self.path("access.table")).unwrap() == before, "something was written into the table");
    }
}

fn words() -> [String; 5] {
    let (key, ca) = (Fingerprint::from_bytes([1; 32]), CA.parse::<PublicKey>().unwrap().fingerprint());
    ["user1".into(), "1".into(), key.to_string(), ca.to_string(), "user1".into()]
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The helper linked as scripts/build links it: its sources are the standard library, libc and the table's reader, which is
/// little enough to compile here (tests/layers.rs sees that it stays so).
fn linked_statically(to: &Path) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (path, text) in [
        ("certgate", "pub mod bundle;\npub mod node;\n"),
        ("bundle", "pub mod table;\n"),
        ("node", "pub mod helper;\n"),
    ] {
        fs::write(to.join(path).with_extension("rs"), text).unwrap();
    }
    for path in ["bundle/table.rs", "node/helper.rs", "node/helper"] {
        fs::create_dir_all(to.join(path).parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(sources.join(path), to.join(path)).unwrap();
    }
    let built = Path::new(DYNAMIC).parent().unwrap().join("deps");
    let libcs = fs::read_dir(&built).unwrap().map(|entry| entry.unwrap().path());
    let libcs =
        libcs.filter(|path| path.to_string_lossy().contains("/liblibc-") && path.extension() == Some("rlib".as_ref()));
    let helper = to.join("certgate-principals");
    // One of them is of this compiler; others may be left from another.
    let mut said = String::new();
    for libc in libcs {
        let compile = |kind: &str, source: &Path, more: &[&OsStr]| {
            let mut command = Command::new("rustc");
            command.args(["--edition", "2024", "--cap-lints", "allow", "-O", "-C", "target-feature=+crt-static"]);
            command.args(["--crate-type", kind, "--crate-name"]);
            command.arg(if kind == "bin" { "certgate_principals" } else { "certgate" });
            command.arg("-L").arg(format!("dependency={}", built.display()));
            command.arg("--extern").arg(format!("libc={}", libc.display())).args(more).arg(source);
            command.current_dir(to).output().unwrap()
        };
        let library = compile("rlib", Path::new("certgate.rs"), &[]);
        let with = ["--extern", "certgate=libcertgate.rlib", "-o", "certgate-principals"].map(OsStr::new);
        let program = compile("bin", &sources.join("bin/certgate-principals.rs"), &with);
        if library.status.success() && program.status.success() {
            return helper;
        }
        said = [library.stderr, program.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    }
    panic!("the helper could not be linked: {said}");
}

/// A library that lets everybody in, as soon as somebody loads it.
fn intruder(to: &Path) -> PathBuf {
    let (source, library) = (to.join("intruder.c"), to.join("intruder.so"));
    let code = "#include <unistd.h>\n__attribute__((constructor)) static void in(void) {\n  \
                write(1, \"root@acme/ml\\n\", 13);\n  _exit(0);\n}\n\
                unsigned la_version(unsigned v) { return v; }\n";
    fs::write(&source, code).unwrap();
    succeeds(Command::new("cc").args(["-w", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source));
    library
}

#[test]
fn no_library_comes_before_the_shipped_helpers_own() {
    let place = Place::new();
    let dir = tempfile::tempdir().unwrap();
    let helper = linked_statically(dir.path());
    let library = intruder(dir.path());
    // Also under the name of one that programs with a loader need.
    fs::copy(&library, dir.path().join("libc.so.6")).unwrap();
    for (name, value) in
        [("LD_PRELOAD", library.as_path()), ("LD_AUDIT", library.as_path()), ("LD_LIBRARY_PATH", dir.path())]
    {
        // On a program with a loader it works (or breaks it, which is as good for this).
        let fooled = Command::new("/bin/true").env(name, value).output().unwrap();
        assert!(!fooled.status.success() || fooled.stdout == b"root@acme/ml\n", "{name} does nothing at all");
        let output = place.ask(&helper).env(name, value).output().unwrap();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), ANSWER), "{name}");
    }
}

#[test]
fn the_shipped_helper_answers_the_same_in_any_environment() {
    let place = Place::new();
    let dir = tempfile::tempdir().unwrap();
    for helper in [linked_statically(dir.path()), DYNAMIC.into()] {
        let mut command = place.ask(&helper);
        // What the C library and Rust's look at, with values that would hurt.
        let tunables = "glibc.malloc.check=3:glibc.malloc.perturb=255:glibc.malloc.arena_max=1:glibc.cpu.hwcaps=-AVX2";
        for (name, value) in [
            ("GLIBC_TUNABLES", tunables),
            ("MALLOC_CHECK_", "3"),
            ("LC_ALL", "../../../../etc"),
            ("LOCPATH", "/tmp"),
            ("GCONV_PATH", "/tmp"),
            ("NLSPATH", "/tmp/%N"),
            ("TZ", ":/etc/shadow"),
            ("TMPDIR", "/nonexistent"),
            ("RUST_BACKTRACE", "full"),
            ("RUST_MIN_STACK", "1"),
            ("POSIXLY_CORRECT", "1"),
            ("IFS", "u"),
            ("PATH", ""),
        ] {
            command.env(name, value);
        }
        command.env("HUGE", "x".repeat(100_000));
        let output = command.output().unwrap();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), ANSWER), "{}", helper.display());
        assert_eq!(output.stderr, b"");
    }
}

#[test]
fn what_looks_like_an_option_is_a_name_that_nobody_has() {
    let place = Place::new();
    let table = place.path("access.table");
    let [_, serial, key, ca, _] = words();
    let asks = |first: &[&OsStr]| Command::new(DYNAMIC).args(first).output().unwrap();
    let t = table.as_os_str();
    let [serial, key, ca] = [&serial, &key, &ca].map(OsStr::new);
    let hostile: [&[u8]; 9] =
        [b"--table", b"--", b"-", b"user1\n", b"\nuser1", b"user1,root", b"user1@acme/ml", b"*", b"\xff\xfeuser1"];
    for name in hostile.map(OsStr::from_bytes) {
        let output = asks(&["--table".as_ref(), t, name, serial, key, ca, name]);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b""[..]), "{name:?}");
        let output = asks(&["--table".as_ref(), t, "user1".as_ref(), serial, key, ca, name]);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b""[..]), "{name:?} as a key ID");
        // The table is named where sshd's configuration names it, and nowhere else.
        let output = asks(&["user1".as_ref(), serial, key, ca, "user1".as_ref(), "--table".as_ref(), t]);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(2), &b""[..]));
    }
    for path in ["", ".", "..", "/", "/proc/self/mem", "/proc/self/exe", "/dev/stdin", "access.table/", "\u{1b}[31m"] {
        let output = Command::new(DYNAMIC).args(["--table", path]).args(words()).output().unwrap();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]), "{path:?}");
        assert!(!output.stderr.contains(&0x1b), "what was said is for a terminal as well");
    }
}

#[test]
fn called_without_even_a_name_it_lets_nobody_in() {
    {
        let helper = Path::new(DYNAMIC);
        let path = std::ffi::CString::new(helper.as_os_str().as_bytes()).unwrap();
        let mut command = Command::new("/nonexistent");
        // SAFETY: one call that is safe after fork(2), with arrays that live until then.
        unsafe {
            command.pre_exec(move || {
                let nothing = [std::ptr::null()];
                libc::execve(path.as_ptr(), nothing.as_ptr(), nothing.as_ptr());
                Err(std::io::Error::last_os_error())
            });
        }
        let output = command.output().unwrap();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(2), &b""[..]), "{}", helper.display());
        assert!(String::from_utf8_lossy(&output.stderr).contains("usage"));
    }
}

/// With some of the three standard descriptors closed, the table or the agent's socket must not be taken for one of them.
#[test]
fn what_it_says_goes_into_nothing_that_it_has_opened() {
    let place = Place::new();
    let dir = tempfile::tempdir().unwrap();
    let before = fs::read(place.path("access.table")).unwrap();
    let agent = UnixDatagram::bind(place.path(SOCKET)).unwrap();
    agent.set_nonblocking(true).unwrap();
    for helper in [linked_statically(dir.path()), DYNAMIC.into()] {
        for closed in 0..8_u8 {
            for broken in [false, true] {
                let mut command = place.ask(&helper);
                if broken {
                    // It has something to say on standard error, and in the system's log.
                    command = Command::new(&helper);
                    command.args(["--table", "/nonexistent"]).args(words());
                }
                // SAFETY: close(2) is safe after fork(2).
                unsafe {
                    command.pre_exec(move || {
                        (0..3).filter(|fd| closed & (1 << fd) != 0).for_each(|fd| assert_eq!(libc::close(fd), 0));
                        Ok(())
                    });
                }
                let Output { status, stdout, .. } = command.output().unwrap();
                let printed = if broken || closed & 2 != 0 { &b""[..] } else { ANSWER };
                assert_eq!((status.code(), &stdout[..]), (Some(i32::from(broken)), printed), "closed {closed:03b}");
                let mut bytes = [0; 2 * LENGTH];
                if !broken {
                    let length = agent.recv(&mut bytes).unwrap();
                    assert!(Notice::parse(&bytes[..length]).is_some(), "closed {closed:03b}");
                }
                assert!(agent.recv(&mut bytes).is_err(), "closed {closed:03b}: the agent was sent something else");
            }
        }
    }
    place.table_is_untouched(&before);
}

#[test]
fn a_reader_who_is_gone_is_an_error_that_is_said() {
    let place = Place::new();
    {
        let helper = Path::new(DYNAMIC);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = place.ask(helper).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.status.signal()), (Some(1), None));
        assert!(String::from_utf8_lossy(&output.stderr).contains("Broken pipe"), "{output:?}");
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = place.ask(helper).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
    }
}

/// Whatever it is short of: the right answer, or none and a status that sshd takes for a no.
#[test]
fn without_memory_or_descriptors_it_lets_nobody_in() {
    let place = Place::new();
    let dir = tempfile::tempdir().unwrap();
    let before = fs::read(place.path("access.table")).unwrap();
    for helper in [linked_statically(dir.path()), DYNAMIC.into()] {
        let mut refused = 0;
        let memory = (0..40).map(|n| format!("--as={}", n * 128 * 1024));
        let files = (0..8).map(|n| format!("--nofile={n}"));
        let stack = [4, 16, 64, 128].map(|n| format!("--stack={}", n * 1024));
        for limit in
            memory.chain(files).chain(stack).chain(["--data=0".to_owned(), "--data=65536".into(), "--core=0".into()])
        {
            let ask = place.ask(&helper);
            let mut command = Command::new("prlimit");
            command.arg(&limit).arg("--core=0").arg(ask.get_program()).args(ask.get_args());
            let output = command.stdin(Stdio::null()).output().unwrap();
            if output.status.success() {
                assert_eq!(output.stdout, ANSWER, "{limit}");
            } else {
                assert_eq!(output.stdout, b"", "{limit}");
                refused += 1;
            }
        }
        // The same, by the environment: more than there is, for the first byte that is asked for.
        let output = place.ask(&helper).env("MALLOC_TOP_PAD_", "99999999999").output().unwrap();
        assert_eq!(output.stdout, if output.status.success() { ANSWER } else { b"" });
        assert!(refused > 3, "no limit was ever in its way");
    }
    place.table_is_untouched(&before);
}

/// Every read and write of memory, looked at by valgrind.
#[test]
#[allow(clippy::print_stderr)] // the test runner's business
fn valgrind_finds_nothing() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("skipped: valgrind is not installed here");
        return;
    }
    let place = Place::new();
    let agent = UnixDatagram::bind(place.path(SOCKET)).unwrap();
    assert!(agent.as_raw_fd() > 2);
    let table = place.path("access.table");
    fs::write(place.path("cut"), &fs::read(&table).unwrap()[..200]).unwrap();
    let [user1, serial, key, ca, _] = words();
    let strange = "x".repeat(5_000);
    for (table, login, status, printed) in
        [(&table, &user1, 0, ANSWER), (&table, &strange, 0, b""), (&place.path("cut"), &user1, 1, b"")]
    {
        let mut command = Command::new("valgrind");
        command.args(["--quiet", "--error-exitcode=99", "--track-fds=no", "--leak-check=no", DYNAMIC, "--table"]);
        let output = command.arg(table).args([login, &serial, &key, &ca, login]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(status), printed), "{said}");
        assert!(!said.contains("=="), "{said}");
    }
}
