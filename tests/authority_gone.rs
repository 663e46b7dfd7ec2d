//! What is gone and what is behind: who is told that a project or a cluster was deleted, what of that is on record, which
//! certificates are good for nothing any more, and what an explanation says of a node that does not have the latest list.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{World, key, next_end, output};
use certgate::{
    app::protocol::{JoinAnswer, NodeIdentity, NodeReceiptRequest},
    domain::Version,
};
use serde_json::Value;
use std::time::Duration;

const NODE: &str = "login-0.h100.acme";

async fn json(world: &World, line: &str) -> Value {
    serde_json::from_str(&world.operator(&format!("{line} --json")).await.stdout).unwrap()
}

/// `ACTION OBJECT by ACTOR` of each entry that is found.
async fn found(world: &World, filter: &str) -> Vec<String> {
    world.settle().await;
    let listed = json(world, &format!("audit list {filter}")).await;
    let events = listed["entries"].as_array().unwrap().iter().map(|entry| &entry["event"]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    events.map(|event| format!("{} {}", text(&event["action"]), text(&event["object"]))).collect()
}

#[tokio::test]
async fn former_members_are_told_of_a_deletion_and_strangers_are_not() {
    for (line, told) in [
        ("project delete acme/ml --yes", "project acme/ml was deleted at 08:00 UTC by admin1@acme.example\n"),
        ("cluster delete h100.acme --yes", "cluster h100.acme was deleted at 08:00 UTC by admin1@acme.example\n"),
    ] {
        let world = World::story().await;
        let mut stream = world.gateway(vec![]);
        world.node(NODE, 50).await;
        world.open(2, 1, NODE).await.unwrap();
        world.user(1, line).await;
        assert_eq!(format!("{}\n", next_end(&mut stream).await.1), told, "on the connection that ends");
        for words in ["cluster show h100.acme", "node list h100.acme", "cert --cluster h100.acme", "reach h100.acme"] {
            assert_eq!(world.user(2, words).await.stderr, told, "{line}: {words}");
            assert_eq!(world.user(3, words).await.stderr, "no such cluster: h100.acme\n", "{line}: {words}");
        }
        assert_eq!(format!("{}\n", world.open(2, 2, NODE).await.unwrap_err()), told);
        assert_eq!(format!("{}\n", world.open(2, 2, "h100.acme").await.unwrap_err()), told);
        assert_eq!(world.open(3, 3, NODE).await.unwrap_err(), "no such node: login-0.h100.acme");
        let whole = line.starts_with("project");
        for words in ["project show acme/ml", "member list acme/ml", "cert --project acme/ml"] {
            let (hers, strangers) = (world.user(2, words).await, world.user(3, words).await);
            assert_eq!(strangers.stderr, "no such project: acme/ml\n", "{words}");
            assert_eq!((hers.stderr == told, hers.exit), (whole, u8::from(whole)), "{words}: {}", hers.stderr);
        }
        let whoami = world.user(2, "whoami").await.stdout;
        let said = "The project acme/ml was deleted at 08:00 UTC by admin1@acme.example.";
        assert_eq!(whoami.contains(said), whole, "{whoami}");
        assert!(!world.user(3, "whoami").await.stdout.contains("deleted"));
        // For as long as it is useful.
        world.pass(Duration::from_secs(40 * 86_400));
        assert_eq!(world.user(2, "cluster show h100.acme").await.stderr, "no such cluster: h100.acme\n");
        assert!(!world.user(2, "whoami").await.stdout.contains("deleted"));
    }
}

#[tokio::test]
async fn who_was_removed_before_a_deletion_is_told_of_the_removal() {
    let world = World::story().await;
    world.user(1, "member remove acme/ml user1@acme.example --yes").await;
    world.pass(Duration::from_secs(60));
    world.user(1, "project delete acme/ml --yes").await;
    let told = "removed from acme/ml at 08:00 UTC by admin1@acme.example\n";
    for words in ["project show acme/ml", "cluster show h100.acme", "cert"] {
        assert_eq!(world.user(2, words).await.stderr, told, "{words}");
    }
}

#[tokio::test]
async fn what_goes_with_a_project_is_on_record_by_its_own_name() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    world.node(NODE, 50).await;
    world.operator("volume create acme/ml scratch --size 1T --mount /scratch").await;
    let robot = format!("service create acme/ml ci --source-address 198.51.100.0/24 --key '{}'", key(9));
    assert_eq!(world.user(1, &robot).await.exit, 0);
    world.open(2, 1, NODE).await.unwrap();
    world.user(1, "project delete acme/ml --yes").await;
    for (name, action) in [
        ("acme/ml", "project.delete acme/ml"),
        ("h100.acme", "cluster.delete h100.acme"),
        (NODE, "node.remove login-0.h100.acme"),
        ("scratch", "volume.delete acme/ml scratch"),
        ("ci@ml.acme.service", "service.delete ci@ml.acme.service"),
    ] {
        let found = found(&world, &format!("--on {name} --who admin1@acme.example")).await;
        assert!(found.contains(&action.to_owned()), "{name}: {found:?}");
    }
    let ended = found(&world, "--what session.end").await;
    assert_eq!(ended, ["session.end login-0.h100.acme user1@acme.example"]);
    assert_eq!(found(&world, "--what session.end --who certgate").await, ended, "not by the one whom it befell");
    assert_eq!(found(&world, "--on user1@acme.example --what session.end").await, ended);
    assert_eq!(world.operator("audit verify").await.exit, 0);
}

#[tokio::test]
async fn a_key_s_events_are_found_by_whose_it_is() {
    let world = World::story().await;
    let own = output(world.answer(&world.asker(2).await, "key add", None, Some(&key(12).to_string())).await);
    assert_eq!(own.exit, 0, "{}", own.stderr);
    let fingerprint = key(12).fingerprint();
    world.operator(&format!("key remove {fingerprint} --account user1@acme.example --yes")).await;
    let found = found(&world, "--on user1@acme.example --what key").await;
    let expected = ["add", "remove"].map(|what| format!("key.{what} {fingerprint} user1@acme.example"));
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_certificate_that_nobody_accepts_is_not_called_live() {
    for (line, state) in [
        ("org create other", "live"),
        ("user suspend user1@acme.example", "refused"),
        ("key remove KEY --account user1@acme.example --yes", "refused"),
        ("member remove acme/ml user1@acme.example --yes", "refused"),
        ("project delete acme/ml --yes", "refused"),
        ("certificate revoke 1", "revoked"),
    ] {
        let world = World::story().await;
        let _stream = world.gateway(vec![]);
        assert_eq!(world.user(2, "cert").await.exit, 0);
        world.operator(&line.replace("KEY", &key(2).fingerprint().to_string())).await;
        let live = usize::from(state == "live");
        assert_eq!(json(&world, "certificate list").await[0]["state"], state, "{line}");
        assert_eq!(json(&world, "certificate show 1").await["state"], state, "{line}");
        assert_eq!(json(&world, "user show user1@acme.example").await["certificates"][0]["state"], state, "{line}");
        assert_eq!(json(&world, "status").await["certificates"], live, "{line}");
        world.pass(Duration::from_secs(301));
        let ended = if state == "revoked" { "revoked" } else { "ended" };
        assert_eq!(json(&world, "certificate show 1").await["state"], ended, "{line}");
    }
}

#[tokio::test]
async fn an_explanation_says_what_a_node_that_is_behind_can_know() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    let node = world.node(NODE, 50).await;
    let say = |node: &NodeIdentity, version: Version, problem: Option<&str>| {
        let problem = problem.map(str::to_owned);
        world.app.node_receipt(NodeReceiptRequest { node: node.clone(), version: Some(version), problem, ended: 0 });
    };
    let explain = async |email: &str| {
        let told = json(&world, &format!("explain {email} {NODE}")).await;
        let view = told["steps"].as_array().unwrap().iter().find(|step| step["step"] == "node's view").unwrap().clone();
        (view["holds"].as_bool(), view["found"].as_str().unwrap().to_owned(), told["decided_by"].clone())
    };
    let (holds, found, decided) = explain("user1@acme.example").await;
    assert!(holds.is_none() && found.starts_with("not heard of"), "{found}");
    assert!(decided.as_str().unwrap().contains("is not known"), "{decided}");

    let before = world.app.directory().version();
    say(&node, before, None);
    world.settle().await;
    let (holds, _, decided) = explain("user1@acme.example").await;
    assert_eq!((holds, decided.as_str()), (Some(true), Some("every step holds")));

    // Somebody who comes is not in the list that the node has. The others are.
    world.operator("member add acme/ml user2@acme.example").await;
    let heard = async |email: &str, holds: Option<bool>| {
        // That a commit was looked at travels by itself.
        for _ in 0..1000 {
            let (found, said, decided) = explain(email).await;
            if found == holds && said.starts_with("behind") {
                return (said, decided);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{email}: {:?}", explain(email).await);
    };
    let (said, decided) = heard("user2@acme.example", None).await;
    assert!(said.contains(&format!("version {before} of {}", world.app.directory().version())), "{said}");
    assert!(decided.as_str().unwrap().contains("whether login-0.h100.acme lets user2@acme.example in is not known"));
    let (said, decided) = heard("user1@acme.example", Some(true)).await;
    assert!(said.ends_with("nothing has changed about this account since"), "{said}");
    assert_eq!(decided, "every step holds");

    // Why it does not take it, and for how long it has said nothing.
    say(&node, before, Some("no space left"));
    world.pass(Duration::from_secs(600));
    let (_, said, _) = explain("user2@acme.example").await;
    assert!(said.contains("(no space left), last heard 10 min ago, silent since"), "{said}");
    say(&node, world.app.directory().version(), None);
    assert_eq!(explain("user2@acme.example").await.0, Some(true));
}

#[tokio::test]
async fn tokens_that_could_be_used_are_listed_and_taken_back() {
    let world = World::story().await;
    let _stream = world.gateway(vec![]);
    let token = world.token("login-1.h100.acme").await;
    world.token("login-1.h100.acme").await;
    let hers = world.user(1, "node token login-2.h100.acme --ttl 10m --role compute").await;
    assert_eq!(hers.exit, 0, "{}", hers.stderr);
    world.node(NODE, 50).await;
    let listed = async || {
        let tokens = json(&world, "node tokens h100.acme").await;
        let names = tokens.as_array().unwrap().iter().map(|token| token["node"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(listed().await, ["login-2.h100.acme", "login-1.h100.acme", "login-1.h100.acme"], "not the used one");
    let text = world.user(1, "node tokens h100.acme").await.stdout;
    assert!(text.contains("admin1@acme.example") && text.contains("192.0.2.7 port 2201"), "{text}");
    let done = world.user(1, "node token login-1.h100.acme --revoke").await;
    assert_eq!(done.stderr, "took back 2 tokens for login-1.h100.acme\n");
    assert_eq!(listed().await, ["login-2.h100.acme"]);
    assert!(matches!(world.join(&token, 51, "login-1.h100.acme").await, JoinAnswer::Refused { .. }));
    let again = world.user(1, "node token login-1.h100.acme --revoke").await;
    assert!(again.exit == 1 && again.stderr.contains("no token"), "{}", again.stderr);
    // Nor one that its maker could not ask for any more.
    world.operator("member role acme/ml user1@acme.example admin").await;
    world.operator("member role acme/ml admin1@acme.example member").await;
    assert_eq!(listed().await, [""; 0]);
}
