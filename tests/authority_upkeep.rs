//! What is due because time has passed, and which login node somebody gets.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{World, key, next_end, output};
use certgate::{
    app::{
        Asker,
        protocol::{Event, NodeHelloRequest, OpenAnswer, OpenRequest, OpenSession, Reach},
    },
    domain::{NodeId, SessionId, Version},
};
use std::time::Duration;

/// user1's key.
const HERS: u8 = 2;

async fn ask(world: &World, session: u128, host: &str, tried: &[NodeId]) -> Result<(NodeId, String), (String, String)> {
    let request = OpenRequest {
        gateway: "gw1".into(),
        instance: None,
        connection: "c1".into(),
        peer: "192.0.2.7".parse().unwrap(),
        credential: world.credential(HERS).await,
        session: SessionId::from_bits(session),
        host: host.into(),
        port: 22,
        tried: tried.to_vec(),
    };
    match world.app.open(request).await {
        OpenAnswer::Permit(permit) => Ok((permit.node_id, permit.node.to_string())),
        OpenAnswer::Refused { message, reason } => Err((reason, message)),
    }
}

async fn log_of(world: &World, action: &str) -> Vec<String> {
    world.settle().await;
    let entries = world.log().await.into_iter().map(|entry| entry.event).filter(|event| event.action == action);
    entries.map(|event| format!("{} {} {}", event.object, event.reason.unwrap_or_default(), event.detail)).collect()
}

#[tokio::test]
async fn a_session_ends_when_it_has_lasted_as_long_as_its_project_lets_it() {
    let world = World::story().await;
    world.node_with_gateway().await;
    let done = world.user(1, "project update acme/ml --max-session 8h").await;
    assert!(done.stderr.contains("sessions of 8h at most"), "{}", done.stderr);
    let mut events = world.gateway(vec![]);
    let first = world.open(HERS, 1, "login-0.h100.acme").await.unwrap();
    world.pass(Duration::from_secs(3600));
    let second = world.open(HERS, 2, "login-0.h100.acme").await.unwrap();
    world.pass(Duration::from_secs(7 * 3600 - 1));
    world.app.look_after(world.now()).await;
    assert_eq!(world.user(HERS, "session list --json").await.stdout.matches("\"session\"").count(), 2);
    world.pass(Duration::from_secs(1));
    world.app.look_after(world.now()).await;
    let told = "sessions of acme/ml last 8h at most; connect again".to_owned();
    assert_eq!(next_end(&mut events).await, (first, told.clone()));
    assert_eq!(
        log_of(&world, "session.end").await,
        ["login-0.h100.acme user1@acme.example session-time sessions of acme/ml last 8h at most"]
    );
    // Shorter from now on, for those that are open as well.
    world.user(1, "project update acme/ml --max-session 2h").await;
    world.app.look_after(world.now()).await;
    let shorter = "sessions of acme/ml last 2h at most; connect again".to_owned();
    assert_eq!(next_end(&mut events).await, (second.clone(), shorter.clone()));
    // Also one that a gateway brings back, to an authority that did not know it.
    let since = world.now().before(Duration::from_secs(7200));
    let credential = world.credential(HERS).await;
    let back = OpenSession {
        session: second.clone(),
        connection: "c".into(),
        peer: "192.0.2.7".parse().unwrap(),
        credential,
        node_id: world.app.directory().node_at(&"login-0.h100.acme".parse().unwrap()).unwrap().id,
        since,
        leaves: false,
    };
    let mut events = world.gateway(vec![back]);
    assert_eq!(next_end(&mut events).await, (second, shorter));
    world.user(1, "project update acme/ml --max-session none").await;
    let shown = world.user(HERS, "project show acme/ml").await.stdout;
    assert!(!shown.contains("It allows"), "{shown}");
}

#[tokio::test]
async fn a_login_node_is_the_same_again_then_one_that_is_there_then_the_least_used() {
    let world = World::story().await;
    let _gateway = world.gateway(vec![]);
    let first = world.node("login-0.h100.acme", 60).await.node;
    let second = world.node("login-1.h100.acme", 61).await.node;
    let third = world.node("login-2.h100.acme", 62).await.node;
    let taken = |session, tried: &'static [u64]| {
        let tried: Vec<NodeId> = tried.iter().map(|n| [first, second, third][usize::try_from(*n).unwrap()]).collect();
        let world = &world;
        async move { ask(world, session, "h100.acme", &tried).await }
    };
    // Nothing was heard of any of them but the joining.
    assert_eq!(taken(1, &[]).await.unwrap().0, first);
    assert_eq!(taken(2, &[]).await.unwrap().0, first, "the same again");
    // What could not be reached is passed over, and is not thought to be open.
    assert_eq!(taken(2, &[0]).await.unwrap().0, second);
    assert_eq!(taken(2, &[0, 1]).await.unwrap().0, third);
    let (reason, message) = taken(2, &[0, 1, 2]).await.unwrap_err();
    assert_eq!((&*reason, &*message), ("no-node", "no login node of h100.acme can be reached; try again later"));
    let open = world.user(HERS, "session list --json").await.stdout;
    assert_eq!(open.matches("\"session\"").count(), 1, "{open}");
    assert!(ask(&world, 3, "login-1.h100.acme", &[second]).await.is_ok(), "who names a node gets that one");
}

#[tokio::test]
async fn a_login_node_that_has_fallen_silent_is_the_last_choice() {
    let world = World::story().await;
    let _gateway = world.gateway(vec![]);
    let first = world.node("login-0.h100.acme", 60).await;
    let second = world.node("login-1.h100.acme", 61).await;
    world.hello_of(&first).await;
    world.pass(Duration::from_secs(89));
    world.hello_of(&second).await;
    assert_eq!(ask(&world, 1, "h100.acme", &[]).await.unwrap().0, first.node, "both are there");
    world
        .app
        .closed(certgate::app::protocol::ClosedRequest {
            sessions: vec![certgate::app::protocol::ClosedSession { session: SessionId::from_bits(1), up: 0, down: 0 }],
            done: None,
        })
        .await;
    world.pass(Duration::from_secs(1));
    assert_eq!(ask(&world, 2, "h100.acme", &[]).await.unwrap().0, second.node, "the first has fallen silent");
}

#[tokio::test]
async fn what_a_gateway_had_is_closed_in_the_log_when_it_does_not_come_back() {
    let world = World::story().await;
    world.node_with_gateway().await;
    let events = world.gateway(vec![]);
    world.open(HERS, 1, "login-0.h100.acme").await.unwrap();
    world.app.goodbye(&events);
    world.app.look_after(world.now()).await;
    world.pass(Duration::from_secs(329));
    world.app.look_after(world.now()).await;
    assert!(log_of(&world, "session.close").await.is_empty());
    world.pass(Duration::from_secs(1));
    world.app.look_after(world.now()).await;
    assert_eq!(log_of(&world, "session.close").await, ["login-0.h100.acme  the gateway is gone"]);
    assert!(!world.user(HERS, "session list --json").await.stdout.contains("\"session\""));
}

#[tokio::test]
async fn a_gateway_gets_a_host_certificate_for_the_names_of_the_bastion_and_another_in_time() {
    let world = World::story().await;
    let mut events = world.gateway(vec![]);
    let mut certificate = async || {
        world.app.look_after(world.now()).await;
        loop {
            match authority_support::next(&mut events).await {
                Event::HostCertificate { certificate } => {
                    break ssh_key::Certificate::from_openssh(&certificate).unwrap();
                }
                Event::Ping | Event::Ready | Event::Mark { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let first = certificate().await;
    assert_eq!(first.public_key(), key(90).key_data());
    assert!(first.cert_type().is_host());
    assert_eq!(first.valid_principals(), ["bastion.example.com", "certgate-bastion.example.com"]);
    assert_eq!(first.valid_before() - first.valid_after(), 86_400 + 60, "a day, though nodes get a month");
    world.pass(Duration::from_secs(43_200));
    let second = certificate().await;
    assert_eq!(second.valid_after() - first.valid_after(), 43_200);
    let log = log_of(&world, "host-certificate.issue").await;
    assert_eq!(log.len(), 2);
    assert!(log[0].starts_with("gateway gw1  for bastion.example.com certgate-bastion.example.com until "), "{log:?}");
}

#[tokio::test]
async fn no_node_has_the_name_of_the_bastion_whose_host_key_the_same_authority_vouches_for() {
    let world = World::story().await;
    let _gateway = world.gateway(vec![]);
    world.operator("org create com").await;
    world.operator("project create com/p --admin admin1@acme.example").await;
    world.operator("cluster create com/p example").await;
    let refused = world.refused_operator("node token bastion.example.com --role login --address 192.0.2.7").await;
    assert_eq!(refused, "bastion.example.com is the bastion's own name; no node can have it\n");
    world.operator("node token login-0.example.com --role login --address 192.0.2.7").await;
}

#[tokio::test]
async fn a_bundle_that_was_published_between_two_streams_of_a_gateway_is_sent_again() {
    let world = World::story().await;
    world.node_with_gateway().await;
    let before = world.app.directory().version();
    let mut first = world.gateway(vec![]);
    world.operator("member remove acme/ml user1@acme.example --yes").await;
    // Published: from here on nobody gets it by itself any more.
    while !matches!(authority_support::next(&mut first).await, Event::Bundle { version, .. } if version > before) {}
    let mut events = world.gateway_that_has_seen(Some(before), vec![]);
    let cluster = loop {
        if let Event::Bundle { cluster, version, .. } = authority_support::next(&mut events).await {
            assert!(version > before);
            break cluster;
        }
    };
    assert_eq!(cluster.to_string(), "h100.acme");
    // Nothing was missed by one that has seen more than that, and a new process has nobody to send it to.
    world.operator("org create other").await;
    for seen in [Some(world.app.directory().version()), None] {
        let mut events = world.gateway_that_has_seen(seen, vec![]);
        world.operator("user suspend user2@acme.example").await;
        world.operator("user resume user2@acme.example").await;
        world.settle().await;
        while let Ok(event) = events.events.try_recv() {
            assert!(!matches!(event, Event::Bundle { .. }), "{event:?}");
        }
    }
}

/// What status finds, and its exit status.
async fn found(world: &World) -> (Vec<String>, u8) {
    let answer = world.answer(&Asker::Operator { uid: 0 }, "status --json", None, None).await;
    let answer = output(answer);
    let status: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    let problems = status["problems"].as_array().unwrap().iter();
    (problems.map(|problem| format!("{}: {}", problem["severity"], problem["what"])).collect(), answer.exit)
}

#[tokio::test]
async fn status_finds_what_somebody_should_look_after_and_says_so_to_monitoring() {
    let world = World::story().await;
    let (problems, exit) = found(&world).await;
    assert!(problems[0].starts_with("\"critical\": \"No gateway is connected") && exit == 1, "{problems:?}");
    let _gateway = world.gateway(vec![]);
    world.app.look_after(world.now()).await;
    let node = world.node("login-0.h100.acme", 50).await;
    let has = async |version: Option<u64>, until: u64| {
        let (peer, reach) = ("192.0.2.7".parse().unwrap(), Reach::Direct);
        let (have, host_certificate_until) = (version.map(Version), Some(until));
        let program = Some("0.0.1".into());
        let hello =
            NodeHelloRequest { node: node.clone(), peer, have, host_certificate_until, reach, program, lingers: false };
        world.app.node_hello(hello).await.unwrap();
    };
    let (version, good) = (world.app.directory().version().0, world.now().secs() + 20 * 86_400);
    has(Some(version), good).await;
    let notice = "\"notice\": \"Agents of another version than this authority: login-0.h100.acme\"";
    assert_eq!(found(&world).await, (vec![notice.to_owned()], 0));

    // A change that it does not confirm; its words are heard all the same.
    world.operator("member add acme/ml user2@acme.example").await;
    let wanted = world.app.directory().version().0;
    while !world.operator("node list h100.acme --json").await.stdout.contains(&format!("\"wanted\": {wanted}")) {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        world.pass(Duration::from_secs(21));
        has(Some(version), good).await;
    }
    let (problems, exit) = found(&world).await;
    assert_eq!(
        (problems[0].as_str(), exit),
        ("\"warning\": \"Without the last access list for more than 60 s: login-0.h100.acme\"", 1)
    );
    // What came later does not make it younger, and what it has now makes it good.
    world.operator("member remove acme/ml user2@acme.example --yes").await;
    assert_eq!(found(&world).await.1, 1);
    has(Some(world.app.directory().version().0), good).await;
    assert_eq!(found(&world).await, (vec![notice.to_owned()], 0));

    has(Some(world.app.directory().version().0), world.now().secs() + 86_400).await;
    let (problems, exit) = found(&world).await;
    assert!(problems[0].contains("was not renewed in time, and will end: login-0.h100.acme") && exit == 1);
    // Half an hour later nobody has said anything.
    world.pass(Duration::from_secs(1800));
    assert!(found(&world).await.0.iter().any(|problem| problem.contains("Not heard for more than 90 s")));
    let shown = world.operator_status().await;
    assert!(shown.starts_with("WARNING ") && shown.contains("\n  on the node: certgate-node doctor"), "{shown}");
    assert!(shown.contains("Versions of the agents: 0.0.1 (1)\n"), "{shown}");
}

#[tokio::test]
async fn status_says_what_is_left_where_the_directory_is() {
    let state = tempfile::tempdir().unwrap();
    let world = World::on_disk(state.path()).await.unwrap();
    let shown = world.operator_status().await;
    let disk = shown.lines().find_map(|line| line.strip_prefix("state directory: "));
    assert!(disk.is_some_and(|disk| disk.ends_with(" GiB free")), "{shown}");
    world.close().await;
}
