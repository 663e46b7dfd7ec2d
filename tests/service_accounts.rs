//! Accounts for automation, through the authority as a whole: who makes them, what they may, from where, and how they end.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{GATEWAY, PEER, World, key, next, next_end, output};
use base64::{Engine, engine::general_purpose::STANDARD};
use certgate::{
    app::{
        Asker,
        protocol::{
            AuthenticateAnswer, AuthenticateRequest, CommandAnswer, Event, OpenSession, Output, Presented, Terminal,
        },
    },
    domain::SessionId,
    policy::CertificateSettings,
};
use serde_json::Value;
use ssh_key::Certificate;
use std::time::Duration;

/// The robot of these tests, by its key's number, and what it is called.
const CI: u8 = 10;
const EMAIL: &str = "ci@ml.acme.service";
const NODE: &str = "login-0.h100.acme";
/// Not in its networks.
const ELSEWHERE: &str = "192.0.2.66";

/// admin1 makes it, from her own session.
async fn robot(world: &World, more: &str) -> Output {
    let line = format!("service create acme/ml ci --source-address 198.51.100.0/24 --key '{}' {more}", key(CI));
    let made = world.user(1, &line).await;
    assert_eq!(made.exit, 0, "{}", made.stderr);
    made
}

async fn with_robot(more: &str) -> World {
    let world = World::story().await;
    robot(&world, more).await;
    world
}

fn json(output: &Output) -> Value {
    assert_eq!(output.exit, 0, "{}", output.stderr);
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", output.stdout))
}

/// What a certificate says: principals, critical options, extensions.
fn says(line: &str) -> (Vec<String>, Vec<(String, String)>, Vec<String>) {
    let certificate = Certificate::from_openssh(line).unwrap();
    let pair = |(name, value): (&String, &String)| (name.clone(), value.clone());
    (
        certificate.valid_principals().to_vec(),
        certificate.critical_options().iter().map(pair).collect(),
        certificate.extensions().keys().cloned().collect(),
    )
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn an_admin_makes_a_robot_that_works_in_its_project_and_changes_nothing() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    world.node(NODE, 50).await;
    let made = robot(&world, "").await;
    assert_eq!(
        made.stderr,
        "created ci@ml.acme.service as user svc-ci (200003): from 198.51.100.0/24, certificates of 1h at most\nNext, from \
         there and with its key: ssh bastion.example.com config > ~/.ssh/certgate.conf\n"
    );
    let whoami = world.user(CI, "whoami").await.stdout;
    for said in [EMAIL, "user svc-ci", "service account: from 198.51.100.0/24", "change nothing", "acme/ml"] {
        assert!(whoami.contains(said), "{said:?} is not in {whoami}");
    }
    let config = world.user(CI, "config").await.stdout;
    assert!(config.contains("    User svc-ci\n") && config.contains("# certgate, for ci@ml.acme.service"), "{config}");
    // What is bound to no command may have a terminal.
    assert!(!config.contains("RequestTTY"), "{config}");
    for line in
        ["project show acme/ml", "member list acme/ml", "cluster list", "node list h100.acme", "reach h100.acme"]
    {
        assert_eq!(world.user(CI, line).await.exit, 0, "{line}");
    }
    world.open(CI, 1, NODE).await.unwrap();
    assert_eq!(
        says(&world.user(CI, "cert").await.stdout),
        (
            vec!["svc-ci@acme/ml".to_owned()],
            pairs(&[("source-address", "198.51.100.0/24,203.0.113.1/32")]),
            vec!["permit-port-forwarding".to_owned(), "permit-pty".to_owned()]
        )
    );
    let own = key(CI).fingerprint();
    for line in [
        "key add",
        &format!("key remove {own} --yes"),
        "project create acme/mine",
        "member add acme/ml user2@acme.example",
        "cluster create acme/ml mine",
        "node token login-1.h100.acme",
        &format!("service update {EMAIL} --max-ttl 30m"),
        &format!("service key add {EMAIL} --key '{}'", key(99)),
        "certificate revoke 1",
        &format!("session end {}", SessionId::from_bits(1)),
    ] {
        let asker = world.asker(CI).await;
        let refused = output(world.answer(&asker, line, None, Some(&key(99).to_string())).await);
        assert!(refused.exit == 1 && refused.stderr.contains("changes nothing"), "{line}: {}", refused.stderr);
    }
}

#[tokio::test]
async fn from_elsewhere_a_robot_is_refused_with_the_reason_and_that_is_on_record() {
    let world = with_robot("").await;
    let _stream = world.gateway(vec![]);
    world.node(NODE, 50).await;
    // A person may come from there.
    assert_eq!(world.user_from(2, ELSEWHERE, "whoami").await.exit, 0);
    let told = format!(
        "this service account is used from certain networks only, and you come from {ELSEWHERE}; an admin of its project \
         can change that: service update"
    );
    for line in ["", "whoami", "cert", "config", "project list", "key list"] {
        let refused = world.user_from(CI, ELSEWHERE, line).await;
        assert_eq!((refused.exit, refused.stdout.as_str()), (1, ""), "{line}");
        assert_eq!(refused.stderr, format!("{told}\n"), "{line}");
    }
    assert_eq!(world.open_from(CI, ELSEWHERE, 1, NODE).await, Err(told));
    assert!(world.open_from(CI, PEER, 2, NODE).await.is_ok());
    // Each time that the key was proved there; it may have been stolen.
    let mut entries = vec![];
    for _ in 0..1000 {
        let log = json(&world.operator("audit list --json --what authenticate").await);
        entries.clone_from(log["entries"].as_array().unwrap());
        // Nobody waits for these to be durable; the last one is not there before the others.
        if entries.len() >= 7 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(entries.len(), 7, "{entries:#?}");
    let event = &entries[0]["event"];
    assert_eq!((event["outcome"].as_str(), event["source"].as_str()), (Some("refused"), Some(ELSEWHERE)));
    assert_eq!(event["actor"]["account"]["email"], EMAIL);
    assert_eq!(event["actor"]["account"]["kind"], "service");
    assert_eq!(event["reason"], "source", "{event:#}");

    // With its certificate no less: that one is refused before it is anybody's.
    let line = world.user(CI, "cert").await.stdout;
    let blob = line.split(' ').nth(1).unwrap().to_owned();
    for (peer, accepted) in [(ELSEWHERE, false), (GATEWAY, false), (PEER, true)] {
        let presented = Presented::Certificate(blob.clone());
        let (connection, peer) = ("c".into(), peer.parse().unwrap());
        let answer = world.app.authenticate(AuthenticateRequest { connection, peer, presented, joining: false }).await;
        assert_eq!(answer != AuthenticateAnswer::Refused, accepted, "{peer}");
    }
}

#[tokio::test]
async fn who_may_do_what_to_a_robot() {
    let world = with_robot("").await;
    let of = async |number: u8, line: &str| world.user(number, &line.replace("EMAIL", EMAIL)).await;
    for line in ["service list acme/ml", "service show EMAIL", "service key list EMAIL"] {
        for number in [1, 2, CI] {
            let shown = of(number, line).await;
            assert!(shown.exit == 0, "{line} by {number}: {}", shown.stderr);
        }
    }
    let (other, own) = (key(11), key(CI).fingerprint());
    let changes = [
        format!("service create acme/ml new --source-address 192.0.2.1 --key '{}'", key(12)),
        "service update EMAIL --max-ttl 30m".into(),
        format!("service key add EMAIL --key '{other}'"),
        format!("service key remove EMAIL {own}"),
        "service delete EMAIL --yes".into(),
    ];
    for line in &changes {
        let refused = of(2, line).await;
        assert!(refused.exit == 1 && refused.stderr.contains("only an admin of acme/ml"), "{line}: {}", refused.stderr);
        // What an outsider learns is what there is to learn of a project or robot that does not exist.
        let nobodys =
            world.user(3, &line.replace("EMAIL", "ci@none.acme.service").replace("acme/ml", "acme/none")).await;
        let theirs = of(3, line).await;
        let renamed = theirs.stderr.replace(EMAIL, "ci@none.acme.service").replace("acme/ml", "acme/none");
        assert_eq!((theirs.exit, renamed), (1, nobodys.stderr), "{line}");
    }
    for line in ["service list acme/ml", "service show EMAIL", "service key list EMAIL"] {
        let theirs = of(3, line).await;
        assert!(theirs.exit == 1 && theirs.stderr.starts_with("no such "), "{line}: {}", theirs.stderr);
    }
    for line in &changes {
        let done = of(1, line).await;
        assert_eq!(done.exit, 0, "{line}: {}", done.stderr);
    }
    // Its email is no way around, whoever's name it looks like.
    assert_eq!(
        of(1, "service show admin1@acme.example").await.stderr,
        "no such service account: admin1@acme.example\n"
    );
}

#[tokio::test]
async fn a_robot_is_bound_at_every_step() {
    let world = with_robot("--force-command 'backup --to \"/data\"' --max-ttl 10m").await;
    let options =
        pairs(&[("force-command", "backup --to \"/data\""), ("source-address", "198.51.100.0/24,203.0.113.1/32")]);
    let first = world.user(CI, "cert").await.stdout;
    assert_eq!(says(&first), (vec!["svc-ci@acme/ml".to_owned()], options.clone(), vec![]));
    // A second step: whoever came with that certificate gets another one like it (x/crypto/ssh CVE-2026-39828).
    let presented = Presented::Certificate(first.split(' ').nth(1).unwrap().to_owned());
    let request =
        AuthenticateRequest { connection: "c".into(), peer: PEER.parse().unwrap(), presented, joining: false };
    let AuthenticateAnswer::Account { credential, .. } = world.app.authenticate(request).await else {
        panic!("its own certificate was refused")
    };
    assert!(credential.certificate.is_some());
    let asker = Asker::Account { credential, peer: PEER.parse().unwrap(), connection: "c".into() };
    let second = output(world.answer(&asker, "cert", None, None).await);
    assert_eq!(says(&second.stdout), (vec!["svc-ci@acme/ml".to_owned()], options, vec![]), "{}", second.stderr);

    let refused = world.user(CI, "cert --ttl 11m").await;
    assert_eq!(
        (refused.exit, refused.stderr.as_str()),
        (1, "your certificates live 10m at most; ask for 10m or less, not 11m\n")
    );
    assert_eq!(world.user(CI, "cert --ttl 10m").await.exit, 0);
    // ssh would ask for a terminal that it cannot have, and say so.
    assert!(world.user(CI, "config").await.stdout.contains("    RequestTTY no\n"));
    assert!(world.user(CI, "").await.stdout.contains("On nodes you run only: backup --to \"/data\"."));
}

#[tokio::test]
async fn what_no_longer_fits_ends_and_what_says_too_much_is_revoked() {
    let world = with_robot("").await;
    let mut stream = world.gateway(vec![]);
    assert_eq!(next(&mut stream).await, Event::Ready);
    world.node(NODE, 50).await;
    let session = world.open(CI, 1, NODE).await.unwrap();
    world.user(CI, "cert").await;
    let revoked = async || {
        let live = json(&world.operator("certificate list --json").await);
        let live = live.as_array().unwrap().clone();
        assert!(live.iter().all(|certificate| certificate["kind"] == "service"));
        live.iter().filter(|certificate| certificate["state"] == "revoked").count()
    };
    // Wider bounds take nothing back.
    world.operator(&format!("service update {EMAIL} --source-address 198.51.100.0/24,192.0.2.0/25")).await;
    assert_eq!(revoked().await, 0);
    // Narrower ones do: the certificate is good for direct connections from anywhere that it names.
    let done = world.operator(&format!("service update {EMAIL} --source-address 192.0.2.0/25")).await;
    assert!(done.stderr.contains("revoked 1 certificate that said more"), "{}", done.stderr);
    assert_eq!(revoked().await, 1);
    let (ended, told) = next_end(&mut stream).await;
    assert!(ended == session && told.contains("certain networks only"), "{told}");
    assert_eq!(world.user(CI, "cert").await.exit, 1);

    // One that still fits stays when the networks change, and ends when another command is forced.
    let session = world.open_from(CI, "192.0.2.9", 2, NODE).await.unwrap();
    world.user_from(CI, "192.0.2.9", "cert --ttl 30m").await;
    world.operator(&format!("service update {EMAIL} --source-address 192.0.2.0/28")).await;
    assert_eq!(revoked().await, 2);
    world.pass(Duration::from_secs(1));
    world.user_from(CI, "192.0.2.9", "cert --ttl 30m").await;
    world.operator(&format!("service update {EMAIL} --force-command id")).await;
    let (ended, told) = next_end(&mut stream).await;
    assert!(ended == session && told.contains("connect again"), "{told}");
    assert_eq!(revoked().await, 3);
    // A shorter cap ends those that live longer, and no others.
    world.user_from(CI, "192.0.2.9", "cert --ttl 2m").await;
    world.user_from(CI, "192.0.2.9", "cert --ttl 20m").await;
    world.operator(&format!("service update {EMAIL} --max-ttl 10m")).await;
    assert_eq!(revoked().await, 4);
    // Without a command again: what is kept says less, and may stay.
    world.operator(&format!("service update {EMAIL} --no-force-command")).await;
    assert_eq!(revoked().await, 4);
    let refused = world.refused_operator(&format!("service update {EMAIL} --no-force-command")).await;
    assert!(refused.contains("nothing was changed"), "{refused}");
}

#[tokio::test]
async fn what_a_gateway_that_was_away_has_open_is_held_against_the_bounds_of_today() {
    let world = with_robot("").await;
    let node = world.node_with_gateway().await;
    let credential = world.credential(CI).await;
    let opened = world.app.now();
    let hello = |number: u128, since| OpenSession {
        session: SessionId::from_bits(number),
        connection: "c".into(),
        peer: PEER.parse().unwrap(),
        credential: credential.clone(),
        node_id: node.node,
        since,
        leaves: false,
    };
    world.pass(Duration::from_secs(60));
    world.operator(&format!("service update {EMAIL} --force-command id")).await;
    world.pass(Duration::from_secs(60));
    let mut stream = world.gateway(vec![hello(1, opened), hello(2, world.app.now())]);
    assert_eq!(next(&mut stream).await, Event::Ready);
    assert_eq!(next_end(&mut stream).await.0, SessionId::from_bits(1));
    let listed = json(&world.operator("session list --json").await);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    // Since it was opened, not since the gateway came back.
    assert_eq!(
        (listed[0]["since"].as_str(), listed[0]["kind"].as_str()),
        (Some("2027-01-15T08:02:00Z"), Some("service"))
    );
}

#[tokio::test]
async fn deleted_is_deleted_for_good() {
    for (number, line) in [(1, format!("service delete {EMAIL} --yes")), (1, "project delete acme/ml --yes".into())] {
        let world = with_robot("").await;
        let mut stream = world.gateway(vec![]);
        world.node(NODE, 50).await;
        let session = world.open(CI, 1, NODE).await.unwrap();
        world.user(CI, "cert").await;
        let done = world.user(number, &line).await;
        assert_eq!(done.exit, 0, "{line}: {}", done.stderr);
        assert_eq!(next_end(&mut stream).await.0, session, "{line}");
        // Its key is nobody's: it does not even come in.
        let presented = Presented::Key(STANDARD.encode(key(CI).to_wire()));
        let request =
            AuthenticateRequest { connection: "c".into(), peer: PEER.parse().unwrap(), presented, joining: false };
        assert_eq!(world.app.authenticate(request).await, AuthenticateAnswer::Refused, "{line}");
        let shown = json(&world.operator(&format!("user show {EMAIL} --json")).await);
        assert_eq!((shown["state"].as_str(), shown["keys"].as_array().map(Vec::len)), (Some("deleted"), Some(0)));
        let gone = world.user(1, &format!("service show {EMAIL}")).await.stderr;
        assert_eq!(gone, format!("no such service account: {EMAIL}\n"));
        for (again, told) in [
            (format!("user resume {EMAIL}"), "does not come back"),
            (format!("service delete {EMAIL} --yes"), "no service account"),
        ] {
            assert!(world.refused_operator(&again).await.contains(told), "{again}");
        }
        let key_add = format!("key add --account {EMAIL}");
        let operator = Asker::Operator { uid: 0 };
        world.pass(Duration::from_secs(7200));
        let refused = output(world.answer(&operator, &key_add, None, Some(&key(CI).to_string())).await);
        assert!(refused.exit == 1 && refused.stderr.contains("was deleted"), "{}", refused.stderr);
        // Nor do its names: not even to a robot of the same name elsewhere.
        world.operator("project create acme/ml2 --admin admin1@acme.example").await;
        let create =
            |project: &str| format!("service create {project} ci --source-address 192.0.2.1 --key '{}'", key(13));
        if world.app.directory().project_at(&"acme/ml".parse().unwrap()).is_some() {
            assert!(world.refused_operator(&create("acme/ml")).await.contains("never given out twice"));
        }
        assert!(world.operator(&create("acme/ml2")).await.stderr.contains("ci@ml2.acme.service as user svc-ci-2"));
    }
}

#[tokio::test]
async fn a_deletion_is_asked_about_with_what_it_ends() {
    let world = with_robot("").await;
    let _stream = world.gateway(vec![]);
    world.node(NODE, 50).await;
    world.open(CI, 1, NODE).await.unwrap();
    let asker = world.asker(1).await;
    let terminal = Some(Terminal { columns: 80, colours: false });
    let ask = async |line: &str| match world.answer(&asker, line, terminal, None).await {
        CommandAnswer::Input { prompt, .. } => prompt,
        CommandAnswer::Output(output) => panic!("was not asked: {}", output.stderr),
    };
    assert_eq!(
        ask(&format!("service delete {EMAIL}")).await,
        "Delete ci@ml.acme.service, for good? 1 open session will end. [y/N] "
    );
    assert_eq!(
        ask("project delete acme/ml").await,
        "Delete acme/ml with 1 cluster, 1 node and 0 volumes? 2 members will lose access. 1 open session will end. 1 \
         service account will be deleted, for good. [y/N] "
    );
    let own = key(CI).fingerprint();
    let last = ask(&format!("service key remove {EMAIL} {own}")).await;
    assert_eq!(last, format!("{own} is the last key; without one {EMAIL} cannot connect. Remove it? [y/N] "));
    // With another one beside it, nothing is asked: that is how keys are changed without a gap.
    world.user(1, &format!("service key add {EMAIL} --key '{}'", key(11))).await;
    let removed = world.user(1, &format!("service key remove {EMAIL} {own}")).await;
    assert_eq!((removed.exit, removed.stderr), (0, format!("removed {own}; it is refused from now on\n")));
    assert_eq!(world.user(11, "cert").await.exit, 0);
    let back = world.user(1, &format!("service key add {EMAIL} --key '{}'", key(CI))).await;
    assert!(back.stderr.contains("can be added again after"), "{}", back.stderr);
}

#[tokio::test]
async fn robots_and_people_cannot_be_taken_for_each_other() {
    let world = with_robot("").await;
    for (line, told) in [
        ("user create x@ml.acme.service --org acme --name x", "end in .service"),
        ("user create X@ML.ACME.SERVICE --org acme --name x", "end in .service"),
        ("user create x@acme.example --org acme --name svc-x", "begin with svc-"),
        ("member add acme/ml ci@ml.acme.service", "a service account belongs to the project"),
        ("member add acme/ml none@ml.acme.service", "a service account belongs to the project"),
        ("member role acme/ml ci@ml.acme.service admin", "never an admin"),
        ("member remove acme/ml ci@ml.acme.service --yes", "service delete ci@ml.acme.service"),
        ("project create acme/other --admin ci@ml.acme.service", "a service account belongs to the project"),
        ("service create acme/ml Ci --source-address 192.0.2.1 --key KEY", "lower-case"),
        ("service create acme/ml ci --source-address 192.0.2.1 --key KEY", "never given out twice"),
        ("service create acme/ml ci2 --source-address 192.0.2.1 --max-ttl 2h --key KEY", "1h at most"),
        ("service create acme/ml ci2 --source-address 192.0.2.1 --key OURS", "another account"),
        ("service create acme/none ci2 --source-address 192.0.2.1 --key KEY", "no project acme/none"),
        ("service update ci@ml.acme.service --max-ttl 61m", "1h at most"),
    ] {
        let line = line.replace("KEY", &format!("'{}'", key(44))).replace("OURS", &format!("'{}'", key(1)));
        let operator = Asker::Operator { uid: 0 };
        let refused = output(world.answer(&operator, &line, None, None).await);
        assert!(refused.exit != 0 && refused.stderr.contains(told), "{line}: {}", refused.stderr);
        assert_eq!(refused.stderr.lines().count(), 1, "{line}: {}", refused.stderr);
    }
    for (line, told) in [
        ("service create acme/ml new --key x", "--source-address"),
        ("service create acme/ml new --source-address 0.0.0.0/0 --key x", "as good as everywhere"),
        ("service create acme/ml new --source-address 0.0.0.0/1,128.0.0.0/1 --key x", "as good as everywhere"),
        ("service create acme/ml new --source-address '' --key x", "a network is written like"),
        (
            "service create acme/ml new --source-address 192.0.2.1 --force-command \"a\u{1b}[2J\" --key x",
            "printable ASCII",
        ),
        ("service update ci@ml.acme.service", "missing"),
        ("service update ci@ml.acme.service --force-command id --no-force-command", "cannot be used with"),
    ] {
        let refused = output(world.answer(&Asker::Operator { uid: 0 }, line, None, None).await);
        assert!(refused.exit == 2 && refused.stderr.contains(told), "{line}: {}", refused.stderr);
        assert!(!refused.stderr.contains('\u{1b}'));
    }
}

#[tokio::test]
async fn it_is_shown_as_what_it_is() {
    let world = with_robot("--force-command sync").await;
    let _stream = world.gateway(vec![]);
    world.node(NODE, 50).await;
    world.open(CI, 1, NODE).await.unwrap();
    world.user(CI, "cert").await;
    let find = async |line: &str, field: &str| {
        let listed = json(&world.operator(line).await);
        let entry = listed.as_array().unwrap().iter().find(|entry| entry[field] == EMAIL).cloned();
        entry.unwrap_or_else(|| panic!("{line}: {listed:#}"))
    };
    for (line, field) in [
        ("user list --json", "email"),
        ("member list acme/ml --json", "email"),
        ("reach h100.acme --json", "email"),
        ("service list acme/ml --json", "email"),
        ("certificate list --json", "account"),
        ("session list --json", "account"),
    ] {
        assert_eq!(find(line, field).await["kind"], "service", "{line}");
    }
    let persons = json(&world.operator("user list --json").await);
    assert_eq!(persons.as_array().unwrap().iter().filter(|user| user["kind"] == "person").count(), 3);
    assert_eq!(find("reach h100.acme --json", "email").await["sources"][0], "198.51.100.0/24");
    let whoami = json(&world.user(CI, "whoami --json").await);
    assert_eq!((whoami["kind"].as_str(), whoami["service"]["force_command"].as_str()), (Some("service"), Some("sync")));
    for line in ["user list", "member list acme/ml", "reach h100.acme"] {
        assert!(world.operator(line).await.stdout.contains("  service"), "{line}");
    }
    // Explained without a connection: from where it may come is one of the steps, and what it runs.
    let explained = json(&world.user(1, &format!("explain {EMAIL} {NODE} --json")).await);
    assert_eq!(
        (explained["access"].as_bool(), explained["decided_by"].as_str().unwrap()),
        (
            Some(true),
            "every step holds, for a connection from 198.51.100.0/24, at a gateway; whether login-0.h100.acme lets \
             ci@ml.acme.service in is not known: not heard of since the authority started; it answers by the list that \
             it has"
        )
    );
    let steps: Vec<&str> =
        explained["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(
        steps,
        ["account", "key", "source", "command", "membership", "cluster", "node", "node's view", "certificate"]
    );

    let shown = json(&world.operator(&format!("user show {EMAIL} --json")).await);
    assert_eq!(shown["service"]["project"], "acme/ml");
    assert_eq!(shown["projects"][0]["role"], "member");
    assert_eq!(shown["keys"][0]["fingerprint"], key(CI).fingerprint().to_string());
    assert_eq!((shown["certificates"].as_array().unwrap().len(), shown["sessions"].as_array().unwrap().len()), (1, 1));
    let service = json(&world.user(2, &format!("service show {EMAIL} --json")).await);
    assert_eq!((service["sessions"].as_u64(), service["certificates"].as_u64()), (Some(1), Some(1)));
    assert_eq!(service["by"], "admin1@acme.example");
    // Of a person as well.
    world.operator("member remove acme/ml user1@acme.example --yes").await;
    let person = json(&world.operator("user show user1@acme.example --json").await);
    assert_eq!((person["kind"].as_str(), person["service"].is_null()), (Some("person"), true));
    assert_eq!(person["removed_from"][0]["project"], "acme/ml");
    assert_eq!(
        world.user(1, &format!("user show {EMAIL}")).await.stderr,
        "'user show' is for operators, on the bastion itself\n"
    );
}

#[tokio::test]
async fn a_suspension_holds_and_ends() {
    let world = with_robot("").await;
    world.operator(&format!("user suspend {EMAIL}")).await;
    assert!(world.user(CI, "whoami").await.stderr.contains("suspended"));
    // From elsewhere not even that is told.
    assert!(world.user_from(CI, ELSEWHERE, "whoami").await.stderr.contains("certain networks"));
    world.operator(&format!("user resume {EMAIL}")).await;
    assert_eq!(world.user(CI, "whoami").await.exit, 0);
}

#[tokio::test]
async fn without_the_gateways_addresses_there_are_no_robots() {
    let world = World::with(CertificateSettings::default()).await;
    world.tell().await;
    let line = format!("service create acme/ml ci --source-address 198.51.100.0/24 --key '{}'", key(CI));
    let refused = world.user(1, &line).await.stderr;
    assert_eq!(refused, "service accounts are not set up at this bastion; ask the people who run it\n");
    assert!(world.refused_operator(&line).await.contains("gateway_addresses"));
    // People need none.
    assert_eq!(world.user(1, "cert").await.exit, 0);
}
