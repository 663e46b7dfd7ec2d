//! The authority as a whole, in memory: what it answers to commands and gateways, and what travels when something
//! changes. The sockets and the SSH around it are tested with the real programs in `e2e.rs`.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{PEER, World, key, next, next_end, output};
use base64::{Engine, engine::general_purpose::STANDARD};
use certgate::{
    app::{
        Asker,
        protocol::{
            AuthenticateAnswer, AuthenticateRequest, ClosedRequest, CommandAnswer, Credential, Event, JoinAnswer,
            JoinRequest, Marked, NodeHelloAnswer, NodeHelloRequest, NodeReceiptRequest, OpenSession, Presented, Reach,
            Read, Terminal,
        },
        token::TokenText,
    },
    command::{self, Invocation},
    domain::{SessionId, Version},
};
use std::time::Duration;

#[tokio::test]
async fn a_removal_refuses_at_once_and_ends_what_is_open_with_the_reason() {
    let world = World::story().await;
    let mut stream = world.gateway(vec![]);
    assert_eq!(next(&mut stream).await, Event::Ready);
    world.node("login-0.h100.acme", 50).await;
    assert!(world.user(2, "cert").await.stdout.starts_with("ssh-ed25519-cert-v01@openssh.com "));
    let hers = world.open(2, 1, "login-0.h100.acme").await.unwrap();
    let his = world.open(1, 2, "h100.acme").await.unwrap();

    let removal = world.user(1, "member remove acme/ml user1@acme.example --yes").await;
    assert_eq!((removal.exit, removal.stderr.as_str()), (0, "removed user1@acme.example from acme/ml\n"));
    let reason = "removed from acme/ml at 08:00 UTC by admin1@acme.example";
    assert_eq!(next_end(&mut stream).await, (hers, reason.to_owned()));

    let refused = world.user(2, "cert").await;
    assert_eq!(
        (refused.exit, refused.stdout.as_str(), refused.stderr.as_str()),
        (1, "", format!("{reason}\n").as_str())
    );
    assert_eq!(world.open(2, 3, "login-0.h100.acme").await, Err(reason.to_owned()));
    let listed = world.operator("session list --json").await.stdout;
    assert!(listed.contains(&his.to_string()) && listed.matches("\"session\"").count() == 1, "{listed}");
}

#[tokio::test]
async fn what_somebody_may_not_see_looks_like_what_does_not_exist() {
    let world = World::story().await;
    let mut stream = world.gateway(vec![]);
    assert_eq!(next(&mut stream).await, Event::Ready);
    world.node("login-0.h100.acme", 50).await;
    for line in [
        "project show X",
        "member list X",
        "member add X user2@acme.example",
        "member remove X user1@acme.example --yes",
        "member role X user1@acme.example admin",
        "cluster create X new",
        "volume create X new --size 10G",
        "project delete X --yes",
        "cert --project X",
    ] {
        let theirs = world.user(3, &line.replace('X', "acme/ml")).await;
        let nobodys = world.user(3, &line.replace('X', "acme/none")).await;
        assert_eq!(theirs.exit, 1, "{line}");
        assert_eq!(theirs.stderr.replace("acme/ml", "acme/none"), nobodys.stderr, "{line}");
    }
    for line in [
        "node list X",
        "node token login-1.X",
        "node remove login-0.X --yes",
        "cluster delete X --yes",
        "cert --cluster X",
    ] {
        let theirs = world.user(3, &line.replace('X', "h100.acme")).await;
        let nobodys = world.user(3, &line.replace('X', "none.acme")).await;
        assert_eq!(theirs.exit, 1, "{line}");
        assert_eq!(theirs.stderr.replace("h100", "none"), nobodys.stderr, "{line}");
    }
    let (theirs, nobodys) = (world.open(3, 1, "login-0.h100.acme").await, world.open(3, 2, "login-0.none.acme").await);
    assert_eq!(theirs.unwrap_err().replace("h100", "none"), nobodys.unwrap_err());
    // Another's certificate is nobody's.
    world.user(2, "cert").await;
    assert_eq!(world.user(3, "certificate revoke 1").await.stderr, "no such live certificate: 1\n");
    assert_eq!(world.user(3, "certificate revoke 99").await.stderr, "no such live certificate: 99\n");
}

#[tokio::test]
async fn a_gateway_that_comes_back_gets_what_it_missed() {
    let world = World::story().await;
    let mut stream = world.gateway(vec![]);
    assert_eq!(next(&mut stream).await, Event::Ready);
    let node = world.node("login-0.h100.acme", 50).await;
    let session = |number: u128, credential: &Credential| OpenSession {
        session: SessionId::from_bits(number),
        connection: "c".into(),
        peer: PEER.parse().unwrap(),
        credential: credential.clone(),
        node_id: node.node,
        since: world.app.now(),
        leaves: false,
    };
    let (hers, his) = (world.credential(2).await, world.credential(1).await);
    drop(stream);
    world.operator("member remove acme/ml user1@acme.example --yes").await;
    let mut stream = world.gateway(vec![session(1, &hers), session(2, &his)]);
    assert_eq!(next(&mut stream).await, Event::Ready);
    assert_eq!(next_end(&mut stream).await.0, SessionId::from_bits(1));
    let listed = world.operator("session list --json").await.stdout;
    assert!(
        listed.contains(&SessionId::from_bits(2).to_string()) && !listed.contains(&SessionId::from_bits(1).to_string())
    );
    // And it is found by a removal that comes later.
    world.operator("user suspend admin1@acme.example").await;
    let (ended, reason) = next_end(&mut stream).await;
    assert_eq!((ended, reason.contains("suspended")), (SessionId::from_bits(2), true));
}

#[tokio::test]
async fn each_way_of_losing_access_ends_the_session() {
    for (line, reason) in [
        ("user suspend user1@acme.example", "your account is suspended"),
        ("key remove KEY --account user1@acme.example --yes", "this key was removed"),
        ("project delete acme/ml --yes", "project acme/ml was deleted at 08:00 UTC by an operator"),
        ("cluster delete h100.acme --yes", "cluster h100.acme was deleted at 08:00 UTC by an operator"),
        ("node remove login-0.h100.acme --yes", "removed from its cluster"),
        ("session end SESSION", "ended by an operator"),
    ] {
        let world = World::story().await;
        let mut stream = world.gateway(vec![]);
        world.node("login-0.h100.acme", 50).await;
        let session = world.open(2, 1, "login-0.h100.acme").await.unwrap();
        let line = line.replace("KEY", &key(2).fingerprint().to_string()).replace("SESSION", &session.to_string());
        world.operator(&line).await;
        let (ended, told) = next_end(&mut stream).await;
        assert_eq!(ended, session, "{line}");
        assert!(told.contains(reason), "{line}: {told}");
    }
}

#[tokio::test]
async fn a_token_is_worth_no_more_than_the_one_who_asked_for_it() {
    let world = World::story().await;
    let _gateway = world.gateway(vec![]);
    world.operator("member role acme/ml user1@acme.example admin").await;
    let asked = async |node: &str| -> TokenText {
        world.user(2, &format!("node token {node} --address 192.0.2.7")).await.stdout.parse().unwrap()
    };
    let tokens = [asked("login-0.h100.acme").await, asked("login-1.h100.acme").await];
    let operators = world.token("login-2.h100.acme").await;
    let joins = async |token: &TokenText, number: u8| {
        matches!(world.join(token, number, &token.node.to_string()).await, JoinAnswer::Joined(_))
    };
    world.operator("member role acme/ml user1@acme.example member").await;
    assert!(!joins(&tokens[0], 50).await, "a member's");
    world.operator("member remove acme/ml user1@acme.example --yes").await;
    assert!(!joins(&tokens[0], 50).await, "of somebody who was removed");
    world.operator("member add acme/ml user1@acme.example --role admin").await;
    world.operator("user suspend user1@acme.example").await;
    assert!(!joins(&tokens[0], 50).await, "of somebody who is suspended");
    assert!(joins(&operators, 51).await);
    world.operator("user resume user1@acme.example").await;
    assert!(joins(&tokens[0], 50).await);
    let (operator, another) = (Asker::Operator { uid: 0 }, key(4).to_string());
    output(world.answer(&operator, "key add --account user1@acme.example", None, Some(&another)).await);
    world.operator(&format!("key remove {} --account user1@acme.example --yes", key(2).fingerprint())).await;
    assert!(!joins(&tokens[1], 52).await, "by a key that is not theirs any more");
    world.refused_operator("node token login-3.h100.acme --ttl 8d").await;
    assert!(world.log().await.iter().any(|entry| entry.event.detail.contains("could not ask for it any more")));
}

#[tokio::test]
async fn an_admin_who_can_do_nothing_does_not_keep_a_project() {
    let world = World::story().await;
    world.operator("member role acme/ml user1@acme.example admin").await;
    world.operator("user suspend user1@acme.example").await;
    let said = world.refused_operator("member remove acme/ml admin1@acme.example --yes").await;
    assert!(said.contains("last admin"), "{said}");
    world.operator("user resume user1@acme.example").await;
    world.operator(&format!("key remove {} --account user1@acme.example --yes", key(2).fingerprint())).await;
    let said = world.refused_operator("member role acme/ml admin1@acme.example member").await;
    assert!(said.contains("last admin"), "{said}");
    let (operator, another) = (Asker::Operator { uid: 0 }, key(4).to_string());
    output(world.answer(&operator, "key add --account user1@acme.example", None, Some(&another)).await);
    world.operator("member role acme/ml admin1@acme.example member").await;
}

#[tokio::test]
async fn whose_a_key_is_is_told_to_nobody_but_operators() {
    let world = World::story().await;
    let _gateway = world.gateway(vec![]);
    world.node("login-0.h100.acme", 50).await;
    for number in [1, 50] {
        let asker = world.asker(3).await;
        let said = output(world.type_words(&asker, &["key".into(), "add".into()], vec![key(number).to_string()]).await);
        assert_eq!(said.exit, 1);
        assert!(said.stderr.contains("cannot be registered here"), "{}", said.stderr);
        assert!(!said.stderr.contains("account") && !said.stderr.contains("node"), "{}", said.stderr);
    }
}

#[tokio::test]
async fn a_token_works_once_in_time_and_for_its_node() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    let refused = |answer: JoinAnswer| match answer {
        JoinAnswer::Refused { message } => message,
        JoinAnswer::Joined(joined) => panic!("{} joined", joined.node),
    };
    let told = "the token is not valid: it may have been used or have expired, or be for another node; ask for a new one \
                (node token)";
    let token = world.token("login-0.h100.acme").await;
    assert_eq!(refused(world.join(&token, 50, "login-1.h100.acme").await), told);
    assert!(matches!(world.join(&token, 50, "login-0.h100.acme").await, JoinAnswer::Joined(_)));
    assert_eq!(refused(world.join(&token, 51, "login-0.h100.acme").await), told);

    let late = world.token("login-1.h100.acme").await;
    world.pass(Duration::from_secs(3600));
    assert_eq!(refused(world.join(&late, 51, "login-1.h100.acme").await), told);

    let taken = world.token("login-2.h100.acme").await;
    assert!(refused(world.join(&taken, 50, "login-2.h100.acme").await).contains("host key"));
    assert!(refused(world.join(&taken, 2, "login-2.h100.acme").await).contains("host key"));
    let mut guessed = taken.clone();
    guessed.secret = "AAAA".into();
    assert_eq!(refused(world.join(&guessed, 52, "login-2.h100.acme").await), told);
    let log = async || world.operator("audit list --limit 1000 --json").await.stdout.matches("\"seq\"").count();
    let before = log().await;
    world.join(&guessed, 53, "login-2.h100.acme").await;
    assert_eq!(log().await, before, "strangers can fill the log with tokens that never were");
    // Each of the others is on record, with what was wrong for the operator.
    let log = world.operator("audit list --json").await.stdout;
    for why in ["the token is for login-0", "was used, or taken back, at", "expired at", "is the host key of node"] {
        assert!(log.contains(why), "{why} not in {log}");
    }
    assert!(!log.contains(&token.secret), "the audit log holds a secret");
    world.operator("audit verify").await;
}

#[tokio::test]
async fn a_node_gets_what_it_lacks_until_it_is_one_no_more() {
    let world = World::story().await;
    let mut stream = world.gateway(vec![]);
    let node = world.node("login-0.h100.acme", 50).await;
    let hello = async |have, until| {
        let request = NodeHelloRequest {
            node: node.clone(),
            peer: PEER.parse().unwrap(),
            have,
            host_certificate_until: until,
            reach: Reach::Direct,
            program: None,
            lingers: true,
        };
        match world.app.node_hello(request).await.unwrap() {
            NodeHelloAnswer::Welcome { bundle, host_certificate, .. } => Some((bundle, host_certificate.is_some())),
            NodeHelloAnswer::Refused => None,
        }
    };
    let (bundle, certificate) = hello(None, None).await.unwrap();
    assert!(certificate);
    let version = world.app.directory().version();
    assert!(bundle.unwrap().payload.contains("\"user1\""));
    let month = Some(1_800_000_000 + 30 * 86_400);
    assert_eq!(hello(Some(version), month).await, Some((None, false)));

    let waiting = {
        let (app, asker) = (world.app.clone(), world.asker(1).await);
        let words =
            "member remove acme/ml user1@acme.example --yes --wait --json".split(' ').map(str::to_owned).collect();
        tokio::spawn(async move {
            command::run(&app, &asker, Invocation { words, terminal: None, inputs: vec![], context: None }).await
        })
    };
    let mut marked = Version(0);
    let pushed = loop {
        match next(&mut stream).await {
            Event::Mark { version } => marked = version,
            Event::Bundle { version: pushed, bundle, .. } if pushed > version => {
                assert!(!bundle.payload.contains("\"user1\""));
                break pushed;
            }
            _ => {}
        }
    };
    assert_eq!(marked, pushed, "gateways are told that this is all, before the nodes' lists are made");
    let done = Some(Marked { gateway: "gw1".into(), version: marked });
    world.app.closed(ClosedRequest { sessions: vec![], done }).await;
    world.app.node_receipt(NodeReceiptRequest { node: node.clone(), version: Some(pushed), problem: None, ended: 1 });
    let receipts = output(waiting.await.unwrap());
    assert_eq!(receipts.exit, 0, "{}", receipts.stderr);
    let receipts: serde_json::Value = serde_json::from_str(&receipts.stdout).unwrap();
    let [gateway, node_receipt] = [&receipts["gateways"][0], &receipts["receipts"][0]];
    assert_eq!((&gateway["gateway"], &node_receipt["node"]), (&"gw1".into(), &"login-0.h100.acme".into()));
    for receipt in [gateway, node_receipt] {
        assert!(receipt["confirmed"].as_str().unwrap().starts_with("2027"), "{receipt}");
    }

    world.operator("node remove login-0.h100.acme --yes").await;
    while next(&mut stream).await != (Event::NodeGone { node: node.node }) {}
    // It comes in once more, for the list that lets nobody in; then it is nobody.
    let request = AuthenticateRequest {
        connection: "c".into(),
        peer: PEER.parse().unwrap(),
        presented: Presented::Key(STANDARD.encode(key(50).to_wire())),
        joining: false,
    };
    assert_eq!(world.app.authenticate(request).await, AuthenticateAnswer::Node(node.clone()));
    let (bundle, certificate) = hello(Some(pushed), None).await.unwrap();
    let payload = bundle.unwrap().payload;
    assert!(!certificate && payload.contains("\"logins\":[]"), "{payload}");
    let last = world.app.directory().version();
    assert!(last > pushed && payload.contains(&format!("\"version\":{last},")));
    assert_eq!(hello(Some(last), month).await, None);
}

#[tokio::test]
async fn bad_input_is_one_line_and_changes_nothing() {
    let world = World::story().await;
    let version = world.app.directory().version();
    let new = |key: &str| format!("user create new@acme.example --org acme --name new --key '{key}'");
    let private = "-----BEGIN OPENSSH PRIVATE KEY-----";
    for (line, told) in [
        ("member add acme/ml nobody@acme.example".to_owned(), "no account has the email"),
        ("member add acme/ml user1@acme.example".into(), "already, as member"),
        ("member remove acme/ml user2@acme.example --yes".into(), "is not in acme/ml"),
        ("member remove acme/ml admin1@acme.example --yes".into(), "last admin"),
        ("member role acme/ml admin1@acme.example member".into(), "last admin"),
        ("member role acme/ml user1@acme.example member".into(), "already"),
        ("member remove acme/ml user1@acme.example".into(), "--yes"),
        (new(private), "PRIVATE key"),
        (new(&key(2).to_string()), "another account"),
        (new("ssh-dss AAAAB3NzaC1kc3MAAAAA"), "ssh-dss"),
        (new("ssh-rsa nonsense"), "not an OpenSSH public key"),
        ("user create user1@acme.example --org acme --name other".into(), "already"),
        ("user create x@acme.example --org acme --name user1".into(), "never given out twice"),
        ("user create x@acme.example --org none --name x".into(), "no such organization"),
        ("org create acme".into(), "already"),
        ("cluster create acme/ml h100".into(), "never given out twice"),
        ("project create acme/ml --admin admin1@acme.example".into(), "never given out twice"),
        ("project create acme/new".into(), "--admin"),
    ] {
        let stderr = world.refused_operator(&line).await;
        assert!(stderr.contains(told), "{line}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{line}: {stderr}");
        assert!(!stderr.contains("BEGIN"), "{stderr}");
    }
    let small = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f"])
        .arg(small.path().join("rsa"))
        .status();
    assert!(made.unwrap().success());
    let small = std::fs::read_to_string(small.path().join("rsa.pub")).unwrap();
    let stderr = world.refused_operator(&new(small.trim())).await;
    assert!(stderr.contains("2048 bits") && stderr.contains("3072"), "{stderr}");
    assert_eq!(world.app.directory().version(), version);
    // An account without a key, and one that is not there: each its own message.
    world.operator("user create keyless@acme.example --org acme --name keyless").await;
    let stderr = world.user(1, "member add acme/ml keyless@acme.example").await.stderr;
    assert!(stderr.contains("no SSH key"), "{stderr}");
    for (line, exit) in
        [("fly", 2), ("member add", 2), ("member add acme/ml a\u{1b}[2J@x", 2), ("cert 'open", 2), ("--help", 0)]
    {
        let output = world.user(2, line).await;
        assert_eq!(output.exit, exit, "{line}");
        assert!(!output.stderr.contains('\u{1b}') && !output.stdout.contains('\u{1b}'), "{line}");
    }
}

#[tokio::test]
async fn a_person_is_asked_before_a_removal() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    world.node("login-0.h100.acme", 50).await;
    world.open(2, 1, "login-0.h100.acme").await.unwrap();
    let asker = world.asker(1).await;
    let terminal = Some(Terminal { columns: 80, colours: false });
    let line = "member remove acme/ml user1@acme.example";
    let asked = world.answer(&asker, line, terminal, None).await;
    let CommandAnswer::Input { prompt, read: Read::Line, context: None, .. } = asked else { panic!("was not asked") };
    assert_eq!(prompt, "Remove user1@acme.example from acme/ml? 1 open session will end. [y/N] ");
    for no in ["", "n\n", "yesterday\n"] {
        assert_eq!(output(world.answer(&asker, line, terminal, Some(no)).await).exit, 1);
        assert!(world.user(1, "member list acme/ml").await.stdout.contains("user1"));
    }
    assert_eq!(output(world.answer(&asker, line, terminal, Some("y\n")).await).exit, 0);
    assert!(!world.user(1, "member list acme/ml").await.stdout.contains("user1"));
}

#[tokio::test]
async fn inputs_are_bounded_in_number_and_together() {
    let world = World::story().await;
    let person = world.asker(1).await;
    let operator = Asker::Operator { uid: 0 };
    let big = |bytes: usize| vec!["x".repeat(bytes / 2), "x".repeat(bytes / 2)];
    for (asker, inputs, told) in [
        (&person, vec![String::new(); 9], "more than 8 inputs\n"),
        (&person, big(256 * 1024 + 2), "the input is longer than 262144 bytes\n"),
        (&operator, big(33 * 1024 * 1024 + 2), "the input is longer than 34603008 bytes\n"),
    ] {
        let answer = command::run_line(&world.app, asker, "whoami", None, inputs, None).await;
        assert_eq!((output(answer.clone()).exit, output(answer).stderr.as_str()), (2, told));
    }
    // What fits together is still looked at one by one.
    let answer = command::run_line(&world.app, &person, "key add", None, big(256 * 1024), None).await;
    assert_eq!(output(answer).stderr, "the input is longer than 65536 bytes\n");
}

#[tokio::test]
async fn a_yes_counts_only_for_the_question_that_it_was_given_to() {
    let world = World::story().await;
    let asker = world.asker(1).await;
    let terminal = Some(Terminal { columns: 80, colours: false });
    let line = "member remove acme/ml user1@acme.example";
    let answer = async |yes: &str, context: Option<&str>| {
        command::run_line(&world.app, &asker, line, terminal, vec![yes.into()], context.map(str::to_owned)).await
    };
    assert!(matches!(answer("y", Some("another question")).await, CommandAnswer::Input { context: None, .. }));
    assert_eq!(output(answer("n", Some("another question")).await).exit, 1);
    assert!(world.user(1, "member list acme/ml").await.stdout.contains("user1"));
    assert_eq!(output(answer("y", None).await).exit, 0);
}

#[tokio::test]
async fn a_removed_key_stays_refused_until_its_certificates_have_ended() {
    let world = World::story().await;
    let add = async || {
        let line = "key add --account user1@acme.example";
        output(world.answer(&Asker::Operator { uid: 0 }, line, None, Some(&key(2).to_string())).await)
    };
    world.operator(&format!("key remove {} --account user1@acme.example --yes", key(2).fingerprint())).await;
    assert!(add().await.stderr.contains("can be added again after"), "a key came back with its certificates");
    world.pass(Duration::from_secs(3600));
    assert_eq!(add().await.exit, 0);
}

#[tokio::test]
async fn certificates_of_ours_and_keys_of_nobody() {
    let world = World::story().await;
    let line = world.user(2, "cert").await.stdout;
    let blob = line.split(' ').nth(1).unwrap().to_owned();
    let authenticate = async |presented| {
        let request =
            AuthenticateRequest { connection: "c".into(), peer: PEER.parse().unwrap(), presented, joining: false };
        world.app.authenticate(request).await
    };
    let AuthenticateAnswer::Account { credential, .. } = authenticate(Presented::Certificate(blob.clone())).await
    else {
        panic!("a good certificate was refused")
    };
    // Who came with a certificate may look, and change nothing.
    let asker = Asker::Account { credential, peer: PEER.parse().unwrap(), connection: "c".into() };
    assert_eq!(output(world.answer(&asker, "whoami", None, None).await).exit, 0);
    let change = output(world.answer(&asker, "key add", None, Some(&key(9).to_string())).await);
    assert!(change.exit == 1 && change.stderr.contains("certificate"), "{}", change.stderr);

    assert_eq!(authenticate(Presented::Key(STANDARD.encode(key(77).to_wire()))).await, AuthenticateAnswer::Refused);
    assert_eq!(authenticate(Presented::Key("!".into())).await, AuthenticateAnswer::Refused);
    world.operator("certificate revoke 1").await;
    assert_eq!(authenticate(Presented::Certificate(blob)).await, AuthenticateAnswer::Refused);
    assert_eq!(output(world.answer(&asker, "whoami", None, None).await).exit, 1);
}

#[tokio::test]
async fn explanations_end_as_the_decision_does() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    world.node("login-0.h100.acme", 50).await;
    let node = "login-0.h100.acme";
    let explain = async |number: u8, email: &str| world.user(number, &format!("explain {email} {node}")).await;
    let agrees = async |number: u8, session: u128, email: &str| {
        let opened = world.open(number, session, node).await.is_ok();
        let told =
            output(world.answer(&Asker::Operator { uid: 0 }, &format!("explain {email} {node}"), None, None).await);
        assert_eq!(told.exit == 0, opened, "{email}: {}", told.stdout);
        told.stdout
    };
    assert!(agrees(1, 1, "admin1@acme.example").await.contains("admin of acme/ml since"));
    agrees(2, 2, "user1@acme.example").await;
    assert!(agrees(3, 3, "user2@acme.example").await.contains("not in acme/ml"));
    let reach = async |number: u8| world.user(number, "reach h100.acme").await.stdout;
    assert!(reach(2).await.contains("user1@acme.example"));

    // An admin may ask about others, a member about herself; a stranger learns nothing, not even about himself.
    assert_eq!(explain(1, "user1@acme.example").await.exit, 0);
    assert_eq!(explain(2, "user1@acme.example").await.exit, 0);
    assert!(explain(2, "admin1@acme.example").await.stderr.contains("only an admin"));
    assert_eq!(explain(3, "admin1@acme.example").await.stderr, "no such cluster: h100.acme\n");
    let stranger = explain(3, "user2@acme.example").await.stdout;
    assert!(stranger.contains("no such node") && !stranger.contains("acme/ml"), "{stranger}");

    // A certificate that is good for this node is told; what she has in another project is none of its admin's business.
    world.operator("project create acme/other --admin user1@acme.example").await;
    world.user(2, "cert --project acme/other").await;
    assert!(explain(1, "user1@acme.example").await.stdout.contains("none live for this node"));
    world.user(2, "cert --cluster h100.acme").await;
    assert!(explain(1, "user1@acme.example").await.stdout.contains("serial 2, ends in 5 min"));
    world.operator("certificate revoke 2").await;
    assert!(explain(1, "user1@acme.example").await.stdout.contains("none live for this node"));

    assert_eq!(world.user(3, "reach h100.acme").await.stderr, "no such cluster: h100.acme\n");

    world.operator("user suspend user1@acme.example").await;
    assert!(agrees(2, 4, "user1@acme.example").await.contains("suspended"));
    assert!(!reach(1).await.contains("user1"));
    world.operator("user resume user1@acme.example").await;
    world.operator("member remove acme/ml user1@acme.example --yes").await;
    assert!(agrees(2, 5, "user1@acme.example").await.contains("removed from acme/ml"));
    let told = explain(2, "user1@acme.example").await.stdout;
    assert!(told.contains("removed from acme/ml") && !told.contains("192.0.2.7"), "{told}");
    let outsider = explain(1, "user2@acme.example").await.stdout;
    assert!(outsider.contains("not in the project") && !outsider.contains("registered"), "{outsider}");
    assert!(!reach(1).await.contains("user1"));

    // A month later she is told what a stranger is told, and the admin no more than of a stranger.
    world.operator("project delete acme/other --yes").await;
    world.pass(Duration::from_secs(40 * 86_400));
    let told = explain(2, "user1@acme.example").await.stdout;
    assert_eq!(told, explain(3, "user2@acme.example").await.stdout.replace("user2", "user1"));
    let admin = explain(1, "user1@acme.example").await.stdout;
    assert_eq!(admin, outsider.replace("user2", "user1"));
}

#[tokio::test]
async fn the_audit_log_is_read_in_parts_and_checked_against_a_head() {
    let world = World::story().await;
    world.user(3, "member add acme/ml user2@acme.example").await;
    world.pass(Duration::from_secs(3600));
    world.operator("member remove acme/ml user1@acme.example --yes").await;
    let count = async |filter: &str| {
        let listed = world.operator(&format!("audit list --json {filter}")).await.stdout;
        serde_json::from_str::<serde_json::Value>(&listed).unwrap()["entries"].as_array().unwrap().len()
    };
    assert_eq!(count("--what member").await, 3);
    assert_eq!(count("--what member.remove").await, 1);
    assert_eq!(count("--what volume").await, 0);
    assert_eq!(count("--who user2@acme.example").await, 1);
    assert_eq!(count(&format!("--who {PEER}")).await, 1);
    assert_eq!(count("--since 2027-01-15T08:30:00Z").await, 1);
    assert_eq!(count("--what member --until 2027-01-15T08:30:00Z").await, 2);
    assert_eq!(count("--limit 2").await, 2);

    let lines = world.operator("audit export --after 2").await.stdout;
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first["seq"], 3);
    let verified = world.operator("audit verify --json").await.stdout;
    let head = serde_json::from_str::<serde_json::Value>(&verified).unwrap()["head"].as_str().unwrap().to_owned();
    world.operator("org create later").await;
    world.operator(&format!("audit verify --head {head}")).await;
    // A log that ends before the head, or has something else in its place, is not the one that the head was of.
    let (seq, hash) = head.split_once(':').unwrap();
    let later = format!("{}:{hash}", seq.parse::<u64>().unwrap() + 100);
    assert!(world.refused_operator(&format!("audit verify --head {later}")).await.contains("cut off"));
    let other = format!("{seq}:{}", "0".repeat(64));
    assert!(world.refused_operator(&format!("audit verify --head {other}")).await.contains("rewritten"));
}

#[tokio::test]
async fn a_project_is_no_way_to_other_ports_or_in_a_node_s_place() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    // Anybody can have a project; what the gateway dials for it is not theirs to choose freely.
    for (line, told) in [
        ("node token redis.h100.acme --address 192.0.2.7 --port 6379", "port 22"),
        ("node token self.h100.acme --address 127.0.0.1", "no node may be at"),
        ("node token cloud.h100.acme --address 169.254.169.254", "no node may be at"),
    ] {
        let refused = world.user(1, line).await;
        assert!(refused.exit == 1 && refused.stderr.contains(told), "{line}: {}", refused.stderr);
    }
    let token: TokenText = world.user(1, "node token near.h100.acme").await.stdout.parse().unwrap();
    let request = JoinRequest {
        connection: "j".into(),
        peer: "127.0.0.1".parse().unwrap(),
        host_key: key(60),
        secret: token.secret,
        node: "near.h100.acme".parse().unwrap(),
    };
    assert!(matches!(world.app.join(request).await, JoinAnswer::Refused { .. }), "the bastion is a node");

    world.node("login-0.h100.acme", 50).await;
    let token = world.token("login-0.h100.acme").await;
    let JoinAnswer::Refused { message } = world.join(&token, 51, "login-0.h100.acme").await else {
        panic!("a live node was replaced")
    };
    assert!(message.contains("remove it first"), "{message}");
    // The machine itself may join again, and another one once the node was removed.
    assert!(matches!(world.join(&token, 50, "login-0.h100.acme").await, JoinAnswer::Joined(_)));
    world.operator("node remove login-0.h100.acme --yes").await;
    let token = world.token("login-0.h100.acme").await;
    assert!(matches!(world.join(&token, 51, "login-0.h100.acme").await, JoinAnswer::Joined(_)));
}
