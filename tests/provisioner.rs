//! The provisioner as a process, beside an authority, with a program of a site's that does what each test needs.
#![allow(clippy::unwrap_used, clippy::panic)]

use certgate::app::protocol::provisioner::PROVISIONER_CALLS;
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Generous: it only bounds how long a failing test hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user that is nobody else on a machine.
const PROVISIONER_USER: u32 = 64_323;

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "waited in vain: {what}");
        sleep(Duration::from_millis(50));
    }
}

/// A daemon; killed when it goes out of scope.
struct Daemon(Child);

impl Daemon {
    fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        eventually("the end of a daemon", || self.0.try_wait().unwrap().is_some());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Site {
    dir: tempfile::TempDir,
}

/// The site's program: keeps what it is told, then does what the test has written into `do`.
const PROGRAM: &str = "#!/bin/sh\ncd DIR || exit 9\ncat >told.$$ && mv told.$$ \"calls/$(date +%s%N)\"\n. ./do\n";

const READY: &str = "echo '{\"state\": \"ready\"}'";

impl Site {
    /// With an organization and a project; the authority is not running yet.
    fn new(behaviour: &str) -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        site.configure("timeout = \"1m\"");
        fs::create_dir(site.path("calls")).unwrap();
        site.program(PROGRAM);
        site.does(behaviour);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, more: &str) {
        let path = self.dir.path().display();
        let config = format!(
            "state_dir = \"{path}/state\"\nadmin_socket = \"{path}/admin.sock\"\ngateway_socket = \
             \"{path}/gateway.sock\"\n[bastion]\nhost = \"bastion.example.com\"\n[provisioner]\nexecutable = \
             \"{path}/program\"\nsocket = \"{path}/provisioner.sock\"\nuser = \"{PROVISIONER_USER}\"\n{more}\n"
        );
        fs::write(self.path("authority.toml"), config).unwrap();
    }

    fn without_machinery(&self) {
        let config = fs::read_to_string(self.path("authority.toml")).unwrap();
        fs::write(self.path("authority.toml"), config.split("[provisioner]").next().unwrap()).unwrap();
    }

    fn program(&self, text: &str) {
        // Beside and renamed: a file that is open for writing somewhere cannot be run.
        let (new, path) = (self.path("program.new"), self.path("program"));
        fs::write(&new, text.replace("DIR", self.dir.path().to_str().unwrap())).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn does(&self, behaviour: &str) {
        fs::write(self.path("do.new"), behaviour).unwrap();
        fs::rename(self.path("do.new"), self.path("do")).unwrap();
    }

    /// From now on what waits for it goes on.
    fn go(&self) {
        fs::write(self.path("go"), "").unwrap();
    }

    fn daemon(&self, role: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certgated"));
        command.arg(role).arg("--config").arg(self.path("authority.toml")).stdin(Stdio::null());
        command
    }

    fn start(&self, role: &str) -> Daemon {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        Daemon(self.daemon(role).env("CERTGATE_LOG", "info").stderr(log).spawn().unwrap())
    }

    fn authority(&self) -> Daemon {
        let daemon = self.start("authority");
        eventually("an authority that answers", || self.run("ca show", "").status.success());
        daemon
    }

    fn provisioner(&self) -> Daemon {
        self.start("provisioner")
    }

    /// Both, with a project.
    fn both(&self) -> (Daemon, Daemon) {
        let authority = self.authority();
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk8sJwgtvJwSAGHSLkJL7gTrZgcoLYZQ+9yCxGwBZ1R";
        self.operator("org create acme");
        let words = ["user", "create", "admin1@acme.example", "--org", "acme", "--name", "admin1", "--key", key];
        assert!(self.words(&words, "").status.success());
        self.operator("project create acme/ml --admin admin1@acme.example");
        (authority, self.provisioner())
    }

    fn words(&self, words: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_certgate"))
            .arg("--socket")
            .arg(self.path("admin.sock"))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Err: it does not read, which is its right.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn run(&self, line: &str, input: &str) -> Output {
        self.words(&line.split(' ').collect::<Vec<_>>(), input)
    }

    fn operator(&self, line: &str) -> String {
        let output = self.run(line, "");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn state(&self, cluster: &str) -> String {
        let shown: Value = self.operator(&format!("cluster show {cluster} --json")).parse().unwrap();
        let reason = shown["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{}{reason}", shown["state"].as_str().unwrap())
    }

    #[track_caller]
    fn becomes(&self, cluster: &str, state: &str) {
        let mut last = String::new();
        let give_up = Instant::now() + PATIENCE;
        while last != state {
            assert!(Instant::now() < give_up, "{cluster} is {last:?}, not {state:?}; {}", self.log());
            sleep(Duration::from_millis(50));
            last = self.state(cluster);
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What the program was told each time.
    fn calls(&self) -> Vec<Value> {
        let mut names: Vec<_> = fs::read_dir(self.path("calls")).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.iter().map(|path| fs::read_to_string(path).unwrap().parse().unwrap()).collect()
    }

    fn called(&self, times: usize) {
        eventually(&format!("{times} calls"), || self.calls().len() == times);
    }

    /// A number that the program has written.
    fn number(&self, file: &str) -> i32 {
        eventually(file, || fs::read_to_string(self.path(file)).is_ok_and(|text| text.ends_with('\n')));
        fs::read_to_string(self.path(file)).unwrap().trim().parse().unwrap()
    }
}

fn alive(pid: i32) -> bool {
    // One that has ended and was not waited for is no process any more.
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[test]
fn the_program_is_told_all_and_nothing_of_our_environment() {
    let site = Site::new(&format!("tr '\\0' '\\n' </proc/$$/environ >environ; echo $# >words; {READY}"));
    let _daemons = site.both();
    site.operator("cluster create acme/ml h100 --compute 8");
    site.becomes("h100.acme", "ready");
    let [told] = &site.calls()[..] else { panic!("{:?}", site.calls()) };
    assert_eq!((&told["version"], &told["action"], &told["wanted"]), (&json!(1), &json!("create"), &json!("present")));
    assert_eq!(told["cluster"]["nodes"], json!({ "login": 0, "compute": 8, "controller": 0 }));
    assert_eq!(site.number("words"), 0);
    let environ = fs::read_to_string(site.path("environ")).unwrap();
    let mut names: Vec<&str> = environ.lines().map(|line| line.split('=').next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["LANG", "PATH"]);

    site.operator("volume create acme/ml data --size 1T");
    site.called(2);
    site.operator("cluster delete h100.acme --yes");
    site.called(3);
    assert_eq!(site.calls()[2]["wanted"], json!("absent"));
    let log = site.operator("audit export");
    assert!(log.contains("create: ready") && log.contains("cluster.provision"), "{log}");
}

#[test]
fn whatever_the_program_does_wrong_is_a_failure_with_a_reason() {
    let site = Site::new("exit 3");
    let _daemons = site.both();
    let not_an_answer = "failed: what it printed on standard output is no answer: ";
    let cases = [
        ("echo trying >&2; echo 'no \u{1b}[2Jquota' >&2; exit 3", "failed: no [2Jquota (exit status 3)".to_owned()),
        ("exit 7", "failed: exit status 7".into()),
        ("kill -9 $$", "failed: ended by signal 9".into()),
        (":", "failed: it printed no answer on standard output".into()),
        ("echo nonsense", format!("{not_an_answer}expected ident at line 1 column 2")),
        ("echo '{\"state\": \"done\"}'", String::new()),
        ("head -c 65537 /dev/zero", "failed: it printed too much on standard output".into()),
        ("yes", "failed: it printed too much on standard output".into()),
        ("yes >&2 & printf '%s' '{\"state\": \"failed\", \"reason\": \"x\\ny\"}'", "failed: x y".into()),
        ("exec >&- 2>&-; sleep 0.3; exit 4", "failed: exit status 4".into()),
    ];
    for (number, (behaviour, told)) in cases.iter().enumerate() {
        site.does(behaviour);
        let cluster = format!("c{number}");
        site.operator(&format!("cluster create acme/ml {cluster}"));
        let path = format!("{cluster}.acme");
        eventually(behaviour, || site.state(&path).starts_with("failed: "));
        let state = site.state(&path);
        assert!(
            if told.is_empty() { state.starts_with(not_an_answer) } else { state == *told },
            "{behaviour}: {state}"
        );
    }
    // What it is tried again as is what it is then told to do.
    site.does(READY);
    site.operator("cluster retry c0.acme");
    site.becomes("c0.acme", "ready");
}

#[test]
fn a_program_that_hangs_ends_with_everything_that_it_has_begun() {
    let site =
        Site::new("trap '' TERM\necho $$ >leader\n(trap '' TERM; sleep 1000) & echo $! >child\nwait\nsleep 1000");
    site.configure("timeout = \"1s\"");
    let _daemons = site.both();
    site.operator("cluster create acme/ml h100");
    let (leader, child) = (site.number("leader"), site.number("child"));
    assert!(alive(leader) && alive(child));
    site.becomes("h100.acme", "failed: it did not answer in time");
    assert!(!alive(leader), "the program itself has ended");
    eventually("the end of what it has begun", || !alive(child));
}

#[test]
fn a_program_that_leaves_something_running_has_answered_and_what_it_left_ends() {
    let site = Site::new(&format!("sleep 1000 & echo $! >child; {READY}"));
    let _daemons = site.both();
    site.operator("cluster create acme/ml h100");
    let child = site.number("child");
    site.becomes("h100.acme", "ready");
    eventually("the end of what it has left", || !alive(child));
}

#[test]
fn a_program_may_read_slowly_or_not_at_all() {
    let site = Site::new(READY);
    // More than fits into a pipe.
    let document = format!("# {}\n", "x".repeat(60_000)) + &"# \"\n".repeat(1000);
    let _daemons = site.both();
    site.program(&format!("#!/bin/sh\nsleep 1\ntail -c 1 >/dev/null\n{READY}\n"));
    assert!(site.run("cluster create acme/ml slow --config -", &document).status.success());
    site.becomes("slow.acme", "ready");
    site.program(&format!("#!/bin/sh\n{READY}\n"));
    assert!(site.run("cluster create acme/ml deaf --config -", &document).status.success());
    site.becomes("deaf.acme", "ready");
}

#[test]
fn an_authority_that_is_killed_meanwhile_gets_the_answer_all_the_same() {
    let site = Site::new(&format!("while ! test -e go; do sleep 0.1; done; {READY}"));
    let (authority, _provisioner) = site.both();
    site.operator("cluster create acme/ml h100");
    site.called(1);
    drop(authority);
    site.go();
    // It ends, and cannot be reported.
    eventually("a report in vain", || site.log().contains("could not be reported yet"));
    let _authority = site.authority();
    site.becomes("h100.acme", "ready");
    assert_eq!(site.calls().len(), 1);
    // And it goes on.
    site.operator("cluster scale h100.acme --compute 4");
    site.becomes("h100.acme", "ready");
    site.called(2);
}

#[test]
fn a_provisioner_that_is_stopped_ends_its_calls_and_the_next_one_makes_them_again() {
    let site = Site::new(&format!("echo $$ >leader; while ! test -e go; do sleep 0.1; done; {READY}"));
    let (_authority, provisioner) = site.both();
    site.operator("cluster create acme/ml h100");
    let leader = site.number("leader");
    provisioner.terminate();
    assert!(!alive(leader));
    assert_eq!(site.state("h100.acme"), "pending");
    let status = String::from_utf8(site.run("status", "").stdout).unwrap();
    assert!(status.contains("No provisioner is connected") && status.contains("h100.acme"), "{status}");
    site.go();
    let _provisioner = site.provisioner();
    site.becomes("h100.acme", "ready");
    assert_eq!(site.calls().len(), 2);
}

#[test]
fn what_changes_during_a_call_is_asked_for_after_it_and_never_beside_it() {
    let behaviour = format!("mkdir busy || exit 9; while ! test -e go; do sleep 0.1; done; rmdir busy; {READY}");
    let site = Site::new(&behaviour);
    let _daemons = site.both();
    site.operator("cluster create acme/ml h100 --compute 1");
    site.called(1);
    site.operator("cluster scale h100.acme --compute 2");
    // Others go on beside it.
    site.operator("volume create acme/ml data --size 1T");
    site.called(2);
    site.operator("cluster scale h100.acme --compute 3");
    site.go();
    site.becomes("h100.acme", "ready");
    let numbers: Vec<_> = site.calls().iter().filter_map(|told| told["cluster"]["nodes"]["compute"].as_u64()).collect();
    assert_eq!(numbers, [1, 3]);
}

#[test]
fn what_changed_while_no_machinery_was_configured_is_asked_for_when_it_is_again() {
    let site = Site::new(READY);
    let (authority, provisioner) = site.both();
    site.operator("cluster create acme/ml h100");
    site.operator("cluster create acme/ml b200");
    site.becomes("h100.acme", "ready");
    site.becomes("b200.acme", "ready");
    authority.terminate();
    provisioner.terminate();
    let config = fs::read_to_string(site.path("authority.toml")).unwrap();
    site.without_machinery();
    {
        let _authority = site.authority();
        site.operator("cluster scale h100.acme --compute 4");
        site.operator("cluster delete b200.acme --yes");
        site.operator("cluster create acme/ml other");
        assert_eq!(site.state("h100.acme"), "ready");
        assert!(!site.path("provisioner.sock").exists());
    }
    let refused = site.daemon("provisioner").output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no [provisioner]"));

    fs::write(site.path("authority.toml"), config).unwrap();
    let (_authority, _provisioner) = (site.authority(), site.provisioner());
    site.called(4);
    let mut told: Vec<_> = site.calls()[2..]
        .iter()
        .map(|told| format!("{} {} {}", told["cluster"]["name"], told["action"], told["cluster"]["nodes"]["compute"]))
        .collect();
    told.sort();
    // What it was never asked about, it is not asked about now.
    assert_eq!(told, ["\"b200.acme\" \"delete\" 0", "\"h100.acme\" \"change\" 4"]);
}

#[test]
fn a_program_that_others_can_change_is_not_run() {
    let site = Site::new(READY);
    fs::set_permissions(site.path("program"), fs::Permissions::from_mode(0o777)).unwrap();
    let _daemons = site.both();
    site.operator("cluster create acme/ml h100");
    let reason = format!("failed: {}: can be changed by others; it is not run", site.path("program").display());
    site.becomes("h100.acme", &reason);
    assert!(site.calls().is_empty());
}

#[test]
fn the_socket_answers_its_own_table_to_its_own_user() {
    let site = Site::new(READY);
    let _authority = site.authority();
    fs::set_permissions(site.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let ask = |user: u32, socket: &str, path: &str, body: &str| {
        let curl = Command::new("curl")
            .args(["-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket"])
            .arg(site.path(socket))
            .args(["-H", "content-type: application/json", "-d", body])
            .arg(format!("http://localhost{path}"))
            .uid(user)
            .gid(user)
            .output()
            .unwrap();
        String::from_utf8(curl.stdout).unwrap()
    };
    for path in PROVISIONER_CALLS {
        assert_eq!(ask(0, "provisioner.sock", path, "{}"), "422", "{path}");
        for socket in ["admin.sock", "gateway.sock"] {
            assert_eq!(ask(0, socket, path, "{}"), "404", "{socket} {path}");
        }
    }
    for path in ["/v1/command", "/v1/authenticate", "/v1/events", "/", "/v1/provisioner"] {
        assert_eq!(ask(0, "provisioner.sock", path, "{}"), "404", "{path}");
    }
    let next = r#"{"instance":"a","running":[],"room":1,"wait_secs":0}"#;
    assert_eq!(ask(PROVISIONER_USER, "provisioner.sock", PROVISIONER_CALLS[0], next), "200");
    // 000 is curl's way of saying that there was no answer.
    assert_eq!(ask(PROVISIONER_USER + 1, "provisioner.sock", PROVISIONER_CALLS[0], next), "000");
    assert_eq!(ask(PROVISIONER_USER, "admin.sock", "/v1/command", r#"{"words":["status"]}"#), "000");
    assert!(Path::new(&site.path("provisioner.sock")).exists());
}
