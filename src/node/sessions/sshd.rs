//! Which processes are a connection of the node's sshd, and whose.
//!
//! A connection has a privileged *monitor*, which runs as root, asks the helper, and stays until the end; and, when its
//! user has been let in, a child that runs as that user and carries the connection. Before, there is a child that runs
//! as nobody in particular and does the talking. OpenSSH before 9.8 runs `sshd` for all of it; from 9.8 on the monitor
//! and the user's child run `sshd-session`; from 10.0 on the child before the login runs `sshd-auth`.
//!
//! Nothing here trusts what a user can set. That a process runs one of these programs as root, and what its title
//! says, only root can bring about.

use super::process::{Detail, ProcessId, ProcessTable, Stat};

/// The programs that monitors, and the children that carry connections, run.
const PROGRAMS: [&str; 2] = ["sshd", "sshd-session"];

/// A process of root's that runs sshd: a connection's monitor, or the one that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// Which.
    pub id: ProcessId,
    /// The program.
    pub program: String,
    /// The login that it is about, if its title says one whole.
    pub login: Option<String>,
}

/// The process that carries a user's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carrier {
    /// Which.
    pub id: ProcessId,
    /// The login's user.
    pub uid: u32,
}

/// Whether a process could be a monitor, as far as its command says.
#[must_use]
pub fn may_be_monitor(stat: &Stat) -> bool {
    PROGRAMS.contains(&stat.command.as_str())
}

/// A process as a monitor, if it is sshd and root's.
#[must_use]
pub fn monitor(table: &impl ProcessTable, id: ProcessId) -> Option<Monitor> {
    let detail = table.detail(id)?;
    let program = sshd_program(&detail)?;
    if !detail.is_roots() {
        return None;
    }
    // sshd writes 'sshd: user1 [priv]'. It has only so much room for it, so the end may be missing.
    let title = detail.title.strip_prefix(&program).and_then(|title| title.strip_prefix(": "));
    let login = title.and_then(|title| title.strip_suffix(" [priv]")).map(str::to_owned);
    Some(Monitor { id, program, login })
}

/// Which of a monitor's children carries the user's connection: the one that runs the same program as nobody but that
/// user.
#[must_use]
pub fn carrier<'s>(
    table: &impl ProcessTable,
    monitor: &Monitor,
    children: impl IntoIterator<Item = &'s Stat>,
    is_users: impl Fn(u32) -> bool,
) -> Option<Carrier> {
    children.into_iter().find_map(|child| {
        let detail = table.detail(child.id)?;
        let uid = detail.uids[0];
        let carries = sshd_program(&detail)? == monitor.program && uid != 0 && detail.is_only(uid) && is_users(uid);
        carries.then_some(Carrier { id: child.id, uid })
    })
}

/// The program, if it is sshd's.
#[must_use]
pub fn sshd_program(detail: &Detail) -> Option<String> {
    detail.program.clone().filter(|program| PROGRAMS.contains(&program.as_str()))
}
