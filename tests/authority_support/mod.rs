//! The authority as a whole, in memory: a clock that the test moves, random numbers that count, keys by number, and the
//! story's organization.

use base64::{Engine, engine::general_purpose::STANDARD};
use certgate::{
    app::{
        App, Asker, Bastion, Clock, Entropy, NoEntropy, Site, Stream,
        protocol::{
            AuthenticateAnswer, AuthenticateRequest, CommandAnswer, Credential, Event, Hello, JoinAnswer, JoinRequest,
            NodeHelloAnswer, NodeHelloRequest, NodeIdentity, OpenAnswer, OpenRequest, OpenSession, Output, Presented,
            Reach, Terminal,
        },
        token::TokenText,
    },
    audit::Entry,
    bundle::SignedBundle,
    ca::CaKeys,
    command::{self, Invocation},
    domain::{PublicKey, SessionId, Timestamp, Version},
    policy::{CertificateSettings, NodeNetworks},
    store::{AuditQuery, Commit, MemoryStore, SqliteStore, Store, StoreError},
};
use ed25519_dalek::SigningKey;
use ssh_key::public::{Ed25519PublicKey, KeyData};
use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

/// A clock that stands still until it is moved.
struct Hands(AtomicU64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Different bytes every time.
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        let seed = self.0.fetch_add(1, Ordering::SeqCst);
        buffer.iter_mut().zip(seed.to_le_bytes().into_iter().cycle()).for_each(|(to, from)| *to = from);
        Ok(())
    }
}

struct Memory {
    store: Arc<MemoryStore>,
    keys: Arc<tempfile::TempDir>,
    provisioner: bool,
}

pub struct World {
    pub app: Arc<App>,
    store: Arc<dyn Store>,
    /// What another one can be made of, if it is all in memory.
    memory: Option<Memory>,
    clock: Arc<Hands>,
    entropy: Arc<Counter>,
    publishing: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
}

/// From where everybody comes.
pub const PEER: &str = "198.51.100.7";
/// As nodes see the gateway.
pub const GATEWAY: &str = "203.0.113.1";

pub fn key(number: u8) -> PublicKey {
    let public = SigningKey::from_bytes(&[number; 32]).verifying_key().to_bytes();
    PublicKey::from_key_data(&KeyData::Ed25519(Ed25519PublicKey(public))).unwrap()
}

impl World {
    pub async fn new() -> Self {
        Self::of(false, Self::settings()).await
    }

    /// One that asks the site's machinery about clusters and volumes.
    pub async fn with_machinery() -> Self {
        Self::of(true, Self::settings()).await
    }

    pub async fn with(certificates: CertificateSettings) -> Self {
        Self::of(false, certificates).await
    }

    fn settings() -> CertificateSettings {
        CertificateSettings { gateway_addresses: Some(GATEWAY.parse().unwrap()), ..CertificateSettings::default() }
    }

    async fn of(provisioner: bool, certificates: CertificateSettings) -> Self {
        let keys = tempfile::tempdir().unwrap();
        CaKeys::make(keys.path()).unwrap();
        let (commits, committed) = unbounded_channel();
        Self::in_memory(MemoryStore::new(commits), Arc::new(keys), committed, certificates, provisioner).await
    }

    /// Another one with the same in its store, sooner than the same commands run again. Of what is not in the store it
    /// has nothing: no gateway, no session.
    pub async fn fork(&self) -> Self {
        let Memory { store, keys, provisioner } = self.memory.as_ref().unwrap();
        let (commits, committed) = unbounded_channel();
        let fork = Self::in_memory(store.fork(commits), keys.clone(), committed, Self::settings(), *provisioner).await;
        fork.clock.0.store(self.clock.0.load(Ordering::SeqCst), Ordering::SeqCst);
        // What has been a random number is none any more.
        fork.entropy.0.store(self.entropy.0.load(Ordering::SeqCst), Ordering::SeqCst);
        fork
    }

    async fn in_memory(
        store: MemoryStore,
        keys: Arc<tempfile::TempDir>,
        committed: UnboundedReceiver<Commit>,
        certificates: CertificateSettings,
        provisioner: bool,
    ) -> Self {
        let store = Arc::new(store);
        let world = Self::over(store.clone(), keys.path(), committed, certificates, provisioner).await;
        Self { memory: Some(Memory { store, keys, provisioner }), ..world }
    }

    /// Over a state directory, which gets its keys if it is empty.
    pub async fn on_disk(state: &Path) -> Result<Self, StoreError> {
        if !CaKeys::present(state) {
            CaKeys::make(state).unwrap();
        }
        let (commits, committed) = unbounded_channel();
        let store = Arc::new(SqliteStore::open(state, commits)?);
        Ok(Self::over(store, state, committed, CertificateSettings::default(), false).await)
    }

    async fn over(
        store: Arc<dyn Store>,
        keys: &Path,
        committed: UnboundedReceiver<Commit>,
        certificates: CertificateSettings,
        provisioner: bool,
    ) -> Self {
        let ca = CaKeys::load(keys, keys).unwrap();
        let clock = Arc::new(Hands(AtomicU64::new(1_800_000_000_000)));
        let bastion = Bastion { host: "bastion.example.com".into(), port: 22 };
        let entropy = Arc::new(Counter(AtomicU64::new(1)));
        let node_networks = NodeNetworks::default();
        let upkeep = certgate::app::Upkeep::default();
        let site = Site { bastion, certificates, node_networks, provisioner, upkeep };
        let app = App::start(store.clone(), ca, site, clock.clone(), entropy.clone()).await.unwrap();
        let stop = CancellationToken::new();
        let publishing = tokio::spawn(app.clone().publish(committed, stop.clone()));
        Self { app, store, memory: None, clock, entropy, publishing, stop }
    }

    /// The whole audit log.
    pub async fn log(&self) -> Vec<Entry> {
        self.store.audit(AuditQuery::default()).await.unwrap().entries
    }

    /// As at a clean stop: what nobody waited for is on record, the log is in the journal, and its end is signed.
    pub async fn settle(&self) {
        let stop = CancellationToken::new();
        stop.cancel();
        self.app.clone().keep_audit(stop).await;
    }

    /// Ends it, and lets go of its state directory.
    pub async fn close(mut self) {
        self.stop.cancel();
        (&mut self.publishing).await.unwrap();
        self.settle().await;
        assert_eq!(Arc::strong_count(&self.app), 1, "somebody has the authority still");
    }

    /// The story's organization: admin1 (key 1) is admin and user1 (key 2) member of `acme/ml` with cluster `h100`;
    /// user2 (key 3) is in nothing.
    pub async fn story() -> Self {
        let world = Self::new().await;
        world.tell().await;
        world
    }

    pub async fn tell(&self) {
        let world = self;
        world.operator("org create acme").await;
        for (number, name) in [(1, "admin1"), (2, "user1"), (3, "user2")] {
            let line = format!("user create {name}@acme.example --org acme --name {name} --key '{}'", key(number));
            world.operator(&line).await;
        }
        world.operator("project create acme/ml --admin admin1@acme.example").await;
        world.operator("cluster create acme/ml h100").await;
        world.operator("member add acme/ml user1@acme.example").await;
    }

    pub fn now(&self) -> Timestamp {
        self.app.now()
    }

    /// A node's agent says that it is there.
    pub async fn hello_of(&self, node: &NodeIdentity) {
        self.bundle_for(node, true).await;
    }

    /// The same; what bundle an agent gets that has none, and can let people keep something for a while or cannot.
    pub async fn bundle_for(&self, node: &NodeIdentity, lingers: bool) -> Option<SignedBundle> {
        let (node, peer, reach) = (node.clone(), "192.0.2.7".parse().unwrap(), Reach::Direct);
        let (have, host_certificate_until, program) = (None, None, None);
        let request = NodeHelloRequest { node, peer, have, host_certificate_until, reach, program, lingers };
        match self.app.node_hello(request).await.unwrap() {
            NodeHelloAnswer::Welcome { bundle, .. } => bundle,
            NodeHelloAnswer::Refused => panic!("not a node"),
        }
    }

    pub fn pass(&self, time: Duration) {
        self.clock.0.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub async fn answer(
        &self,
        asker: &Asker,
        line: &str,
        terminal: Option<Terminal>,
        input: Option<&str>,
    ) -> CommandAnswer {
        command::run_line(&self.app, asker, line, terminal, input.iter().map(|&i| i.to_owned()).collect(), None).await
    }

    /// Words as they come in: an account's as one line, an operator's as they are.
    pub async fn type_words(&self, asker: &Asker, words: &[String], inputs: Vec<String>) -> CommandAnswer {
        match asker {
            Asker::Operator { .. } => {
                let invocation = Invocation { words: words.to_vec(), terminal: None, inputs, context: None };
                command::run(&self.app, asker, invocation).await
            }
            Asker::Account { .. } => {
                command::run_line(&self.app, asker, &shell_words::join(words), None, inputs, None).await
            }
        }
    }

    pub async fn operator(&self, line: &str) -> Output {
        let output = output(self.answer(&Asker::Operator { uid: 0 }, line, None, None).await);
        assert_eq!(output.exit, 0, "{line}: {}", output.stderr);
        output
    }

    /// Whose exit status says whether a gateway is connected.
    pub async fn operator_status(&self) -> String {
        output(self.answer(&Asker::Operator { uid: 0 }, "status", None, None).await).stdout
    }

    pub async fn refused_operator(&self, line: &str) -> String {
        let output = output(self.answer(&Asker::Operator { uid: 0 }, line, None, None).await);
        assert_eq!((output.exit, output.stdout.as_str()), (1, ""), "{line}: {}", output.stderr);
        output.stderr
    }

    pub async fn credential(&self, number: u8) -> Credential {
        self.credential_from(number, PEER).await
    }

    pub async fn credential_from(&self, number: u8, peer: &str) -> Credential {
        let request = AuthenticateRequest {
            connection: "c1".into(),
            peer: peer.parse().unwrap(),
            presented: Presented::Key(STANDARD.encode(key(number).to_wire())),
            joining: false,
        };
        match self.app.authenticate(request).await {
            AuthenticateAnswer::Account { credential, .. } => credential,
            other => panic!("{other:?}"),
        }
    }

    pub async fn asker(&self, number: u8) -> Asker {
        let credential = self.credential(number).await;
        Asker::Account { credential, peer: PEER.parse().unwrap(), connection: "c1".into() }
    }

    /// What somebody who comes from elsewhere is answered.
    pub async fn user_from(&self, number: u8, peer: &str, line: &str) -> Output {
        let credential = self.credential_from(number, peer).await;
        let asker = Asker::Account { credential, peer: peer.parse().unwrap(), connection: "c1".into() };
        output(self.answer(&asker, line, None, None).await)
    }

    pub async fn user(&self, number: u8, line: &str) -> Output {
        output(self.answer(&self.asker(number).await, line, None, None).await)
    }

    pub fn gateway(&self, sessions: Vec<OpenSession>) -> Stream {
        self.gateway_that_has_seen(None, sessions)
    }

    /// One that has listened before.
    pub fn gateway_that_has_seen(&self, seen: Option<Version>, sessions: Vec<OpenSession>) -> Stream {
        self.app.hello(Hello {
            gateway: "gw1".into(),
            instance: None,
            host_key: key(90),
            sessions,
            lost_after: 300,
            seen,
            program: None,
        })
    }

    pub async fn open(&self, number: u8, session: u128, host: &str) -> Result<SessionId, String> {
        self.open_from(number, PEER, session, host).await
    }

    pub async fn open_from(&self, number: u8, peer: &str, session: u128, host: &str) -> Result<SessionId, String> {
        let request = OpenRequest {
            gateway: "gw1".into(),
            instance: None,
            connection: format!("c{session}"),
            peer: peer.parse().unwrap(),
            credential: self.credential_from(number, peer).await,
            session: SessionId::from_bits(session),
            host: host.into(),
            port: 22,
            tried: vec![],
        };
        match self.app.open(request).await {
            OpenAnswer::Permit(permit) => Ok(permit.session),
            OpenAnswer::Refused { message, .. } => Err(message),
        }
    }

    pub async fn token(&self, node: &str) -> TokenText {
        self.operator(&format!("node token {node} --address 192.0.2.7 --port 2201")).await.stdout.parse().unwrap()
    }

    pub async fn join(&self, token: &TokenText, number: u8, node: &str) -> JoinAnswer {
        let request = JoinRequest {
            connection: "j".into(),
            peer: PEER.parse::<IpAddr>().unwrap(),
            host_key: key(number),
            secret: token.secret.clone(),
            node: node.parse().unwrap(),
        };
        self.app.join(request).await
    }

    /// A node of `h100`, made while a gateway was connected that is no longer.
    pub async fn node_with_gateway(&self) -> NodeIdentity {
        let _stream = self.gateway(vec![]);
        self.node("login-0.h100.acme", 50).await
    }

    pub async fn node(&self, name: &str, number: u8) -> NodeIdentity {
        let token = self.token(name).await;
        match self.join(&token, number, name).await {
            JoinAnswer::Joined(joined) => {
                NodeIdentity { node: joined.node_id, key: key(number).fingerprint(), path: joined.node }
            }
            JoinAnswer::Refused { message } => panic!("{message}"),
        }
    }
}

pub fn output(answer: CommandAnswer) -> Output {
    match answer {
        CommandAnswer::Output(output) => output,
        CommandAnswer::Input { prompt, .. } => panic!("asked for input: {prompt}"),
    }
}

pub async fn next(stream: &mut Stream) -> Event {
    // Generous: it only bounds how long a failing test hangs.
    tokio::time::timeout(Duration::from_secs(20), stream.events.recv()).await.unwrap().unwrap()
}

/// Events until an end of a session, which is returned; bundles may come before or after.
pub async fn next_end(stream: &mut Stream) -> (SessionId, String) {
    loop {
        if let Event::End { session, reason } = next(stream).await {
            return (session, reason);
        }
    }
}
