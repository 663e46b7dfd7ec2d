//! The thread that knows the node's sessions and ends those that may not go on. It reads /proc, asks who has which
//! user number, and writes files, all of which can block; so it is a thread and no task.

use super::{
    Event, Settings,
    access::{Access, Lost},
    ending::{Ending, MAX_HELD, Progress, ROUND},
    inbox::Heard,
    process::{ProcessId, ProcessTable, Snapshot, TICKS_PER_SECOND},
    registry::{Ignored, Registry, Session, State, Users},
    stored,
};
use crate::{
    app::node_sessions::{NodeSession, SessionCertificate},
    bundle::Order,
    domain::Timestamp,
    node::files::FileError,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How soon after a notice it is looked whether there is a session; then after twice that, and so on.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// How often it is looked at most while somebody is logging in: some never finish.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// How often it is looked whether sessions have ended: so long may one be listed that is over.
const CHECK: Duration = Duration::from_secs(1);
/// How often all processes are looked at.
const SWEEP: Duration = Duration::from_secs(60);
/// How soon after a removal that is done again: for who was just logging in, and was not told of.
const SWEEP_SOON: Duration = Duration::from_secs(2);
/// How long after a change what is known is written down.
const SAVE: Duration = Duration::from_secs(1);
/// When the time of somebody is over who could stay for a while, gateways end what they carry first, by clocks of their own: they
/// say why, and a connection that a node has ended can be told nothing.
const GATEWAY_FIRST: Duration = Duration::from_millis(500);

fn since_start(ticks: u64) -> Duration {
    Duration::from_millis(ticks * (1000 / TICKS_PER_SECOND))
}

/// A session that is being ended.
struct Going {
    ending: Ending,
    /// With what belongs to it, if that is what becomes of sessions; otherwise its connection only.
    lost: bool,
}

/// How many more processes may be held.
fn room(endings: &BTreeMap<ProcessId, Going>) -> usize {
    MAX_HELD.saturating_sub(endings.values().map(|going| going.ending.holds()).sum())
}

/// See the module.
pub(super) struct Keeper<T, U> {
    settings: Settings,
    table: T,
    users: U,
    boot: String,
    /// When the machine was started, by its clock.
    started: Timestamp,
    reports: watch::Sender<Vec<NodeSession>>,
    registry: Registry,
    endings: BTreeMap<ProcessId, Going>,
    look: Option<(Instant, Duration)>,
    check: Instant,
    sweep: (Instant, Duration),
    save: Option<Instant>,
    /// Said once, not every second: the disk is full.
    save_failed: bool,
}

impl<T: ProcessTable, U: Users> Keeper<T, U> {
    /// With what was known before.
    pub(super) fn new(
        settings: Settings,
        access: Option<Arc<Access>>,
        (table, users): (T, U),
        (boot, now): (String, Timestamp),
        reports: watch::Sender<Vec<NodeSession>>,
    ) -> Self {
        let started = now.before(since_start(table.ticks()));
        let known = stored::load(&settings.file, &boot);
        let registry = Registry::new(access, settings.on_removal.terminates(), known, table.ticks());
        let now = Instant::now();
        Self {
            settings,
            table,
            users,
            boot,
            started,
            reports,
            registry,
            endings: BTreeMap::new(),
            look: None,
            check: now,
            sweep: (now, SWEEP),
            save: None,
            save_failed: false,
        }
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self, events: &Receiver<Event>) {
        loop {
            let now = Instant::now();
            self.work(now);
            match events.recv_timeout(self.next().saturating_duration_since(now)) {
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        self.save_now();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Heard(heard, _waiting) => self.hear(heard),
            Event::Stop => {}
            Event::Prepare(access, done) => {
                if self.registry.would_lose(&access) {
                    // While it is known which logins are ours.
                    self.look_around();
                    self.save_now();
                }
                self.registry.expect(access);
                // Nobody waits any more: the agent is stopping.
                let _ = done.send(());
            }
            Event::Abandon => self.registry.expect_no_more(),
            Event::End(order) => self.end_by_order(&order),
            Event::Enforce(access, done) => {
                let loses = self.registry.would_lose(&access);
                self.registry.set_access(access, self.table.ticks());
                if loses {
                    self.sweep = (Instant::now() + SWEEP_SOON, SWEEP_SOON);
                }
                let _ = done.send(self.end_what_is_lost());
            }
        }
    }

    fn hear(&mut self, heard: Heard) {
        let Heard { sender, parent, login, claim } = heard;
        // Who is still there must be the child of the one that it names. A helper has usually ended by now.
        if self.table.stat(sender).is_some_and(|stat| stat.parent != parent) {
            tracing::debug!(sender, parent, login, "a notice of a login was ignored: its sender is not sshd's child");
            return;
        }
        match self.registry.hear(&self.table, parent, &login, claim) {
            Ok(()) => {
                self.look = Some((Instant::now() + FIRST_LOOK, FIRST_LOOK));
                self.changed();
            }
            // It was too quick for us, or it was never there.
            Err(ignored @ (Ignored::NotItsSshd | Ignored::Late | Ignored::Impossible)) => {
                tracing::debug!(sender, parent, login, ?ignored, "a notice of a login was ignored");
            }
            Err(Ignored::Full) => tracing::warn!(login, "there are too many sessions; a login was not noted"),
        }
    }

    /// Does what is due.
    fn work(&mut self, now: Instant) {
        if let Some((due, after)) = self.look
            && due <= now
        {
            if self.registry.follow(&self.table, &self.users) {
                self.changed();
            }
            let next = (after * 2).min(LAST_LOOK);
            self.look = self.registry.is_waiting().then(|| (now + next, next));
        }
        if self.sweep.0 <= now || (self.check <= now && self.registry.has_ended(&self.table)) {
            self.look_around();
        }
        if self.check <= now {
            self.check = now + CHECK;
        }
        self.let_leave(now);
        self.end_what_is_lost();
        self.advance(now);
        if self.save.is_some_and(|due| due <= now) {
            self.save_now();
        }
    }

    /// The time of those is over who were removed and could stay for a while: whether or not anybody can be reached.
    fn let_leave(&mut self, now: Instant) {
        let Some(access) = self.registry.access() else { return };
        if access.next_to_leave().is_none_or(|due| now < due + GATEWAY_FIRST) {
            return;
        }
        let Some(after) = access.when_over(now) else { return };
        // While it is known which logins are ours.
        self.look_around();
        self.registry.leave(after, self.table.ticks());
        self.sweep = (now + SWEEP_SOON, SWEEP_SOON);
    }

    fn next(&self) -> Instant {
        let round = (!self.endings.is_empty()).then(|| Instant::now() + ROUND);
        let leave = self.registry.access().and_then(|access| access.next_to_leave()).map(|due| due + GATEWAY_FIRST);
        let due = [self.look.map(|(due, _)| due), self.save, round, leave];
        due.into_iter().flatten().fold(self.check.min(self.sweep.0), Instant::min)
    }

    fn look_around(&mut self) {
        if self.registry.sweep(&self.table, &self.users) {
            self.changed();
        }
        let next = (self.sweep.1 * 2).min(SWEEP);
        self.sweep = (Instant::now() + next, next);
    }

    fn changed(&mut self) {
        self.save.get_or_insert(Instant::now() + SAVE);
    }

    /// Begins to end what may not go on. Returns how many sessions these are.
    fn end_what_is_lost(&mut self) -> usize {
        let lost: Vec<_> = self.registry.lost();
        let going = |id: &ProcessId| self.endings.get(id).is_some_and(|going| going.lost);
        let lost: Vec<(ProcessId, Lost)> = lost.into_iter().filter(|(id, _)| !going(id)).collect();
        // All connections first: what else belongs to them takes a look at every process.
        for (id, why) in &lost {
            let Some(session) = self.registry.sessions().get(id) else { continue };
            let (login, serial) = (session.login.clone(), session.claim.as_ref().map(|claim| claim.serial.0));
            let connection = match session.state {
                // The monitor hands the signal on; its child is asked as well in case it does not.
                State::Open(carrier) => vec![*id, carrier],
                State::Trying | State::Left => vec![],
            };
            tracing::info!(login, serial, monitor = id.pid, "ending a session: {why}");
            self.begin(*id, &connection, true);
        }
        if !lost.is_empty() {
            self.advance(Instant::now());
        }
        lost.len()
    }

    fn begin(&mut self, id: ProcessId, connection: &[ProcessId], lost: bool) {
        let room = room(&self.endings);
        let ending = Ending::begin(&self.table, connection, &[], Instant::now(), room);
        self.endings.insert(id, Going { ending, lost });
    }

    /// Somebody wants a session to end. Its owner may come back, so what it has begun in the background stays.
    fn end_by_order(&mut self, order: &Order) {
        let Ok(pid) = i32::try_from(order.process) else { return };
        let id = ProcessId { pid, start: order.start };
        let session = self.registry.sessions().get(&id).filter(|session| session.login == order.login);
        let Some(State::Open(carrier)) = session.map(|session| session.state) else {
            tracing::info!(monitor = pid, login = order.login, by = order.by, "a session to be ended is not open");
            return;
        };
        if !self.endings.contains_key(&id) {
            tracing::info!(login = order.login, monitor = pid, "ending a session: {} wants it", order.by);
            self.begin(id, &[id, carrier], false);
        }
    }

    fn advance(&mut self, now: Instant) {
        let Self { registry, endings, table, .. } = self;
        if endings.is_empty() {
            return;
        }
        // Once for all of them.
        let all = registry.watches_belongings().then(|| Snapshot::of(table)).flatten();
        let (mut room, mut over) = (room(endings), vec![]);
        endings.retain(|id, going| {
            let known = all.as_ref().filter(|_| going.lost);
            let belongings = known.map_or_else(Vec::new, |all| registry.belongings(table, all, *id));
            let before = going.ending.holds();
            let progress = going.ending.advance(table, &belongings, now, room);
            room = (room + before).saturating_sub(going.ending.holds());
            match progress {
                Progress::Going => return true,
                // What belongs to it could not be looked at: then that it has ended is not known.
                Progress::Done if going.lost && all.is_none() && registry.watches_belongings() => return true,
                Progress::Done => tracing::info!(monitor = id.pid, "a session has been ended"),
                Progress::Stuck(processes) => {
                    let why = going.ending.failure().map(|error| error.to_string());
                    tracing::error!(monitor = id.pid, processes, why, "a session does not end; it is tried again");
                    // It stays known, and so it is found to be lost again.
                    return false;
                }
            }
            over.push((*id, going.lost));
            false
        });
        if !over.is_empty() {
            over.iter().filter(|(_, lost)| *lost).for_each(|(id, _)| self.registry.remove(*id));
            if over.iter().any(|(_, lost)| !lost) {
                // What they have left behind is still of interest.
                self.look_around();
            }
            self.changed();
        }
    }

    /// Writes down what is known, and lets it be reported.
    fn save_now(&mut self) {
        self.save = None;
        let open: Vec<NodeSession> =
            self.registry.open().filter_map(|(id, session)| self.report(id, session)).collect();
        self.reports.send_if_modified(|reported| {
            let changed = *reported != open;
            *reported = open;
            changed
        });
        match stored::save(&self.settings.file, &self.boot, self.registry.sessions()) {
            Ok(()) => self.save_failed = false,
            Err(error) => self.complain(&error),
        }
    }

    fn report(&self, monitor: ProcessId, session: &Session) -> Option<NodeSession> {
        let certificate = session.claim.as_ref().and_then(|claim| {
            let owner = claim.owner.parse().ok()?;
            Some(SessionCertificate { owner, serial: claim.serial, key: claim.key })
        });
        Some(NodeSession {
            process: u32::try_from(monitor.pid).ok()?,
            start: monitor.start,
            login: session.login.clone().try_into().ok()?,
            certificate,
            since: self.started.after(since_start(monitor.start)),
        })
    }

    fn complain(&mut self, error: &FileError) {
        if !std::mem::replace(&mut self.save_failed, true) {
            tracing::error!("what is known of open sessions would be lost if the agent were restarted: {error}");
        }
        self.changed();
    }
}
