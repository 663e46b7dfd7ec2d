//! What nodes say of themselves: their sessions, shown with what gateways know, each once, and to nobody whom it does not
//! concern; and what they have.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{World, key, next, output};
use certgate::{
    app::{
        Asker,
        node_sessions::{MAX_NODE_SESSIONS, NodeSession, SessionCertificate},
        protocol::{ClosedRequest, Event, Marked, NodeIdentity, NodeReceiptRequest, NodeSessionsRequest},
    },
    domain::{Serial, Timestamp, Version},
};
use serde_json::Value;
use std::time::Duration;

/// user1's key.
const HERS: u8 = 2;
/// And her address.
const HER_EMAIL: &str = "user1@acme.example";

fn session(process: u32, login: &str, certificate: Option<(&str, u64, u8)>) -> NodeSession {
    let certificate = certificate.map(|(owner, serial, number)| SessionCertificate {
        owner: owner.parse().unwrap(),
        serial: Serial(serial),
        key: key(number).fingerprint(),
    });
    NodeSession {
        process,
        start: 7,
        login: login.to_owned().try_into().unwrap(),
        certificate,
        since: Timestamp::from_secs(1_800_000_100 + u64::from(process)),
    }
}

fn say(world: &World, node: &NodeIdentity, sessions: Vec<NodeSession>) {
    world.app.node_sessions(NodeSessionsRequest { node: node.clone(), sessions, more: 0 });
}

async fn shown(world: &World, user: Option<u8>) -> Vec<Value> {
    let output = match user {
        None => world.operator("session list --json").await,
        Some(user) => world.user(user, "session list --json").await,
    };
    serde_json::from_str(&output.stdout).unwrap()
}

/// Process on the node, gateway, serial number and account of one.
type Summary<'a> = (Option<u64>, Option<&'a str>, Option<u64>, &'a str);

fn summary(sessions: &[Value]) -> Vec<Summary<'_>> {
    sessions.iter().map(one).collect()
}

fn one(session: &Value) -> Summary<'_> {
    let number = |name: &str| session[name].as_u64();
    (number("process"), session["gateway"].as_str(), number("certificate"), session["account"].as_str().unwrap())
}

#[tokio::test]
async fn a_session_that_gateway_and_node_know_is_one_and_what_came_past_the_gateway_is_direct() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    let node = world.node("login-0.h100.acme", 50).await;
    let through = world.open(HERS, 1, "login-0.h100.acme").await.unwrap();
    let (hers, his) = ("user1@acme.example", "admin1@acme.example");
    assert_eq!(summary(&shown(&world, None).await), [(None, Some("gw1"), None, hers)]);
    // With a certificate on the key that the connection to the gateway was made with; one on another key; somebody
    // else's; and one that nobody knows about.
    say(
        &world,
        &node,
        vec![
            session(10, "user1", Some(("user1", 71, HERS))),
            session(11, "user1", Some(("user1", 72, 99))),
            session(12, "ubuntu", Some(("admin1", 73, 1))),
            session(13, "user1", None),
        ],
    );
    let all = shown(&world, None).await;
    assert_eq!(
        summary(&all),
        [
            (Some(10), Some("gw1"), Some(71), hers),
            (Some(11), None, Some(72), hers),
            (Some(12), None, Some(73), his),
            (Some(13), None, None, hers),
        ]
    );
    assert_eq!(all[0]["session"], through.to_string());
    assert_eq!((&all[2]["login"], &all[2]["session"]), (&"ubuntu".into(), &"login-0.h100.acme:12.7".into()));
    let text = world.operator("session list").await.stdout;
    assert!(text.contains("gateway gw1") && text.contains("direct") && text.contains("73"), "{text}");
    // Each sees their own, and what is asked before a removal counts them too.
    assert_eq!(shown(&world, Some(HERS)).await.len(), 3);
    assert_eq!(shown(&world, Some(1)).await.len(), 1);
    assert_eq!(shown(&world, Some(3)).await.len(), 0);
    // All of them are said each time.
    say(&world, &node, vec![session(12, "ubuntu", Some(("admin1", 73, 1)))]);
    assert_eq!(shown(&world, None).await.len(), 2);
}

#[tokio::test]
async fn a_node_speaks_for_itself_only_and_tells_strangers_nothing() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    let node = world.node("login-0.h100.acme", 50).await;
    // user2 is in no project: that this node has a session of theirs is a lie, and would tell that there is such a node.
    say(&world, &node, vec![session(10, "user2", Some(("user2", 71, 3)))]);
    assert_eq!(shown(&world, Some(3)).await.len(), 0);
    assert_eq!(shown(&world, None).await.len(), 1, "an operator sees what it says");
    // Another key under its number is not that node.
    let impostor = NodeIdentity { key: key(51).fingerprint(), ..node.clone() };
    say(&world, &impostor, vec![]);
    assert_eq!(shown(&world, None).await.len(), 1);
    let many = (0..u32::try_from(MAX_NODE_SESSIONS).unwrap() + 5).map(|n| session(n, "user1", None)).collect();
    say(&world, &node, many);
    assert_eq!(shown(&world, None).await.len(), MAX_NODE_SESSIONS);
    world.operator("node remove login-0.h100.acme --yes").await;
    say(&world, &node, vec![session(10, "user1", None)]);
    assert_eq!(shown(&world, None).await.len(), 0, "it is a node no more");
}

#[tokio::test]
async fn a_session_that_came_past_the_gateways_is_ended_by_its_node_for_its_owner_and_operators() {
    let world = World::story().await;
    let mut stream = world.gateway(vec![]);
    let node = world.node("login-0.h100.acme", 50).await;
    let sessions = || {
        vec![
            session(10, "user1", Some(("user1", 71, HERS))),
            session(11, "ubuntu", Some(("admin1", 73, 1))),
            session(12, "user2", Some(("user2", 74, 3))),
        ]
    };
    let receipt = NodeReceiptRequest { node: node.clone(), version: Some(Version(1)), problem: None, ended: 0 };
    world.app.node_receipt(receipt);
    say(&world, &node, sessions());
    let refused = async |user, name: &str| {
        let answer = world.answer(&world.asker(user).await, &format!("session end {name}"), None, None).await;
        let answer = output(answer);
        assert_eq!(answer.exit, 1, "{}", answer.stdout);
        answer.stderr
    };
    // Somebody else's; one that is not there; one whose process number is another's by now; and one that a node says is
    // theirs, of whom it must not show that it exists.
    for (user, name) in [
        (HERS, "login-0.h100.acme:11.7"),
        (HERS, "login-0.h100.acme:99.7"),
        (HERS, "login-0.h100.acme:10.8"),
        (HERS, "login-9.h100.acme:10.7"),
        (3, "login-0.h100.acme:12.7"),
    ] {
        assert_eq!(refused(user, name).await, format!("no such open session: {name}\n"));
    }
    let mut end = async |user: Option<u8>, number: u32, left: Vec<NodeSession>| {
        let asker = match user {
            Some(user) => world.asker(user).await,
            None => Asker::Operator { uid: 0 },
        };
        let line = format!("session end login-0.h100.acme:{number}.7");
        let work = world.answer(&asker, &line, None, None);
        let hear = async {
            let order = loop {
                if let Event::EndOnNode { node: told, order } = next(&mut stream).await {
                    assert_eq!(told, node.node);
                    break order.open(&[order.key], &"login-0.h100.acme".parse().unwrap()).unwrap().unwrap();
                }
            };
            say(&world, &node, left);
            order
        };
        let (answer, order) = tokio::join!(work, hear);
        (output(answer), order)
    };
    let (answer, order) = end(Some(HERS), 10, sessions()[1..].to_vec()).await;
    assert_eq!((answer.exit, answer.stdout.as_str()), (0, ""), "{}", answer.stderr);
    assert_eq!(answer.stderr, "ended login-0.h100.acme:10.7\n");
    assert_eq!((order.process, order.start, order.login.as_str(), order.by.as_str()), (10, 7, "user1", HER_EMAIL));
    let (answer, order) = end(None, 11, vec![]).await;
    assert_eq!((answer.exit, order.login.as_str(), order.by.as_str()), (0, "ubuntu", "an operator"));
    let log = world.operator("audit list --what session.end --json").await.stdout;
    assert!(log.contains("of user1 on login-0.h100.acme, certificate 71"), "{log}");
    // Who is not there cannot be told.
    say(&world, &node, sessions());
    world.pass(Duration::from_secs(240));
    assert!(refused(HERS, "login-0.h100.acme:10.7").await.contains("last heard 4 min ago"));
}

#[tokio::test]
async fn a_receipt_says_how_many_sessions_ended() {
    let world = World::story().await;
    let stream = world.gateway(vec![]);
    let mark = Marked { gateway: "gw1".into(), version: Version(1 << 40) };
    world.app.closed(ClosedRequest { sessions: vec![], done: Some(mark) }).await;
    let node = world.node("login-0.h100.acme", 50).await;
    let receipt = |version, ended| {
        let version = Some(Version(version));
        world.app.node_receipt(NodeReceiptRequest { node: node.clone(), version, problem: None, ended });
    };
    receipt(1, 5);
    let version = world.app.directory().version().0;
    receipt(version + 1, 2);
    let removal = world.operator("member remove acme/ml user1@acme.example --yes --wait").await;
    assert!(removal.stdout.contains("2 sessions ended there"), "{}", removal.stdout);
    let removal = world.operator("member add acme/ml user1@acme.example").await;
    assert_eq!(removal.exit, 0);
    receipt(version + 100, 0);
    let removal = world.operator("member remove acme/ml user1@acme.example --yes --wait --json").await;
    let receipts: Value = serde_json::from_str(&removal.stdout).unwrap();
    assert_eq!(receipts["receipts"][0]["ended"], 0, "those of another version don't count: {receipts}");

    // A gateway that has something open and cannot be told is named first.
    world.operator("member add acme/ml user1@acme.example").await;
    world.open(2, 1, "login-0.h100.acme").await.unwrap();
    world.app.goodbye(&stream);
    receipt(version + 200, 0);
    let line = "member remove acme/ml user1@acme.example --yes --wait";
    let removal = output(world.answer(&Asker::Operator { uid: 0 }, line, None, None).await);
    let first = removal.stdout.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!((removal.exit, first.as_str()), (1, "gateway gw1 not confirmed: it is not connected"));
    assert!(removal.stderr.contains("1 of 2 have not confirmed"), "{}", removal.stderr);
}

#[tokio::test]
async fn nodes_that_are_behind_or_silent_come_first_and_in_words() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    let [good, behind, silent] = [
        world.node("login-0.h100.acme", 50).await,
        world.node("login-1.h100.acme", 51).await,
        world.node("login-2.h100.acme", 52).await,
    ];
    let say = |node: &NodeIdentity, version| {
        let request =
            NodeReceiptRequest { node: node.clone(), version: Some(Version(version)), problem: None, ended: 0 };
        world.app.node_receipt(request);
    };
    let nodes: Value = serde_json::from_str(&world.operator("node list h100.acme --json").await.stdout).unwrap();
    let wanted = nodes[0]["wanted"].as_u64().unwrap();
    say(&silent, wanted);
    world.pass(Duration::from_secs(240));
    say(&good, wanted);
    say(&behind, wanted - 1);
    let listed = |text: &str| {
        let lines = text.lines().filter(|line| line.contains(".h100.acme"));
        let parts = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        parts.map(|line| line.replace(" login 192.0.2.7:2201", "")).collect::<Vec<_>>()
    };
    let one: Value = serde_json::from_str(&world.operator("node show login-1.h100.acme --json").await.stdout).unwrap();
    let listed_one = serde_json::from_str::<Value>(&world.operator("node list h100.acme --json").await.stdout).unwrap();
    for (name, value) in listed_one[0].as_object().unwrap() {
        assert_eq!(&one[name], value, "{name}");
    }
    assert_eq!((&one["project"], &one["sessions"]), (&"acme/ml".into(), &0.into()));
    let shown = world.user(2, "node show login-2.h100.acme").await.stdout;
    assert!(shown.contains(&format!("last heard 4 min ago, version {wanted}")), "{shown}");
    assert_eq!(world.user(2, "node show login-9.h100.acme").await.stderr, "no such node: login-9.h100.acme\n");
    let text = world.operator("node list h100.acme").await.stdout;
    assert_eq!(
        listed(&text),
        [
            format!("login-1.h100.acme version {} of {wanted}", wanted - 1),
            format!("login-2.h100.acme last heard 4 min ago, version {wanted}"),
            format!("login-0.h100.acme version {wanted}"),
        ]
    );
    // So do those who have not confirmed a removal.
    say(&good, wanted + 1000);
    let line = "member remove acme/ml user1@acme.example --yes --wait";
    let removal = output(world.answer(&Asker::Operator { uid: 0 }, line, None, None).await);
    assert_eq!(removal.exit, 1);
    let version = world.app.directory().version();
    let lines = listed(&removal.stdout);
    assert_eq!(
        lines[..2],
        [
            format!("login-1.h100.acme not confirmed: version {} of {version}", wanted - 1),
            format!("login-2.h100.acme not confirmed: last heard 4 min ago, version {wanted} of {version}"),
        ]
    );
    assert!(lines[2].starts_with("login-0.h100.acme confirmed at "), "{lines:?}");
}
