//! What gateways ask: who is this, may this be opened, what has happened.

use super::{
    core::{App, Asker, lock},
    protocol::{
        AuthenticateAnswer, AuthenticateRequest, ClosedRequest, Credential, DialPermit, Event as GatewayEvent, Hello,
        NodeIdentity, OpenAnswer, OpenRequest, OpenSession, Presented,
    },
    sessions::Session,
};
use crate::{
    audit::{Event, Outcome},
    domain::{AccountId, Directory, Fingerprint, NodeId, PublicKey, Serial, SessionId, Timestamp},
    policy::{
        Denial, OpenPermit, OpenTarget, Reason, check_certificate, open, parse_certificate, recognize, still_open,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// A login node that somebody uses already is taken again; otherwise the least used.
const SAME_AGAIN: u64 = 1 << 32;

/// How long before a hello arrives a forward may have been asked for that is not in it: longer than a gateway waits
/// for an answer, and for its hello to be taken.
const OVERTAKING: Duration = Duration::from_secs(15);

/// The event stream of a gateway, from the authority's side.
#[derive(Debug)]
pub struct Stream {
    /// Its name.
    pub gateway: String,
    /// Which of its streams.
    pub number: u64,
    /// What it is told.
    pub events: mpsc::Receiver<GatewayEvent>,
}

impl App {
    /// Who has proved to hold a key or a certificate. What is refused here is told nothing.
    pub async fn authenticate(self: &Arc<Self>, request: AuthenticateRequest) -> AuthenticateAnswer {
        let directory = self.directory();
        let now = self.now();
        let outcome = match &request.presented {
            Presented::Key(blob) => {
                decode_key(blob).and_then(|key| self.recognize_key(&directory, &key, request.joining))
            }
            Presented::Certificate(blob) => self.recognize_certificate(&directory, blob, &request, now),
        };
        match outcome {
            Ok(answer) => {
                self.note_robot_elsewhere(&directory, &answer, &request, now).await;
                answer
            }
            Err(denial) => {
                tracing::info!(
                    connection = %request.connection, peer = %request.peer, reason = %denial.reason,
                    "authentication refused: {}", denial.operator
                );
                // Unknown keys and certificates of anybody's CA are what the internet offers all day: a record of each
                // would let strangers fill the disk. Certificates that our CA signed are worth one.
                let ours = !matches!(
                    denial.reason,
                    Reason::CertificateFormat
                        | Reason::CertificateNested
                        | Reason::CertificateAuthority
                        | Reason::CertificateSignature
                );
                if ours && matches!(request.presented, Presented::Certificate(_)) {
                    self.note_refused_certificate(&request, &denial, now).await;
                }
                AuthenticateAnswer::Refused
            }
        }
    }

    fn recognize_key(
        &self,
        directory: &Directory,
        key: &PublicKey,
        joining: bool,
    ) -> Result<AuthenticateAnswer, Denial> {
        let fingerprint = key.fingerprint();
        if joining {
            return Ok(AuthenticateAnswer::Joining);
        }
        if let Some(node) = directory.node_with_key(&fingerprint) {
            let path = directory
                .path_of_node(node)
                .ok_or_else(|| Denial::plain(Reason::NotFound, "the node has no cluster"))?;
            return Ok(AuthenticateAnswer::Node(NodeIdentity { node: node.id, key: fingerprint, path }));
        }
        // A node that was removed comes in once more, for the list that lets nobody in.
        if let Some((node, path)) = directory.gone_node_with_key(&fingerprint) {
            return Ok(AuthenticateAnswer::Node(NodeIdentity { node, key: fingerprint, path: path.clone() }));
        }
        let account = recognize(directory, &fingerprint)?;
        Ok(account_answer(directory, account, fingerprint, None))
    }

    fn recognize_certificate(
        &self,
        directory: &Directory,
        blob: &str,
        request: &AuthenticateRequest,
        now: Timestamp,
    ) -> Result<AuthenticateAnswer, Denial> {
        let format = |what: &str| Denial::told(Reason::CertificateFormat, what, "permission denied");
        // A machine that joins proves its host key, nothing else.
        if request.joining {
            return Err(format("a certificate was offered to join with"));
        }
        let blob = STANDARD.decode(blob).map_err(|_| format("not base64"))?;
        let certificate = parse_certificate(&blob)?;
        let record = self.record_of(Some(Serial(certificate.serial())));
        let authorities = [self.ca.user.public_key().fingerprint()];
        let identity = check_certificate(directory, &certificate, &authorities, record.as_ref(), request.peer, now)?;
        Ok(account_answer(directory, identity.account().id, identity.key(), identity.certificate()))
    }

    /// A service account that comes from elsewhere is recognized, like one that is suspended, so that it can be told;
    /// every request of that connection is refused. Its key may have been stolen: that is worth a record each time.
    async fn note_robot_elsewhere(
        self: &Arc<Self>,
        directory: &Directory,
        answer: &AuthenticateAnswer,
        request: &AuthenticateRequest,
        now: Timestamp,
    ) {
        let AuthenticateAnswer::Account { credential, .. } = answer else { return };
        let Err(denial) = self.identity(directory, credential, request.peer, now) else { return };
        let Some(account) = directory.account(credential.account).filter(|_| denial.reason == Reason::Source) else {
            return;
        };
        tracing::warn!(connection = %request.connection, peer = %request.peer, key = %credential.key, "{}", denial.operator);
        self.note(Event {
            at: now,
            actor: account.actor(credential.key),
            source: request.peer.to_string(),
            connection: Some(request.connection.clone()),
            action: "authenticate".into(),
            object: "key".into(),
            outcome: Outcome::Refused,
            detail: format!("{}: {}", denial.reason, denial.operator),
        })
        .await;
    }

    async fn note_refused_certificate(
        self: &Arc<Self>,
        request: &AuthenticateRequest,
        denial: &Denial,
        now: Timestamp,
    ) {
        self.note(Event {
            at: now,
            actor: crate::domain::Actor::Authority,
            source: request.peer.to_string(),
            connection: Some(request.connection.clone()),
            action: "authenticate".into(),
            object: "certificate".into(),
            outcome: Outcome::Refused,
            detail: denial.for_the_record(),
        })
        .await;
    }

    /// Whether a connection may open what it asks for.
    pub async fn open(self: &Arc<Self>, request: OpenRequest) -> OpenAnswer {
        let now = self.now();
        let decided = self.decide_open(&request, now);
        let asker = Asker::Account {
            credential: request.credential.clone(),
            peer: request.peer,
            connection: request.connection.clone(),
        };
        let (outcome, object, detail) = match &decided {
            Ok(permit) => (Outcome::Done, permit.path().to_string(), format!("session {}", request.session)),
            Err(denial) => {
                // What was asked for may hold anything; the audit log gets it quoted.
                let asked: String = request.host.chars().take(255).collect();
                (Outcome::Refused, format!("{asked:?}:{}", request.port), denial.for_the_record())
            }
        };
        let actor = self.actor(&self.directory(), &asker);
        tracing::info!(
            connection = %request.connection, peer = %request.peer, %actor, %object, ?outcome, %detail, "session.open"
        );
        self.note(Event {
            at: now,
            actor,
            source: request.peer.to_string(),
            connection: Some(request.connection.clone()),
            action: "session.open".into(),
            object,
            outcome,
            detail,
        })
        .await;
        match decided {
            Ok(permit) => OpenAnswer::Permit(dial(&permit, &request.session, now)),
            Err(denial) => OpenAnswer::Refused { message: denial.user },
        }
    }

    fn decide_open(&self, request: &OpenRequest, now: Timestamp) -> Result<OpenPermit, Denial> {
        let directory = self.directory();
        let identity = self.identity(&directory, &request.credential, request.peer, now)?;
        let account = identity.account().id;
        let prefer = |node: NodeId| {
            let sessions = lock(&self.sessions);
            let used = u64::try_from(sessions.count_to(node)).unwrap_or(u64::MAX).min(SAME_AGAIN - 1);
            let again = if sessions.has(account, node) { SAME_AGAIN } else { 0 };
            again + (SAME_AGAIN - 1 - used)
        };
        let target = OpenTarget { host: &request.host, port: request.port };
        let permit = open(&directory, &identity, target, &prefer, now)?;
        self.site.node_networks.check(permit.address().0)?;
        self.enter(request, &permit, now);
        // A removal between the decision and the entry in the registry has looked at a registry without it. The
        // entry stands now, so that a later removal finds it; an earlier one is found here.
        let latest = self.directory();
        if latest.version() != directory.version() {
            let again = self
                .identity(&latest, &request.credential, request.peer, now)
                .and_then(|identity| still_open(&latest, &identity, permit.node(), now, now));
            if let Err(denial) = again {
                lock(&self.sessions).remove(&request.session);
                return Err(denial);
            }
        }
        Ok(permit)
    }

    fn enter(&self, request: &OpenRequest, permit: &OpenPermit, now: Timestamp) {
        lock(&self.sessions).insert(Session {
            id: request.session.clone(),
            gateway: request.gateway.clone(),
            connection: request.connection.clone(),
            peer: request.peer,
            credential: request.credential.clone(),
            node: permit.node(),
            path: permit.path().clone(),
            project: permit.project().clone(),
            since: now,
        });
    }

    /// Forwards have ended.
    pub async fn closed(self: &Arc<Self>, request: ClosedRequest) {
        let now = self.now();
        for ended in request.sessions {
            let Some(session) = lock(&self.sessions).remove(&ended.session) else { continue };
            let detail = format!("session {}, {} bytes up, {} bytes down", session.id, ended.up, ended.down);
            self.note_session(&session, "session.close", detail, now).await;
        }
    }

    pub(super) async fn note_session(
        self: &Arc<Self>,
        session: &Session,
        action: &str,
        detail: String,
        now: Timestamp,
    ) {
        let asker = Asker::Account {
            credential: session.credential.clone(),
            peer: session.peer,
            connection: session.connection.clone(),
        };
        let actor = self.actor(&self.directory(), &asker);
        tracing::info!(connection = %session.connection, %actor, node = %session.path, %detail, "{action}");
        self.note(Event {
            at: now,
            actor,
            source: session.peer.to_string(),
            connection: Some(session.connection.clone()),
            action: action.into(),
            object: session.path.to_string(),
            outcome: Outcome::Done,
            detail,
        })
        .await;
    }

    /// A gateway opens its event stream: it says what it has, and is told what of that may not stay.
    pub fn hello(self: &Arc<Self>, hello: Hello) -> Stream {
        let now = self.now();
        let (number, events) = lock(&self.hub).connect(&hello.gateway, hello.host_key.clone(), now);
        // What this gateway was thought to have is replaced by what it says; but what it asked for while its hello
        // travelled is not in there, and must not be forgotten.
        lock(&self.sessions).remove_gateway(&hello.gateway, now.before(OVERTAKING));
        let count = hello.sessions.len();
        lock(&self.hub).tell(&hello.gateway, GatewayEvent::Ready);
        for session in hello.sessions {
            if let Err((id, reason)) = self.readmit(&hello.gateway, session, now) {
                lock(&self.hub).tell(&hello.gateway, GatewayEvent::End { session: id, reason });
            }
        }
        tracing::info!(gateway = %hello.gateway, sessions = count, "gateway connected");
        Stream { gateway: hello.gateway, number, events }
    }

    fn readmit(&self, gateway: &str, session: OpenSession, now: Timestamp) -> Result<(), (SessionId, String)> {
        let id = session.session.clone();
        // Into the registry first, decided after: see `decide_open`.
        let directory = self.directory();
        let path = directory.node(session.node_id).and_then(|node| {
            let project = directory.cluster(node.cluster).and_then(|cluster| directory.project(cluster.project))?;
            Some((directory.path_of_node(node)?, directory.path_of_project(project)?))
        });
        let Some((path, project)) = path else { return Err((id, "the node was removed from its cluster".into())) };
        let session = Session {
            id: id.clone(),
            gateway: gateway.to_owned(),
            connection: session.connection,
            peer: session.peer,
            credential: session.credential,
            node: session.node_id,
            path,
            project,
            since: session.since.min(now),
        };
        lock(&self.sessions).insert(session.clone());
        let directory = self.directory();
        self.stays(&directory, &session, now).map_err(|denial| {
            lock(&self.sessions).remove(&id);
            (id, denial.user)
        })
    }

    /// A gateway's event stream has ended. Its sessions stay: the gateway may live and come back with them.
    pub fn goodbye(&self, stream: &Stream) {
        if lock(&self.hub).disconnect(&stream.gateway, stream.number) {
            tracing::warn!(gateway = %stream.gateway, "gateway disconnected");
        }
    }

    /// Whether what is open may stay open. A session that was admitted with a certificate does not end with it: a
    /// certificate is looked at when a connection starts, as sshd does. It ends when the certificate is revoked.
    pub(super) fn stays(&self, directory: &Directory, session: &Session, now: Timestamp) -> Result<(), Denial> {
        let credential = &session.credential;
        if let Some(serial) = credential.certificate.filter(|serial| directory.denied_serial(*serial).is_some()) {
            let operator = format!("certificate {serial} was revoked");
            return Err(Denial::told(Reason::CertificateRevoked, operator, "your certificate was revoked"));
        }
        let by_key = Credential { certificate: None, ..credential.clone() };
        let identity = self.identity(directory, &by_key, session.peer, now)?;
        still_open(directory, &identity, session.node, session.since, now).map(|_| ())
    }
}

fn decode_key(blob: &str) -> Result<PublicKey, Denial> {
    let unreadable = |what: String| Denial::told(Reason::UnknownKey, what, "permission denied");
    let bytes = STANDARD.decode(blob).map_err(|_| unreadable("the key is not base64".into()))?;
    PublicKey::from_wire(&bytes).map_err(|e| unreadable(e.to_string()))
}

fn account_answer(
    directory: &Directory,
    account: AccountId,
    key: Fingerprint,
    certificate: Option<Serial>,
) -> AuthenticateAnswer {
    let user = directory.account(account).map(|account| account.user.to_string()).unwrap_or_default();
    AuthenticateAnswer::Account { credential: Credential { account, key, certificate }, user }
}

fn dial(permit: &OpenPermit, session: &SessionId, since: Timestamp) -> DialPermit {
    let (address, port) = permit.address();
    DialPermit {
        session: session.clone(),
        node: permit.path().clone(),
        node_id: permit.node(),
        project: permit.project().clone(),
        since,
        address,
        port,
    }
}
