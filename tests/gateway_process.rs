//! The gateway's process: sockets that systemd has opened, another process that takes over, and what ssh-audit says.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[allow(unreachable_pub, reason = "each test file has its own")]
mod http_support;
#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod process_support;

use process_support::Site;
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const GATEWAY: &str = env!("CARGO_BIN_EXE_certgated");

/// A process that ends with this, and with it every process that it has started.
struct Group(Child);

impl Group {
    fn start(command: &mut Command, log: &Path) -> Self {
        use std::os::unix::process::CommandExt;
        let log = std::fs::File::create(log).unwrap();
        Self(command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Err: all of them have ended.
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A configuration without an authority, for what comes before anybody is asked.
fn config(dir: &TempDir, more: &str) -> PathBuf {
    config_for(&dir.path().join("nobody.sock"), dir, more)
}

/// The same with the authority at this socket.
fn config_for(authority: &Path, dir: &TempDir, more: &str) -> PathBuf {
    let text = format!(
        "name = 'gw1'\nauthority_socket = '{}'\nhost_key = '{}'\n{more}\n[penalties]\nenabled = false\n",
        authority.display(),
        dir.path().join("host_key").display()
    );
    std::fs::write(dir.path().join("gateway.toml"), text).unwrap();
    dir.path().join("gateway.toml")
}

/// Waits until a condition holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < give_up, "in vain: {what}");
        sleep(Duration::from_millis(50));
    }
}

/// A connection on which the gateway has spoken.
fn greeted(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"SSH-2.0-test\r\n")?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    assert_eq!(line, "SSH-2.0-certgate\r\n");
    Ok(stream)
}

#[test]
fn systemds_sockets_are_used_also_by_the_process_that_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let (four, six) = (SocketAddr::from(([127, 0, 0, 1], free_port())), SocketAddr::from(([0; 8], free_port())));
    let six = SocketAddr::new("::1".parse().unwrap(), six.port());
    let site = Site::start();
    let file = config_for(&site.gateway_socket(), &dir, "");
    let log = dir.path().join("log");
    let mut command = Command::new("systemd-socket-activate");
    command.args(["-l", &four.to_string(), "-l", &six.to_string(), GATEWAY, "gateway", "--config"]).arg(&file);
    let running = Group::start(command.env_remove("JOURNAL_STREAM"), &log);
    // The first connection starts it.
    eventually("systemd listens", || TcpStream::connect(four).is_ok());
    let first = greeted(four).unwrap();
    greeted(six).unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    assert!(said().contains("listening on what systemd has opened sockets=2"), "{}", said());

    running.signal(rustix::process::Signal::HUP);
    eventually("another process has taken over", || said().contains("another process has taken over"));
    for address in [four, six] {
        greeted(address).unwrap();
    }
    // It belongs to whoever looks after orphans, as systemd does: who supervises the old process hears of the new one's end.
    let text = said();
    let (_, pid) = text.split_once("another process has taken over\" pid=").unwrap();
    let pid: String = pid.chars().take_while(char::is_ascii_digit).collect();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    assert_ne!(parent, running.0.id().to_string(), "{}", said());
    assert!(said().matches("listening on what systemd has opened sockets=2").count() == 2, "{}", said());
    drop(first);
}

#[test]
fn one_that_is_to_stop_takes_nobody_and_lets_who_is_there_go_on() {
    use rustix::process::Signal;
    let dir = tempfile::tempdir().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let file = config(&dir, &format!("listen = ['{address}']\n[limits]\ndrain_on_stop = '1h'\nlogin_deadline = '1h'"));
    let log = dir.path().join("log");
    let mut command = Command::new(GATEWAY);
    command.args(["gateway", "--config"]).arg(&file).env_remove("JOURNAL_STREAM");
    let mut running = Group::start(&mut command, &log);
    eventually("it listens", || TcpStream::connect(address).is_ok());
    let there = greeted(address).unwrap();
    running.signal(Signal::TERM);
    eventually("it takes nobody", || TcpStream::connect(address).is_err());
    assert!(running.0.try_wait().unwrap().is_none(), "it has ended");
    running.signal(Signal::TERM);
    eventually("it has ended", || running.0.try_wait().unwrap().is_some_and(|status| status.success()));
    drop(there);
}

/// What systemd is told, at a socket of ours (sd_notify(3)).
struct Told(std::os::unix::net::UnixDatagram);

impl Told {
    fn by(dir: &TempDir, command: &mut Command) -> Self {
        let path = dir.path().join("notify");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // As systemd sets it, but for the number of a process that is not there yet.
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "4500000").env_remove("WATCHDOG_PID");
        Self(socket)
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

#[test]
fn the_watchdog_hears_from_a_gateway_that_accepts_and_from_the_one_that_takes_over() {
    use rustix::process::Signal;
    let dir = tempfile::tempdir().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let site = Site::start();
    let file = config_for(&site.gateway_socket(), &dir, &format!("listen = ['{address}']"));
    let mut command = Command::new(GATEWAY);
    command.args(["gateway", "--config"]).arg(&file).env_remove("JOURNAL_STREAM");
    let told = Told::by(&dir, &mut command);
    let log = dir.path().join("log");
    let mut running = Group::start(&mut command, &log);
    assert_eq!(told.next(), "READY=1\n");
    assert_eq!(told.next(), "WATCHDOG=1\n");
    // One that stands still says nothing, and begins again with that.
    running.signal(Signal::STOP);
    running.signal(Signal::CONT);
    assert_eq!(told.next(), "WATCHDOG=1\n");
    running.signal(Signal::HUP);
    let mut said = told.next();
    while said == "WATCHDOG=1\n" {
        said = told.next();
    }
    assert!(said.starts_with("MAINPID=") && said.contains("\nWATCHDOG=1"), "{said}");
    // The old one has nothing to carry, and ends; the new one goes on telling.
    eventually("the old process has ended", || running.0.try_wait().unwrap().is_some_and(|status| status.success()));
    told.0.set_nonblocking(true).unwrap();
    while told.0.recv(&mut [0; 4096]).is_ok() {}
    told.0.set_nonblocking(false).unwrap();
    assert_eq!(told.next(), "WATCHDOG=1\n");
}

#[test]
fn a_process_that_cannot_start_takes_nothing_over() {
    let dir = tempfile::tempdir().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let file = config(&dir, &format!("listen = ['{address}']"));
    let log = dir.path().join("log");
    let mut command = Command::new(GATEWAY);
    command.args(["gateway", "--config"]).arg(&file).env_remove("JOURNAL_STREAM");
    let mut running = Group::start(&mut command, &log);
    eventually("it listens", || TcpStream::connect(address).is_ok());
    let said = || std::fs::read_to_string(&log).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    for (number, bad) in
        [format!("listen = ['{}']", taken.local_addr().unwrap()), "listen = []".into(), "nonsense = 1".into()]
            .iter()
            .enumerate()
    {
        config(&dir, bad);
        running.signal(rustix::process::Signal::HUP);
        eventually("it goes on", || said().matches("this process goes on").count() == number + 1);
        greeted(address).unwrap();
    }
    assert!(said().contains("nowhere to listen"), "{}", said());
    // Another address, without a moment in which nobody listens at either.
    let other = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let site = Site::start();
    config_for(&site.gateway_socket(), &dir, &format!("listen = ['{address}', '{other}']"));
    running.signal(rustix::process::Signal::HUP);
    eventually("the other address", || greeted(other).is_ok());
    greeted(address).unwrap();
    // Nothing holds the old process, which is ours to wait for.
    eventually("the old process has ended", || running.0.try_wait().unwrap().is_some_and(|status| status.success()));
    greeted(address).unwrap();
}

/// The processes that run with this configuration.
fn processes(file: &Path) -> Vec<i32> {
    let named = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == file.as_os_str().as_encoded_bytes())
    };
    let all = std::fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|entry| entry.unwrap().file_name().to_str().and_then(|name| name.parse().ok()));
    pids.filter(named).collect()
}

/// As what the authority knows the gateways.
fn known(site: &Site) -> Vec<String> {
    let output = site.certgate(&["status", "--json"], "");
    let Ok(status) = serde_json::from_slice::<Value>(&output.stdout) else { return Vec::new() };
    let gateways = status["gateways"].as_array().unwrap();
    gateways.iter().map(|gateway| gateway["gateway"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_process_that_does_not_reach_the_authority_takes_nothing_over() {
    use rustix::process::Signal;
    let (dir, mut site) = (tempfile::tempdir().unwrap(), Site::start());
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let listen = format!("listen = ['{address}']");
    let file = config_for(&site.gateway_socket(), &dir, &listen);
    let log = dir.path().join("log");
    let mut command = Command::new(GATEWAY);
    command.args(["gateway", "--config"]).arg(&file).env_remove("JOURNAL_STREAM");
    let running = Group::start(&mut command, &log);
    eventually("the authority knows it", || known(&site) == ["gw1"]);
    let old = i32::try_from(running.0.id()).unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    let goes_on = |times: usize| {
        running.signal(Signal::HUP);
        let told = "this process goes on\" error=the new process does not reach the authority";
        eventually("it goes on", || said().matches(told).count() == times);
        eventually("the other one has ended", || processes(&file) == [old]);
        greeted(address).unwrap();
    };
    // The new configuration names an authority that is none.
    config(&dir, &listen);
    goes_on(1);
    let why = format!("not taking over: the authority cannot be reached: {}", dir.path().join("nobody.sock").display());
    assert!(said().contains(&why), "{}", said());
    assert_eq!(known(&site), ["gw1"], "the old one is what it was");
    // It is away for everybody.
    config_for(&site.gateway_socket(), &dir, &listen);
    site.stop();
    goes_on(2);
    site.again();
    eventually("it is back with the authority", || known(&site) == ["gw1"]);
    running.signal(Signal::HUP);
    eventually("another process has taken over", || said().contains("another process has taken over"));
    eventually("the old one has ended", || !processes(&file).contains(&old));
    greeted(address).unwrap();
    // Nobody can ask it for its numbers any more.
    let totals = "action=\"totals\" connections=0 forwards=0 ended=0 up=0 down=0";
    assert_eq!(said().matches(totals).count(), 1, "{}", said());
}

/// Where the new process is by then: it waits for an authority that takes every word and says nothing; it is prepared, and the
/// old one is about to step aside; or it is told to begin.
#[test]
fn a_stop_during_a_hand_over_ends_both_processes_in_order() {
    use rustix::process::{Pid, Signal, kill_process};
    let site = Site::start();
    for (prepared, told) in [(false, false), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let silent = std::os::unix::net::UnixListener::bind(dir.path().join("silent.sock")).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen = format!("listen = ['{address}']\n[limits]\ndrain_on_stop = '1s'");
        let file = config_for(&dir.path().join("silent.sock"), &dir, &listen);
        let log = dir.path().join("log");
        let mut command = Command::new(GATEWAY);
        command.args(["gateway", "--config"]).arg(&file).env_remove("JOURNAL_STREAM");
        let mut running = Group::start(&mut command, &log);
        eventually("it listens", || TcpStream::connect(address).is_ok());
        let mut there = greeted(address).unwrap();
        let said = || std::fs::read_to_string(&log).unwrap();
        if prepared {
            config_for(&site.gateway_socket(), &dir, &listen);
        }
        running.signal(Signal::HUP);
        if prepared {
            eventually("it is prepared", || said().contains("the other process is prepared"));
        } else {
            eventually("it asks the authority", || {
                said().matches(&format!("listening address={address}")).count() == 2
            });
        }
        // It does not get any further, whatever the old one does.
        let old = i32::try_from(running.0.id()).unwrap();
        eventually("there are two", || processes(&file).len() == 2);
        let new: Vec<i32> = processes(&file).into_iter().filter(|pid| *pid != old).collect();
        let [new] = new[..] else { panic!("{new:?}: {}", said()) };
        let new = Pid::from_raw(new).unwrap();
        kill_process(new, Signal::STOP).unwrap();
        if told {
            // The old one has waited in vain for its authority to learn its other name.
            sleep(Duration::from_secs(5));
        }
        running.signal(Signal::TERM);
        eventually("it takes nobody", || said().contains("no new connections are taken"));
        // It is ended by the old one, or ends by itself as soon as it runs.
        let _ = kill_process(new, Signal::CONT);
        eventually("the old one has ended", || running.0.try_wait().unwrap().is_some_and(|status| status.success()));
        assert!(said().contains("the gateway has stopped"), "{}", said());
        eventually("nothing is left", || processes(&file).is_empty());
        assert!(!said().contains("another process has taken over"), "{}", said());
        there.read_to_end(&mut Vec::new()).unwrap();
        assert!(TcpStream::connect(address).is_err());
        drop(silent);
    }
}

/// Which process says hello at this socket next, and its connection: it says hello again when that has ended.
fn instance(socket: &std::os::unix::net::UnixListener) -> (String, std::os::unix::net::UnixStream) {
    let (stream, _) = socket.accept().unwrap();
    let body = http_support::request(BufReader::new(&stream));
    let hello: Value = serde_json::from_slice(&body).unwrap();
    (hello["instance"].as_str().unwrap().to_owned(), stream)
}

#[test]
fn each_process_of_a_gateway_is_another_one_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("authority.sock");
    let authority = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let file = config_for(&socket, &dir, &format!("listen = ['{address}']"));
    let said: Vec<String> = (0..2)
        .map(|_| {
            let mut command = Command::new(GATEWAY);
            command.args(["gateway", "--config"]).arg(&file).env_remove("JOURNAL_STREAM");
            let running = Group::start(&mut command, &dir.path().join("log"));
            let (first, stream) = instance(&authority);
            drop(stream);
            let (again, stream) = instance(&authority);
            assert_eq!(again, first, "the same, though its stream was broken");
            drop(running);
            drop(stream);
            first
        })
        .collect();
    assert_ne!(said[0], said[1]);
}

#[test]
fn ssh_audit_finds_nothing_but_what_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let file = config(&dir, &format!("listen = ['{address}']"));
    let mut command = Command::new(GATEWAY);
    command.args(["gateway", "--config"]).arg(&file).env_remove("JOURNAL_STREAM");
    let _running = Group::start(&mut command, &dir.path().join("log"));
    eventually("it listens", || TcpStream::connect(address).is_ok());
    let clients = Path::new(GATEWAY).ancestors().nth(2).unwrap().join("clients");
    let mut install = Command::new("scripts/clients");
    let installed = install.current_dir(env!("CARGO_MANIFEST_DIR")).arg(&clients).output().unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let audit = Command::new(clients.join("venv/bin/ssh-audit"))
        .args(["--json", "--skip-rate-test", "-p", &address.port().to_string(), "127.0.0.1"])
        .output()
        .unwrap();
    let found: Value = serde_json::from_slice(&audit.stdout).unwrap();
    let mut warnings = Vec::new();
    for list in ["kex", "key", "enc", "mac"] {
        let algorithms = found[list].as_array().unwrap();
        assert!(!algorithms.is_empty(), "{found:#}");
        for algorithm in algorithms {
            let name = algorithm["algorithm"].as_str().unwrap();
            assert!(algorithm["notes"]["fail"].is_null(), "{name}: {algorithm:#}");
            let notes = algorithm["notes"]["warn"].as_array().cloned().unwrap_or_default();
            warnings.extend(notes.iter().map(|note| format!("{name}: {}", note.as_str().unwrap())));
        }
    }
    // Clients from before 2024 have nothing better than X25519 alone.
    let weak = "does not provide protection against post-quantum attacks";
    assert_eq!(warnings, ["curve25519-sha256", "curve25519-sha256@libssh.org"].map(|name| format!("{name}: {weak}")));
    assert_eq!(found["kex"][0]["algorithm"], "mlkem768x25519-sha256", "{found:#}");
    assert!(found["cves"].as_array().is_none_or(Vec::is_empty), "{found:#}");
}
