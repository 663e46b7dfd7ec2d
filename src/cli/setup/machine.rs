//! What the machine is like before anything is changed, and its systemd.

use super::files::{self, Present};
use crate::{ca::CaKeys, store::SqliteStore};
use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::Command;

/// Where the directory and the CA keys are, if authority.toml does not say otherwise.
const STATE: &str = "/var/lib/certgate";

/// There is one where systemd runs the machine (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// The users that the services run as.
const USERS: [&str; 2] = ["certgate-authority", files::GATEWAY_USER];

/// What is in the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Nothing,
    /// CA keys without the directory that belongs to them.
    Keys,
    Directory,
}

/// What is so before anything is changed.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) root: bool,
    pub(super) systemd: bool,
    pub(super) name: Option<String>,
    pub(super) v6: bool,
    pub(super) present: Present,
    pub(super) said: files::Said,
    pub(super) state_dir: PathBuf,
    pub(super) state: State,
    pub(super) missing_users: Vec<&'static str>,
}

impl Machine {
    /// Looks.
    ///
    /// # Errors
    /// A file of the configuration cannot be read.
    pub(super) fn look() -> Result<Self, String> {
        let present = Present {
            authority: text(files::AUTHORITY)?,
            gateway: text(files::GATEWAY)?,
            socket: text(files::SOCKET)?,
        };
        let said = present.authority.as_deref().map(files::said).transpose()?.unwrap_or_default();
        let state_dir = PathBuf::from(said.state_dir.as_deref().unwrap_or(STATE));
        let state = match (SqliteStore::database(&state_dir).exists(), CaKeys::present(&state_dir)) {
            (true, _) => State::Directory,
            (false, true) => State::Keys,
            (false, false) => State::Nothing,
        };
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let known = |user: &str| passwd.lines().any(|line| line.split(':').next() == Some(user));
        let name = rustix::system::uname().nodename().to_str().ok().map(str::to_lowercase);
        Ok(Self {
            root: rustix::process::geteuid().is_root(),
            systemd: Path::new(BOOTED).is_dir(),
            // One word is no name by which others reach it.
            name: name.filter(|name| name.contains('.')),
            v6: TcpListener::bind("[::]:0").is_ok(),
            present,
            said,
            state_dir,
            state,
            missing_users: USERS.into_iter().filter(|user| !known(user)).collect(),
        })
    }
}

fn text(path: &str) -> Result<Option<String>, String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// Who listens at an address already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) name: String,
}

/// Whether one could listen there; if not, who does.
///
/// # Errors
/// It is no address of this machine, or there are no rights to use it.
pub(super) fn taken(address: SocketAddr) -> Result<Option<Option<Holder>>, String> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(Some(holder(address.port()))),
        Err(error) => Err(format!("the gateway cannot listen at {address}: {error}")),
    }
}

/// The process that listens at a port, if it can be seen.
fn holder(port: u16) -> Option<Holder> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let sockets: Vec<String> =
        tables.iter().flat_map(|table| table.lines()).filter_map(|line| listens(line, port)).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find_map(|pid: u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let mut open = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        open.any(|target| target.to_str().is_some_and(|target| sockets.iter().any(|socket| target == socket)))
            .then(|| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default())
            .map(|name| Holder { pid, name: name.trim().to_owned() })
    })
}

/// The socket of a line of /proc/net/tcp that listens at a port, as /proc/PID/fd names it (proc_net_tcp.txt of the kernel).
fn listens(line: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let at = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
    (at == port && *fields.get(3)? == LISTEN).then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
}

/// Runs systemctl.
///
/// # Errors
/// It cannot be run, or fails; what it says.
pub(super) async fn systemctl(words: &[&str]) -> Result<(), String> {
    let line = format!("systemctl {}", words.join(" "));
    let output = Command::new("systemctl").args(words).stdin(Stdio::null()).output().await;
    let output = output.map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(format!("{line}: {}", if said.is_empty() { output.status.to_string() } else { said.join(" ") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_at_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let Some(Some(holder)) = taken(address).unwrap() else { panic!("{address} is free") };
        assert_eq!(holder.pid, std::process::id());
        drop(listener);
        assert_eq!(taken(address).unwrap(), None);
        assert!(taken("192.0.2.1:1".parse().unwrap()).unwrap_err().contains("192.0.2.1:1"));
    }

    #[test]
    fn only_what_listens_counts() {
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 4242 1 0 100 0 0 10 0";
        assert_eq!(listens(line, 8080).as_deref(), Some("socket:[4242]"));
        assert_eq!(listens(line, 8081), None);
        assert_eq!(listens(&line.replace(" 0A ", " 01 "), 8080), None);
        assert_eq!(listens("  sl  local_address rem_address   st", 8080), None);
    }
}
