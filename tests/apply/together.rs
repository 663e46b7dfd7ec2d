//! Many at once: what a file brings about is as if it had been alone, between what others do.

use super::{
    OPERATOR, TERMINAL, answer, applied, apply,
    authority_support::{World, key},
    nothing_to_do, team,
};
use certgate::{
    app::{
        App,
        apply::{Applied, Described, Plan},
        protocol::CommandAnswer,
    },
    command,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

const TEAM: &str = "[[projects]]\nname = \"acme/ml\"\n[projects.members]\n\"admin1@acme.example\" = \"admin\"\n\
                    \"user1@acme.example\" = \"member\"\n\"user2@acme.example\" = \"member\"\n";

fn in_the_file() -> BTreeMap<String, String> {
    let member = |name: &str, role: &str| (format!("{name}@acme.example"), role.to_owned());
    [member("admin1", "admin"), member("user1", "member"), member("user2", "member")].into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_and_commands_at_once_are_as_if_one_came_after_the_other() {
    let world = Arc::new(World::story().await);
    for n in 4..10 {
        let line = format!("user create user{n}@acme.example --org acme --name user{n} --key '{}'", key(n));
        world.operator(&line).await;
    }
    let first: serde_json::Value = serde_json::from_str(&world.operator("audit list --json").await.stdout).unwrap();
    let first = first["entries"].as_array().unwrap().last().unwrap()["seq"].as_u64().unwrap();
    // Both go on until enough has happened, however the machine lets them take turns.
    let enough = Arc::new(AtomicBool::new(false));
    let files = tokio::spawn({
        let (world, enough) = (world.clone(), enough.clone());
        async move {
            let mut changed = 0;
            for _ in 0..10_000 {
                let output = apply(&world, TEAM, &["--yes"]).await;
                assert_eq!(output.exit, 0, "{}", output.stderr);
                changed += u32::from(!output.stderr.starts_with("nothing to do"));
                if changed == 10 {
                    break;
                }
            }
            enough.store(true, Ordering::Relaxed);
        }
    });
    let commands: Vec<_> = (1..10)
        .map(|n| {
            let (world, enough) = (world.clone(), enough.clone());
            tokio::spawn(async move {
                for turn in 0.. {
                    if enough.load(Ordering::Relaxed) {
                        break;
                    }
                    // Most of it is refused when somebody else was faster.
                    let line = match (turn + n) % 3 {
                        0 => format!("member remove acme/ml user{n}@acme.example --yes"),
                        1 => format!("member role acme/ml user{n}@acme.example admin"),
                        _ => format!("member add acme/ml user{n}@acme.example"),
                    };
                    command::run_line(&world.app, &OPERATOR, &line, None, vec![], None).await;
                    // What is refused has waited for nobody.
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    files.await.unwrap();
    for command in commands {
        command.await.unwrap();
    }

    // The audit log is that order: played again, it comes to the same, and after each file to what the file says.
    let log = world.operator(&format!("audit export --after {first} --limit 100000")).await.stdout;
    let log: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut members: BTreeMap<String, String> =
        [("admin1@acme.example".into(), "admin".into()), ("user1@acme.example".into(), "member".into())].into();
    let mut files = 0;
    for (n, entry) in log.iter().enumerate() {
        let text = |name: &str| entry["event"][name].as_str().unwrap();
        if text("outcome") != "done" {
            continue;
        }
        let email = || text("object").strip_prefix("acme/ml ").unwrap().to_owned();
        match text("action") {
            "member.add" => {
                assert_eq!(members.insert(email(), text("detail").strip_prefix("as ").unwrap().into()), None);
            }
            "member.role" => {
                let (from, to) = text("detail").strip_prefix("from ").unwrap().split_once(" to ").unwrap();
                assert_eq!(members.insert(email(), to.into()).as_deref(), Some(from));
            }
            "member.remove" => {
                assert_eq!(members.remove(&email()).as_deref(), text("detail").strip_prefix("was "));
            }
            "apply" => files += 1,
            _ => continue,
        }
        let same = |other: &&serde_json::Value| other["version"] == entry["version"];
        let of_a_file = log[..=n].iter().rev().take_while(same).any(|e| e["event"]["action"] == "apply");
        if of_a_file && !log.get(n + 1).is_some_and(|next| same(&next)) {
            assert_eq!(members, in_the_file(), "after entry {n}");
        }
    }
    assert!(files >= 10, "nothing was going on");
    let directory = world.app.directory();
    let project = directory.project_at(&"acme/ml".parse().unwrap()).unwrap();
    let now: BTreeMap<String, String> = directory
        .members_of(project.id)
        .map(|(account, membership)| (account.email.to_string(), membership.role.to_string()))
        .collect();
    assert_eq!(now, members);
}

#[tokio::test]
async fn a_plan_for_another_directory_is_not_applied() {
    let world = World::story().await;
    let file = App::read_described(TEAM.to_owned()).await.unwrap().unwrap();
    let plan =
        async |file: &Arc<Described>| -> Plan { world.app.plan_apply(&OPERATOR, file, false).await.unwrap().unwrap() };
    let old = plan(&file).await;
    // It would still be right, but nobody has looked.
    world.operator("org create other").await;
    let version = world.app.directory().version();
    assert_eq!(world.app.apply(&OPERATOR, old.clone()).await.unwrap(), Applied::Overtaken);
    assert_eq!(world.app.directory().version(), version);
    // On the writer it is looked at: what somebody has agreed to is done, something else is not.
    world.operator("member add acme/ml user2@acme.example --role admin").await;
    let version = world.app.directory().version();
    let at_once = async |agreed| world.app.apply_at_once(&OPERATOR, &file, false, agreed).await.unwrap();
    assert_eq!(at_once(Some(old.difference.clone())).await, Applied::Overtaken);
    assert_eq!(world.app.directory().version(), version);
    assert_eq!(at_once(Some(plan(&file).await.difference)).await, Applied::Done(version.next()));
    let wrong = App::read_described("x = 1\n".to_owned()).await.unwrap().unwrap();
    assert_eq!(world.app.apply_at_once(&OPERATOR, &wrong, false, None).await.unwrap(), Applied::Overtaken);
    assert_eq!(world.app.directory().version(), version.next());
}

#[tokio::test]
async fn certificates_from_between_plan_and_change_are_refused_with_their_key() {
    let world = World::story().await;
    let file = "[[accounts]]\nemail = \"user1@acme.example\"\nkeys = []\n";
    let file = App::read_described(file.to_owned()).await.unwrap().unwrap();
    let plan = world.app.plan_apply(&OPERATOR, &file, false).await.unwrap().unwrap();
    // A person thinks for a while; meanwhile user1 gets a certificate.
    world.pass(std::time::Duration::from_secs(1800));
    assert_eq!(world.user(2, "cert --ttl 1h").await.exit, 0);
    let ends = world.app.now().after(std::time::Duration::from_secs(3600));
    world.pass(std::time::Duration::from_secs(60));
    assert!(matches!(world.app.apply(&OPERATOR, plan).await.unwrap(), Applied::Done(_)));
    let denied = world.app.directory().denied_key(&key(2).fingerprint()).unwrap();
    assert!(denied >= ends, "{denied} is before {ends}");
}

#[tokio::test]
async fn who_hangs_up_between_question_and_answer_has_changed_nothing() {
    let world = World::story().await;
    let version = world.app.directory().version();
    let asked = answer(&world, &["apply", "f.toml"], TERMINAL, &[&team()], None).await;
    assert!(matches!(asked, CommandAnswer::Input { .. }));
    // There is nothing to clean up either: the authority keeps nothing of it.
    assert_eq!(world.app.directory().version(), version);
    let log = world.operator("audit list --what apply").await.stdout;
    assert_eq!(log, "Nothing.\n");
}

#[tokio::test]
async fn robots_are_made_bounded_and_taken_back_by_a_file() {
    let world = World::story().await;
    let file = |source: &str, command: &str, keys: &str| {
        format!(
            "[[projects]]\nname = \"acme/ml\"\n[[projects.services]]\nname = \"ci\"\nuid = 210000\nsource_address = \
             [\"{source}\"]\nforce_command = \"{command}\"\nkeys = [{keys}]\n"
        )
    };
    let [one, two] = [60, 61].map(|n| format!("\"{}\"", key(n)));
    let [print1, print2] = [60, 61].map(|n| key(n).fingerprint());
    let made = file("198.51.100.0/24", "", &format!("{one}, {two}"));
    assert_eq!(
        applied(&world, &made).await,
        format!(
            "+ service account ci@ml.acme.service
    + project         acme/ml
    + uid             210000
    + source_address  198.51.100.0/24
    + max_ttl         1h
    + key             ssh-ed25519 {print1}
    + key             ssh-ed25519 {print2}

2 to add, 0 to change, 0 to remove
"
        )
    );
    nothing_to_do(&world, &made).await;
    assert_eq!(world.user(60, "cert").await.exit, 0);
    let bounded = file("198.51.100.0/24", "id", &one);
    let plan = App::read_described(bounded.clone()).await.unwrap().unwrap();
    let plan = world.app.plan_apply(&OPERATOR, &plan, false).await.unwrap().unwrap();
    // While somebody thinks about it, it gets another certificate without that command, and one ends.
    world.pass(std::time::Duration::from_secs(240));
    assert_eq!(world.user(60, "cert").await.exit, 0);
    assert!(matches!(world.app.apply(&OPERATOR, plan).await.unwrap(), Applied::Done(_)));
    let live = world.operator("certificate list --json").await.stdout;
    let live: serde_json::Value = serde_json::from_str(&live).unwrap();
    assert!(
        live.as_array().unwrap().len() == 2 && live.as_array().unwrap().iter().all(|c| c["state"] == "revoked"),
        "{live}"
    );
    let terms = world.app.directory();
    let account = terms.account_with_email(&"ci@ml.acme.service".parse().unwrap()).unwrap();
    assert_eq!(account.service().unwrap().command_since, world.app.now());
    nothing_to_do(&world, &bounded).await;
    let moved = file("203.0.113.0/24", "id", &one);
    assert_eq!(
        applied(&world, &moved).await,
        "~ service account ci@ml.acme.service\n    ~ source_address  198.51.100.0/24 → 203.0.113.0/24\n\n\
         0 to add, 1 to change, 0 to remove\n"
    );
    let gone = apply(
        &world,
        "[[projects]]\nname = \"acme/ml\"\n[[projects.clusters]]\nname = \"h100\"\n",
        &["--yes", "--prune"],
    )
    .await;
    assert!(gone.stdout.starts_with("- service account ci@ml.acme.service\n\nRemoved:\n"), "{}", gone.stdout);
    assert!(apply(&world, &moved, &["--yes"]).await.stderr.contains("is or was a service account"));
}

#[tokio::test]
async fn the_site_s_machinery_is_asked_as_for_commands() {
    let file = format!(
        "[[organizations]]\nname = \"acme\"\n[[accounts]]\nemail = \"admin1@acme.example\"\norg = \"acme\"\nuser = \
         \"admin1\"\nkeys = [\"{}\"]\n[[projects]]\nname = \"acme/ml\"\nmembers = {{ \"admin1@acme.example\" = \"admin\" \
         }}\n[[projects.clusters]]\nname = \"h100\"\nkind = \"slurm\"\nnodes = {{ compute = 4 \
         }}\n[[projects.volumes]]\nname = \"data\"\nsize = \"1T\"\n",
        key(1)
    );
    let by_file = World::with_machinery().await;
    applied(&by_file, &file).await;
    let by_commands = World::with_machinery().await;
    by_commands.operator("org create acme").await;
    let account = format!("user create admin1@acme.example --org acme --name admin1 --key '{}'", key(1));
    for line in [
        account.as_str(),
        "project create acme/ml --admin admin1@acme.example",
        "cluster create acme/ml h100 --compute 4",
        "volume create acme/ml data --size 1T",
    ] {
        by_commands.operator(line).await;
    }
    // What it is told is the same but for the numbers of things.
    let asked = |world: &World| {
        let directory = world.app.directory();
        let mut jobs: Vec<_> = directory.jobs().map(|job| (job.name.clone(), job.action, input(&job.input))).collect();
        jobs.sort_by(|a, b| a.0.cmp(&b.0));
        jobs
    };
    fn input(text: &str) -> serde_json::Value {
        let mut input: serde_json::Value = serde_json::from_str(text).unwrap();
        input.as_object_mut().unwrap().remove("job");
        for resource in ["cluster", "volume"] {
            if let Some(resource) = input.get_mut(resource).and_then(serde_json::Value::as_object_mut) {
                resource.remove("id");
            }
        }
        input
    }
    assert_eq!(asked(&by_file).len(), 2);
    assert_eq!(asked(&by_file), asked(&by_commands));
    // Without a difference it is not asked again; with one it is, about that alone.
    let before: Vec<u64> = by_file.app.directory().jobs().map(|job| job.id).collect();
    nothing_to_do(&by_file, &file).await;
    applied(&by_file, &file.replace("compute = 4", "compute = 8")).await;
    let after: Vec<u64> = by_file.app.directory().jobs().map(|job| job.id).collect();
    assert_eq!(after.iter().filter(|id| !before.contains(id)).count(), 1);
}
