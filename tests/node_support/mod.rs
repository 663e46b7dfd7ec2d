//! A gateway that relays what a test signs, for tests of a node's own programs; the gateway itself is tested elsewhere.

// Each test target uses its own part of this.
#![allow(dead_code)]
// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

use certgate::{
    app::protocol::{FromNode, JoinAnswer, Joined, ToNode},
    bundle::{Bundle, BundleKey, FORMAT, Login, SignedBundle},
    domain::{NodeId, PublicKey, Role, Timestamp, Uid, Version},
};
use ed25519_dalek::SigningKey;
use russh::{
    Channel, ChannelId,
    server::{self, Auth, ChannelOpenHandle, Msg, Session, VerifiedPublicKey},
};
use ssh_key::{
    PrivateKey,
    certificate::{Builder, CertType},
    private::Ed25519Keypair,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

pub const NODE: &str = "login-0.h100.acme";

pub fn ssh_key(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

pub fn public(key: &PrivateKey) -> PublicKey {
    PublicKey::from_key_data(key.public_key().key_data()).unwrap()
}

pub fn write_key(path: &Path, key: &PrivateKey) {
    fs::write(path, key.to_openssh(ssh_key::LineEnding::LF).unwrap()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

// The certificates of these tests are checked by a real sshd, which reads the real clock.
#[allow(clippy::disallowed_methods)]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub const HOST: u8 = 1;
pub const GATEWAY: u8 = 2;
pub const USER_CA: u8 = 3;
pub const HOST_CA: u8 = 4;
pub const OTHER_CA: u8 = 5;
pub const USER: u8 = 6;

pub fn authority() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub fn certify(kind: CertType, subject: u8, ca: u8, key_id: &str, principal: &str) -> String {
    let key = ssh_key(subject).public_key().key_data().clone();
    let mut builder = Builder::new(vec![1; 16], key, now() - 60, now() + 600).unwrap();
    builder.serial(11).unwrap().key_id(key_id).unwrap().cert_type(kind).unwrap();
    builder.valid_principal(principal).unwrap();
    builder.sign(&ssh_key(ca)).unwrap().to_openssh().unwrap()
}

pub fn signed(version: u64, users: &[&str]) -> SignedBundle {
    let logins = users.iter().map(|user| Login {
        name: user.parse().unwrap(),
        uid: Uid(12_345),
        role: Role::Member,
        principals: vec![format!("{user}@acme/ml"), format!("{user}@acme/ml/h100")],
    });
    let bundle = Bundle {
        format: FORMAT,
        cluster: "h100.acme".parse().unwrap(),
        version: Version(version),
        issued: Timestamp::from_secs(now()),
        logins: logins.collect(),
        groups: vec![],
        shared_logins: vec![],
        leaving: vec![],
        denied_serials: vec![],
        denied_keys: vec![],
        user_ca: vec![public(&ssh_key(USER_CA))],
        host_ca: vec![public(&ssh_key(HOST_CA))],
    };
    SignedBundle::sign(&bundle, &authority()).unwrap()
}

/// What the gateway relays, and what it has heard.
pub struct Relay {
    pub bundle: SignedBundle,
    pub version: u64,
    pub receipts: Vec<FromNode>,
    pub agents: Vec<(server::Handle, ChannelId)>,
    /// Makes each version after the first; whoever has one is sent the next at once.
    pub endless: Option<fn(u64) -> SignedBundle>,
}

impl Relay {
    /// What somebody lacks who has this.
    fn lacking(&mut self, have: Option<Version>) -> Option<ToNode> {
        if let Some(make) = self.endless.filter(|_| have == Some(Version(self.version))) {
            self.version += 1;
            self.bundle = make(self.version);
        }
        let lacks = have.is_none_or(|have| have.0 < self.version);
        lacks.then(|| ToNode::Bundle(self.bundle.clone()))
    }
}

pub type Shared = Arc<Mutex<Relay>>;

pub struct Gateway {
    relay: Shared,
    line: Vec<u8>,
}

impl Gateway {
    fn answer(&self, message: FromNode) -> Vec<ToNode> {
        let mut relay = self.relay.lock().unwrap();
        match message {
            FromNode::Hello { have, .. } => {
                let welcome = ToNode::Welcome { host_certificate: None, current: None };
                [welcome].into_iter().chain(relay.lacking(have)).collect()
            }
            FromNode::Receipt { version, .. } => {
                relay.receipts.push(message);
                let more = relay.endless.and_then(|_| relay.lacking(version));
                more.into_iter().collect()
            }
            FromNode::Sessions { .. } => vec![],
            FromNode::Join { secret, node } => {
                let joined = Joined {
                    node,
                    node_id: NodeId(1),
                    bundle_keys: vec![BundleKey::from(&authority())],
                    bundle: relay.bundle.clone(),
                    host_certificate: certify(CertType::Host, HOST, HOST_CA, NODE, NODE),
                };
                let answer = match &secret[..] {
                    "good" => JoinAnswer::Joined(Box::new(joined)),
                    _ => JoinAnswer::Refused { message: "the token has been used".into() },
                };
                vec![ToNode::Join(answer)]
            }
        }
    }
}

impl server::Handler for Gateway {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let ours = *key.public_key.key_data() == *ssh_key(HOST).public_key().key_data();
        Ok(if ours { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(&mut self, id: ChannelId, name: &str, session: &mut Session) -> Result<(), Self::Error> {
        assert_eq!(name, "certgate-node");
        self.relay.lock().unwrap().agents.push((session.handle(), id));
        session.channel_success(id)
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        self.line.extend_from_slice(data);
        while let Some(end) = self.line.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            for message in self.answer(serde_json::from_slice(&line).unwrap()) {
                session.data(id, format!("{}\n", serde_json::to_string(&message).unwrap()).into_bytes())?;
            }
        }
        Ok(())
    }
}

pub async fn serve(relay: Shared) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Arc::new(server::Config { keys: vec![ssh_key(GATEWAY)], ..server::Config::default() });
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let handler = Gateway { relay: Arc::clone(&relay), line: vec![] };
            let session = server::run_stream(Arc::clone(&config), stream, handler);
            tokio::spawn(async move { drop(session.await.unwrap().await) });
        }
    });
    port
}
