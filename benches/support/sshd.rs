//! OpenSSH's sshd as a jump host: what the gateway is compared with.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// A running sshd, ended with this.
pub struct Sshd {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

/// As whom one logs in: sshd started by root serves somebody else by a process without privileges, as it would people.
pub fn login() -> String {
    if rustix::process::geteuid().is_root() { "nobody".into() } else { std::env::var("USER").unwrap() }
}

impl Sshd {
    /// Starts one whose files lie in `dir`, which lets the holder of a key in.
    pub fn start(dir: &Path, public_key: &str) -> Self {
        // Free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let host_key = keygen(dir, "sshd_key");
        fs::write(dir.join("authorized_keys"), format!("{public_key}\n")).unwrap();
        let config = format!(
            "ListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nAllowTcpForwarding yes\nLogLevel ERROR\n\
             MaxStartups 4096\nMaxSessions 4096\nUseDNS no\n",
            host_key.display(),
            dir.join("authorized_keys").display(),
        );
        fs::write(dir.join("sshd_config"), config).unwrap();
        let program = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"].into_iter().find(|path| Path::new(path).exists());
        // Where it separates privileges, which a machine that does not run it may not have.
        let _ = fs::create_dir_all("/run/sshd");
        // It wants to be started by its full path.
        let mut child = Command::new(program.unwrap_or_else(|| panic!("there is no sshd: install openssh-server")))
            .args(["-D", "-E"])
            .arg(dir.join("sshd.log"))
            .arg("-f")
            .arg(dir.join("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if child.try_wait().unwrap().is_some() || begun.elapsed() > Duration::from_secs(30) {
                panic!("no sshd: {}", fs::read_to_string(dir.join("sshd.log")).unwrap_or_default());
            }
            sleep(Duration::from_millis(5));
        }
        Self { child, address }
    }

    /// The processes of its connections.
    pub fn sessions(&self) -> Vec<u32> {
        let mut found = children(self.child.id());
        let mut next = 0;
        while next < found.len() {
            found.extend(children(found[next]));
            next += 1;
        }
        found
    }

    /// The processor time, in seconds, of all connections that it ever had. It waits until none is left: a process's time
    /// is added to its parent's when it was waited for (getrusage(2), `RUSAGE_CHILDREN`).
    pub fn cpu_seconds(&self) -> f64 {
        let begun = Instant::now();
        while !self.sessions().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(30), "sshd's connections do not end");
            sleep(Duration::from_millis(1));
        }
        super::cpu_seconds_with_children(self.child.id())
    }
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) else { return Vec::new() };
    text.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

/// Makes a key pair without a passphrase.
pub fn keygen(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&path).status().unwrap();
    assert!(made.success());
    path
}

impl Drop for Sshd {
    fn drop(&mut self) {
        for session in self.sessions() {
            if let Some(pid) = i32::try_from(session).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
