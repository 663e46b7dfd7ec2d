//! Node agents and machines that join: what each may send, what each gets, and that it can do nothing else.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod gateway_support;

use certgate::{
    app::protocol::{Event, NodeIdentity},
    bundle::{BundleKey, SignedBundle},
    domain::{Fingerprint, NodeId, Version},
};
use gateway_support::{Running, keygen, start, text, until, wire};
use russh::{
    Channel, ChannelMsg,
    client::{self, Handle, Msg},
    keys::PrivateKeyWithHashAlg,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

const HELLO: &str = "{\"hello\":{\"have\":null,\"host_certificate_until\":null}}\n";
const JOIN: &str = "{\"join\":{\"secret\":\"c2VjcmV0\",\"node\":\"login-0.h100.acme\"}}\n";

struct Anyone;

impl client::Handler for Anyone {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &russh::keys::PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

async fn ended(client: &Handle<Anyone>) {
    within("the connection ends", async {
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A connection with the key of this name, under this login.
async fn connect(gateway: &Running, login: &str, key: &str) -> Handle<Anyone> {
    let mut handle = client::connect(Arc::default(), gateway.address, Anyone).await.unwrap();
    let key = russh::keys::load_secret_key(gateway.dir.path().join(key), None).unwrap();
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    assert!(handle.authenticate_publickey(login, key).await.unwrap().success());
    handle
}

/// Makes a key and has the authority know it as a node's.
fn know(gateway: &Running, number: u64, path: &str) -> String {
    let name = format!("node-{number}");
    let key = wire(&keygen(gateway.dir.path(), &name, "ed25519"));
    let identity =
        NodeIdentity { node: NodeId(number), key: Fingerprint::from_bytes([2; 32]), path: path.parse().unwrap() };
    gateway.fake.nodes.lock().unwrap().insert(key, identity);
    name
}

/// What a channel request is answered.
async fn granted(channel: &mut Channel<Msg>) -> bool {
    within("the request is answered", async {
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => return true,
                Some(ChannelMsg::Failure) | None => return false,
                Some(_) => {}
            }
        }
    })
    .await
}

async fn agent(client: &Handle<Anyone>) -> Channel<Msg> {
    let mut channel = client.channel_open_session().await.unwrap();
    channel.request_subsystem(true, "certgate-node").await.unwrap();
    assert!(granted(&mut channel).await);
    channel
}

async fn say(channel: &Channel<Msg>, line: &str) {
    channel.data(line.as_bytes()).await.unwrap();
}

/// Reads until so much has come that it ends a line with these words in it; returns everything read.
async fn hear(channel: &mut Channel<Msg>, words: &str) -> String {
    let mut all = Vec::new();
    within(words, async {
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Data { data }) => all.extend_from_slice(&data),
                Some(_) => {}
                None => panic!("ended without {words}: {}", text(&all)),
            }
            if text(&all).contains(words) && all.ends_with(b"\n") {
                return text(&all);
            }
        }
    })
    .await
}

fn bundle(payload: &str) -> SignedBundle {
    let key = BundleKey::from(&ed25519_dalek::SigningKey::from_bytes(&[1; 32]));
    SignedBundle { payload: payload.into(), key, signature: String::new() }
}

fn relay(gateway: &Running, payload: &str) {
    let cluster = "h100.acme".parse().unwrap();
    gateway.fake.send(Event::Bundle { cluster, version: Version(2), bundle: bundle(payload), lingering: None });
}

/// Neither commands nor forwards.
async fn nothing_else(client: &Handle<Anyone>) {
    assert!(client.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1).await.is_err());
    let mut command = client.channel_open_session().await.unwrap();
    command.exec(true, "member list").await.unwrap();
    assert!(!granted(&mut command).await);
    command.request_shell(true).await.unwrap();
    assert!(!granted(&mut command).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_joins_may_send_one_token_and_nothing_else() {
    let gateway = start(|_| {}).await;
    keygen(gateway.dir.path(), "new", "ed25519");
    let client = connect(&gateway, "certgate-join", "new").await;
    nothing_else(&client).await;
    let mut channel = agent(&client).await;
    let mut second = client.channel_open_session().await.unwrap();
    second.request_subsystem(true, "certgate-node").await.unwrap();
    assert!(!granted(&mut second).await, "a second token would need a second channel");
    say(&channel, &format!("{JOIN}{JOIN}")).await;
    hear(&mut channel, "no such token").await;
    ended(&client).await;
    assert_eq!(gateway.fake.joins.lock().unwrap().len(), 1);
    assert!(gateway.fake.commands.lock().unwrap().is_empty() && gateway.fake.opened.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_is_bound_by_the_login_deadline() {
    let gateway = start(|limits| limits.login_deadline = Duration::from_secs(3)).await;
    keygen(gateway.dir.path(), "new", "ed25519");
    let client = connect(&gateway, "certgate-join", "new").await;
    let _silent = agent(&client).await;
    ended(&client).await;
    assert!(gateway.fake.joins.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_its_own_cluster_s_bundles_and_can_do_nothing_else() {
    let gateway = start(|_| {}).await;
    *gateway.fake.bundle.lock().unwrap() = Some(bundle("first"));
    let (one, other) = (know(&gateway, 1, "login-0.h100.acme"), know(&gateway, 2, "login-0.a100.acme"));
    let (one, other) = (connect(&gateway, "certgate-node", &one).await, connect(&gateway, "x", &other).await);
    nothing_else(&one).await;
    let (mut a, mut b) = (agent(&one).await, agent(&other).await);
    say(&a, HELLO).await;
    say(&b, HELLO).await;
    let heard = hear(&mut a, "first").await;
    assert!(heard.starts_with("{\"welcome\""), "{heard}");
    hear(&mut b, "first").await;
    say(&a, "{\"receipt\":{\"version\":1,\"problem\":null,\"ended\":0}}\n").await;
    until("the receipt arrives", || gateway.fake.receipts.lock().unwrap().len() == 1).await;
    assert_eq!(gateway.fake.receipts.lock().unwrap()[0].node.node, NodeId(1));
    relay(&gateway, "second");
    hear(&mut a, "second").await;
    // Whatever was relayed to the other cluster's agent would come before the answer to this.
    *gateway.fake.bundle.lock().unwrap() = Some(bundle("third"));
    say(&b, HELLO).await;
    assert!(!hear(&mut b, "third").await.contains("second"));
    gateway.fake.send(Event::NodeGone { node: NodeId(1) });
    ended(&one).await;
    assert!(!other.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_say_that_it_reads_of_grace_periods_is_sent_nothing_of_them() {
    let gateway = start(|_| {}).await;
    let lines = [
        ("old", HELLO.to_owned()),
        ("new", HELLO.replace("{\"have\"", "{\"lingers\":true,\"have\"")),
        ("silent", String::new()),
    ];
    let mut agents = Vec::new();
    for (number, (name, hello)) in lines.iter().enumerate() {
        let key = know(&gateway, number as u64 + 1, &format!("{name}.h100.acme"));
        let client = connect(&gateway, "certgate-node", &key).await;
        let mut channel = agent(&client).await;
        if !hello.is_empty() {
            say(&channel, hello).await;
            hear(&mut channel, "welcome").await;
        }
        agents.push((client, channel));
    }
    let cluster = "h100.acme".parse().unwrap();
    let (plain, lingering) = (bundle("plain"), Some(bundle("lingering")));
    gateway.fake.send(Event::Bundle { cluster, version: Version(2), bundle: plain, lingering });
    for ((_, channel), (is, is_not)) in agents.iter_mut().zip([("plain", "lingering"), ("lingering", "plain")]) {
        assert!(!hear(channel, is).await.contains(is_not));
    }
    // Nobody knows yet what it reads: what it lacks it gets when it says hello.
    relay(&gateway, "after it");
    let heard = hear(&mut agents[2].1, "after it").await;
    assert!(!heard.contains("plain") && !heard.contains("lingering"), "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_connection_of_a_node_takes_over_and_a_line_without_end_ends_the_channel() {
    let gateway = start(|_| {}).await;
    let name = know(&gateway, 1, "login-0.h100.acme");
    let (old, new) = (connect(&gateway, "x", &name).await, connect(&gateway, "x", &name).await);
    let mut a = agent(&old).await;
    say(&a, HELLO).await;
    hear(&mut a, "welcome").await;
    let mut b = agent(&new).await;
    ended(&old).await;
    relay(&gateway, "second");
    hear(&mut b, "second").await;
    say(&b, &"x".repeat(100_000)).await;
    within("the channel ends", async { while b.wait().await.is_some() {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_one_connection_or_nothing() {
    let gateway = start(|_| {}).await;
    let name = know(&gateway, 1, "login-0.h100.acme");
    let node = connect(&gateway, "x", &name).await;
    let mut channel = agent(&node).await;
    gateway.fake.panic_in_command.store(true, Ordering::SeqCst);
    let client = connect(&gateway, "user1", "id").await;
    let command = client.channel_open_session().await.unwrap();
    command.exec(true, "x").await.unwrap();
    until("it panics", || !gateway.fake.panic_in_command.load(Ordering::SeqCst)).await;
    assert_eq!(text(&gateway.run(&["127.0.0.1", "x"]).await.stdout), "line <x>\n");

    gateway.fake.panic_in_events.store(true, Ordering::SeqCst);
    gateway.fake.send(Event::Ping);
    until("the events are followed again", || gateway.fake.hellos.lock().unwrap().len() == 2).await;
    relay(&gateway, "after it");
    hear(&mut channel, "after it").await;
}
