//! Grace periods: what somebody has open when they are removed from a project that has one, and what becomes of it.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{World, next, next_end};
use certgate::{
    app::{
        Stream,
        protocol::{ClosedRequest, ClosedSession, CommandAnswer, Event, NodeIdentity, OpenSession, Terminal},
    },
    bundle::{Bundle, SignedBundle},
    domain::{SessionId, Timestamp},
};
use std::time::Duration;

const ADMIN: u8 = 1;
/// user1's key.
const HERS: u8 = 2;
const NODE: &str = "login-0.h100.acme";
const REMOVE: &str = "member remove acme/ml user1@acme.example --yes";
const REMOVED: &str = "removed from acme/ml at 08:01 UTC by admin1@acme.example";

/// The story, a node, ten minutes of grace, a gateway, and a session of user1's that has been open for a minute.
async fn at_work() -> (World, NodeIdentity, Stream, SessionId) {
    let world = World::story().await;
    let node = world.node_with_gateway().await;
    let done = world.user(ADMIN, "project update acme/ml --grace 10m").await;
    assert!(done.stderr.contains("10m of grace"), "{}", done.stderr);
    let events = world.gateway(vec![]);
    let session = world.open(HERS, 1, NODE).await.unwrap();
    world.pass(Duration::from_secs(60));
    (world, node, events, session)
}

/// What is said of sessions next: `leave MILLISECONDS`, `stay` or `end`, and why.
async fn told(events: &mut Stream) -> (SessionId, String, String) {
    loop {
        match next(events).await {
            Event::Leave { session, left, warning, reason } => {
                assert_eq!(reason, REMOVED);
                return (session, format!("leave {left}"), warning);
            }
            Event::Stay { session } => return (session, "stay".into(), String::new()),
            Event::End { session, reason } => return (session, "end".into(), reason),
            _ => {}
        }
    }
}

fn leave(session: &SessionId, left: u64, ends: &str) -> (SessionId, String, String) {
    (session.clone(), format!("leave {left}"), format!("{REMOVED}; what you have open there ends at {ends} UTC"))
}

/// What the log has of one action: whom it was about, and why.
async fn log_of(world: &World, action: &str) -> Vec<String> {
    world.settle().await;
    let events = world.log().await.into_iter().map(|entry| entry.event).filter(|event| event.action == action);
    events.map(|event| format!("{} {} {}", event.object, event.reason.unwrap_or_default(), event.detail)).collect()
}

fn read(bundle: &SignedBundle) -> Bundle {
    serde_json::from_str(&bundle.payload).unwrap()
}

fn leaving(bundle: &Bundle) -> Vec<(&str, Timestamp)> {
    bundle.leaving.iter().map(|leaving| (leaving.name.as_str(), leaving.until)).collect()
}

#[tokio::test]
async fn what_is_open_ends_when_the_grace_period_does_and_nothing_new_begins() {
    let (world, node, mut events, session) = at_work().await;
    let certified = world.user(HERS, "cert").await;
    assert_eq!(certified.exit, 0);
    let until = world.now().after(Duration::from_secs(600));
    let terminal = Some(Terminal { columns: 200, colours: false });
    let asker = world.asker(ADMIN).await;
    match world.answer(&asker, "member remove acme/ml user1@acme.example", terminal, None).await {
        CommandAnswer::Input { prompt, .. } => {
            assert!(prompt.contains("1 open session will end in 10m; --now ends what is open at once"), "{prompt}");
        }
        other => panic!("{other:?}"),
    }
    let done = world.user(ADMIN, REMOVE).await;
    assert_eq!(done.stderr, "removed user1@acme.example from acme/ml; what they have open ends at 08:11 UTC\n");
    assert_eq!(told(&mut events).await, leave(&session, 600_000, "08:11"));
    // Neither a certificate nor another session, nor a login on the node.
    assert_eq!(world.open(HERS, 2, NODE).await.unwrap_err(), REMOVED);
    assert!(world.user(HERS, "cert").await.stderr.contains(REMOVED));
    let bundle = read(&world.bundle_for(&node, true).await.unwrap());
    assert!(bundle.logins.iter().all(|login| login.name.as_str() != "user1"));
    assert!(bundle.groups.iter().all(|group| group.members.iter().all(|name| name.as_str() != "user1")));
    assert_eq!(leaving(&bundle), [("user1", until)]);
    // An agent that could not read that gets the same without it: there it ends at once.
    let plain = read(&world.bundle_for(&node, false).await.unwrap());
    assert_eq!(plain, Bundle { leaving: vec![], ..bundle });
    // It is said when it ends, to whose it is and to operators.
    let listed = world.user(HERS, "session list --json").await.stdout;
    assert!(listed.contains(&format!("\"until\": \"{until}\"")), "{listed}");
    world.pass(Duration::from_millis(599_999));
    world.app.look_after(world.now()).await;
    assert!(world.user(HERS, "session list").await.stdout.contains("10 min ago, ends now"));
    world.pass(Duration::from_millis(1));
    world.app.look_after(world.now()).await;
    assert_eq!(next_end(&mut events).await, (session, REMOVED.to_owned()));
    assert!(leaving(&read(&world.bundle_for(&node, true).await.unwrap())).is_empty());
    assert_eq!(
        log_of(&world, "member.remove").await.last().unwrap(),
        &format!("acme/ml user1@acme.example  was member; what is open ends at {until}")
    );
    assert_eq!(log_of(&world, "session.end").await, [format!("{NODE} user1@acme.example removed {REMOVED}")]);
}

#[tokio::test]
async fn a_removal_now_ends_it_at_once_and_so_does_one_without_a_grace_period() {
    let (world, node, mut events, session) = at_work().await;
    let done = world.user(ADMIN, &format!("{REMOVE} --now")).await;
    assert_eq!(done.stderr, "removed user1@acme.example from acme/ml\n");
    assert_eq!(told(&mut events).await, (session, "end".into(), REMOVED.into()));
    assert!(leaving(&read(&world.bundle_for(&node, true).await.unwrap())).is_empty());
    let log = log_of(&world, "member.remove").await;
    assert_eq!(log.last().unwrap(), "acme/ml user1@acme.example  was member; what is open ends at once");
    // A grace period that comes later is none for those who have gone.
    for (line, grace) in [("--grace none", false), ("--grace 1h", true)] {
        world.user(ADMIN, &format!("project update acme/ml {line}")).await;
        let open = leaving(&read(&world.bundle_for(&node, true).await.unwrap())).len();
        assert_eq!((open, grace), (0, grace));
        if !grace {
            world.user(ADMIN, "member add acme/ml user1@acme.example").await;
            let session = world.open(HERS, 2, NODE).await.unwrap();
            world.pass(Duration::from_secs(1));
            world.user(ADMIN, REMOVE).await;
            assert_eq!(told(&mut events).await, (session, "end".into(), REMOVED.into()));
        }
    }
}

#[tokio::test]
async fn whoever_is_back_in_time_keeps_what_they_have() {
    let (world, node, mut events, session) = at_work().await;
    world.user(ADMIN, REMOVE).await;
    assert_eq!(told(&mut events).await, leave(&session, 600_000, "08:11"));
    world.user(ADMIN, "member add acme/ml user1@acme.example").await;
    assert_eq!(told(&mut events).await, (session.clone(), "stay".into(), String::new()));
    assert!(leaving(&read(&world.bundle_for(&node, true).await.unwrap())).is_empty());
    world.pass(Duration::from_secs(601));
    world.app.look_after(world.now()).await;
    assert!(world.user(HERS, "session list --json").await.stdout.contains(&session.to_string()));
    // Another role takes nothing away.
    world.user(ADMIN, "member role acme/ml user1@acme.example admin").await;
    world.user(ADMIN, "member role acme/ml user1@acme.example member").await;
    world.user(ADMIN, "member remove acme/ml user1@acme.example --yes --now").await;
    assert_eq!(told(&mut events).await.1, "end");
}

#[tokio::test]
async fn whatever_else_takes_access_away_ends_it_at_once_also_within_the_grace_period() {
    let lines = [
        "user suspend user1@acme.example",
        "key remove FINGERPRINT --account user1@acme.example --yes",
        "node remove login-0.h100.acme --yes",
        "cluster delete h100.acme --yes",
        "project delete acme/ml --yes",
        "project update acme/ml --grace none",
        "project update acme/ml --max-session 1s",
    ];
    let (story, ..) = at_work().await;
    let fingerprint = authority_support::key(HERS).fingerprint().to_string();
    for line in lines {
        let world = story.fork().await;
        let mut events = world.gateway(vec![]);
        let session = world.open(HERS, 1, NODE).await.unwrap();
        world.pass(Duration::from_secs(1));
        world.user(ADMIN, REMOVE).await;
        assert_eq!(told(&mut events).await.1, "leave 600000", "{line}");
        world.operator(&line.replace("FINGERPRINT", &fingerprint)).await;
        world.app.look_after(world.now()).await;
        let (ended, what, why) = told(&mut events).await;
        assert_eq!((ended, what.as_str()), (session, "end"), "{line}: {why}");
    }
}

#[tokio::test]
async fn what_nodes_keep_ends_with_a_suspension_and_knows_what_is_revoked() {
    let (world, node, ..) = at_work().await;
    world.user(HERS, "cert").await;
    world.user(ADMIN, REMOVE).await;
    let mut events = world.gateway(vec![]);
    world.operator("certificate revoke 1").await;
    let bundle = loop {
        // It is published: nodes hear of it though she is in no project.
        match next(&mut events).await {
            Event::Bundle { lingering: Some(bundle), .. } if !read(&bundle).denied_serials.is_empty() => break bundle,
            _ => {}
        }
    };
    assert_eq!(leaving(&read(&bundle)).len(), 1);
    world.operator("user suspend user1@acme.example").await;
    loop {
        match next(&mut events).await {
            Event::Bundle { lingering: None, bundle, .. } => break assert!(leaving(&read(&bundle)).is_empty()),
            Event::Bundle { lingering: Some(bundle), .. } => assert!(!read(&bundle).denied_serials.is_empty()),
            _ => {}
        }
    }
    assert!(leaving(&read(&world.bundle_for(&node, true).await.unwrap())).is_empty());
}

#[tokio::test]
async fn a_shorter_grace_period_is_shorter_for_those_who_have_gone_and_a_longer_one_is_not_longer() {
    let (world, node, mut events, session) = at_work().await;
    world.user(ADMIN, REMOVE).await;
    assert_eq!(told(&mut events).await, leave(&session, 600_000, "08:11"));
    let until = world.now().after(Duration::from_secs(300));
    world.user(ADMIN, "project update acme/ml --grace 1h").await;
    world.user(ADMIN, "project update acme/ml --grace 5m").await;
    assert_eq!(told(&mut events).await, leave(&session, 300_000, "08:06"), "the hour was nothing new");
    loop {
        match next(&mut events).await {
            Event::Bundle { lingering: Some(bundle), .. } => {
                break assert_eq!(leaving(&read(&bundle)), [("user1", until)]);
            }
            other => assert!(!matches!(other, Event::Bundle { .. }), "{other:?}"),
        }
    }
    assert_eq!(leaving(&read(&world.bundle_for(&node, true).await.unwrap())), [("user1", until)]);
}

#[tokio::test]
async fn a_gateway_that_comes_back_and_an_authority_that_was_restarted_come_to_the_same() {
    let (world, _, mut events, session) = at_work().await;
    let credential = world.credential(HERS).await;
    let since = world.now().before(Duration::from_secs(60));
    let node_id = world.app.directory().node_at(&NODE.parse().unwrap()).unwrap().id;
    let back = |leaves| OpenSession {
        session: session.clone(),
        connection: "c1".into(),
        peer: authority_support::PEER.parse().unwrap(),
        credential: credential.clone(),
        node_id,
        since,
        leaves,
    };
    world.user(ADMIN, REMOVE).await;
    assert_eq!(told(&mut events).await, leave(&session, 600_000, "08:11"));
    world.pass(Duration::from_secs(100));
    // One that has missed it, and one that has not, at an authority that knows of no session.
    for leaves in [false, true] {
        let restarted = world.fork().await;
        let mut events = restarted.gateway(vec![back(leaves)]);
        assert_eq!(told(&mut events).await, leave(&session, 500_000, "08:11"));
        restarted.pass(Duration::from_secs(500));
        restarted.app.look_after(restarted.now()).await;
        assert_eq!(told(&mut events).await, (session.clone(), "end".into(), REMOVED.into()));
        // One that was away until then.
        let mut events = restarted.gateway(vec![back(leaves)]);
        assert_eq!(told(&mut events).await, (session.clone(), "end".into(), REMOVED.into()));
    }
    // One that has missed that she is back.
    world.user(ADMIN, "member add acme/ml user1@acme.example").await;
    let mut events = world.gateway(vec![back(true)]);
    assert_eq!(told(&mut events).await, (session.clone(), "stay".into(), String::new()));
    // What is said to have been opened after she had gone was not open then.
    world.user(ADMIN, REMOVE).await;
    let mut events = world.gateway(vec![OpenSession { since: world.now(), ..back(true) }]);
    assert_eq!(told(&mut events).await.1, "end");
}

#[tokio::test]
async fn what_its_gateway_has_ended_in_time_by_itself_is_on_record_as_ended_by_the_removal() {
    let (world, _, mut events, session) = at_work().await;
    world.user(ADMIN, REMOVE).await;
    assert_eq!(told(&mut events).await, leave(&session, 600_000, "08:11"));
    world.pass(Duration::from_secs(600));
    let closed = ClosedSession { session, up: 1, down: 2 };
    world.app.closed(ClosedRequest { sessions: vec![closed], done: None }).await;
    assert_eq!(log_of(&world, "session.end").await, [format!("{NODE} user1@acme.example removed {REMOVED}")]);
    assert!(log_of(&world, "session.close").await.is_empty());
}

#[tokio::test]
async fn a_service_account_has_no_grace_period() {
    let (world, node, mut events, _) = at_work().await;
    let create = format!(
        "service create acme/ml bot --source-address {} --key '{}'",
        authority_support::PEER,
        authority_support::key(70)
    );
    world.operator(&create).await;
    let session = world.open(70, 2, NODE).await.unwrap();
    world.pass(Duration::from_secs(60));
    world.user(ADMIN, "service delete bot@ml.acme.service --yes").await;
    assert_eq!(next_end(&mut events).await.0, session);
    assert!(leaving(&read(&world.bundle_for(&node, true).await.unwrap())).is_empty());
}

#[tokio::test]
async fn a_grace_period_is_at_most_an_hour_and_is_said_in_files_too() {
    let (world, ..) = at_work().await;
    for (line, says) in [
        ("project update acme/ml --grace 61m", "a grace period is at most 1h"),
        ("project update acme/ml --grace 0s", "a length of time is written like"),
    ] {
        let refused = world.user(ADMIN, line).await;
        assert_eq!(refused.exit, 2);
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
    assert_eq!(world.user(HERS, "project update acme/ml --grace 1h").await.exit, 1);
    let shown = world.user(HERS, "project show acme/ml").await.stdout;
    assert!(shown.contains("10m of grace for what is open when somebody is removed"), "{shown}");
    let written = world.operator("dump").await.stdout;
    assert!(written.contains("grace = \"10m\"\n"), "{written}");
}
