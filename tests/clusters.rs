//! Clusters and volumes: what they should be and what they are, their configurations, and logins that people share.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{World, key, next, output};
use certgate::{
    app::{
        Asker, Stream,
        protocol::{CommandAnswer, Event, NodeHelloRequest, Output, Reach, Terminal},
    },
    bundle::Bundle,
    command::run_line,
};
use serde_json::{Value, json};
use std::time::Duration;

async fn data(world: &World, user: u8, line: &str) -> Value {
    let output = world.user(user, &format!("{line} --json")).await;
    assert_eq!(output.exit, 0, "{line}: {}", output.stderr);
    output.stdout.parse().unwrap()
}

const TERMINAL: Option<Terminal> = Some(Terminal { columns: 80, colours: false });

/// A command with what came on standard input.
async fn given(world: &World, user: u8, line: &str, input: &str) -> Output {
    output(world.answer(&world.asker(user).await, line, None, Some(input)).await)
}

/// A command at a terminal, answered so far with these inputs and the last context.
async fn typed(world: &World, asker: &Asker, line: &str, inputs: &[&str], context: Option<String>) -> CommandAnswer {
    run_line(&world.app, asker, line, TERMINAL, inputs.iter().map(|&input| input.to_owned()).collect(), context).await
}

fn asked(answer: CommandAnswer) -> (String, Option<String>) {
    match answer {
        CommandAnswer::Input { prompt, context, .. } => (prompt, context),
        CommandAnswer::Output(output) => panic!("{output:?}"),
    }
}

#[tokio::test]
async fn the_list_spans_all_projects_and_counts_what_is_wanted_enrolled_and_connected() {
    let world = World::story().await;
    let mut stream = world.gateway(vec![]);
    assert_eq!(next(&mut stream).await, Event::Ready);
    world.operator("project create acme/research --admin user1@acme.example").await;
    world.operator("project create acme/secret --admin admin1@acme.example").await;
    world.operator("cluster create acme/research b200 --kind kubernetes --controller 3").await;
    world.operator("cluster create acme/secret hidden").await;
    let scaled = world.user(1, "cluster scale h100.acme --login 2 --compute 8").await;
    assert_eq!((scaled.exit, scaled.stderr.as_str()), (0, "scaled h100.acme: login 0 → 2, compute 0 → 8\n"));
    let node = world.node("login-0.h100.acme", 50).await;
    world.node("login-1.h100.acme", 51).await;
    let hello = NodeHelloRequest {
        node,
        peer: "192.0.2.7".parse().unwrap(),
        have: None,
        host_certificate_until: None,
        reach: Reach::Direct,
        program: None,
        lingers: true,
    };
    world.app.node_hello(hello).await.unwrap();

    let list = data(&world, 2, "cluster list").await;
    let none = json!({ "wanted": 0, "enrolled": 0, "connected": 0 });
    let count = |wanted, enrolled, connected| json!({ "wanted": wanted, "enrolled": enrolled, "connected": connected });
    let first = json!({
        "cluster": "h100.acme", "project": "acme/ml", "kind": "slurm", "state": "ready", "reason": null,
        "role": "member",
        "nodes": { "login": count(2, 2, 1), "compute": count(8, 0, 0), "controller": none },
    });
    let second = json!({
        "cluster": "b200.acme", "project": "acme/research", "kind": "kubernetes", "state": "ready", "reason": null,
        "role": "admin", "nodes": { "login": none, "compute": none, "controller": count(3, 0, 0) },
    });
    assert_eq!(list, json!([first, second]));
    let table = world.user(2, "cluster list").await.stdout;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1], ["h100.acme", "acme/ml", "slurm", "ready", "10", "2", "1", "member"]);

    // Three hellos are missed: it is enrolled still, but no longer connected.
    world.pass(Duration::from_secs(90));
    assert_eq!(data(&world, 2, "cluster list").await[0]["nodes"]["login"], count(2, 2, 1));
    world.pass(Duration::from_secs(1));
    assert_eq!(data(&world, 2, "cluster list").await[0]["nodes"]["login"], count(2, 2, 0));
}

#[tokio::test]
async fn scaling_names_what_changes_and_asks_only_when_it_goes_down() {
    let world = World::story().await;
    let admin = world.asker(1).await;
    assert_eq!(world.user(1, "cluster scale h100.acme --compute 4 --login 1").await.exit, 0);
    let same = world.user(1, "cluster scale h100.acme --compute 4").await;
    assert_eq!((same.exit, same.stderr.as_str()), (0, "h100.acme is to have 1 login, 4 compute already\n"));
    let down = world.user(1, "cluster scale h100.acme --compute 3 --login 2").await;
    assert_eq!(down.exit, 1);
    assert!(down.stderr.contains("--yes"), "{}", down.stderr);
    match world.answer(&admin, "cluster scale h100.acme --compute 3 --login 2", TERMINAL, None).await {
        CommandAnswer::Input { prompt, .. } => {
            assert_eq!(prompt, "Scale h100.acme down? login 1 → 2, compute 4 → 3. [y/N] ");
        }
        CommandAnswer::Output(output) => panic!("{output:?}"),
    }
    let line = "cluster scale h100.acme --compute 3 --login 2";
    assert_eq!(output(world.answer(&admin, line, TERMINAL, Some("n\n")).await).exit, 1);
    assert_eq!(output(world.answer(&admin, line, TERMINAL, Some("y\n")).await).exit, 0);
    let shown = data(&world, 1, "cluster show h100.acme").await;
    assert_eq!((&shown["nodes"]["login"]["wanted"], &shown["nodes"]["compute"]["wanted"]), (&json!(2), &json!(3)));
    for (line, exit, told) in [
        ("cluster scale h100.acme", 2, "--login"),
        ("cluster scale h100.acme --login -1", 2, "'-1'"),
        ("cluster scale h100.acme --login 100001", 2, "100001"),
        ("cluster scale h100.acme --login many", 2, "many"),
    ] {
        let refused = world.user(1, line).await;
        assert_eq!((refused.exit, refused.stdout.as_str()), (exit, ""), "{line}");
        assert!(refused.stderr.contains(told), "{line}: {}", refused.stderr);
    }
}

#[tokio::test]
async fn a_member_looks_and_an_outsider_does_not() {
    let world = World::story().await;
    world.user(1, "volume create acme/ml data --size 10T --mount /data").await;
    let shown = world.user(2, "cluster show h100.acme").await.stdout;
    assert!(shown.starts_with("h100.acme, a slurm cluster of acme/ml (you are member), since "), "{shown}");
    assert!(shown.ends_with("Configuration, revision 1: empty\n"), "{shown}");
    let shown = world.user(2, "volume show acme/ml data").await.stdout;
    assert!(shown.starts_with("data, a volume of acme/ml: 10T at /data, since "), "{shown}");
    for line in ["cluster scale h100.acme --login 1", "cluster delete h100.acme", "volume delete acme/ml data"] {
        let refused = world.user(2, line).await;
        assert!(refused.stderr.starts_with("only an admin of acme/ml may do that"), "{line}: {}", refused.stderr);
    }
    for (line, theirs, nobodys) in [
        ("cluster show X", "h100.acme", "none.acme"),
        ("cluster show X --config", "h100.acme", "none.acme"),
        ("cluster scale X --login 1", "h100.acme", "none.acme"),
        ("cluster delete X --yes", "h100.acme", "none.acme"),
        ("volume show X data", "acme/ml", "acme/none"),
        ("volume delete X data --yes", "acme/ml", "acme/none"),
    ] {
        let (theirs_said, nobodys_said) =
            (world.user(3, &line.replace('X', theirs)).await, world.user(3, &line.replace('X', nobodys)).await);
        assert_eq!(theirs_said.exit, 1, "{line}");
        assert_eq!(theirs_said.stderr.replace(theirs, nobodys), nobodys_said.stderr, "{line}");
        assert!(theirs_said.stderr.starts_with("no such "), "{line}: {}", theirs_said.stderr);
    }
    assert_eq!(world.user(2, "volume show acme/ml none").await.stderr, "no such volume: none\n");
}

#[tokio::test]
async fn a_volume_has_a_place_of_its_own() {
    let world = World::story().await;
    let created = world.user(1, "volume create acme/ml data --size 10T --mount /data").await;
    assert_eq!(created.stderr, "created volume data in acme/ml: 10T at /data\n");
    for (line, told) in [
        ("volume create acme/ml data --size 1T", "acme/ml has a volume data already\n"),
        (
            "volume create acme/ml more --size 1T --mount /data",
            "the volume data of acme/ml is mounted at /data already\n",
        ),
    ] {
        assert_eq!(world.user(1, line).await.stderr, told, "{line}");
    }
    for size in ["0G", "-1T", "1.5T", "10"] {
        assert_eq!(world.user(1, &format!("volume create acme/ml more --size={size}")).await.exit, 2, "{size}");
    }
    for mount in ["/etc", "data", "/a/../etc", "/data/"] {
        let line = format!("volume create acme/ml more --size 1T --mount {mount}");
        assert_eq!(world.user(1, &line).await.exit, 2, "{mount}");
    }
    // It may become larger without a question, and smaller or elsewhere with one; never where another is.
    world.user(1, "volume create acme/ml more --size 1T").await;
    for (line, exit, told) in [
        ("--size 20T", 0, "changed volume data of acme/ml: 10T at /data → 20T at /data\n"),
        ("--size 20T", 0, "the volume data of acme/ml is 20T at /data already\n"),
        ("--mount /mnt/more --yes", 1, "the volume more of acme/ml is mounted at /mnt/more already\n"),
        ("--size 10T --yes", 0, "changed volume data of acme/ml: 20T at /data → 10T at /data\n"),
    ] {
        let done = world.user(1, &format!("volume update acme/ml data {line}")).await;
        assert_eq!((done.exit, done.stderr.as_str()), (exit, told), "{line}");
    }
    for line in ["--size 1T", "--mount /mnt/data"] {
        let done = world.user(1, &format!("volume update acme/ml data {line}")).await;
        assert!(done.exit == 1 && done.stderr.contains("this needs a yes"), "{line}: {}", done.stderr);
    }
    assert_eq!(world.user(1, "volume update acme/ml data").await.exit, 2);
    world.user(1, "volume delete acme/ml more --yes").await;
    assert_eq!(data(&world, 2, "volume list").await.as_array().unwrap().len(), 1);
    assert_eq!(data(&world, 2, "volume show acme/ml data").await["size"], json!(10_u64 << 40));
}

const DOCUMENT: &str = "# ours\ndescription = \"for training\"\n[gpus]\nmodel = \"h100\"\nper_node = 8\n";

#[tokio::test]
async fn a_configuration_is_checked_kept_and_given_back_as_it_was_written() {
    let world = World::story().await;
    let created = given(&world, 1, "cluster create acme/ml b200 --config - --login 2", DOCUMENT).await;
    assert_eq!(created.exit, 0, "{}", created.stderr);
    let shown = world.user(2, "cluster show b200.acme").await.stdout;
    assert!(shown.contains("GPUs: 8 h100 in each compute node\n"), "{shown}");
    assert!(shown.contains("Configuration, revision 1:\n  # ours\n  description = \"for training\"\n"), "{shown}");
    assert_eq!(world.user(2, "cluster show b200.acme --config").await.stdout, DOCUMENT);
    assert_eq!(data(&world, 2, "cluster show b200.acme").await["document"], json!(DOCUMENT));

    for (document, told) in [
        ("[gpus\n", "line 1"),
        ("\n\nnodes = 3\n", "line 3: unknown field `nodes`"),
        ("[kubernetes]\nversion = \"1.33\"\n", "[kubernetes] in the configuration of a slurm cluster"),
        ("[shared_logins]\nroot = \"member\"\n", "reserved by operating systems"),
        ("[shared_logins]\n\"a b\" = \"member\"\n", "user name must be lower-case"),
        ("description = \"\u{1b}[2J\"\n", "a control character in line 1"),
        (&"#".repeat(65_536), "longer than 65536 bytes"),
        (&"\n".repeat(5000), "more than 4096 lines"),
    ] {
        for line in ["cluster create acme/ml new --config -", "cluster update b200.acme --yes"] {
            let refused = given(&world, 1, line, document).await;
            assert_eq!((refused.exit, refused.stdout.as_str()), (1, ""), "{line}");
            assert!(refused.stderr.contains(told), "{line}: {}", refused.stderr);
            assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
        }
    }
    assert_eq!(data(&world, 1, "cluster list").await.as_array().unwrap().len(), 2);
    assert_eq!(data(&world, 1, "cluster show b200.acme").await["revision"], json!(1));
    // A file of the gateway's machine is not read.
    let refused = world.user(1, "cluster update b200.acme /etc/certgate/authority.toml --yes").await;
    assert!(refused.stderr.contains("standard input"), "{}", refused.stderr);
}

#[tokio::test]
async fn an_update_shows_the_difference_and_changes_nothing_without_a_yes() {
    let world = World::story().await;
    given(&world, 1, "cluster update h100.acme --yes", DOCUMENT).await;
    let other = DOCUMENT.replace("8", "4") + "[shared_logins]\nubuntu = \"member\"\n";
    let diff = "--- revision 2\n+++ revision 3\n@@ -2,4 +2,6 @@\n description = \"for training\"\n [gpus]\n model = \"h100\"\n\
                -per_node = 8\n+per_node = 4\n+[shared_logins]\n+ubuntu = \"member\"\n";
    let asked = given(&world, 1, "cluster update h100.acme", &other).await;
    let hint = "nothing was changed; if that is what you want: --yes --revision 2\n";
    assert_eq!((asked.exit, asked.stdout.as_str(), asked.stderr.as_str()), (1, diff, hint));
    let tried = given(&world, 1, "cluster update h100.acme --dry-run --yes", &other).await;
    assert_eq!((tried.exit, tried.stdout.as_str()), (0, diff));
    assert_eq!(world.user(1, "cluster show h100.acme --config").await.stdout, DOCUMENT);

    let stale = given(&world, 1, "cluster update h100.acme --yes --revision 1", &other).await;
    assert_eq!((stale.exit, stale.stdout.as_str()), (1, ""));
    assert!(stale.stderr.starts_with("h100.acme has revision 2 of its configuration, not 1;"), "{}", stale.stderr);
    // A script with < /dev/null.
    let nothing = given(&world, 1, "cluster update h100.acme --yes", "").await;
    assert!(nothing.exit == 1 && nothing.stderr.contains("there is nothing in it"), "{}", nothing.stderr);
    let changed = given(&world, 1, "cluster update h100.acme --yes --revision 2 --json", &other).await;
    let changed: Value = changed.stdout.parse().unwrap();
    assert_eq!((&changed["revision"], &changed["changed"], &changed["diff"]), (&json!(3), &json!(true), &json!(diff)));
    let again = given(&world, 1, "cluster update h100.acme --yes", &other.replace('\n', "\r\n")).await;
    assert_eq!(again.stderr, "h100.acme is configured like this already (revision 3)\n");
    assert_eq!(data(&world, 1, "cluster show h100.acme").await["revision"], json!(3));

    let former = world.user(2, "cluster show h100.acme --revision 2").await.stdout;
    assert!(former.starts_with("# h100.acme, revision 2, since ") && former.ends_with(DOCUMENT), "{former}");
    assert_eq!(world.user(2, "cluster show h100.acme --revision 1 --config").await.stdout, "");
    assert_eq!(world.user(2, "cluster show h100.acme --revision 4").await.stderr, "h100.acme has no revision 4\n");
    // Who may not is told so before the document is asked for.
    let refused = world.user(2, "cluster update h100.acme").await;
    assert!(refused.stderr.starts_with("only an admin of acme/ml may do that"), "{}", refused.stderr);
    assert_eq!(world.user(3, "cluster update h100.acme").await.stderr, "no such cluster: h100.acme\n");
}

#[tokio::test]
async fn a_yes_is_for_the_difference_that_was_shown() {
    let world = World::story().await;
    let admin = world.asker(1).await;
    let line = "cluster update h100.acme";
    let (prompt, context) = asked(typed(&world, &admin, line, &[], None).await);
    assert_eq!((prompt.as_str(), &context), ("", &None));
    let (prompt, context) = asked(typed(&world, &admin, line, &[DOCUMENT], None).await);
    assert!(prompt.starts_with("--- revision 1\n+++ revision 2\n"), "{prompt}");
    assert!(prompt.ends_with("Change the configuration of h100.acme, revision 1? [y/N] "), "{prompt}");
    // While she thinks, somebody else changes it.
    given(&world, 1, "cluster update h100.acme --yes", "image = \"x\"\n").await;
    let (prompt, context) = asked(typed(&world, &admin, line, &[DOCUMENT, "y\n"], context).await);
    assert!(prompt.starts_with("Somebody else has changed it meanwhile.\n--- revision 2\n"), "{prompt}");
    assert!(prompt.contains("-image = \"x\"\n"), "{prompt}");
    let done = output(typed(&world, &admin, line, &[DOCUMENT, "y\n", "yes\n"], context).await);
    assert_eq!((done.exit, done.stderr.as_str()), (0, "changed h100.acme: revision 3 is in force\n"));
    assert_eq!(world.user(2, "cluster show h100.acme --config").await.stdout, DOCUMENT);
}

/// The next bundle; what else comes is passed over.
async fn bundle(stream: &mut Stream) -> Bundle {
    loop {
        if let Event::Bundle { bundle, .. } = next(stream).await {
            return serde_json::from_str(&bundle.payload).unwrap();
        }
    }
}

fn sharers(bundle: &Bundle, login: &str) -> Option<Vec<String>> {
    bundle.shared_logins.iter().find(|shared| shared.name == login).map(|shared| shared.principals.clone())
}

#[tokio::test]
async fn a_shared_login_is_for_whoever_has_the_role_and_never_takes_somebodys_own() {
    let world = World::story().await;
    let mut stream = world.gateway(vec![]);
    let document = "[shared_logins]\nubuntu = \"member\"\nops = \"admin\"\n";
    assert_eq!(given(&world, 1, "cluster update h100.acme --yes", document).await.exit, 0);
    let first = bundle(&mut stream).await;
    let of = |user: &str| [format!("{user}@acme/ml"), format!("{user}@acme/ml/h100")];
    assert_eq!(sharers(&first, "ubuntu").unwrap(), [of("admin1"), of("user1")].concat());
    assert_eq!(sharers(&first, "ops").unwrap(), of("admin1"));
    let shown = world.user(2, "cluster show h100.acme").await.stdout;
    assert!(
        shown.contains("Shared login ops: for admins, 1 person\nShared login ubuntu: for members, 2 people\n"),
        "{shown}"
    );

    // A robot has a login of its own.
    world.user(1, &format!("service create acme/ml ci --source-address 192.0.2.1 --key '{}'", key(8))).await;
    let with_robot = bundle(&mut stream).await;
    assert!(with_robot.logins.iter().any(|login| login.name.as_str() == "svc-ci"));
    assert_eq!(sharers(&with_robot, "ubuntu").unwrap(), [of("admin1"), of("user1")].concat());

    world.operator("user suspend user1@acme.example").await;
    assert_eq!(sharers(&bundle(&mut stream).await, "ubuntu").unwrap(), of("admin1"));
    world.operator("user resume user1@acme.example").await;
    assert_eq!(sharers(&bundle(&mut stream).await, "ubuntu").unwrap().len(), 4);
    world.user(1, "member remove acme/ml user1@acme.example --yes").await;
    assert_eq!(sharers(&bundle(&mut stream).await, "ubuntu").unwrap(), of("admin1"));

    for login in ["user2", "admin1"] {
        let document = format!("[shared_logins]\n{login} = \"member\"\n");
        let told = format!("the login {login} is taken; choose another name for the shared login\n");
        for line in ["cluster update h100.acme --yes", "cluster create acme/ml new --config -"] {
            assert_eq!(given(&world, 1, line, &document).await.stderr, told, "{line}");
        }
    }
    // An account that comes later has the login for itself, and does not stand in the way of other changes.
    world.operator(&format!("user create ops@acme.example --org acme --name ops --key '{}'", key(9))).await;
    let later = bundle(&mut stream).await;
    assert_eq!((sharers(&later, "ops"), sharers(&later, "ubuntu").is_some()), (None, true));
    let shown = world.user(1, "cluster show h100.acme").await.stdout;
    assert!(
        shown.contains("Shared login ops: for admins, not in force: it is an account's own login now\n"),
        "{shown}"
    );
    assert_eq!(given(&world, 1, "cluster update h100.acme --yes", &format!("# a\n{document}")).await.exit, 0);
    assert_eq!(sharers(&bundle(&mut stream).await, "ops"), None);
}
