//! What belongs to a session beside its connection: what `on_removal = "terminate"` ends.
//!
//! A process belongs to a session if it descends from the session's carrier; if the kernel says that it comes from the
//! same login (pam_loginuid(8)); if it is in the session's scope (pam_systemd(8)); or, where there is neither, if it
//! was seen to descend from the carrier once, or shares a POSIX session with one that was. Of all those, what runs as
//! another user than the login's is ended only while it hangs on the connection: a service that somebody has started by
//! hand stays. What Slurm runs is never ended, nor is what another connection of sshd has begun.

use super::process::{Detail, ProcessId, ProcessTable, Snapshot, Stat};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};

/// The programs that run jobs. Their children are Slurm's, wherever they were started from.
const SLURM: [&str; 2] = ["slurmd", "slurmstepd"];

/// What a session's processes are known by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marks {
    /// The login's user.
    pub uid: u32,
    /// The kernel's number of the login.
    pub login_session: Option<u32>,
    /// The control group of its scope.
    pub scope: Option<String>,
    /// What was seen to descend from it; kept only where neither of the other two is known.
    pub seen: BTreeSet<ProcessId>,
}

impl Marks {
    /// Those of a session, from what is known of its monitor (`around`: of the one that started the monitor).
    #[must_use]
    pub fn of(uid: u32, monitor: &Detail, around: Option<&Detail>) -> Self {
        // A listening sshd that was started by hand comes from somebody's login; its connections are not that login.
        let login_session = monitor.login_session.filter(|own| around.and_then(|d| d.login_session) != Some(*own));
        let scopes = monitor.cgroups.iter().filter_map(|path| scope(path));
        let scope =
            scopes.map(str::to_owned).find(|scope| around.is_none_or(|d| !d.cgroups.iter().any(|g| within(g, scope))));
        Self { uid, login_session, scope, seen: BTreeSet::new() }
    }

    fn must_be_watched(&self) -> bool {
        self.login_session.is_none() && self.scope.is_none()
    }

    /// Looks around, so that what has been seen once is known when its parents are gone.
    pub fn watch(&mut self, table: &impl ProcessTable, all: &Snapshot, carrier: Option<ProcessId>) {
        if !self.must_be_watched() {
            return;
        }
        let mut found = attached(table, all, carrier);
        let alive: Vec<&Stat> =
            self.seen.iter().filter(|id| all.has(**id)).filter_map(|id| all.by_pid.get(&id.pid)).collect();
        // A POSIX session keeps the number of the process that began it for as long as anything is in it.
        let sessions: HashSet<i32> = alive
            .iter()
            .map(|stat| stat.session)
            .chain(found.iter().map(|stat| stat.session))
            .filter(|s| *s > 1)
            .collect();
        let related = all.by_pid.values().filter(|stat| sessions.contains(&stat.session));
        found.extend(alive.iter().flat_map(|stat| descendants(table, all, stat.id.pid)).chain(related));
        self.seen = found.iter().map(|stat| stat.id).chain(alive.iter().map(|stat| stat.id)).collect();
    }
}

/// What belongs to a session now, without its monitor and carrier.
#[must_use]
pub fn belongings(
    table: &impl ProcessTable,
    all: &Snapshot,
    marks: &Marks,
    carrier: Option<ProcessId>,
) -> Vec<ProcessId> {
    let attached: HashSet<ProcessId> = attached(table, all, carrier).iter().map(|stat| stat.id).collect();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let candidates = all.by_pid.values().filter(|stat| stat.id.pid > 1 && stat.id.pid != own);
    let belongs = |stat: &&Stat| {
        let hangs_on = attached.contains(&stat.id);
        let known = hangs_on
            || marks.seen.contains(&stat.id)
            || (marks.login_session.is_some() && table.login_session(stat.id.pid) == marks.login_session)
            || marks.scope.is_some();
        if !known {
            return false;
        }
        let Some(detail) = table.detail(stat.id) else { return false };
        let in_scope =
            || marks.scope.as_ref().is_some_and(|scope| detail.cgroups.iter().any(|path| within(path, scope)));
        let from_login = marks.login_session.is_some() && detail.login_session == marks.login_session;
        let its = hangs_on || marks.seen.contains(&stat.id) || from_login || in_scope();
        its && (hangs_on || detail.uids[0] == marks.uid)
            && super::sshd::sshd_program(&detail).is_none_or(|_| !detail.is_roots())
            && !is_slurms(table, all, stat, &detail)
    };
    candidates.filter(belongs).map(|stat| stat.id).filter(|id| Some(*id) != carrier).collect()
}

/// What descends from the carrier now.
fn attached<'s>(table: &impl ProcessTable, all: &'s Snapshot, carrier: Option<ProcessId>) -> Vec<&'s Stat> {
    carrier.filter(|id| all.has(*id)).map_or_else(Vec::new, |id| descendants(table, all, id.pid))
}

/// What descends from a process; past another sshd of root's, and past Slurm, begins what is not its business.
fn descendants<'s>(table: &impl ProcessTable, all: &'s Snapshot, pid: i32) -> Vec<&'s Stat> {
    let (mut found, mut todo, mut visited) = (vec![], vec![pid], HashSet::from([pid]));
    while let Some(pid) = todo.pop() {
        for child in all.children(pid) {
            let foreign = (super::sshd::may_be_monitor(child) && super::sshd::monitor(table, child.id).is_some())
                || runs_jobs(table, child);
            if !foreign && visited.insert(child.id.pid) {
                found.push(child);
                todo.push(child.id.pid);
            }
        }
    }
    found
}

/// Whether a process is a part of Slurm itself. Its command, which anybody can choose, is looked at first because it is
/// known already.
fn runs_jobs(table: &impl ProcessTable, stat: &Stat) -> bool {
    let is_slurm = |name: &str| SLURM.contains(&name);
    is_slurm(&stat.command)
        && table.detail(stat.id).is_some_and(|d| d.is_roots() && d.program.as_deref().is_some_and(is_slurm))
}

/// Whether a process is part of a job: it is in a control group of Slurm's, or descends from Slurm.
fn is_slurms(table: &impl ProcessTable, all: &Snapshot, stat: &Stat, detail: &Detail) -> bool {
    detail.cgroups.iter().any(|path| is_slurms_cgroup(path))
        || runs_jobs(table, stat)
        || all.ancestors(stat).any(|ancestor| runs_jobs(table, ancestor))
}

/// `/system.slice/slurmstepd.scope/job_7/…`, `/slurm/uid_1001/job_7/…`, `/slurm_NODE/…`; but not below `user.slice`, where
/// users name their own.
fn is_slurms_cgroup(path: &str) -> bool {
    let mut parts = path.split('/').take_while(|part| *part != "user.slice");
    parts.any(|part| part.starts_with("slurm"))
}

/// The scope that pam_systemd has made for a login, in a path of control groups.
fn scope(path: &str) -> Option<&str> {
    let mut end = 0;
    for part in path.split('/') {
        end += part.len() + 1;
        if part.starts_with("session-") && part.ends_with(".scope") {
            return path.get(..end - 1);
        }
    }
    None
}

fn within(path: &str, scope: &str) -> bool {
    path.strip_prefix(scope).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
