//! A running authority, with the real `certgate` in front of it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

/// An authority, which ends with it.
pub struct Site {
    pub dir: tempfile::TempDir,
    pub authority: Child,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.authority.kill();
        let _ = self.authority.wait();
    }
}

impl Site {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With more settings, which stand before the first section.
    pub fn start_with(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let config = format!(
            "state_dir = \"{path}/state\"\nadmin_socket = \"{path}/admin.sock\"\ngateway_socket = \
             \"{path}/gateway.sock\"\n{settings}\n[bastion]\nhost = \"bastion.example.com\"\n"
        );
        fs::write(dir.path().join("authority.toml"), config).unwrap();
        let authority = spawn(dir.path(), Stdio::null());
        let mut site = Self { dir, authority };
        site.wait();
        site
    }

    /// Ends the authority, as systemd would.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.authority.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.authority.wait().unwrap().success());
    }

    /// Starts it again.
    pub fn again(&mut self) {
        self.authority = spawn(self.dir.path(), Stdio::null());
        self.wait();
    }

    /// Starts it again where it must refuse; what it says.
    pub fn refuses(&self) -> String {
        let output = spawn(self.dir.path(), Stdio::piped()).wait_with_output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    fn wait(&mut self) {
        for _ in 0..600 {
            if self.certgate(&["org", "list"], "").status.success() {
                return;
            }
            assert!(self.authority.try_wait().unwrap().is_none(), "the authority has ended");
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the authority did not start");
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    /// Where gateways ask.
    pub fn gateway_socket(&self) -> PathBuf {
        self.dir.path().join("gateway.sock")
    }

    pub fn certgate(&self, words: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certgate"));
        command.arg("--socket").arg(self.socket()).args(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that asks for nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// What a command prints that is carried out.
    pub fn done(&self, words: &[&str]) -> String {
        let output = self.certgate(words, "");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says that is refused, and prints nothing.
    pub fn refused(&self, words: &[&str]) -> String {
        let output = self.certgate(words, "");
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{words:?}: {told}");
        told
    }
}

fn spawn(dir: &Path, log: Stdio) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_certgated"));
    command.arg("authority").arg("--config").arg(dir.join("authority.toml"));
    command.stdin(Stdio::null()).stderr(log).spawn().unwrap()
}
