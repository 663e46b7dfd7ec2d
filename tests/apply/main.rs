//! `apply` and `dump`, through the commands, with the authority in memory: what is shown, what is asked, what is changed.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
#[path = "../authority_support/mod.rs"]
mod authority_support;
mod mistakes;
mod process;
#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
#[path = "../process_support/mod.rs"]
mod process_support;
mod round_trip;
mod together;

use authority_support::{World, key, next, next_end, output};
use certgate::{
    app::{
        Asker,
        protocol::{CommandAnswer, Event, Output, Read, Terminal},
    },
    command::{self, Invocation},
};

const OPERATOR: Asker = Asker::Operator { uid: 0 };
const TERMINAL: Option<Terminal> = Some(Terminal { columns: 80, colours: false });

/// The same answer as somebody at `certgate`: the file, then what is typed.
async fn answer(
    world: &World,
    words: &[&str],
    terminal: Option<Terminal>,
    inputs: &[&str],
    context: Option<String>,
) -> CommandAnswer {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    let inputs = inputs.iter().map(|input| (*input).to_owned()).collect();
    command::run(&world.app, &OPERATOR, Invocation { words, terminal, inputs, context }).await
}

async fn apply(world: &World, file: &str, flags: &[&str]) -> Output {
    let words: Vec<&str> = ["apply", "f.toml"].iter().chain(flags).copied().collect();
    output(answer(world, &words, None, &[file], None).await)
}

async fn applied(world: &World, file: &str) -> String {
    let output = apply(world, file, &["--yes"]).await;
    assert_eq!(output.exit, 0, "{}", output.stderr);
    output.stdout
}

async fn dump(world: &World, flags: &[&str]) -> String {
    let words: Vec<&str> = ["dump"].iter().chain(flags).copied().collect();
    let output = output(answer(world, &words, None, &[], None).await);
    assert_eq!(output.exit, 0, "{}", output.stderr);
    output.stdout
}

/// Without the line that says which version it is.
fn without_version(dump: &str) -> &str {
    dump.split_once('\n').unwrap().1
}

async fn nothing_to_do(world: &World, file: &str) {
    let version = world.app.directory().version();
    let again = apply(world, file, &["--yes"]).await;
    assert_eq!(
        (again.exit, again.stdout.as_str(), again.stderr.as_str()),
        (0, "", "nothing to do: the directory is as described\n")
    );
    assert_eq!(world.app.directory().version(), version);
}

/// The story's file: everything that [`World::story`] has, and more.
fn team() -> String {
    format!(
        r#"format = 1

[[organizations]]
name = "acme"

[[accounts]]
email = "user3@acme.example"
org = "acme"
user = "user3"
uid = 210000
keys = ["{key3}"]

[[accounts]]
email = "user1@acme.example"
state = "suspended"
keys = ["{key1}"]

[[projects]]
name = "acme/ml"
max_ttl = "2m"
forbidden = ["x11-forwarding", "agent-forwarding"]

[projects.members]
"admin1@acme.example" = "member"
"user3@acme.example" = "admin"

[[projects.clusters]]
name = "h100"
nodes = {{ login = 1, compute = 4 }}
configuration = """
description = "H100"
"""

[[projects.volumes]]
name = "datasets"
size = "10T"
mount = "/data"
"#,
        key3 = key(13),
        key1 = key(12),
    )
}

#[tokio::test]
async fn what_is_shown_is_what_is_done() {
    let world = World::story().await;
    let shown = format!(
        "\
+ account user3@acme.example
    + org   acme
    + user  user3
    + uid   210000
    + key   ssh-ed25519 {new3}
~ account user1@acme.example
    + key    ssh-ed25519 {new1}
    - key    ssh-ed25519 {old1}
    ~ state  active → suspended
~ project acme/ml
    + member  user3@acme.example as admin
    ~ member  admin1@acme.example: admin → member
    - member  user1@acme.example (was member)
    ~ limits  certificates as long as the site's → certificates of 2m at most, without agent-forwarding, x11-forwarding
~ cluster h100.acme
    + configuration
        + description = \"H100\"
    ~ nodes          none → 1 login, 4 compute
+ volume acme/ml datasets
    + size   10T
    + mount  /data

Removed:
    - key ssh-ed25519 {old1} of account user1@acme.example
    - member user1@acme.example (was member) of project acme/ml

4 to add, 5 to change, 2 to remove
",
        new3 = key(13).fingerprint(),
        new1 = key(12).fingerprint(),
        old1 = key(2).fingerprint(),
    );
    let version = world.app.directory().version();
    let dry = apply(&world, &team(), &["--dry-run"]).await;
    assert_eq!((dry.exit, dry.stderr.as_str()), (0, "nothing was changed (--dry-run)\n"));
    assert_eq!(dry.stdout, shown);
    assert_eq!(apply(&world, &team(), &["--dry-run", "--exit-code"]).await.exit, 1);
    assert_eq!(world.app.directory().version(), version);

    assert_eq!(applied(&world, &team()).await, shown);
    assert_eq!(world.app.directory().version(), version.next(), "more than one transaction");
    let members = world.operator("member list acme/ml").await.stdout;
    assert!(members.contains("user3") && !members.contains("user1"), "{members}");
    let users = world.operator("user list").await.stdout;
    assert!(users.contains("210000") && users.contains("suspended"), "{users}");
    nothing_to_do(&world, &team()).await;
    assert_eq!(apply(&world, &team(), &["--dry-run", "--exit-code"]).await.exit, 0);
}

#[tokio::test]
async fn each_change_is_on_record_as_its_command_would_have_it() {
    let world = World::story().await;
    let last = |text: &str| {
        let log: serde_json::Value = serde_json::from_str(text).unwrap();
        log["entries"].as_array().unwrap().clone()
    };
    let before = last(&world.operator("audit list --json").await.stdout).len();
    applied(&world, &team()).await;
    let entries = last(&world.operator("audit list --json").await.stdout);
    let told: Vec<String> = entries[before..]
        .iter()
        .map(|entry| {
            let event = &entry["event"];
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            assert_eq!((text("outcome").as_str(), text("source").as_str()), ("done", "local"));
            format!("{} {} ({})", text("action"), text("object"), text("detail"))
        })
        .collect();
    let [new3, new1, old1] = [13, 12, 2].map(|n| key(n).fingerprint());
    assert_eq!(
        told,
        [
            "apply directory (4 added, 5 changed, 2 removed)".to_owned(),
            format!("user.create user3@acme.example (user user3 uid 210000 keys [{new3}])"),
            format!("key.add {new1} user1@acme.example (ssh-ed25519)"),
            format!("key.remove {old1} user1@acme.example ()"),
            "user.suspend user1@acme.example ()".to_owned(),
            "member.add acme/ml user3@acme.example (as admin)".to_owned(),
            "member.role acme/ml admin1@acme.example (from admin to member)".to_owned(),
            "member.remove acme/ml user1@acme.example (was member)".to_owned(),
            "project.update acme/ml (certificates of 2m at most, without agent-forwarding, x11-forwarding)".to_owned(),
            "cluster.update h100.acme (revision 2)".to_owned(),
            "cluster.scale h100.acme (from none to 1 login, 4 compute)".to_owned(),
            "volume.create acme/ml datasets (10T at /data)".to_owned(),
        ]
    );
    assert_eq!(world.operator("audit verify").await.exit, 0);
}

#[tokio::test]
async fn removals_end_what_is_open_and_are_announced() {
    let world = World::story().await;
    let mut stream = world.gateway(vec![]);
    assert_eq!(next(&mut stream).await, Event::Ready);
    world.node("login-0.h100.acme", 50).await;
    let session = world.open(2, 1, "login-0.h100.acme").await.unwrap();
    world.open(1, 2, "login-0.h100.acme").await.unwrap();
    let file = "[[projects]]\nname = \"acme/ml\"\nmembers = { \"admin1@acme.example\" = \"admin\" }\n";
    let asked = answer(&world, &["apply", "f.toml"], TERMINAL, &[file], None).await;
    let CommandAnswer::Input { prompt, .. } = asked else { panic!("was not asked: {asked:?}") };
    assert!(prompt.ends_with("\n1 open session will end. Apply this? [y/N] "), "{prompt}");
    applied(&world, file).await;
    let (ended, reason) = next_end(&mut stream).await;
    assert_eq!(ended, session);
    assert!(reason.contains("removed from acme/ml"), "{reason}");
}

#[tokio::test]
async fn a_yes_is_for_the_difference_that_was_shown() {
    let world = World::story().await;
    let words = ["apply", "f.toml"];
    let file = &team();
    let CommandAnswer::Input { read: Read::File(name), limit, context: None, .. } =
        answer(&world, &words, TERMINAL, &[], None).await
    else {
        panic!("the file was not asked for")
    };
    assert_eq!((name.as_str(), limit), ("f.toml", 32 * 1024 * 1024));
    let CommandAnswer::Input { prompt, read: Read::Line, context, .. } =
        answer(&world, &words, TERMINAL, &[file], None).await
    else {
        panic!("was not asked")
    };
    assert!(prompt.starts_with("+ account user3"), "{prompt}");
    assert!(prompt.ends_with("\n4 to add, 5 to change, 2 to remove\n\nApply this? [y/N] "), "{prompt}");
    assert!(context.is_some());
    // Whoever says no, or nothing, has changed nothing.
    for no in ["n\n", "\n", ""] {
        let output = output(answer(&world, &words, TERMINAL, &[file, no], context.clone()).await);
        assert_eq!((output.exit, output.stderr.as_str()), (1, "not confirmed; nothing was changed\n"));
    }
    // Somebody else removes user1 meanwhile: that is no longer to be done.
    world.operator("member remove acme/ml user1@acme.example --yes").await;
    let version = world.app.directory().version();
    let asked = answer(&world, &words, TERMINAL, &[file, "y\n"], context).await;
    let CommandAnswer::Input { prompt, context, .. } = asked else { panic!("was not asked again: {asked:?}") };
    assert!(prompt.starts_with("The directory has changed meanwhile"), "{prompt}");
    assert!(prompt.contains("\n4 to add, 5 to change, 1 to remove\n"), "{prompt}");
    assert_eq!(world.app.directory().version(), version);
    let output = output(answer(&world, &words, TERMINAL, &[file, "y\n", "y\n"], context).await);
    assert_eq!(
        (output.exit, output.stdout.as_str(), output.stderr.as_str()),
        (0, "", "applied: 4 added, 5 changed, 1 removed\n")
    );
    // What does not concern the file does not stand in the way of a yes.
    let file = format!("{file}[[projects.volumes]]\nname = \"more\"\nsize = \"1T\"\n");
    let asked = answer(&world, &words, TERMINAL, &[&file], None).await;
    let CommandAnswer::Input { context, .. } = asked else { panic!("was not asked: {asked:?}") };
    world.operator("org create other").await;
    let output = authority_support::output(answer(&world, &words, TERMINAL, &[&file, "y\n"], context).await);
    assert_eq!(output.exit, 0, "{}", output.stderr);
}

#[tokio::test]
async fn elsewhere_than_at_a_terminal_it_wants_a_yes_and_from_others_nothing() {
    let world = World::story().await;
    let version = world.app.directory().version();
    let output = apply(&world, &team(), &[]).await;
    assert_eq!(output.exit, 1);
    assert!(output.stderr.contains("add --yes"), "{}", output.stderr);
    assert_eq!(world.app.directory().version(), version);
    // Whoever may not is told before anything is read.
    for number in [1, 2, 3] {
        for line in ["apply -", "apply f.toml --yes", "dump", "dump --org acme"] {
            let output = world.user(number, line).await;
            assert_eq!((output.exit, output.stdout.as_str()), (1, ""), "{line}");
            assert!(output.stderr.contains("for operators"), "{line}: {}", output.stderr);
        }
    }
}

#[tokio::test]
async fn programs_get_it_as_data() {
    let world = World::story().await;
    let file = "[[accounts]]\nemail = \"user2@acme.example\"\nstate = \"suspended\"\n";
    let dry: serde_json::Value =
        serde_json::from_str(&apply(&world, file, &["--dry-run", "--json"]).await.stdout).unwrap();
    let version = world.app.directory().version().0;
    assert_eq!(
        dry,
        serde_json::json!({
            "applied": false, "version": version, "added": 0, "changed": 1, "removed": 0,
            "changes": [
                { "change": "change", "action": "user.suspend", "object": "user2@acme.example", "detail": "" }
            ],
        })
    );
    let done: serde_json::Value =
        serde_json::from_str(&apply(&world, file, &["--yes", "--json"]).await.stdout).unwrap();
    assert_eq!((&done["applied"], done["version"].as_u64()), (&true.into(), Some(version + 1)));
    let wrong: serde_json::Value =
        serde_json::from_str(&apply(&world, "x = 1\ny = 2\n", &["--yes", "--json"]).await.stdout).unwrap();
    assert_eq!(wrong["error"]["reason"], "invalid");
    assert_eq!(wrong["error"]["message"].as_str().unwrap().lines().count(), 3);
}

#[tokio::test]
async fn the_shipped_example_is_complete_and_can_be_applied() {
    let example = include_str!("../../config/directory.toml");
    let world = World::new().await;
    applied(&world, example).await;
    nothing_to_do(&world, example).await;
    let dump = dump(&world, &[]).await;
    assert_eq!(without_version(&dump).matches("[[projects.clusters]]").count(), 2);
    // Every field that a description can have is in the example or, if only numbers, in what is dumped.
    let documented = include_str!("../../docs/apply.md");
    let fields = documented.lines().filter(|line| line.starts_with("| ")).filter_map(|line| line.split(" | ").nth(1));
    let mut seen = 0;
    for field in fields.flat_map(|names| names.split(", ")).filter_map(|name| name.split('`').nth(1)) {
        let given = |text: &str| text.contains(&format!("{field} = ")) || text.contains(&format!(".{field}]"));
        assert!(given(example) || given(&dump), "{field}");
        seen += 1;
    }
    assert!(seen > 15, "{seen} fields are documented");
}

#[tokio::test]
async fn numbers_that_are_described_are_nobody_else_s() {
    let world = World::new().await;
    let account = |name: &str, more: &str| {
        format!("[[accounts]]\nemail = \"{name}@acme.example\"\norg = \"acme\"\nuser = \"{name}\"\n{more}")
    };
    let project = |name: &str, more: &str| {
        format!("[[projects]]\nname = \"acme/{name}\"\n{more}\nmembers = {{ \"user1@acme.example\" = \"admin\" }}\n")
    };
    let file = [
        "[[organizations]]\nname = \"acme\"\n".to_owned(),
        account("user1", &format!("keys = [\"{}\"]\n", key(1))),
        account("user2", ""),
        account("user3", "uid = 200001\n"),
        account("user4", "uid = 200000\n"),
        project("p1", ""),
        project("p2", "gid = 200001\nadmins_gid = 200003\n"),
        project("p3", "admins_gid = 200000\n"),
    ]
    .concat();
    applied(&world, &file).await;
    let dump = dump(&world, &[]).await;
    let numbers = |name: &str| {
        let lines = dump.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        lines.map(|number| number.parse().unwrap()).collect::<Vec<u32>>()
    };
    assert_eq!(numbers("uid"), [200_002, 200_003, 200_001, 200_000]);
    assert_eq!(numbers("gid"), [200_002, 200_001, 200_005]);
    assert_eq!(numbers("admins_gid"), [200_004, 200_003, 200_000]);
    nothing_to_do(&world, &file).await;
}

#[tokio::test]
async fn clusters_and_volumes_go_only_when_it_is_said() {
    let world = World::story().await;
    world.operator("volume create acme/ml old --size 1T --mount /data").await;
    let file =
        "[[projects]]\nname = \"acme/ml\"\n[[projects.volumes]]\nname = \"new\"\nsize = \"2T\"\nmount = \"/data\"\n";
    let refused = apply(&world, file, &["--yes"]).await;
    assert_eq!(
        refused.stderr,
        "line 6: the volume old of acme/ml is mounted at /data already\n1 mistake; nothing was changed\n"
    );
    let pruned = apply(&world, file, &["--yes", "--prune"]).await;
    assert_eq!(
        pruned.stdout,
        "- cluster h100.acme\n- volume acme/ml old\n+ volume acme/ml new\n    + size   2T\n    + mount  /data\n\n\
         Removed:\n    - cluster h100.acme\n    - volume acme/ml old\n\n1 to add, 0 to change, 2 to remove\n"
    );
    // Members were not described, so everybody is still there.
    assert!(world.operator("member list acme/ml").await.stdout.contains("user1"));
    // And what is gone stays gone: the name of a cluster is never given out twice.
    let again = "[[projects]]\nname = \"acme/ml\"\n[[projects.clusters]]\nname = \"h100\"\nkind = \"slurm\"\n";
    let refused = apply(&world, again, &["--yes"]).await;
    assert!(refused.stderr.starts_with("line 4: h100.acme is or was a cluster;"), "{}", refused.stderr);
}
