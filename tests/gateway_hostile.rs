//! Peers that keep to no rule before they have authenticated, and afterwards: they are refused, and others are served.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod gateway_support;

use certgate::gateway::THREAD_STACK_BYTES;
use gateway_support::{Running, start, text};
use russh::{
    client,
    keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg},
};
use ssh_key::{
    Certificate,
    certificate::{Builder, CertType},
    private::Ed25519Keypair,
};
use std::sync::Arc;
use tokio::runtime::{Builder as Runtime, Runtime as Tokio};

struct Anyone;

impl client::Handler for Anyone {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &russh::keys::PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

async fn connect(gateway: &Running) -> client::Handle<Anyone> {
    client::connect(Arc::new(client::Config::default()), gateway.address, Anyone).await.unwrap()
}

/// The account's own key still gets in, by OpenSSH.
async fn serves(gateway: &Running) {
    let output = gateway.run(&["127.0.0.1", "hello"]).await;
    // What the fake authority answers every command with.
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::new(Ed25519Keypair::from_seed(&[seed; 32]).into(), "").unwrap()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// The wire format of a certificate whose CA is a certificate whose CA is a certificate …
fn nested(levels: usize) -> Vec<u8> {
    let mut builder = Builder::new([1; 16], key(1).public_key().key_data().clone(), 0, u64::MAX >> 1).unwrap();
    builder.cert_type(CertType::User).unwrap().valid_principal("user1@acme/ml").unwrap();
    let good = builder.sign(&key(2)).unwrap().to_bytes().unwrap();
    // Its last two fields: string(CA key), 4 + 51 bytes, and string(signature), 4 + 83 bytes.
    let (start, signature) = (&good[..good.len() - 87 - 55], &good[good.len() - 87..]);
    (1..levels).fold(good.clone(), |inner, _| [start, &string(&inner), signature].concat())
}

fn runtime(stack: usize) -> Tokio {
    Runtime::new_multi_thread().enable_all().worker_threads(2).thread_stack_size(stack).build().unwrap()
}

/// A nested certificate is within the packet with which a peer authenticates: russh parses it before it asks anybody.
#[test]
fn certificates_within_certificates_end_nothing_but_their_connection() {
    // With the stack that the daemon gives its threads, and in a build that needs more of it than a release.
    let gateways = runtime(THREAD_STACK_BYTES);
    let gateway = gateways.block_on(gateways.spawn(start(|_| {}))).unwrap();
    // The client has to parse what it sends as well.
    let clients = runtime(1 << 30);
    for levels in [2, 8, 20, 300] {
        let bytes = nested(levels);
        assert!(bytes.len() < 250_000, "{} bytes are more than a packet holds", bytes.len());
        let address = gateway.address;
        let outcome = clients.block_on(clients.spawn(async move {
            let certificate = Certificate::from_bytes(&bytes).unwrap();
            let mut handle = client::connect(Arc::new(client::Config::default()), address, Anyone).await.unwrap();
            handle.authenticate_openssh_cert("user1", Arc::new(key(1)), certificate).await
        }));
        let let_in = outcome.unwrap().is_ok_and(|outcome| outcome.success());
        assert!(!let_in, "{levels} levels were let in");
        clients.block_on(serves(&gateway));
    }
    assert!(
        gateway.fake.presented.lock().unwrap().iter().all(|p| matches!(p, certgate::app::protocol::Presented::Key(_)))
    );
}

/// Says whose key it has, and never proves it.
struct Never;

struct NeverSigns;

impl From<russh::SendError> for NeverSigns {
    fn from(_: russh::SendError) -> Self {
        Self
    }
}

impl russh::Signer for Never {
    type Error = NeverSigns;

    async fn auth_sign(
        &mut self,
        _: &russh::keys::agent::AgentIdentity,
        _: Option<HashAlg>,
        _: Vec<u8>,
    ) -> Result<Vec<u8>, NeverSigns> {
        Err(NeverSigns)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_that_are_never_proved_are_counted() {
    let gateway = start(|limits| limits.auth_attempts = 7).await;
    let mut handle = connect(&gateway).await;
    let mut asked_to_sign = 0;
    for number in 0..50 {
        let offered = key(number).public_key().clone();
        match handle.authenticate_publickey_with("user1", offered, None, &mut Never).await {
            Err(NeverSigns) => asked_to_sign += 1,
            Ok(outcome) => assert!(!outcome.success()),
        }
        if handle.is_closed() {
            break;
        }
    }
    assert!(handle.is_closed(), "fifty offers were heard out");
    assert!(asked_to_sign <= 8, "{asked_to_sign} offers were answered");
    // An offer is no login: the authority was never asked who that is.
    assert!(gateway.fake.presented.lock().unwrap().is_empty());
    serves(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_so_many_channels_and_no_more() {
    let gateway = start(|limits| limits.channels = 5).await;
    let mut handle = connect(&gateway).await;
    let own = russh::keys::load_secret_key(gateway.dir.path().join("id"), None).unwrap();
    let own = PrivateKeyWithHashAlg::new(Arc::new(own), None);
    assert!(handle.authenticate_publickey("user1", own).await.unwrap().success());
    let mut open = Vec::new();
    for _ in 0..20 {
        open.extend(handle.channel_open_session().await.ok());
    }
    assert_eq!(open.len(), 5);
    serves(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_opens_before_somebody_is_known() {
    let gateway = start(|_| {}).await;
    let handle = connect(&gateway).await;
    let waiting = std::time::Duration::from_secs(20);
    let opened = tokio::time::timeout(waiting, handle.channel_open_session()).await;
    assert!(!matches!(opened, Ok(Ok(_))), "a channel was opened");
    let handle = connect(&gateway).await;
    let opened = tokio::time::timeout(waiting, handle.channel_open_direct_tcpip("127.0.0.1", 22, "127.0.0.1", 1)).await;
    assert!(!matches!(opened, Ok(Ok(_))), "a forward was opened");
    assert!(gateway.fake.opened.lock().unwrap().is_empty());
    serves(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_keys_are_offered_and_only_without_sha_1() {
    let gateway = start(|_| {}).await;
    let preferred = "PreferredAuthentications=password,keyboard-interactive,hostbased,gssapi-with-mic";
    let output = gateway.run(&["-v", "-o", preferred, "127.0.0.1", "hello"]).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(255));
    assert!(
        said.contains("Authentications that can continue: publickey\r") || said.contains("can continue: publickey\n"),
        "{said}"
    );

    let rsa = gateway_support::keygen(gateway.dir.path(), "rsa", "rsa");
    gateway.fake.known.lock().unwrap().insert(gateway_support::wire(&rsa));
    let with = async |algorithm: &str| {
        let accepted = format!("PubkeyAcceptedAlgorithms={algorithm}");
        let arguments = ["-i", rsa.to_str().unwrap(), "-o", &accepted, "127.0.0.1", "hello"];
        gateway.ssh(&arguments).output().await.unwrap().status.code()
    };
    assert_eq!(with("rsa-sha2-512").await, Some(3));
    assert_eq!(with("ssh-rsa").await, Some(255), "a SHA-1 signature was accepted");
}
