//! What gateways ask: who is this, may this be opened, what has happened.

use super::{
    core::{App, Asker, lock},
    events::refused,
    protocol::{
        AuthenticateAnswer, AuthenticateRequest, ClosedRequest, Credential, DialPermit, Event as GatewayEvent, Hello,
        Marked, NODE_HELLO_SECS, NodeIdentity, OpenAnswer, OpenRequest, OpenSession, Presented, Reach,
    },
    sessions::Session,
};
use crate::{
    audit::Event,
    domain::{
        AccountId, Actor, Directory, Fingerprint, InstanceId, NodeId, PublicKey, Serial, SessionId, Target, Timestamp,
    },
    policy::{
        Denial, Lingering, OpenPermit, OpenTarget, Reason, Stay, check_certificate, open, parse_certificate, recognize,
        stays, still_open,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// A login node that somebody uses already is taken again; otherwise one that is connected, and of these the least used.
const SAME_AGAIN: u64 = 1 << 33;
const CONNECTED: u64 = 1 << 32;

/// A node that has said nothing for so long is not connected: three of its hellos.
const SILENT: Duration = Duration::from_secs(3 * NODE_HELLO_SECS);

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

/// What was asked for, as the audit log has it: a name that could be one of ours as such, so that it is found by it; anything
/// else may hold anything, and is quoted.
fn asked_for(request: &OpenRequest) -> String {
    match request.host.parse::<Target>() {
        Ok(target) if request.port == 22 => target.to_string(),
        _ => format!("{:?}:{}", request.host.chars().take(255).collect::<String>(), request.port),
    }
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
                // Who may do nothing is let in to be told so: the suspended, and robots that come from elsewhere, whose key
                // may have been stolen.
                if let AuthenticateAnswer::Account { credential, .. } = &answer
                    && let Err(denial) = self.identity(&directory, credential, request.peer, now)
                {
                    self.note_refused_login(&directory, &request, &denial, now).await;
                }
                answer
            }
            Err(denial) => {
                if !self.note_refused_login(&directory, &request, &denial, now).await {
                    tracing::info!(
                        connection = %request.connection, peer = %request.peer, reason = %denial.reason,
                        "authentication refused: {}", denial.operator
                    );
                }
                AuthenticateAnswer::Refused
            }
        }
    }

    /// Puts a refused login on record if it is by somebody who is or was known. Unknown keys and certificates of anybody's
    /// CA are what the internet offers all day: a record of each would let strangers fill the disk.
    async fn note_refused_login(
        self: &Arc<Self>,
        directory: &Directory,
        request: &AuthenticateRequest,
        denial: &Denial,
        now: Timestamp,
    ) -> bool {
        let (key, certificate) = match &request.presented {
            Presented::Key(blob) => match decode_key(blob) {
                Ok(key) => (key.fingerprint(), None),
                Err(_) => return false,
            },
            Presented::Certificate(blob) => match ours(blob, denial.reason) {
                Some((key, serial)) => (key, Some(serial)),
                None => return false,
            },
        };
        let account = directory.key(&key).map(|entry| entry.account).or_else(|| directory.owner_of_denied_key(&key));
        let actor = match account.and_then(|account| directory.account(account)) {
            Some(account) => account.actor(key),
            None if certificate.is_none() => return false,
            None => Actor::Stranger { key },
        };
        let object = if certificate.is_some() { "certificate" } else { "key" };
        let event = Event {
            source: request.peer.to_string(),
            connection: Some(request.connection.clone()),
            certificate,
            ..Event::new(now, actor, "authenticate", object)
        };
        self.note_repeated(refused(event, denial)).await;
        true
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

    /// Whether a connection may open what it asks for.
    pub async fn open(self: &Arc<Self>, request: OpenRequest) -> OpenAnswer {
        let now = self.now();
        let decided = self.decide_open(&request, now);
        if decided.is_err() {
            // A gateway that could not reach what it was permitted asks again, and has nothing open meanwhile.
            let mut sessions = lock(&self.sessions);
            let same = |session: &Session| {
                session.gateway == request.gateway || session.instance.is_some() && session.instance == request.instance
            };
            if sessions.get(&request.session).is_some_and(same) {
                sessions.remove(&request.session);
            }
        }
        let asker = Asker::Account {
            credential: request.credential.clone(),
            peer: request.peer,
            connection: request.connection.clone(),
        };
        let object = match &decided {
            Ok(permit) => permit.path().to_string(),
            Err(_) => asked_for(&request),
        };
        let event = self.event(&self.directory(), &asker, "session.open", object.into(), now);
        let event = Event { session: Some(request.session.clone()), ..event };
        self.note(match &decided {
            Ok(permit) => {
                let (address, port) = permit.address();
                let at = match lock(&self.hub).reach(permit.node()) {
                    Reach::Direct => format!("at {address} port {port}"),
                    Reach::Tunnel => "through its agent".to_owned(),
                };
                Event { detail: format!("{at}, through gateway {}", request.gateway), ..event }
            }
            Err(denial) => refused(event, denial),
        })
        .await;
        match decided {
            Ok(permit) => {
                let reach = lock(&self.hub).reach(permit.node());
                OpenAnswer::Permit(dial(&permit, &request.session, now, reach))
            }
            Err(denial) => OpenAnswer::Refused { message: denial.user, reason: denial.reason.to_string() },
        }
    }

    fn decide_open(&self, request: &OpenRequest, now: Timestamp) -> Result<OpenPermit, Denial> {
        let directory = self.directory();
        let identity = self.identity(&directory, &request.credential, request.peer, now)?;
        let account = identity.account().id;
        let prefer = |node: NodeId| {
            if request.tried.contains(&node) {
                return None;
            }
            let here = lock(&self.hub).node(node).is_some_and(|status| now.since(status.heard) < SILENT);
            let sessions = lock(&self.sessions);
            let used = u64::try_from(sessions.count_to(node)).unwrap_or(u64::MAX).min(CONNECTED - 1);
            let again = if sessions.has_other(account, node, &request.session) { SAME_AGAIN } else { 0 };
            let connected = if here { CONNECTED } else { 0 };
            Some(again + connected + (CONNECTED - 1 - used))
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
                .and_then(|identity| still_open(&latest, &identity, permit.node(), permit.path(), now, now));
            if let Err(denial) = again {
                lock(&self.sessions).remove(&request.session);
                return Err(denial);
            }
        }
        Ok(permit)
    }

    fn enter(&self, request: &OpenRequest, permit: &OpenPermit, now: Timestamp) {
        // Held while its name is looked up: a hello that renames what is there finds this as well, or was before it.
        let mut sessions = lock(&self.sessions);
        // A process that makes room for another one may have asked by the name that it had before.
        let name = {
            let hub = lock(&self.hub);
            let name = request.instance.as_ref().and_then(|instance| hub.name_of(instance));
            name.unwrap_or(&request.gateway).to_owned()
        };
        sessions.insert(Session {
            id: request.session.clone(),
            gateway: name,
            instance: request.instance.clone(),
            connection: request.connection.clone(),
            peer: request.peer,
            credential: request.credential.clone(),
            node: permit.node(),
            path: permit.path().clone(),
            since: now,
            leaves: None,
        });
    }

    /// Forwards have ended.
    pub async fn closed(self: &Arc<Self>, request: ClosedRequest) {
        let now = self.now();
        if let Some(Marked { gateway, version }) = request.done {
            lock(&self.hub).marked(&gateway, version, now);
            self.heard.send_modify(|count| *count += 1);
        }
        for ended in request.sessions {
            let Some(session) = lock(&self.sessions).remove(&ended.session) else { continue };
            // Its gateway had been told when it has to end, and was sooner than who looks here.
            let overdue = session.leaves.filter(|until| *until <= now);
            let denial = overdue.and_then(|_| self.stays(&self.directory(), &session, now).err());
            let detail = format!("{} bytes up, {} bytes down", ended.up, ended.down);
            let event = match denial {
                Some(denial) => self.ended(&session, &denial, now),
                None => Event { detail, ..self.session_event(&session, "session.close", now) },
            };
            self.note(event).await;
        }
    }

    pub(super) fn session_event(&self, session: &Session, action: &str, now: Timestamp) -> Event {
        let asker = Asker::Account {
            credential: session.credential.clone(),
            peer: session.peer,
            connection: session.connection.clone(),
        };
        let event = self.event(&self.directory(), &asker, action, session.path.to_string().into(), now);
        Event { session: Some(session.id.clone()), ..event }
    }

    /// A session that was ended because what it rests on is gone: by certgate, and on whom.
    pub(super) fn ended(&self, session: &Session, denial: &Denial, now: Timestamp) -> Event {
        let (reason, detail) = (Some(denial.reason.to_string()), denial.operator.clone());
        let event = self.session_event(session, "session.end", now);
        by_certgate(Event { reason, detail, ..event })
    }

    /// A gateway opens its event stream: it says what it has, and is told what of that may not stay.
    pub fn hello(self: &Arc<Self>, hello: Hello) -> Stream {
        let now = self.now();
        let lost_after = Duration::from_secs(hello.lost_after);
        let (number, stream) = {
            let mut hub = lock(&self.hub);
            let connected = hub.connect(&hello.gateway, hello.host_key.clone(), lost_after, now);
            hub.runs(&hello.gateway, hello.program.as_deref(), hello.instance.clone());
            connected
        };
        // What this gateway was thought to have is replaced by what it says; but what it asked for while its hello
        // travelled is not in there, and must not be forgotten. What another process asked for is over with that one,
        // unless it lives on by another name: that name it has said before this one began.
        let (former, known) = {
            let mut sessions = lock(&self.sessions);
            let former = hello.instance.as_ref().map(|instance| {
                sessions.rename(instance, &hello.gateway);
                sessions.remove_former(&hello.gateway, instance)
            });
            (former.unwrap_or_default(), sessions.remove_gateway(&hello.gateway, now.before(OVERTAKING)))
        };
        let listed: HashSet<_> = hello.sessions.iter().map(|session| session.session.clone()).collect();
        let lost = known.iter().filter(|session| !listed.contains(&session.id));
        let lost = lost.map(|session| (session, "the gateway has come back without it"));
        let former = former.iter().map(|session| (session, "the gateway has come back as another process"));
        let closed = |(session, detail): (&Session, &str)| {
            let detail = detail.to_owned();
            Event { detail, ..self.session_event(session, "session.close", now) }
        };
        let mut events: Vec<Event> = former.chain(lost).map(closed).collect();
        let count = hello.sessions.len();
        // Sessions are held against a directory that is at least this one.
        let version = self.directory().version();
        lock(&self.hub).tell(&hello.gateway, GatewayEvent::Ready);
        for session in hello.sessions {
            let id = session.session.clone();
            if let Some((reason, event)) = self.readmit(&hello.gateway, hello.instance.as_ref(), session, now) {
                lock(&self.hub).tell(&hello.gateway, GatewayEvent::End { session: id, reason });
                events.push(event);
            }
        }
        lock(&self.hub).tell(&hello.gateway, GatewayEvent::Mark { version });
        tracing::info!(gateway = %hello.gateway, sessions = count, "gateway connected");
        let (app, name) = (self.clone(), hello.gateway.clone());
        tokio::spawn(async move {
            // Agents ask for themselves, but not for half a minute.
            app.publish_again(&name, hello.seen).await;
            for event in events {
                app.note(event).await;
            }
        });
        Stream { gateway: hello.gateway, number, events: stream }
    }

    /// Takes a session back. If it may not stay: what is told to the one who used it, and what is put on record.
    fn readmit(
        &self,
        gateway: &str,
        instance: Option<&InstanceId>,
        session: OpenSession,
        now: Timestamp,
    ) -> Option<(String, Event)> {
        let id = session.session.clone();
        // Into the registry first, decided after: see `decide_open`.
        let directory = self.directory();
        let path = directory.node(session.node_id).and_then(|node| directory.path_of_node(node));
        let Some(path) = path else {
            let asker =
                Asker::Account { credential: session.credential, peer: session.peer, connection: session.connection };
            let event = self.event(&directory, &asker, "session.end", format!("node {}", session.node_id).into(), now);
            let (reason, detail) = (Some(Reason::NotFound.to_string()), "the node was removed".into());
            let event = by_certgate(Event { reason, detail, session: Some(id), ..event });
            return Some(("the node was removed from its cluster".into(), event));
        };
        let session = Session {
            id: id.clone(),
            gateway: gateway.to_owned(),
            instance: instance.cloned(),
            connection: session.connection,
            peer: session.peer,
            credential: session.credential,
            node: session.node_id,
            path,
            since: session.since.min(now),
            // What the gateway does not know of, it is told; what it knows too much of, is taken back.
            leaves: session.leaves.then_some(Timestamp::from_millis(0)),
        };
        lock(&self.sessions).insert(session.clone());
        let directory = self.directory();
        let denial = match self.stays(&directory, &session, now) {
            Err(denial) => denial,
            Ok(lingering) => {
                self.leave(&session, lingering, now);
                return None;
            }
        };
        lock(&self.sessions).remove(&id);
        let event = self.ended(&session, &denial, now);
        Some((denial.user, event))
    }

    /// A gateway's event stream has ended. Its sessions stay: the gateway may live and come back with them.
    pub fn goodbye(&self, stream: &Stream) {
        if lock(&self.hub).disconnect(&stream.gateway, stream.number) {
            tracing::warn!(gateway = %stream.gateway, "gateway disconnected");
            // Whoever waits for its confirmation need not.
            self.heard.send_modify(|count| *count += 1);
        }
    }

    /// Lets a session's gateway know until when it may stay, or that it may stay after all, unless it knows.
    pub(super) fn leave(&self, session: &Session, lingering: Option<Lingering>, now: Timestamp) {
        // Held until it is told: who decides this at the same moment otherwise would be told in another order.
        let mut sessions = lock(&self.sessions);
        if !sessions.leave(&session.id, lingering.as_ref().map(|lingering| lingering.until)) {
            return;
        }
        let id = session.id.clone();
        let event = match lingering {
            None => GatewayEvent::Stay { session: id },
            Some(Lingering { until, warning, reason }) => {
                let left = until.since(now).as_millis().try_into().unwrap_or(u64::MAX);
                GatewayEvent::Leave { session: id, left, warning, reason }
            }
        };
        lock(&self.hub).broadcast(&event);
    }

    /// Whether what is open may stay open, and whether only for a while. A session that was admitted with a certificate does not end with it: a
    /// certificate is looked at when a connection starts, as sshd does. It ends when the certificate is revoked.
    pub(super) fn stays(
        &self,
        directory: &Directory,
        session: &Session,
        now: Timestamp,
    ) -> Result<Option<Lingering>, Denial> {
        let credential = &session.credential;
        if let Some(serial) = credential.certificate.filter(|serial| directory.denied_serial(*serial).is_some()) {
            let operator = format!("certificate {serial} was revoked");
            return Err(Denial::told(Reason::CertificateRevoked, operator, "your certificate was revoked"));
        }
        let by_key = Credential { certificate: None, ..credential.clone() };
        let identity = self.identity(directory, &by_key, session.peer, now)?;
        match stays(directory, &identity, session.node, &session.path, session.since, now)? {
            Stay::Permitted(_) => Ok(None),
            Stay::Lingers(lingering) => Ok(Some(lingering)),
        }
    }
}

/// What certgate did to somebody's session, rather than they themselves.
fn by_certgate(event: Event) -> Event {
    let object = format!("{} {}", event.object, event.actor);
    Event { actor: Actor::Authority, object, ..event }
}

/// The key and the serial number of a certificate that our CA has signed, as far as the reason for its refusal tells.
fn ours(blob: &str, reason: Reason) -> Option<(Fingerprint, Serial)> {
    let foreign = matches!(
        reason,
        Reason::CertificateFormat
            | Reason::CertificateNested
            | Reason::CertificateAuthority
            | Reason::CertificateSignature
    );
    let certificate = (!foreign).then(|| parse_certificate(&STANDARD.decode(blob).ok()?).ok()).flatten()?;
    Some((Fingerprint::of(certificate.public_key()), Serial(certificate.serial())))
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

fn dial(permit: &OpenPermit, session: &SessionId, since: Timestamp, reach: Reach) -> DialPermit {
    let (address, port) = permit.address();
    DialPermit {
        session: session.clone(),
        node: permit.path().clone(),
        node_id: permit.node(),
        project: permit.project().clone(),
        since,
        address,
        port,
        reach,
    }
}
