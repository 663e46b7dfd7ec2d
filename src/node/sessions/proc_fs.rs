//! Processes as /proc has them (proc(5)).
//!
//! Of other users' processes the program, the namespaces and, where /proc is mounted with `hidepid`, everything else is
//! shown to those with CAP_SYS_PTRACE only; the unit gives it to the agent.

use super::process::{Detail, ProcessId, ProcessTable, Stat, TICKS_PER_SECOND};
use rustix::time::{ClockId, clock_gettime};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Nothing that is read here is longer, unless somebody has written a very long title.
const MAX_FILE: u64 = 16 * 1024;

/// No login: what the kernel says of processes that come from none.
const NO_LOGIN: u32 = u32::MAX;

/// This machine's processes.
#[derive(Debug)]
pub struct ProcFs {
    /// The agent's own PID namespace.
    namespace: Option<PathBuf>,
}

impl ProcFs {
    /// Of this machine.
    #[must_use]
    pub fn new() -> Self {
        Self { namespace: fs::read_link("/proc/self/ns/pid").ok() }
    }

    /// Whether it can be seen which program root's other processes run; without that no session can be told.
    #[must_use]
    pub fn can_see_programs(&self) -> bool {
        fs::read_link("/proc/1/exe").is_ok()
    }

    /// Which start of the machine this is.
    #[must_use]
    pub fn boot_id() -> Option<String> {
        read(Path::new("/proc/sys/kernel/random/boot_id")).map(|text| text.trim().to_owned())
    }

    fn program(&self, pid: i32) -> Option<String> {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        if namespace.is_none() || namespace != self.namespace {
            return None;
        }
        let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let name = path.file_name()?.to_str()?;
        // What an upgrade has replaced runs on.
        Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
    }
}

impl Default for ProcFs {
    fn default() -> Self {
        Self::new()
    }
}

impl ProcessTable for ProcFs {
    fn all(&self) -> Option<Vec<Stat>> {
        let entries = fs::read_dir("/proc").ok()?.collect::<io::Result<Vec<_>>>().ok()?;
        let pids = entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let stats = pids.map(|pid: i32| match try_read(Path::new(&format!("/proc/{pid}/stat"))) {
            Ok(text) => Ok(parse_stat(&text)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        });
        Some(stats.collect::<io::Result<Vec<_>>>().ok()?.into_iter().flatten().collect())
    }

    fn stat(&self, pid: i32) -> Option<Stat> {
        parse_stat(&read(Path::new(&format!("/proc/{pid}/stat")))?)
    }

    fn children(&self, pid: i32) -> Vec<Stat> {
        // Each thread has its own. Kernels without CONFIG_PROC_CHILDREN do not have it.
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let listed: Option<Vec<String>> = threads.map(|thread| read(&thread.path().join("children"))).collect();
        let is_child = |stat: &Stat| stat.parent == pid;
        match listed {
            Some(lists) => {
                let pids =
                    lists.iter().flat_map(|pids| pids.split_ascii_whitespace()).filter_map(|pid| pid.parse().ok());
                pids.filter_map(|pid| self.stat(pid)).filter(is_child).collect()
            }
            None => self.all().unwrap_or_default().into_iter().filter(is_child).collect(),
        }
    }

    fn detail(&self, id: ProcessId) -> Option<Detail> {
        let pid = id.pid;
        let text = |name: &str| read(Path::new(&format!("/proc/{pid}/{name}")));
        let detail = Detail {
            uids: parse_uids(&text("status")?)?,
            program: self.program(pid),
            title: text("cmdline")?.split('\0').next().unwrap_or_default().to_owned(),
            cgroups: text("cgroup").map(|text| parse_cgroups(&text)).unwrap_or_default(),
            login_session: self.login_session(pid),
        };
        // Still the same one, so all of this was about it.
        self.lives(id).then_some(detail)
    }

    fn login_session(&self, pid: i32) -> Option<u32> {
        let number = read(Path::new(&format!("/proc/{pid}/sessionid")))?.trim().parse().ok()?;
        (number != NO_LOGIN).then_some(number)
    }

    fn ticks(&self) -> u64 {
        let since_boot = clock_gettime(ClockId::Boottime);
        let part = |amount: i64| u64::try_from(amount).unwrap_or(0);
        part(since_boot.tv_sec) * TICKS_PER_SECOND + part(since_boot.tv_nsec) * TICKS_PER_SECOND / 1_000_000_000
    }
}

fn read(path: &Path) -> Option<String> {
    try_read(path).ok()
}

fn try_read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The process has ended, before it was looked at or while it was: everything else (no descriptor, no memory) says
/// nothing about it.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// `PID (COMMAND) STATE PPID PGRP SESSION … STARTTIME …`; the command may hold anything, parentheses too.
fn parse_stat(text: &str) -> Option<Stat> {
    let (pid, rest) = text.split_once(" (")?;
    let (command, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    // State, parent, process group, session; then fifteen others; then when it started.
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let start = fields.nth(15)?.parse().ok()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    let id = ProcessId { pid: pid.parse().ok()?, start };
    Some(Stat { id, parent, session, command: command.to_owned() })
}

/// `Uid:` and four numbers.
fn parse_uids(status: &str) -> Option<[u32; 4]> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let uids: Vec<u32> = line.split_ascii_whitespace().map_while(|uid| uid.parse().ok()).collect();
    uids.try_into().ok()
}

/// `NUMBER:CONTROLLERS:PATH`, one hierarchy a line.
fn parse_cgroups(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_is_found_with_what_it_is() {
        let mut child = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let table = ProcFs::new();
        let stat = table.stat(pid).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!((stat.id.pid, stat.parent), (pid, own));
        assert!(stat.id.start <= table.ticks());
        assert!(table.all().unwrap().contains(&stat));
        assert!(table.children(own).iter().any(|child| child.id == stat.id));
        // Between fork(2) and execve(2) it is this program still.
        while table.detail(stat.id).unwrap().program.as_deref() != Some("sleep") {}
        let detail = table.detail(stat.id).unwrap();
        assert!(detail.is_only(rustix::process::getuid().as_raw()));
        assert_eq!(detail.title, "sleep");
        assert!(!detail.cgroups.is_empty());
        let other = ProcessId { start: stat.id.start + 1, ..stat.id };
        assert_eq!((table.detail(other), table.lives(other), table.lives(stat.id)), (None, false, true));
        child.kill().unwrap();
        // Nobody has asked what became of it yet, but it is none any more.
        while table.lives(stat.id) {}
        child.wait().unwrap();
    }

    #[test]
    fn a_command_can_hold_what_it_likes() {
        let line = |command: &str, state: &str| {
            format!("42 ({command}) {state} 7 42 40 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 2 3\n")
        };
        for command in ["sshd", "a) S 1 (b", "", "with space", ") R 0 0 0"] {
            let stat = parse_stat(&line(command, "S")).unwrap();
            let id = ProcessId { pid: 42, start: 98_765 };
            assert_eq!(stat, Stat { id, parent: 7, session: 40, command: command.into() });
            assert_eq!(parse_stat(&line(command, "Z")), None);
        }
        assert_eq!(parse_stat("42 (sshd) S 7"), None);
        assert_eq!(parse_uids("Name:\tx\nUid:\t1\t2\t3\t4\n"), Some([1, 2, 3, 4]));
        assert_eq!(parse_cgroups("1:name=systemd:/a:b\n0::/user.slice\n"), ["/a:b", "/user.slice"]);
    }
}
