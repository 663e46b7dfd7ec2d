//! What is on record, who finds it, and how one gets from a certificate's serial number to everything.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{PEER, World, key, next, next_end, output};
use base64::{Engine, engine::general_purpose::STANDARD};
use certgate::{
    app::{
        Asker,
        protocol::{
            AuthenticateAnswer, AuthenticateRequest, ClosedRequest, ClosedSession, Event, NodeHelloAnswer,
            NodeHelloRequest, NodeIdentity, OpenAnswer, OpenRequest, OpenSession, Presented, Reach,
        },
    },
    domain::{NodeId, SessionId, Timestamp},
};
use serde_json::Value;
use std::time::Duration;

const NODE: &str = "login-0.h100.acme";

async fn entries(world: &World, filter: &str) -> Vec<Value> {
    let listed = world.operator(&format!("audit list --json --limit 10000 {filter}")).await.stdout;
    serde_json::from_str::<Value>(&listed).unwrap()["entries"].as_array().unwrap().clone()
}

/// `action object outcome reason` of the entries that a filter finds.
async fn found(world: &World, filter: &str) -> Vec<String> {
    let field = |event: &Value, name: &str| event[name].as_str().unwrap_or("-").to_owned();
    let entries = entries(world, filter).await;
    let events = entries.iter().map(|entry| &entry["event"]);
    let line = |event: &Value| ["action", "object", "outcome", "reason"].map(|name| field(event, name)).join(" ");
    events.map(line).collect()
}

async fn authenticate(world: &World, presented: Presented) -> AuthenticateAnswer {
    let (connection, peer) = ("0123456789abcdef".into(), PEER.parse().unwrap());
    world.app.authenticate(AuthenticateRequest { connection, peer, presented, joining: false }).await
}

fn presents(number: u8) -> Presented {
    Presented::Key(STANDARD.encode(key(number).to_wire()))
}

#[tokio::test]
async fn refused_logins_of_the_known_are_on_record_and_those_of_strangers_are_not() {
    let world = World::story().await;
    let blob = world.user(2, "cert").await.stdout.split(' ').nth(1).unwrap().to_owned();
    for number in 70..90 {
        assert_eq!(authenticate(&world, presents(number)).await, AuthenticateAnswer::Refused);
    }
    let foreign = STANDARD.encode(b"\0\0\0\x20ssh-ed25519-cert-v01@openssh.com");
    assert_eq!(authenticate(&world, Presented::Certificate(foreign)).await, AuthenticateAnswer::Refused);
    world.settle().await;
    assert_eq!(found(&world, "--what authenticate").await, [""; 0], "strangers can fill the disk");

    // Suspended: let in to be told so, and that is on record.
    world.operator("user suspend user1@acme.example").await;
    assert!(matches!(authenticate(&world, presents(2)).await, AuthenticateAnswer::Account { .. }));
    assert_eq!(authenticate(&world, Presented::Certificate(blob.clone())).await, AuthenticateAnswer::Refused);
    world.operator("user resume user1@acme.example").await;
    // A key that was somebody's.
    world.operator(&format!("key remove {} --account user2@acme.example --yes", key(3).fingerprint())).await;
    assert_eq!(authenticate(&world, presents(3)).await, AuthenticateAnswer::Refused);
    // A certificate of ours that is good no more.
    world.operator("certificate revoke 1").await;
    assert_eq!(authenticate(&world, Presented::Certificate(blob)).await, AuthenticateAnswer::Refused);
    world.settle().await;
    assert_eq!(
        found(&world, "--what authenticate").await,
        [
            "authenticate key refused suspended",
            "authenticate certificate refused suspended",
            "authenticate key refused unknown-key",
            "authenticate certificate refused certificate-revoked",
        ]
    );
    let entries = entries(&world, "--what authenticate").await;
    let event = &entries[3]["event"];
    assert_eq!(event["actor"]["account"]["email"], "user1@acme.example");
    assert_eq!(event["actor"]["account"]["key"], key(2).fingerprint().to_string());
    assert_eq!((&event["certificate"], &event["source"]), (&Value::from(1), &Value::from(PEER)));
    assert_eq!(event["connection"], "0123456789abcdef");
    assert_eq!(entries[2]["event"]["actor"]["account"]["email"], "user2@acme.example");
}

#[tokio::test]
async fn whoever_is_refused_again_and_again_is_a_number() {
    let world = World::story().await;
    world.operator("user suspend user1@acme.example").await;
    for _ in 0..500 {
        authenticate(&world, presents(2)).await;
    }
    world.settle().await;
    let entries = entries(&world, "--what authenticate").await;
    let details: Vec<_> = entries.iter().map(|entry| entry["event"]["detail"].as_str().unwrap()).collect();
    let (number, each) = details.split_last().unwrap();
    assert_eq!(each, ["account user1@acme.example is suspended"; 8]);
    assert_eq!(*number, "492 more since 2027-01-15 08:00 UTC, the last: account user1@acme.example is suspended");
}

#[tokio::test]
async fn machines_that_are_nodes_no_more_are_on_record() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    let node = world.node(NODE, 50).await;
    let hello = async |node: NodeIdentity, have| {
        let request = NodeHelloRequest {
            node,
            peer: PEER.parse().unwrap(),
            have,
            host_certificate_until: None,
            reach: Reach::Direct,
            program: None,
            lingers: true,
        };
        world.app.node_hello(request).await.unwrap()
    };
    world.operator(&format!("node remove {NODE} --yes")).await;
    let last = Some(world.app.directory().version());
    assert!(matches!(hello(node.clone(), None).await, NodeHelloAnswer::Welcome { .. }));
    for _ in 0..10 {
        assert_eq!(hello(node.clone(), last).await, NodeHelloAnswer::Refused);
        // One that never was a node is not worth a record: a gateway could name any number of them.
        let stranger = NodeIdentity { node: NodeId(77), key: key(77).fingerprint(), path: NODE.parse().unwrap() };
        assert_eq!(hello(stranger, last).await, NodeHelloAnswer::Refused);
    }
    world.settle().await;
    let refused = found(&world, "--what node.hello").await;
    assert_eq!(refused, vec![format!("node.hello {NODE} refused not-found"); 9]);
    assert!(entries(&world, "--what node.hello").await[8]["event"]["detail"].as_str().unwrap().starts_with("2 more "));
}

#[tokio::test]
async fn what_a_gateway_comes_back_without_or_may_not_keep_is_on_record() {
    let world = World::story().await;
    let stream = world.gateway(vec![]);
    let node = world.node(NODE, 50).await;
    let kept = world.open(1, 1, NODE).await.unwrap();
    let lost = world.open(1, 2, NODE).await.unwrap();
    let hers = world.open(2, 3, NODE).await.unwrap();
    drop(stream);
    // Longer than a hello can be overtaken by.
    world.pass(Duration::from_secs(60));
    world.operator("member remove acme/ml user1@acme.example --yes").await;
    let session = |session: &SessionId, credential| OpenSession {
        session: session.clone(),
        connection: "c".into(),
        peer: PEER.parse().unwrap(),
        credential,
        node_id: node.node,
        since: Timestamp::from_secs(1_800_000_000),
        leaves: false,
    };
    let (his, her) = (world.credential(1).await, world.credential(2).await);
    let gone = OpenSession { node_id: NodeId(77), ..session(&SessionId::from_bits(4), his.clone()) };
    let listed = vec![session(&kept, his), session(&hers, her), gone];
    let mut stream = world.gateway(listed);
    assert_eq!(next(&mut stream).await, Event::Ready);
    assert_eq!(next_end(&mut stream).await.0, hers);
    assert_eq!(next_end(&mut stream).await.0, SessionId::from_bits(4));
    // What a hello leaves on record is written beside it.
    for _ in 0..1000 {
        world.settle().await;
        if found(&world, "--what session.close").await.len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let about = async |session: &SessionId| found(&world, &format!("--session {session}")).await;
    assert_eq!(about(&kept).await, [format!("session.open {NODE} done -")]);
    assert_eq!(about(&lost).await[1..], [format!("session.close {NODE} done -")]);
    assert!(
        about(&hers).await.contains(&format!("session.end {NODE} user1@acme.example done removed")),
        "{:?}",
        about(&hers).await
    );
    assert_eq!(about(&SessionId::from_bits(4)).await, ["session.end node 77 admin1@acme.example done not-found"]);
}

#[tokio::test]
async fn the_log_is_searched_by_everything_that_it_says() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    world.node(NODE, 50).await;
    world.pass(Duration::from_secs(3 * 3600));
    world.user(3, "member add acme/ml user2@acme.example").await;
    world.pass(Duration::from_secs(3600));
    world.user(2, "cert").await;
    output(world.answer(&Asker::Operator { uid: 1000 }, "org create other", None, None).await);
    let fingerprint = key(2).fingerprint();
    for (filter, expected) in [
        ("--who uid:1000", vec!["org.create other done -"]),
        (&format!("--who {fingerprint}"), vec!["certificate.issue certificate done -"]),
        ("--who USER1@acme.example", vec!["certificate.issue certificate done -"]),
        (
            &format!("--who {NODE}"),
            vec!["node.join login-0.h100.acme done -", "host-certificate.issue login-0.h100.acme done -"],
        ),
        ("--who user2@acme.example --outcome refused", vec!["member.add acme/ml user2@acme.example refused not-found"]),
        ("--outcome refused", vec!["member.add acme/ml user2@acme.example refused not-found"]),
        ("--on user2@acme.example --what member", vec!["member.add acme/ml user2@acme.example refused not-found"]),
        ("--on acme/ml --what member --outcome done", vec!["member.add acme/ml user1@acme.example done -"]),
        ("--since 30m", vec!["certificate.issue certificate done -", "org.create other done -"]),
        (
            "--since '2027-01-15 10:30' --until '2027-01-15 11:30'",
            vec!["member.add acme/ml user2@acme.example refused not-found"],
        ),
        ("--since 2027-01-16", vec![]),
        ("--until 2027-01-15", vec![]),
        ("--what org --before 3", vec!["org.create acme done -"]),
        ("--who certgate", vec![]),
    ] {
        assert_eq!(found(&world, filter).await, expected, "{filter}");
    }
    for wrong in
        ["--since tomorrow", "--who uid:x", "--outcome maybe", "--what 'Member Add'", "--session x", "--before x"]
    {
        let answer =
            output(world.answer(&Asker::Operator { uid: 0 }, &format!("audit list {wrong}"), None, None).await);
        assert_eq!((answer.exit, answer.stdout.as_str()), (2, ""), "{wrong}");
    }
    // People read who it was in full, when to the second, and which of somebody's keys.
    let text = world.operator("audit list --since 30m").await.stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("NO "), "{text}");
    let short: String = fingerprint.to_string().chars().take(15).collect();
    for said in ["2027-01-15 12:00:00 UTC", "user1@acme.example", &format!("{short}…"), PEER] {
        assert!(lines[1].contains(said), "{said} is not in {text}");
    }
    assert!(lines[2].contains("operator (uid 1000)") && lines[2].contains("local"), "{text}");
    // A part of it is exported with the same words.
    let exported = world.operator("audit export --outcome refused").await.stdout;
    assert_eq!(exported.lines().count(), 1);
    assert!(exported.contains(r#""reason":"not-found""#), "{exported}");
    // None of it is for accounts.
    for line in ["audit list", "audit export", "audit verify", "audit head"] {
        assert!(world.user(1, line).await.stderr.contains("for operators"), "{line}");
    }
}

#[tokio::test]
async fn a_head_is_signed_now_and_then() {
    let world = World::story().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let keeping = tokio::spawn(world.app.clone().keep_audit(stop.clone()));
    // The number and the entry of the last one, as soon as there is one of this number.
    let signed = async |number: u64| {
        for _ in 0..4000 {
            let head = output(world.answer(&Asker::Operator { uid: 0 }, "audit head --json", None, None).await);
            let head = serde_json::from_str::<Value>(&head.stdout).unwrap_or_default();
            if head["signed"]["number"].as_u64().is_some_and(|last| last >= number) {
                return (head["signed"]["number"].as_u64().unwrap(), head["signed"]["seq"].as_u64().unwrap());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no head {number} was signed");
    };
    // What was there when it began.
    let (_, first) = signed(1).await;
    assert_eq!(first, u64::try_from(entries(&world, "").await.len()).unwrap());
    // Something new, and the last one is old.
    world.pass(Duration::from_secs(300));
    world.operator("org create other").await;
    assert_eq!(signed(2).await, (2, first + 1));
    // Much that is new: after a thousand entries, and not after the first of them.
    for _ in 0..1000 {
        world.refused_operator("org create other").await;
    }
    let (number, last) = signed(3).await;
    assert_eq!(number, 3);
    assert_eq!(last, first + 1 + 1000);
    stop.cancel();
    keeping.await.unwrap();
}

/// Opens a node with whatever the connection was authenticated with.
async fn open_with(world: &World, presented: Presented, session: u128) -> SessionId {
    let AuthenticateAnswer::Account { credential, .. } = authenticate(world, presented).await else { panic!() };
    let request = OpenRequest {
        gateway: "gw1".into(),
        instance: None,
        connection: format!("{session:016x}"),
        peer: PEER.parse().unwrap(),
        credential,
        session: SessionId::from_bits(session),
        host: NODE.into(),
        port: 22,
        tried: vec![],
    };
    match world.app.open(request).await {
        OpenAnswer::Permit(permit) => permit.session,
        OpenAnswer::Refused { message, .. } => panic!("{message}"),
    }
}

#[tokio::test]
async fn a_serial_leads_to_the_certificate_its_sessions_and_its_account() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    world.node(NODE, 50).await;
    world.operator("project create acme/other --admin admin1@acme.example").await;
    world.operator("cluster create acme/other b200").await;
    world.operator("member add acme/other user1@acme.example").await;
    world.node("login-0.b200.acme", 51).await;
    // Before there was a certificate; not one that it could have been used in.
    open_with(&world, presents(2), 1).await;
    world.pass(Duration::from_secs(120));
    let blob = world.user(2, "cert --project acme/ml").await.stdout.split(' ').nth(1).unwrap().to_owned();
    world.pass(Duration::from_secs(10));
    let with_key = open_with(&world, presents(2), 2).await;
    let with_certificate = open_with(&world, Presented::Certificate(blob), 3).await;
    // Somebody else's, and one to a node that the certificate is not for.
    open_with(&world, presents(1), 4).await;
    world.open(2, 5, "login-0.b200.acme").await.unwrap();
    world.pass(Duration::from_secs(20));
    let closed = ClosedSession { session: with_key.clone(), up: 1, down: 2 };
    world.app.closed(ClosedRequest { sessions: vec![closed], done: None }).await;
    world.settle().await;

    let show = async |asker: &str| {
        let shown = world.operator(asker).await.stdout;
        serde_json::from_str::<Value>(&shown).unwrap()
    };
    let line =
        "Accepted publickey for user1 from 192.0.2.1 port 40112 ssh2: ED25519-CERT SHA256:x ID user1 (serial 1) CA x";
    let shown = show(&format!("certificate show --json '{line}'")).await;
    let fingerprint = key(2).fingerprint().to_string();
    for (field, expected) in [
        ("account", "user1@acme.example"),
        ("user", "user1"),
        ("key", fingerprint.as_str()),
        ("state", "live"),
        ("source", PEER),
        ("connection", "c1"),
        ("issued", "2027-01-15T08:02:00Z"),
        ("valid_after", "2027-01-15T08:01:00Z"),
        ("valid_before", "2027-01-15T08:07:00Z"),
    ] {
        assert_eq!(shown[field], expected, "{field}");
    }
    assert_eq!(shown["principals"], serde_json::json!(["user1@acme/ml"]));
    let sessions = |shown: &Value| -> Vec<(String, String, bool)> {
        let text = |session: &Value, field: &str| session[field].as_str().unwrap().to_owned();
        let sessions = shown["sessions"].as_array().unwrap().iter();
        sessions.map(|s| (text(s, "session"), text(s, "match"), s["open"].as_bool().unwrap())).collect()
    };
    let expected =
        [(with_key.to_string(), "key".into(), false), (with_certificate.to_string(), "certificate".into(), true)];
    assert_eq!(sessions(&shown), expected);
    assert_eq!(shown["sessions"][0]["ended"], "2027-01-15T08:02:30Z");
    assert_eq!(shown["sessions"][0]["connection"], format!("{:016x}", 2));
    let entry = shown["entry"].as_u64().unwrap();
    assert_eq!(
        found(&world, &format!("--before {}", entry + 1)).await.pop().unwrap(),
        "certificate.issue certificate done -"
    );
    // At another node it was not used.
    let elsewhere = show("certificate show 1 --json --node login-0.b200.acme").await;
    assert_eq!(sessions(&elsewhere), []);

    // Its owner sees the same; to everybody else there is no such certificate.
    let own = world.user(2, "certificate show 1 --json").await;
    assert_eq!(sessions(&serde_json::from_str(&own.stdout).unwrap()), expected);
    let theirs = world.user(1, "certificate show 1").await;
    let nobodys = world.user(1, "certificate show 99").await;
    assert_eq!((theirs.exit, theirs.stderr.replace('1', "99")), (1, nobodys.stderr));

    // People read it too; and all of it still after the end, with who revoked it.
    world.operator("certificate revoke 1").await;
    world.pass(Duration::from_secs(86_400));
    let later = show("certificate show 1 --json").await;
    assert_eq!((&later["state"], &later["revoked"]["by"]), (&Value::from("revoked"), &Value::from("an operator")));
    assert_eq!(sessions(&later).len(), 2);
    let text = world.operator("certificate show 1").await;
    for said in ["user1@acme.example", "revoked at 2027-01-15 08:02:30 UTC by an operator", &fingerprint, "audit entry"]
    {
        assert!(text.stdout.contains(said), "{said} is not in {}", text.stdout);
    }
    assert!(text.stderr.contains("match 'key'"), "{}", text.stderr);
    // A list is of what is live.
    world.user(2, "cert").await;
    let listed = world.operator("certificate list").await.stdout;
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 2, "{listed}");
    for said in ["user1@acme.example", &fingerprint[..15], "user1@acme/ml", PEER, "2027-01-16 08:07:30 UTC"] {
        assert!(lines[1].contains(said), "{said} is not in {listed}");
    }
}

#[tokio::test]
async fn a_refused_connection_is_found_by_the_name_that_was_asked_for() {
    let world = World::story().await;
    let _gateway = world.gateway(vec![]);
    for host in ["login-9.h100.acme", "h100.acme", "login-9.nowhere.acme", "not a name"] {
        world.open(2, 7, host).await.unwrap_err();
    }
    world.settle().await;
    for host in ["login-9.h100.acme", "login-9.nowhere.acme"] {
        let refused = found(&world, &format!("--on {host} --outcome refused")).await;
        assert_eq!(refused.len(), 1, "{host}: {refused:?}");
    }
    let all = found(&world, "--what session.open --outcome refused").await;
    assert!(all.iter().any(|entry| entry.contains("\"not a name\":22")), "{all:?}");
}

#[tokio::test]
async fn what_was_mistyped_is_not_answered_with_nothing() {
    let world = World::story().await;
    for (filter, told) in [
        ("--what membre", "there is no action membre; the nouns are: "),
        ("--what member.delete", "there is no action member.delete"),
        ("--who admin1", "by whom is an email"),
        ("--who 192.0.2", "by whom is an email"),
    ] {
        for verb in ["list", "export"] {
            let refused =
                output(world.answer(&Asker::Operator { uid: 0 }, &format!("audit {verb} {filter}"), None, None).await);
            assert!(refused.exit > 0 && refused.stderr.contains(told), "{verb} {filter}: {}", refused.stderr);
        }
    }
    // Everything that is on record can be asked for.
    let listed = world.operator("audit list --json").await.stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    for entry in listed["entries"].as_array().unwrap() {
        let action = entry["event"]["action"].as_str().unwrap();
        assert!(!found(&world, &format!("--what {action}")).await.is_empty(), "{action}");
    }
}
