//! What the kernel says of processes, as values. [`super::proc_fs`] reads them from /proc; tests write them down.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Clock ticks in a second, as /proc counts them (`USER_HZ`): the same on every architecture that we ship for.
pub const TICKS_PER_SECOND: u64 = 100;

/// A process that cannot be mistaken for a later one with the same number: when it started is part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessId {
    /// The number.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did.
    pub start: u64,
}

/// What /proc/PID/stat says. Processes that have ended, and only wait for their parent to notice, are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Which.
    pub id: ProcessId,
    /// The number of its parent.
    pub parent: i32,
    /// The number of its POSIX session (setsid(2)): that of the process that began it.
    pub session: i32,
    /// The last part of the path that it was started by, or whatever it has put there. At most 15 bytes.
    pub command: String,
}

/// What it takes more reading to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// Real, effective, saved and file system user.
    pub uids: [u32; 4],
    /// The last part of the path of the program that it runs, which it cannot lie about. None if that cannot be
    /// known, or if it lives in another PID namespace: what runs in a container is the container's business.
    pub program: Option<String>,
    /// Its arguments, or what it has put there; the first of them.
    pub title: String,
    /// Its control groups, one for each hierarchy.
    pub cgroups: Vec<String>,
    /// The kernel's number of the login that it comes from (pam_loginuid(8)), if there was one. It is inherited, never
    /// given out twice, and cannot be laid down.
    pub login_session: Option<u32>,
}

impl Detail {
    /// Whether it is nothing but this user.
    #[must_use]
    pub fn is_only(&self, uid: u32) -> bool {
        self.uids == [uid; 4]
    }

    /// Whether it was started by root and can become root again. While sshd waits for the helper it has put on that
    /// one's user, and real and saved user are what it is. A program with the set-user-ID bit has its caller's real one.
    #[must_use]
    pub fn is_roots(&self) -> bool {
        self.uids[0] == 0 && self.uids[2] == 0
    }
}

/// The processes of a machine.
pub trait ProcessTable {
    /// All of them; none if they cannot be looked at.
    fn all(&self) -> Option<Vec<Stat>>;

    /// One.
    fn stat(&self, pid: i32) -> Option<Stat>;

    /// The children of one.
    fn children(&self, pid: i32) -> Vec<Stat>;

    /// More of one, if it is still that one.
    fn detail(&self, id: ProcessId) -> Option<Detail>;

    /// The login that one comes from; see [`Detail::login_session`].
    fn login_session(&self, pid: i32) -> Option<u32>;

    /// Now, on the scale of [`ProcessId::start`].
    fn ticks(&self) -> u64;

    /// Whether this one is there still.
    fn lives(&self, id: ProcessId) -> bool {
        self.stat(id.pid).is_some_and(|stat| stat.id == id)
    }
}

/// All processes at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// By number.
    pub by_pid: HashMap<i32, Stat>,
    children: HashMap<i32, Vec<i32>>,
}

impl Snapshot {
    /// Of this machine; none if it cannot be looked at.
    #[must_use]
    pub fn of(table: &impl ProcessTable) -> Option<Self> {
        let by_pid: HashMap<i32, Stat> = table.all()?.into_iter().map(|stat| (stat.id.pid, stat)).collect();
        let mut children = HashMap::<i32, Vec<i32>>::new();
        for stat in by_pid.values() {
            children.entry(stat.parent).or_default().push(stat.id.pid);
        }
        Some(Self { by_pid, children })
    }

    /// The children of a process.
    pub fn children(&self, pid: i32) -> impl Iterator<Item = &Stat> {
        self.children.get(&pid).into_iter().flatten().filter_map(|pid| self.by_pid.get(pid))
    }

    /// A process's parent, its parent's parent, and so on.
    pub fn ancestors(&self, stat: &Stat) -> impl Iterator<Item = &Stat> {
        let parent = |stat: &Stat| self.by_pid.get(&stat.parent);
        // Read while it changes, the table could have a ring in it.
        std::iter::successors(parent(stat), move |stat| parent(stat)).take(self.by_pid.len())
    }

    /// Whether this one is in it.
    #[must_use]
    pub fn has(&self, id: ProcessId) -> bool {
        self.by_pid.get(&id.pid).is_some_and(|stat| stat.id == id)
    }
}
