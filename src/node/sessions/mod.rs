//! The sessions of this node's sshd: who has come in with which certificate, also past the gateway; and the end of those
//! that may not go on.
//!
//! The helper tells of each login that it lets through ([`inbox`]). That is a hint, which anybody who runs as the
//! helper's user could forge: what is believed is what the kernel says of the processes ([`sshd`]). So a session is
//! known once a connection's privileged monitor has a child that runs sshd as the login's user, and nothing else is
//! ever ended for one. Sessions that nobody told of (the agent was not running, the socket was full) are found by
//! looking at all processes now and then, and always before a bundle is installed that takes something away; of
//! those it is known whose login it is, but not with which certificate they came.
//!
//! Level-triggered, as everything here: after each change all that is known is held against the bundle in force
//! ([`access`]), so it makes no difference in which order a login, a removal and a restart come.

pub mod access;
pub mod belongings;
pub mod ending;
pub mod inbox;
mod keeper;
pub mod proc_fs;
pub mod process;
pub mod registry;
pub mod sshd;
pub mod stored;
#[cfg(test)]
mod tests;

use super::files::FileError;
use crate::{app::node_sessions::NodeSession, bundle::Order, domain::Timestamp};
use access::Access;
use inbox::{Heard, Inbox};
use keeper::Keeper;
use proc_fs::ProcFs;
use registry::Users;
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::sync::{oneshot, watch};

/// Notices that may wait; more are as good as lost, and the sessions are found otherwise.
const MAX_WAITING: usize = 1024;

/// How long a bundle waits for what is to be done about sessions: not for ever, if whom the machine asks for its users
/// does not answer. It is done all the same, later.
const PATIENCE: Duration = Duration::from_secs(2);

/// After this time it is tried again to make the socket for the helper.
const AGAIN: Duration = Duration::from_secs(10);

/// What becomes of a session that may not go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRemoval {
    /// Its connection ends, as if it broke: what was started in the background goes on.
    #[default]
    Disconnect,
    /// All of it ends, with what it has left in the background.
    Terminate,
}

impl OnRemoval {
    fn terminates(self) -> bool {
        self == Self::Terminate
    }
}

/// Where things are, and what is wanted.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is known is written there.
    pub file: PathBuf,
    /// The socket for the helper.
    pub socket: PathBuf,
    /// The user that the helper runs as.
    pub helper: String,
    /// What becomes of sessions that may not go on.
    pub on_removal: OnRemoval,
}

/// What happens to the keeper.
enum Event {
    Heard(Heard, Waiting),
    Prepare(Arc<Access>, oneshot::Sender<()>),
    Enforce(Arc<Access>, oneshot::Sender<usize>),
    Abandon,
    End(Order),
    Stop,
}

/// Counts a notice among those that wait, for as long as it lives.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// None if there are too many.
    fn enter(count: &Arc<AtomicUsize>) -> Option<Self> {
        // Counted up by one thread only.
        (count.load(Ordering::Relaxed) < MAX_WAITING).then(|| {
            count.fetch_add(1, Ordering::Relaxed);
            Self(Arc::clone(count))
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The keeper of the sessions, from outside. It stops when this is dropped.
#[derive(Debug)]
pub struct Sessions {
    events: Sender<Event>,
    reports: watch::Receiver<Vec<NodeSession>>,
    thread: Option<JoinHandle<()>>,
}

impl Sessions {
    /// Begins to watch, with the bundle that is in force. Sessions that may not go on are ended at once.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(settings: Settings, access: Option<Access>, now: Timestamp) -> Result<Self, FileError> {
        let failed = |why| FileError { path: settings.socket.clone(), why };
        let table = ProcFs::new();
        if !table.can_see_programs() {
            tracing::error!(
                "the programs that processes run cannot be seen, so no session can be ended: the agent needs \
                 CAP_SYS_PTRACE"
            );
        }
        let (events, queue) = mpsc::channel();
        listen(settings.clone(), events.clone()).map_err(failed)?;
        let boot = ProcFs::boot_id().unwrap_or_default();
        let (sender, reports) = watch::channel(vec![]);
        let machine = (table, MachineUsers);
        let keeper = Keeper::new(settings.clone(), access.map(Arc::new), machine, (boot, now), sender);
        let work = move || keeper.run(&queue);
        let thread = thread::Builder::new().name("sessions".into()).spawn(work).map_err(failed)?;
        Ok(Self { events, reports, thread: Some(thread) })
    }

    /// Waits until what is open has changed, and returns it. It is safe to drop the future and ask again.
    pub async fn changed(&mut self) -> Vec<NodeSession> {
        if self.reports.changed().await.is_err() {
            // The thread is gone; there is nothing more to hear.
            std::future::pending().await
        }
        self.reports.borrow_and_update().clone()
    }

    /// Before a bundle is installed: sees who is there of those whom it takes something away from, and writes it down.
    pub async fn prepare(&self, access: &Arc<Access>) {
        let (done, wait) = oneshot::channel();
        // A thread that is gone has panicked, and said so; the node goes on refusing new logins without it.
        let _ = self.events.send(Event::Prepare(Arc::clone(access), done));
        let _ = tokio::time::timeout(PATIENCE, wait).await;
    }

    /// The bundle could not be installed: things are as they were.
    pub fn abandon(&self) {
        let _ = self.events.send(Event::Abandon);
    }

    /// Ends one session, if it is open: its connection, for its owner has lost nothing.
    pub fn end(&self, order: Order) {
        let _ = self.events.send(Event::End(order));
    }

    /// After a bundle was installed: ends the sessions that may not go on, and returns how many they are.
    pub async fn enforce(&self, access: &Arc<Access>) -> usize {
        let (done, wait) = oneshot::channel();
        let _ = self.events.send(Event::Enforce(Arc::clone(access), done));
        tokio::time::timeout(PATIENCE, wait).await.map_or(0, |ended| ended.unwrap_or(0))
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The socket for the helper.
fn inbox(settings: &Settings) -> Result<Inbox, String> {
    let helper = MachineUsers
        .uid(&settings.helper)
        .ok_or_else(|| format!("there is no user {} (helper_user in node.toml)", settings.helper))?;
    Inbox::bind(&settings.socket, helper).map_err(|error| error.to_string())
}

/// Hands on what the helper tells, from a thread that does nothing else: the kernel keeps only a few for us. While there
/// can be no socket (whom the machine asks for its users is not up yet), it is tried again; bundles matter more than this.
fn listen(settings: Settings, events: Sender<Event>) -> io::Result<()> {
    let count = Arc::new(AtomicUsize::new(0));
    let mut first = Some(inbox(&settings));
    let work = move || {
        let mut said = None;
        loop {
            let problem = match first.take().unwrap_or_else(|| inbox(&settings)) {
                Ok(inbox) => match hand_on(&inbox, &events, &count) {
                    None => return,
                    Some(error) => error.to_string(),
                },
                Err(problem) => problem,
            };
            if said.as_ref() != Some(&problem) {
                tracing::error!("the helper cannot tell of logins: {problem}; it is tried again");
            }
            said = Some(problem);
            thread::sleep(AGAIN);
        }
    };
    thread::Builder::new().name("logins".into()).spawn(work).map(drop)
}

/// Until the socket is of no use any more, and why; or until nobody listens.
fn hand_on(inbox: &Inbox, events: &Sender<Event>, count: &Arc<AtomicUsize>) -> Option<io::Error> {
    loop {
        match inbox.receive() {
            Ok(heard) => {
                if let Some(waiting) = Waiting::enter(count)
                    && events.send(Event::Heard(heard, waiting)).is_err()
                {
                    return None;
                }
            }
            Err(error) => return Some(error),
        }
    }
}

/// The users of this machine, from wherever it has them (nsswitch.conf(5)).
struct MachineUsers;

impl Users for MachineUsers {
    fn uid(&self, login: &str) -> Option<u32> {
        nix::unistd::User::from_name(login).ok().flatten().map(|user| user.uid.as_raw())
    }
}
