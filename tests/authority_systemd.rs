//! What the authority has of systemd: the watchdog, and CA keys as credentials.
#![allow(clippy::unwrap_used, clippy::panic)]

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::Duration,
};
use tempfile::TempDir;

const KEYS: [&str; 4] = ["user_ca", "host_ca", "bundle_key", "audit_key"];

/// An authority's files, and an authority on them while it runs.
struct Site {
    dir: TempDir,
    running: Option<Child>,
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.kill();
            let _ = running.wait();
        }
    }
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let config = format!(
            "state_dir = '{path}/state'\nadmin_socket = '{path}/admin.sock'\ngateway_socket = '{path}/gateway.sock'\n\
             [bastion]\nhost = 'bastion.example.com'\n"
        );
        fs::write(dir.path().join("authority.toml"), config).unwrap();
        fs::create_dir(dir.path().join("credentials")).unwrap();
        Self { dir, running: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certgated"));
        command.arg("authority").arg("--config").arg(self.path("authority.toml")).env_remove("JOURNAL_STREAM");
        command.stdin(Stdio::null()).stderr(fs::File::create(self.path("log")).unwrap());
        command
    }

    fn with_credentials(&self) -> Command {
        let mut command = self.command();
        command.env("CREDENTIALS_DIRECTORY", self.path("credentials"));
        command
    }

    fn ask(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certgate"));
        command.arg("--socket").arg(self.path("admin.sock")).args(words).output().unwrap()
    }

    /// Starts it; the CA's public keys.
    fn start(&mut self, mut command: Command) -> String {
        self.running = Some(command.spawn().unwrap());
        for _ in 0..600 {
            let shown = self.ask(&["ca", "show"]);
            if shown.status.success() {
                return String::from_utf8(shown.stdout).unwrap();
            }
            sleep(Duration::from_millis(100));
        }
        panic!("it did not start: {}", self.log());
    }

    fn stop(&mut self) {
        let mut running = self.running.take().unwrap();
        kill_process(Pid::from_child(&running), Signal::TERM).unwrap();
        assert!(running.wait().unwrap().success());
    }

    fn refuses(&self, mut command: Command) -> String {
        assert!(!command.status().unwrap().success());
        self.log()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }
}

#[test]
fn keys_can_be_credentials_and_are_then_nowhere_else() {
    let mut site = Site::new();
    let ca = site.start(site.command());
    assert!(ca.contains("ssh-ed25519 "), "{ca}");
    site.stop();
    for name in KEYS {
        let (from, to) = (site.path("state").join(name), site.path("credentials").join(name));
        fs::copy(from, &to).unwrap();
        fs::set_permissions(to, fs::Permissions::from_mode(0o400)).unwrap();
    }
    assert_eq!(site.start(site.with_credentials()), ca);
    site.stop();
    assert_eq!(site.log().matches("the file is not read, and should go").count(), KEYS.len(), "{}", site.log());
    for name in KEYS {
        fs::remove_file(site.path("state").join(name)).unwrap();
    }
    assert_eq!(site.start(site.with_credentials()), ca);
    site.stop();
    assert!(!site.log().contains("should go"), "{}", site.log());
    assert!(KEYS.iter().all(|name| !site.path("state").join(name).exists()), "one was made");
    let said = site.refuses(site.command());
    assert!(said.contains("user_ca is missing"), "{said}");
    // An empty directory under keys that have been used would give out the same numbers again.
    fs::remove_dir_all(site.path("state")).unwrap();
    let said = site.refuses(site.with_credentials());
    assert!(said.contains("directory.sqlite3 is missing") && said.contains("credentials"), "{said}");
}

#[test]
fn systemd_is_told_that_it_is_ready_that_it_is_alive_and_that_it_stops() {
    let mut site = Site::new();
    let socket = UnixDatagram::bind(site.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let told = || {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let mut command = site.command();
    // As systemd sets it, but for the number of a process that is not there yet.
    command.env("NOTIFY_SOCKET", site.path("notify")).env("WATCHDOG_USEC", "1500000").env_remove("WATCHDOG_PID");
    site.start(command);
    assert_eq!(told(), "READY=1\n");
    assert_eq!(told(), "WATCHDOG=1\n");
    assert_eq!(told(), "WATCHDOG=1\n");
    site.stop();
    let mut said = told();
    while said == "WATCHDOG=1\n" {
        said = told();
    }
    assert_eq!(said, "STOPPING=1\n");
}
