//! The sessions that are known, and what becomes of them: logins that are being tried, sessions that are open, and what
//! sessions have left behind. No clock, no signal: [`super::keeper`] does what is decided here.

use super::{
    access::{Access, Claim, Lost},
    belongings::{Marks, belongings},
    process::{ProcessId, ProcessTable, Snapshot, Stat, TICKS_PER_SECOND},
    sshd::{self, Carrier, Monitor},
};
use crate::domain::Uid;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// The most sessions that are known at a time. More than a node's sshd takes; beyond it, what was left behind by the
/// oldest sessions is forgotten first.
pub const MAX_SESSIONS: usize = 4096;

/// How long a login that began before a removal can take to become a session, in clock ticks: longer than sshd waits
/// (LoginGraceTime, 120 s by default).
const LOGIN_GRACE: u64 = 600 * TICKS_PER_SECOND;

/// A session, by the number and start of its monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// The login.
    pub login: String,
    /// With what, if the helper has told.
    pub claim: Option<Claim>,
    /// How far it is.
    pub state: State,
    /// What its processes are known by.
    pub marks: Marks,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The helper has let it through; nobody has logged in yet, and perhaps nobody will.
    Trying,
    /// It is open.
    Open(ProcessId),
    /// The connection is gone; processes that it began are there.
    Left,
}

/// Who has which number among the machine's users: what sshd asked as well, when the login began.
pub trait Users {
    /// The number of a user.
    fn uid(&self, login: &str) -> Option<u32>;
}

/// Why a notice was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// The process that it names is no sshd of root's, or one for another login.
    NotItsSshd,
    /// The session has begun already.
    Late,
    /// The helper cannot have let that through.
    Impossible,
    /// There are too many.
    Full,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Registry {
    /// None until there has been a bundle.
    access: Option<Arc<Access>>,
    /// Since when it is in force: who began to log in before that may have been let in by the one before.
    since: u64,
    /// The next one, while it is being installed: the helper may know it already.
    coming: Option<Arc<Access>>,
    sessions: BTreeMap<ProcessId, Session>,
    /// Logins that have just lost their access, and when: who began to log in before that may have been let in.
    former: HashMap<String, (Option<Uid>, u64)>,
    /// Whether what sessions leave behind is of interest.
    terminate: bool,
}

impl Registry {
    /// As of `ticks`, with what was known before the agent was restarted; what is not there any more will be forgotten.
    #[must_use]
    pub fn new(access: Option<Arc<Access>>, terminate: bool, known: BTreeMap<ProcessId, Session>, ticks: u64) -> Self {
        Self { access, since: ticks, sessions: known, terminate, ..Self::default() }
    }

    /// The sessions.
    #[must_use]
    pub fn sessions(&self) -> &BTreeMap<ProcessId, Session> {
        &self.sessions
    }

    /// Those that are open.
    pub fn open(&self) -> impl Iterator<Item = (ProcessId, &Session)> {
        let open = self.sessions.iter().filter(|(_, session)| matches!(session.state, State::Open(_)));
        open.map(|(id, session)| (*id, session))
    }

    /// Whether a login is being tried.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.sessions.values().any(|session| session.state == State::Trying)
    }

    /// The helper has let a login through that `parent` asked for.
    ///
    /// # Errors
    /// It is not believed, or of no use.
    pub fn hear(&mut self, table: &impl ProcessTable, parent: i32, login: &str, claim: Claim) -> Result<(), Ignored> {
        let stat = table.stat(parent).filter(sshd::may_be_monitor).ok_or(Ignored::NotItsSshd)?;
        let monitor = sshd::monitor(table, stat.id).ok_or(Ignored::NotItsSshd)?;
        if monitor.login.as_ref().is_some_and(|titled| titled != login) {
            return Err(Ignored::NotItsSshd);
        }
        if self.sessions.get(&monitor.id).is_some_and(|session| session.state != State::Trying) {
            return Err(Ignored::Late);
        }
        if !self.is_possible(&monitor, login, &claim) {
            return Err(Ignored::Impossible);
        }
        if !self.sessions.contains_key(&monitor.id) && !self.make_room() {
            return Err(Ignored::Full);
        }
        // A client may offer several: the last one that the helper was asked about is the one that it proved.
        let session =
            Session { login: login.to_owned(), claim: Some(claim), state: State::Trying, marks: Marks::default() };
        self.sessions.insert(monitor.id, session);
        Ok(())
    }

    /// Whether the helper can have let a login through: it could now, or with the bundle that is just being installed, or,
    /// as far as that is known, with the one before. Whoever makes things up could otherwise say of somebody of this
    /// machine that they came with a certificate that is revoked.
    fn is_possible(&self, monitor: &Monitor, login: &str, claim: &Claim) -> bool {
        let Some(access) = &self.access else { return false };
        let before = || monitor.id.start <= self.since && (access.knows(login) || self.former.contains_key(login));
        [Some(access), self.coming.as_ref()].into_iter().flatten().any(|a| a.lost(login, Some(claim)).is_none())
            || before()
    }

    fn make_room(&mut self) -> bool {
        if self.sessions.len() < MAX_SESSIONS {
            return true;
        }
        let oldest =
            self.sessions.iter().filter(|(_, s)| s.state == State::Left).map(|(id, _)| *id).min_by_key(|id| id.start);
        oldest.is_some_and(|id| self.sessions.remove(&id).is_some())
    }

    /// Looks whether logins that are being tried have become sessions. True if one has, or has come to nothing.
    pub fn follow(&mut self, table: &impl ProcessTable, users: &impl Users) -> bool {
        let trying: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.state == State::Trying)
            .map(|(id, s)| (*id, s.login.clone()))
            .collect();
        let mut changed = false;
        for (id, login) in trying {
            let Some(monitor) = sshd::monitor(table, id) else {
                changed |= self.sessions.remove(&id).is_some();
                continue;
            };
            let children = table.children(id.pid);
            if let Some(carrier) = self.begun(table, users, &monitor, &login, &children) {
                self.enter(table, &monitor, login, carrier);
                changed = true;
            }
        }
        changed
    }

    /// The carrier of a session of this login, if it has begun.
    fn begun(
        &self,
        table: &impl ProcessTable,
        users: &impl Users,
        monitor: &Monitor,
        login: &str,
        children: &[Stat],
    ) -> Option<Carrier> {
        if monitor.login.as_ref().is_some_and(|titled| titled != login) {
            return None;
        }
        let known = self.access.as_ref().and_then(|access| access.uid(login));
        let known = known.or_else(|| self.former.get(login).and_then(|former| former.0));
        // What this machine says: sshd has asked it too, and a site may have its own numbers. The directory's number
        // only if it does not say anything, because whom it asks is away.
        let is_users = |uid| users.uid(login).or(known.map(|known| known.0)) == Some(uid);
        sshd::carrier(table, monitor, children, is_users)
    }

    fn enter(&mut self, table: &impl ProcessTable, monitor: &Monitor, login: String, carrier: Carrier) {
        let around = table.stat(monitor.id.pid).and_then(|stat| table.detail(table.stat(stat.parent)?.id));
        let marks = table.detail(monitor.id).map(|detail| Marks::of(carrier.uid, &detail, around.as_ref()));
        let marks = marks.unwrap_or_else(|| Marks { uid: carrier.uid, ..Marks::default() });
        let state = State::Open(carrier.id);
        match self.sessions.get_mut(&monitor.id) {
            Some(session) => (session.state, session.marks) = (state, marks),
            None => {
                self.sessions.insert(monitor.id, Session { login, claim: None, state, marks });
            }
        }
    }

    /// Looks at every process: finds sessions of our logins that nobody has told of, forgets what is gone, and, if that
    /// is of interest, sees what sessions begin. True if something has changed.
    pub fn sweep(&mut self, table: &impl ProcessTable, users: &impl Users) -> bool {
        let mut changed = self.follow(table, users);
        // What cannot be looked at has not gone.
        let Some(all) = Snapshot::of(table) else { return changed };
        let ticks = table.ticks();
        self.former.retain(|_, (_, lost)| *lost + LOGIN_GRACE > ticks);
        for stat in all.by_pid.values().filter(|stat| sshd::may_be_monitor(stat)) {
            // One that is being tried was looked at above; but what was told of it may be wrong.
            if self.sessions.get(&stat.id).is_some_and(|session| session.state != State::Trying) {
                continue;
            }
            let Some(monitor) = sshd::monitor(table, stat.id) else { continue };
            let children: Vec<Stat> = all.children(stat.id.pid).cloned().collect();
            let found = self.candidates(table, &monitor, &children).into_iter().find_map(|login| {
                self.begun(table, users, &monitor, &login, &children).map(|carrier| (login, carrier))
            });
            if let Some((login, carrier)) = found
                && (self.sessions.remove(&stat.id).is_some() || self.make_room())
            {
                self.enter(table, &monitor, login, carrier);
                changed = true;
            }
        }
        changed | self.forget(table, &all)
    }

    /// Of which of our logins a monitor could be: of the one that its title says, or, if that is cut off, of the one
    /// whose user its child is.
    fn candidates(&self, table: &impl ProcessTable, monitor: &Monitor, children: &[Stat]) -> Vec<String> {
        let Some(access) = &self.access else { return vec![] };
        let ours = |login: &str| {
            access.knows(login) || self.former.get(login).is_some_and(|(_, lost)| monitor.id.start <= *lost)
        };
        match &monitor.login {
            Some(login) => Some(login.clone()).filter(|login| ours(login)).into_iter().collect(),
            None => {
                let uids = children.iter().filter_map(|child| Some(Uid(table.detail(child.id)?.uids[0])));
                uids.filter_map(|uid| access.login_of(uid)).map(str::to_owned).collect()
            }
        }
    }

    fn forget(&mut self, table: &impl ProcessTable, all: &Snapshot) -> bool {
        let before = self.sessions.len();
        let terminate = self.terminate;
        let mut changed = false;
        self.sessions.retain(|monitor, session| {
            let carrier = match session.state {
                State::Trying => return all.has(*monitor),
                State::Open(carrier) if all.has(carrier) || all.has(*monitor) => Some(carrier),
                State::Open(_) | State::Left => None,
            };
            if terminate {
                session.marks.watch(table, all, carrier);
            }
            if carrier.is_some() {
                return true;
            }
            changed |= session.state != State::Left;
            session.state = State::Left;
            terminate && !belongings(table, all, &session.marks, None).is_empty()
        });
        changed || self.sessions.len() != before
    }

    /// Whether something that is known to be open has ended, which is cheap to see.
    #[must_use]
    pub fn has_ended(&self, table: &impl ProcessTable) -> bool {
        self.sessions.iter().any(|(monitor, session)| match session.state {
            State::Trying => !table.lives(*monitor),
            State::Open(carrier) => !table.lives(carrier) && !table.lives(*monitor),
            State::Left => false,
        })
    }

    /// Another bundle is about to be in force.
    pub fn expect(&mut self, access: Arc<Access>) {
        self.coming = Some(access);
    }

    /// It is not: it could not be installed.
    pub fn expect_no_more(&mut self) {
        self.coming = None;
    }

    /// Another bundle is in force, as of `ticks`.
    pub fn set_access(&mut self, access: Arc<Access>, ticks: u64) {
        (self.coming, self.since) = (None, ticks);
        if let Some(before) = &self.access {
            self.former.extend(before.lost_in(&access).map(|(login, uid)| (login.to_owned(), (uid, ticks))));
        }
        self.former.retain(|login, _| !access.knows(login));
        self.access = Some(access);
    }

    /// The bundle in force says of somebody only for a while that they may stay, and that is over, as of `ticks`: the same
    /// without them.
    pub fn leave(&mut self, after: Access, ticks: u64) {
        if let Some(before) = &self.access {
            self.former.extend(before.lost_in(&after).map(|(login, uid)| (login.to_owned(), (uid, ticks))));
        }
        self.access = Some(Arc::new(after));
    }

    /// The bundle in force, if there has been one.
    #[must_use]
    pub fn access(&self) -> Option<&Arc<Access>> {
        self.access.as_ref()
    }

    /// Whether somebody would lose their access if this bundle were in force.
    #[must_use]
    pub fn would_lose(&self, access: &Access) -> bool {
        self.access.as_ref().is_some_and(|before| before.lost_in(access).next().is_some())
            || self.sessions.values().any(|session| access.lost(&session.login, session.claim.as_ref()).is_some())
    }

    /// The sessions that may not go on, and why.
    #[must_use]
    pub fn lost(&self) -> Vec<(ProcessId, Lost)> {
        let Some(access) = &self.access else { return vec![] };
        let begun = self.sessions.iter().filter(|(_, session)| session.state != State::Trying);
        let lost = |session: &Session| {
            let why = access.lost(&session.login, session.claim.as_ref())?;
            // Who came in with the next bundle, while the last one is in force here for another moment, may stay.
            let stays = |next: &Arc<Access>| next.lost(&session.login, session.claim.as_ref()).is_none();
            (!self.coming.as_ref().is_some_and(stays)).then_some(why)
        };
        begun.filter_map(|(id, session)| Some((*id, lost(session)?))).collect()
    }

    /// Whether what belongs to a session beside its connection is to be ended with it.
    #[must_use]
    pub fn watches_belongings(&self) -> bool {
        self.terminate
    }

    /// What belongs to a session beside its connection, as far as that is to be ended with it.
    pub fn belongings(&mut self, table: &impl ProcessTable, all: &Snapshot, monitor: ProcessId) -> Vec<ProcessId> {
        let Some(session) = self.sessions.get_mut(&monitor).filter(|_| self.terminate) else { return vec![] };
        let carrier = match session.state {
            State::Open(carrier) => Some(carrier),
            State::Trying | State::Left => None,
        };
        session.marks.watch(table, all, carrier);
        belongings(table, all, &session.marks, carrier)
    }

    /// Forgets a session.
    pub fn remove(&mut self, monitor: ProcessId) {
        self.sessions.remove(&monitor);
    }
}
