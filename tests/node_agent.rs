//! The agent's decisions, event by event: what is refused changes nothing, what was lost is asked for again.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

use certgate::{
    app::{
        node_sessions::{MAX_NODE_SESSIONS, NodeSession},
        protocol::{FromNode, Reach, ToNode},
    },
    bundle::{Bundle, BundleKey, Current, FORMAT, Order, SignedBundle, SignedCurrent, SignedOrder},
    domain::{PublicKey, Timestamp, Ttl, Version},
    node::agent::{Action, Agent, Event, Installed, Level, Start},
};
use ed25519_dalek::SigningKey;
use ssh_key::{
    PrivateKey,
    certificate::{Builder, CertType},
    private::Ed25519Keypair,
};
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);

fn authority() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn ssh_key(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

fn public(key: &PrivateKey) -> PublicKey {
    PublicKey::from_key_data(key.public_key().key_data()).unwrap()
}

fn bundle(cluster: &str, version: u64) -> Bundle {
    Bundle {
        format: FORMAT,
        cluster: cluster.parse().unwrap(),
        version: Version(version),
        issued: NOW,
        logins: vec![],
        groups: vec![],
        shared_logins: vec![],
        leaving: vec![],
        denied_serials: vec![],
        denied_keys: vec![],
        user_ca: vec![],
        host_ca: vec![public(&ssh_key(50))],
    }
}

fn start(have: Option<u64>) -> Start {
    Start {
        node: "login-0.h100.acme".parse().unwrap(),
        host_key: public(&ssh_key(1)),
        trusted: vec![BundleKey::from(&authority())],
        gateways: 2,
        bundle: have.map(|version| Installed::from(&bundle("h100.acme", version))),
        floor: have.map(Version),
        host_certificate_until: None,
        max_age: None,
        confirmed: None,
        reach: Reach::Direct,
    }
}

fn connected(have: Option<u64>) -> Agent {
    let mut agent = Agent::new(start(have)).0;
    let actions = agent.handle(Event::Connected);
    assert!(actions.contains(&hello(have)));
    agent
}

fn hello(have: Option<u64>) -> Action {
    let program = Some(env!("CARGO_PKG_VERSION").into());
    let (have, reach) = (have.map(Version), Reach::Direct);
    Action::Send(FromNode::Hello { have, host_certificate_until: None, reach, program, lingers: true })
}

fn receive(agent: &mut Agent, message: &ToNode) -> Vec<Action> {
    agent.handle(Event::Line(serde_json::to_vec(message).unwrap(), NOW))
}

fn signed(cluster: &str, version: u64) -> SignedBundle {
    SignedBundle::sign(&bundle(cluster, version), &authority()).unwrap()
}

fn receipt(actions: &[Action]) -> (Option<Version>, Option<&str>) {
    let receipts = actions.iter().filter_map(|action| match action {
        Action::Send(FromNode::Receipt { version, problem, .. }) => Some((*version, problem.as_deref())),
        _ => None,
    });
    let receipts: Vec<_> = receipts.collect();
    assert_eq!(receipts.len(), 1, "{actions:?}");
    receipts[0]
}

fn assert_refused(agent: &mut Agent, bundle: SignedBundle, why: &str) {
    let before = agent.version();
    let actions = receive(agent, &ToNode::Bundle(bundle));
    assert!(!actions.iter().any(|action| matches!(action, Action::Install(_))), "{actions:?}");
    assert!(actions.iter().any(|a| matches!(a, Action::Log(Level::Error, text) if text.contains(why))), "{actions:?}");
    let (version, problem) = receipt(&actions);
    assert_eq!(version, before);
    assert!(problem.unwrap().contains(why));
    assert_eq!(agent.version(), before);
}

#[test]
fn a_bundle_is_installed_and_then_confirmed() {
    let mut agent = connected(Some(5));
    let bundle = signed("h100.acme", 6);
    let actions = receive(&mut agent, &ToNode::Bundle(bundle.clone()));
    let [Action::Install(parts)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((parts.0.version, &parts.1), (Version(6), &bundle));
    // Not in force, and not confirmed, before it is on disk.
    assert_eq!(agent.version(), Some(Version(5)));
    let actions = agent.handle(Event::Installed(Ok(Installed::from(&parts.0)), 2));
    assert_eq!(receipt(&actions), (Some(Version(6)), None));
    let said = Action::Send(FromNode::Receipt { version: Some(Version(6)), problem: None, ended: 2 });
    assert!(actions.contains(&said), "{actions:?}");
    assert_eq!(agent.version(), Some(Version(6)));
}

#[test]
fn an_older_version_never_replaces_a_newer_one() {
    assert_refused(&mut connected(Some(5)), signed("h100.acme", 4), "version 4");
    // Not even when the newer bundle itself has been lost and only its table is left.
    let mut agent = Agent::new(Start { bundle: None, floor: Some(Version(5)), ..start(None) }).0;
    assert!(agent.handle(Event::Connected).contains(&hello(None)));
    assert_refused(&mut agent, signed("h100.acme", 4), "version 4");
    let actions = receive(&mut agent, &ToNode::Bundle(signed("h100.acme", 5)));
    assert!(matches!(actions[..], [Action::Install(_)]));
}

#[test]
fn another_clusters_bundle_is_refused() {
    assert_refused(&mut connected(Some(5)), signed("b200.acme", 6), "b200.acme");
}

#[test]
fn a_bundle_that_the_authority_did_not_sign_is_refused() {
    let mut agent = connected(Some(5));
    let stranger = SigningKey::from_bytes(&[8; 32]);
    let foreign = SignedBundle::sign(&bundle("h100.acme", 6), &stranger).unwrap();
    assert_refused(&mut agent, foreign.clone(), "does not know");
    assert_refused(&mut agent, SignedBundle { key: BundleKey::from(&authority()), ..foreign }, "signature");
    let mut changed = signed("h100.acme", 6);
    changed.payload = changed.payload.replace("\"version\":6", "\"version\":7");
    assert_refused(&mut agent, changed, "signature");
}

#[test]
fn an_installation_that_fails_leaves_the_old_version_and_is_tried_again() {
    let mut agent = connected(Some(5));
    let bundle = ToNode::Bundle(signed("h100.acme", 6));
    assert!(matches!(receive(&mut agent, &bundle)[..], [Action::Install(_)]));
    let actions = agent.handle(Event::Installed(Err("No space left on device".into()), 0));
    assert_eq!(receipt(&actions), (Some(Version(5)), Some("No space left on device")));
    // The next hello says what is really there, so the same bundle comes again and is taken.
    assert_eq!(agent.handle(Event::Tick), [hello(Some(5))]);
    assert!(matches!(receive(&mut agent, &bundle)[..], [Action::Install(_)]));
}

#[test]
fn whoever_reconnects_says_what_they_have_and_gateways_are_tried_in_turn() {
    let (mut agent, first) = Agent::new(start(Some(5)));
    assert_eq!(first, [Action::Connect { gateway: 0, after: Duration::ZERO }]);
    let mut waits = vec![];
    for round in 1..40 {
        let actions = agent.handle(Event::Ended { why: "gone".into(), jitter: u16::MAX });
        let Some(Action::Connect { gateway, after }) = actions.last() else { panic!("{actions:?}") };
        assert_eq!(*gateway, round % 2);
        waits.push(*after);
    }
    assert!(waits.is_sorted());
    assert_eq!((waits[0], waits[38]), (Duration::from_secs(1), Duration::from_secs(60)));

    assert!(agent.handle(Event::Connected).contains(&hello(Some(5))));
    assert!(receive(&mut agent, &ToNode::Welcome { host_certificate: None, current: None }).is_empty());
    // After a welcome the waiting begins anew; jitter halves it at most.
    let actions = agent.handle(Event::Ended { why: "gone".into(), jitter: 0 });
    assert!(matches!(actions.last(), Some(Action::Connect { after, .. }) if *after == Duration::from_millis(500)));
    // Nothing is said into a connection that is gone.
    assert_eq!(agent.handle(Event::Tick), []);
}

#[test]
fn a_silent_gateway_is_left() {
    let mut agent = connected(Some(5));
    assert_eq!(agent.handle(Event::Tick), [hello(Some(5))]);
    assert_eq!(agent.handle(Event::Tick), [hello(Some(5))]);
    assert!(matches!(agent.handle(Event::Tick)[..], [Action::Disconnect(_)]));
    // One that answers is not, even if all it says is that the authority is away.
    let mut agent = connected(Some(5));
    for _ in 0..10 {
        assert_eq!(agent.handle(Event::Tick), [hello(Some(5))]);
        assert!(matches!(receive(&mut agent, &ToNode::Unavailable)[..], [Action::Log(Level::Warning, _)]));
    }
}

#[test]
fn a_node_that_is_none_any_more_keeps_its_table_and_does_not_hurry() {
    let mut agent = connected(Some(5));
    let actions = receive(&mut agent, &ToNode::Refused);
    assert!(matches!(actions[..], [Action::Log(Level::Error, _), Action::Disconnect(_)]));
    let actions = agent.handle(Event::Ended { why: "refused".into(), jitter: u16::MAX });
    assert!(matches!(actions.last(), Some(Action::Connect { after, .. }) if after.as_secs() == 60));
    assert_eq!(agent.version(), Some(Version(5)));
}

/// What a gateway relays of the authority's word.
fn word(cluster: &str, version: u64, at: Timestamp, key: &SigningKey) -> ToNode {
    let current = Current { cluster: cluster.parse().unwrap(), version: Version(version), at };
    ToNode::Welcome { host_certificate: None, current: Some(SignedCurrent::sign(&current, key).unwrap()) }
}

#[test]
fn a_table_is_confirmed_by_the_authoritys_word_about_its_own_version_only() {
    let max_age = Ttl::from_secs(9600);
    let start_with = |have| {
        let mut agent = Agent::new(Start { max_age, ..start(have) }).0;
        let _ = agent.handle(Event::Connected);
        agent
    };
    let mut agent = start_with(Some(5));
    // Our own clock may be behind: never confirmed for a time that has not come.
    let ahead = NOW.after(Duration::from_secs(60));
    assert_eq!(receive(&mut agent, &word("h100.acme", 5, ahead, &authority())), [Action::Confirm(NOW)]);
    // Soon after it is not written again, and an old word that a gateway has kept says nothing new.
    let later = |secs| NOW.after(Duration::from_secs(secs));
    let mut hear = |at, now| {
        let line = serde_json::to_vec(&word("h100.acme", 5, at, &authority())).unwrap();
        agent.handle(Event::Line(line, now))
    };
    assert_eq!(hear(later(99), later(99)), []);
    assert_eq!(hear(NOW, later(5000)), []);
    assert_eq!(hear(later(100), later(100)), [Action::Confirm(later(100))]);

    for (have, word) in [
        (Some(4), word("h100.acme", 5, NOW, &authority())),
        (None, word("h100.acme", 5, NOW, &authority())),
        (Some(5), word("b200.acme", 5, NOW, &authority())),
        (Some(5), word("h100.acme", 5, NOW, &SigningKey::from_bytes(&[8; 32]))),
    ] {
        let actions = receive(&mut start_with(have), &word);
        assert!(!actions.iter().any(|action| matches!(action, Action::Confirm(_))), "{have:?} {word:?}: {actions:?}");
    }
    // A new table is as fresh as it says, and a word that a gateway has kept makes it no older.
    let hear = |agent: &mut Agent, version, at, now| {
        let line = serde_json::to_vec(&word("h100.acme", version, at, &authority())).unwrap();
        agent.handle(Event::Line(line, now))
    };
    let installed = Installed { issued: later(5000), ..Installed::from(&bundle("h100.acme", 6)) };
    let _ = agent.handle(Event::Installed(Ok(installed), 0));
    assert_eq!(hear(&mut agent, 5, later(4000), later(5001)), []);
    assert_eq!(hear(&mut agent, 6, later(5100), later(5100)), [Action::Confirm(later(5100))]);
    // Nor does one that was kept until the agent was restarted.
    let start = Start { max_age, confirmed: Some(later(5100)), ..start(Some(6)) };
    let mut agent = Agent::new(start).0;
    let _ = agent.handle(Event::Connected);
    assert_eq!(hear(&mut agent, 6, later(5000), later(5200)), []);
    // Whoever operates the node is told, also while no gateway can be reached.
    let _ = agent.handle(Event::Ended { why: "gone".into(), jitter: 0 });
    let told = agent.handle(Event::Look(later(20_000)));
    assert!(matches!(&told[..], [Action::Log(Level::Error, text)] if text.contains("max_age")), "{told:?}");
    // Turned off, nothing is written.
    assert_eq!(receive(&mut connected(Some(5)), &word("h100.acme", 5, NOW, &authority())), []);
}

#[test]
fn a_session_is_ended_when_the_authority_says_so_and_nobody_else() {
    let mut agent = connected(Some(5));
    let order = |node: &str| {
        let by = "an operator".into();
        Order { node: node.parse().unwrap(), process: 4242, start: 99, login: "user1".into(), by }
    };
    let mut give =
        |order: &Order, key: &SigningKey| receive(&mut agent, &ToNode::End(SignedOrder::sign(order, key).unwrap()));
    let ours = order("login-0.h100.acme");
    assert_eq!(give(&ours, &authority()), [Action::EndSession(ours.clone())]);
    for (order, key, why) in
        [(order("login-1.h100.acme"), authority(), "another node"), (ours, SigningKey::from_bytes(&[8; 32]), "refused")]
    {
        let actions = give(&order, &key);
        assert!(matches!(&actions[..], [Action::Log(Level::Error, text)] if text.contains(why)), "{actions:?}");
    }
}

fn sessions(count: u32) -> Vec<NodeSession> {
    let session = |process| NodeSession {
        process,
        start: 1,
        login: "user1".to_owned().try_into().unwrap(),
        certificate: None,
        since: NOW.after(Duration::from_secs(process.into())),
    };
    (0..count).map(session).collect()
}

#[test]
fn the_sessions_are_said_when_they_change_and_again_to_whoever_may_have_forgotten() {
    let mut agent = Agent::new(start(Some(5))).0;
    let said = |actions: &[Action]| {
        let said = actions.iter().filter_map(|action| match action {
            Action::Send(FromNode::Sessions { sessions, more }) => {
                Some((sessions.iter().map(|session| session.process).collect::<Vec<_>>(), *more))
            }
            _ => None,
        });
        said.collect::<Vec<_>>()
    };
    assert_eq!(agent.handle(Event::Sessions(sessions(1))), [], "to nobody");
    assert_eq!(said(&agent.handle(Event::Connected)), [(vec![0], 0)]);
    assert_eq!(said(&agent.handle(Event::Tick)), [(vec![0], 0)]);
    assert_eq!(said(&agent.handle(Event::Sessions(sessions(2)))), [(vec![1, 0], 0)]);
    // No more than are heard; those that came last.
    let many = u32::try_from(MAX_NODE_SESSIONS).unwrap() + 3;
    let report = said(&agent.handle(Event::Sessions(sessions(many))));
    assert_eq!((report[0].0.len(), report[0].0[0], report[0].1), (MAX_NODE_SESSIONS, many - 1, 3));
    // None any more: said once.
    assert_eq!(said(&agent.handle(Event::Sessions(vec![]))), [(vec![], 0)]);
    assert_eq!(said(&agent.handle(Event::Tick)), []);
}

#[test]
fn what_is_not_understood_ends_the_connection() {
    for line in ["", "{}", "null", "\"welcome\"", "{\"bundle\":{}}", "{\"unheard-of\":1}"] {
        let actions = connected(Some(5)).handle(Event::Line(line.into(), NOW));
        assert!(matches!(actions[..], [Action::Disconnect(_)]), "{line}: {actions:?}");
    }
}

struct Certificate<'a> {
    kind: CertType,
    key: u8,
    ca: u8,
    name: &'a str,
    from: u64,
}

fn certificate(wanted: &Certificate<'_>) -> String {
    let subject = ssh_key(wanted.key);
    let (from, until) = (NOW.secs() + wanted.from, NOW.secs() + wanted.from + 1000);
    let key = subject.public_key().key_data().clone();
    let mut builder = Builder::new(vec![1; 16], key, from, until).unwrap();
    builder.serial(1).unwrap();
    builder.key_id("host").unwrap();
    builder.cert_type(wanted.kind).unwrap();
    builder.valid_principal(wanted.name).unwrap();
    builder.sign(&ssh_key(wanted.ca)).unwrap().to_openssh().unwrap()
}

#[test]
fn a_host_certificate_is_installed_only_if_it_is_for_this_key_this_name_and_from_this_clusters_ca() {
    let node = "login-0.h100.acme";
    let right = || Certificate { kind: CertType::Host, key: 1, ca: 50, name: node, from: 0 };
    let mut agent = connected(Some(5));
    let mut give =
        |line: &str| receive(&mut agent, &ToNode::Welcome { host_certificate: Some(line.to_owned()), current: None });
    let line = certificate(&right());
    assert_eq!(give(&line), [Action::InstallHostCertificate { line, until: NOW.secs() + 1000 }]);
    for (wrong, why) in [
        (Certificate { kind: CertType::User, ..right() }, "not one for hosts"),
        (Certificate { key: 2, ..right() }, "another host key"),
        (Certificate { ca: 51, ..right() }, "not signed"),
        (Certificate { name: "login-1.h100.acme", ..right() }, "does not name"),
        (Certificate { from: 1, ..right() }, "not valid now"),
    ] {
        let actions = give(&certificate(&wrong));
        assert!(matches!(&actions[..], [Action::Log(Level::Error, text)] if text.contains(why)), "{why}: {actions:?}");
    }
    assert!(matches!(give("ssh-ed25519 AAAA")[..], [Action::Log(Level::Error, _)]));
}
