//! The authority's state, and the two ways through it: looking at a snapshot, and changing on the writer.

use super::{
    error::AppError,
    events::{BACKUP_COMPLETE, Subject, gone_with, refused},
    hub::Hub,
    journal::Signed,
    outside::{Clock, Entropy},
    protocol::{ConnectionId, Credential},
    provision::Connected,
    repeats::Repeats,
    sessions::Sessions,
};
use crate::{
    audit::{Event, Filter, LOCAL},
    ca::CaKeys,
    domain::{AccountId, CertificateRecord, ClusterId, Directory, Mutation, NodeId, Serial, Timestamp, Version},
    policy::{
        Action, Caller, CertificateSettings, Denial, Grant, Identity, NodeNetworks, Origin, Place, authorize, identify,
    },
    store::{AuditQuery, Change, Ledger, Store, StoreError},
};
use serde::Deserialize;
use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Semaphore, watch};

/// What people and nodes are told about where to connect.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bastion {
    /// Host name or address.
    pub host: String,
    /// Port.
    #[serde(default = "ssh_port")]
    pub port: u16,
}

impl Bastion {
    /// The name under which the configuration that people are given knows its host key, wherever it is reached.
    #[must_use]
    pub fn alias(&self) -> String {
        match self.port {
            22 => format!("certgate-{}", self.host),
            port => format!("certgate-{}-{port}", self.host),
        }
    }
}

/// What a site decides for itself.
#[derive(Clone, Debug)]
pub struct Site {
    /// Where people and nodes connect.
    pub bastion: Bastion,
    /// The rules for certificates.
    pub certificates: CertificateSettings,
    /// Where nodes may be.
    pub node_networks: NodeNetworks,
    /// Whether the site's machinery is asked about clusters and volumes.
    pub provisioner: bool,
    /// What is looked after without being asked for.
    pub upkeep: Upkeep,
}

/// What an authority looks after without being asked to. The default: nothing of it.
#[derive(Clone, Debug, Default)]
pub struct Upkeep {
    /// How long entries stay in the audit log, if not for good.
    pub retention: Option<Retention>,
    /// How old the last backup may be before `status` says so.
    pub backup_every: Option<Duration>,
}

/// How long entries stay in the audit log, and where they go then.
#[derive(Clone, Debug)]
pub struct Retention {
    /// How long.
    pub keep: Duration,
    /// A directory, which is made if it is not there.
    pub archive: PathBuf,
}

const fn ssh_port() -> u16 {
    22
}

/// Audit events that may wait to become durable without anybody waiting for them.
pub(super) const AUDIT_BACKLOG: u32 = 4096;

/// The authority.
pub struct App {
    pub(super) store: Arc<dyn Store>,
    pub(super) ca: Arc<CaKeys>,
    pub(super) site: Site,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    /// Records of certificates that have not ended: a connection that came with one is looked up here.
    pub(super) live: Mutex<HashMap<Serial, CertificateRecord>>,
    pub(super) sessions: Mutex<Sessions>,
    pub(super) hub: Mutex<Hub>,
    /// The version of the last change that touched a cluster, as far as this authority has seen one.
    pub(super) published: Mutex<HashMap<ClusterId, Version>>,
    /// The version of the last change that touched an account, as far as this authority has seen one.
    pub(super) concerned: Mutex<HashMap<AccountId, Version>>,
    /// The version that this authority has started with.
    pub(super) started_at: Version,
    /// Rises whenever a node has said what it has, for those who wait for receipts.
    pub(super) heard: watch::Sender<u64>,
    /// The versions of the lists that let nobody in, as removed nodes were given them.
    pub(super) farewells: Mutex<HashMap<NodeId, Version>>,
    /// The provisioner that was heard last.
    pub(super) provisioner: Mutex<Option<Connected>>,
    /// How often the provisioner has reported; wakes it up when there may be something to do.
    pub(super) asked: watch::Sender<u64>,
    pub(super) backlog: Arc<Semaphore>,
    /// What is refused so often that it is counted.
    pub(super) repeats: Mutex<Repeats>,
    pub(super) signed: Mutex<Signed>,
    #[cfg_attr(not(feature = "processes"), expect(dead_code, reason = "what decides makes none"))]
    /// Held by whoever makes a backup: one at a time, each as large on disk as the directory.
    pub(super) backing_up: Arc<Semaphore>,
    /// When a backup was last made, as far as the audit log knows.
    pub(super) last_backup: Mutex<Option<Timestamp>>,
    /// Entries up to this one are a former authority's to have logged.
    pub(super) logged_until: u64,
    pub(super) started: Timestamp,
}

/// Who asks, and from where.
#[derive(Clone, Debug)]
pub enum Asker {
    /// An operator, over the admin socket.
    Operator {
        /// The user number of the process at the other end.
        uid: u32,
    },
    /// An account, through a gateway.
    Account {
        /// As whom the connection was authenticated.
        credential: Credential,
        /// The connection's other end.
        peer: IpAddr,
        /// The connection.
        connection: ConnectionId,
    },
}

impl Asker {
    pub(super) fn source(&self) -> String {
        match self {
            Self::Operator { .. } => LOCAL.into(),
            Self::Account { peer, .. } => peer.to_string(),
        }
    }

    pub(super) fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Operator { .. } => None,
            Self::Account { connection, .. } => Some(connection.clone()),
        }
    }

    /// The certificate that the connection came with.
    pub(super) fn certificate(&self) -> Option<Serial> {
        match self {
            Self::Operator { .. } => None,
            Self::Account { credential, .. } => credential.certificate,
        }
    }
}

/// What a decision to change something says.
pub(super) struct Decided<T> {
    /// The changes.
    pub(super) mutations: Vec<Mutation>,
    /// The certificate to record.
    pub(super) certificate: Option<CertificateRecord>,
    /// For the audit log.
    pub(super) detail: String,
    /// For the one who asked.
    pub(super) answer: T,
}

impl<T> Decided<T> {
    /// With one change.
    pub(super) fn one(mutation: Mutation, answer: T) -> Self {
        Self { mutations: vec![mutation], certificate: None, detail: String::new(), answer }
    }

    /// Without a change: it is so already.
    pub(super) fn nothing(detail: String, answer: T) -> Self {
        Self { mutations: Vec::new(), certificate: None, detail, answer }
    }
}

/// When a backup was last made.
async fn last_backup(store: &dyn Store) -> Result<Option<Timestamp>, StoreError> {
    let filter = Filter { what: BACKUP_COMPLETE.parse().ok(), ..Filter::default() };
    let page = store.audit(AuditQuery { filter, latest: true, limit: 1, ..AuditQuery::default() }).await?;
    Ok(page.entries.first().map(|entry| entry.event.at))
}

/// A poisoned lock only means that a thread panicked while it looked: every holder leaves the value whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl App {
    /// An authority over a store. Reads which certificates are live.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(
        store: Arc<dyn Store>,
        ca: CaKeys,
        site: Site,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Arc<Self>, AppError> {
        let started = clock.now();
        let live = store.live_certificates(started).await?;
        let signed = store.last_signed_head().await?;
        let signed = signed.map_or(Signed { seq: 0, at: started }, |last| Signed { seq: last.head.seq, at: last.at });
        let last_backup = last_backup(store.as_ref()).await?;
        let logged_until = store.audit_end().borrow().seq;
        let started_at = store.directory().version();
        let app = Arc::new(Self {
            store,
            ca: Arc::new(ca),
            site,
            clock,
            entropy,
            live: Mutex::new(live.into_iter().map(|record| (record.serial, record)).collect()),
            sessions: Mutex::default(),
            hub: Mutex::default(),
            published: Mutex::default(),
            concerned: Mutex::default(),
            started_at,
            heard: watch::Sender::new(0),
            farewells: Mutex::default(),
            provisioner: Mutex::default(),
            asked: watch::Sender::new(0),
            backlog: Arc::new(Semaphore::new(AUDIT_BACKLOG as usize)),
            repeats: Mutex::default(),
            signed: Mutex::new(signed),
            backing_up: Arc::new(Semaphore::new(1)),
            last_backup: Mutex::new(last_backup),
            logged_until,
            started,
        });
        if app.site.provisioner {
            app.resume_provisioning().await?;
        }
        Ok(app)
    }

    /// The latest durable directory.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.store.directory()
    }

    /// What people and nodes are told about where to connect.
    #[must_use]
    pub fn bastion(&self) -> &Bastion {
        &self.site.bastion
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn record_of(&self, serial: Option<Serial>) -> Option<CertificateRecord> {
        lock(&self.live).get(&serial?).cloned()
    }

    /// Looks at one snapshot, if the asker may.
    ///
    /// # Errors
    /// The asker may not, or `look` says no.
    pub fn view<T>(
        &self,
        asker: &Asker,
        action: Action,
        place: impl Into<Place>,
        look: impl FnOnce(&Directory, &Caller, &Grant) -> Result<T, Denial>,
    ) -> Result<T, AppError> {
        let directory = self.directory();
        let now = self.now();
        let caller = self.caller(&directory, asker, now)?;
        let grant = authorize(&directory, &caller, action, &place.into(), now)?;
        Ok(look(&directory, &caller, &grant)?)
    }

    /// Looks at what a change would do, before somebody is asked whether it shall be made. What would be refused is
    /// refused here, and recorded as the change itself would have recorded it.
    ///
    /// # Errors
    /// The asker may not make the change, `look` says no, or the refusal could not be made durable.
    pub(super) async fn preview<T>(
        self: &Arc<Self>,
        asker: &Asker,
        action: Action,
        place: impl Into<Place>,
        object: String,
        look: impl FnOnce(&Directory, &Caller, &Grant) -> Result<T, Denial>,
    ) -> Result<T, AppError> {
        let looked = self.view(asker, action, place, look);
        if let Err(AppError::Denied(denial)) = &looked {
            self.record_refusal(asker, action, object.into(), denial).await?;
        }
        looked
    }

    fn caller(&self, directory: &Directory, asker: &Asker, now: Timestamp) -> Result<Caller, Denial> {
        match asker {
            Asker::Operator { uid } => Ok(Caller::Operator { uid: *uid }),
            Asker::Account { credential, peer, .. } => {
                self.identity(directory, credential, *peer, now).map(Caller::Account)
            }
        }
    }

    /// Who is at the other end of a connection, looked up anew.
    pub(super) fn identity(
        &self,
        directory: &Directory,
        credential: &Credential,
        peer: IpAddr,
        now: Timestamp,
    ) -> Result<Identity, Denial> {
        let record = self.record_of(credential.certificate);
        let certificate = credential.certificate.map(|serial| (serial, record.as_ref()));
        identify(directory, credential.account, credential.key, certificate, Origin::Peer(peer), now)
    }

    /// Decides on the writer, on the latest directory, and makes the answer durable together with its audit event.
    /// A refusal is recorded too.
    ///
    /// # Errors
    /// The asker may not, `decide` says no, or it could not be made durable.
    pub(super) async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        asker: &Asker,
        action: Action,
        place: impl Into<Place>,
        subject: impl Into<Subject>,
        decide: impl FnOnce(Ledger<'_>, &Caller, &Grant, Timestamp) -> Result<Decided<T>, Denial> + Send + 'static,
    ) -> Result<(T, Version), AppError> {
        let (app, asker, place, subject) = (self.clone(), asker.clone(), place.into(), subject.into());
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        let decision = move |ledger: Ledger<'_>| {
            // The clock is read here, on the writer, so that no event is dated before the one it follows.
            let now = app.now();
            let event = app.event(ledger.directory, &asker, action.as_str(), subject, now);
            let decided = app.caller(ledger.directory, &asker, now).and_then(|caller| {
                let grant = authorize(ledger.directory, &caller, action, &place, now)?;
                decide(ledger, &caller, &grant, now)
            });
            match decided {
                Ok(Decided { mut mutations, certificate, detail, answer }) => {
                    *lock(&filled) = Some(Ok(answer));
                    let with = format!("with {}", event.object);
                    let also = gone_with(ledger.directory, &mutations).into_iter().map(|(action, object)| Event {
                        detail: with.clone(),
                        ..app.event(ledger.directory, &asker, action.as_str(), object.into(), now)
                    });
                    let also: Vec<Event> = also.collect();
                    app.ask_machinery(ledger.directory, &mut mutations, now);
                    let issued = certificate.as_ref().map(|record| record.serial);
                    let event = Event { detail, certificate: issued.or(event.certificate), ..event };
                    let events = std::iter::once(event).chain(also).collect();
                    Some(Change { mutations, certificate, events, ..Change::default() })
                }
                Err(denial) => {
                    let event = refused(event, &denial);
                    *lock(&filled) = Some(Err(denial));
                    Some(Change { events: vec![event], ..Change::default() })
                }
            }
        };
        let version = self.store.transact(Box::new(decision)).await?;
        let answer = lock(&slot).take().ok_or(AppError::Defect("a decision was not made"))??;
        Ok((answer, version.unwrap_or_else(|| self.directory().version())))
    }
}
