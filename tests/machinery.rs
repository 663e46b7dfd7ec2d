//! The site's machinery as the authority sees it, in memory: what it is asked, when, and what its answers mean. The program
//! that runs it is tested with the real processes in `provisioner.rs`.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{World, key, output};
use certgate::{
    app::protocol::provisioner::{NextAnswer, NextRequest, Outcome, Report, Task},
    domain::Resource,
};
use serde_json::{Value, json};
use std::time::Duration;

/// The story's organization, at a site with machinery.
async fn site() -> World {
    let world = World::with_machinery().await;
    world.operator("org create acme").await;
    for (number, name) in [(1, "admin1"), (2, "user1")] {
        let line = format!("user create {name}@acme.example --org acme --name {name} --key '{}'", key(number));
        world.operator(&line).await;
    }
    world.operator("project create acme/ml --admin admin1@acme.example").await;
    world.operator("member add acme/ml user1@acme.example").await;
    world
}

/// What there is to do now, beside what is being done.
async fn due(world: &World, running: &[Resource]) -> Vec<Task> {
    match world.app.next_tasks(question("a", running, 100, 0)).await {
        NextAnswer::Tasks(tasks) => tasks,
        NextAnswer::Another => panic!("another one is connected"),
    }
}

fn question(instance: &str, running: &[Resource], room: u16, wait_secs: u16) -> NextRequest {
    NextRequest { instance: instance.into(), running: running.to_vec(), room, wait_secs }
}

async fn one(world: &World) -> Task {
    let mut tasks = due(world, &[]).await;
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    tasks.remove(0)
}

async fn report(world: &World, task: &Task, outcome: Outcome) {
    world.app.report_task(Report { job: task.job, resource: task.resource, outcome }).await.unwrap();
}

fn failed(reason: &str) -> Outcome {
    Outcome::Failed { reason: reason.into() }
}

fn input(task: &Task) -> Value {
    serde_json::from_str(&task.input).unwrap()
}

async fn state(world: &World, cluster: &str) -> String {
    let shown = world.user(1, &format!("cluster show {cluster} --json")).await;
    let shown: Value = shown.stdout.parse().unwrap();
    match &shown["reason"] {
        Value::Null => shown["state"].as_str().unwrap().to_owned(),
        reason => format!("{}: {}", shown["state"].as_str().unwrap(), reason.as_str().unwrap()),
    }
}

/// The audit log's entries of an action, as `OUTCOME DETAIL`.
async fn audited(world: &World, action: &str) -> Vec<String> {
    let log: Value = world.operator("audit list --limit 1000 --json").await.stdout.parse().unwrap();
    let entries = log["entries"].as_array().unwrap().iter().map(|entry| &entry["event"]);
    let mut told: Vec<String> = entries
        .filter(|event| event["action"] == action)
        .map(|event| {
            assert_eq!(event["actor"], json!("authority"));
            format!("{} {}", event["outcome"].as_str().unwrap(), event["detail"].as_str().unwrap())
        })
        .collect();
    told.sort();
    told
}

#[tokio::test]
async fn each_change_is_asked_for_in_whole() {
    let world = site().await;
    let admin = world.asker(1).await;
    let document = "# ours\n[gpus]\nmodel = \"h100\"\nper_node = 8\n";
    let line = "cluster create acme/ml h100 --compute 8 --config -";
    let created = output(world.answer(&admin, line, None, Some(document)).await);
    assert_eq!(created.exit, 0, "{}", created.stderr);
    assert_eq!(state(&world, "h100.acme").await, "pending");
    let task = one(&world).await;
    let gid = input(&task)["project"]["gid"].as_u64().unwrap();
    let Resource::Cluster(id) = task.resource else { panic!("{task:?}") };
    assert_eq!(
        input(&task),
        json!({
            "version": 1, "job": task.job, "action": "create", "wanted": "present",
            "project": { "name": "acme/ml", "gid": gid, "admins_gid": gid + 1 },
            "cluster": {
                "id": id.0, "name": "h100.acme", "kind": "slurm", "revision": 1,
                "nodes": { "login": 0, "compute": 8, "controller": 0 },
                "configuration": { "gpus": { "model": "h100", "per_node": 8 } },
                "document": "# ours\n[gpus]\nmodel = \"h100\"\nper_node = 8\n",
            },
        })
    );
    report(&world, &task, Outcome::Ready).await;
    assert_eq!(state(&world, "h100.acme").await, "ready");
    assert_eq!(due(&world, &[]).await, []);
    // Once more changes nothing.
    report(&world, &task, failed("late")).await;
    assert_eq!(state(&world, "h100.acme").await, "ready");

    world.user(1, "cluster scale h100.acme --compute 16").await;
    let task = one(&world).await;
    assert_eq!((&input(&task)["action"], &input(&task)["cluster"]["nodes"]["compute"]), (&json!("scale"), &json!(16)));
    report(&world, &task, Outcome::Ready).await;

    world.user(1, "volume create acme/ml data --size 1T --mount /data").await;
    report(&world, &one(&world).await, Outcome::Ready).await;
    world.user(1, "volume update acme/ml data --size 2T").await;
    let task = one(&world).await;
    assert_eq!((&input(&task)["action"], &input(&task)["volume"]["size"]), (&json!("change"), &json!(2_u64 << 40)));
    report(&world, &task, Outcome::Ready).await;
    world.user(1, "volume delete acme/ml data --yes").await;
    report(&world, &one(&world).await, Outcome::Ready).await;
    world.user(1, "volume create acme/ml data --size 1T --mount /data").await;
    let task = one(&world).await;
    let Resource::Volume(id) = task.resource else { panic!("{task:?}") };
    assert_eq!(input(&task)["volume"], json!({ "id": id.0, "name": "data", "size": 1_u64 << 40, "mount": "/data" }));
    assert_eq!(task.name, "acme/ml data");
    report(&world, &task, Outcome::Ready).await;

    // A project takes all of it along.
    world.operator("project delete acme/ml --yes").await;
    let gone = due(&world, &[]).await;
    let told: Vec<_> = gone.iter().map(|task| (task.name.clone(), input(task))).collect();
    assert_eq!(told.len(), 2);
    for (name, input) in &told {
        assert_eq!((&input["action"], &input["wanted"]), (&json!("delete"), &json!("absent")), "{name}");
    }
    assert_eq!(told[0].1["cluster"]["nodes"]["compute"], json!(16), "described as it was");
    for task in &gone {
        report(&world, task, Outcome::Ready).await;
    }
    assert_eq!(due(&world, &[]).await, []);
    assert_eq!(
        audited(&world, "cluster.provision").await,
        ["done create: ready", "done delete: ready", "done scale: ready"]
    );
}

#[tokio::test]
async fn what_comes_later_overtakes_and_a_creation_stays_one_until_it_is_done() {
    let world = site().await;
    world.user(1, "cluster create acme/ml h100").await;
    let first = one(&world).await;
    world.user(1, "cluster scale h100.acme --compute 4").await;
    let second = one(&world).await;
    assert!(second.job > first.job);
    assert_eq!(
        (&input(&second)["action"], &input(&second)["cluster"]["nodes"]["compute"]),
        (&json!("create"), &json!(4))
    );
    // Nothing is done twice at a time, also if it is asked for again.
    assert_eq!(due(&world, &[first.resource]).await, []);
    report(&world, &first, Outcome::Ready).await;
    assert_eq!(state(&world, "h100.acme").await, "pending", "the answer was to what was asked before");
    report(&world, &second, failed("no quota")).await;
    assert_eq!(state(&world, "h100.acme").await, "failed: no quota");
    // Deleted before it ever was: it may be there in part.
    world.user(1, "cluster delete h100.acme --yes").await;
    let third = one(&world).await;
    assert_eq!((&input(&third)["action"], &input(&third)["wanted"]), (&json!("delete"), &json!("absent")));
}

#[tokio::test]
async fn a_failure_is_tried_again_later_and_later_and_by_hand_at_once() {
    let world = site().await;
    world.user(1, "cluster create acme/ml h100").await;
    let mut waits = Vec::new();
    for failure in 1..=12 {
        let task = one(&world).await;
        report(&world, &task, failed("first line\nno\u{1b}[31m quota")).await;
        assert_eq!(state(&world, "h100.acme").await, "failed: first line no [31m quota");
        let mut waited = 0;
        while due(&world, &[]).await.is_empty() {
            world.pass(Duration::from_secs(1));
            waited += 1;
        }
        // Never longer than an hour, less at most an eighth so that not all come at the same time.
        let longest = (10 << (failure - 1)).min(3600);
        assert!(waited <= longest && waited >= longest * 7 / 8, "{failure}: {waited} of {longest}");
        waits.push(waited);
    }
    assert!(waits.is_sorted(), "{waits:?}");
    let task = one(&world).await;
    report(&world, &task, failed("still no quota")).await;
    let shown = world.user(2, "cluster show h100.acme").await.stdout;
    assert!(shown.contains("State: failed: still no quota\n"), "{shown}");
    assert!(shown.contains("Asked of the site's machinery: create, "), "{shown}");
    assert!(shown.contains(", failed 13 times in a row, next try in "), "{shown}");
    let log = audited(&world, "cluster.provision").await;
    assert_eq!(log.len(), 13);
    assert!(log.iter().all(|told| told.starts_with("refused create: failed (")), "{log:?}");

    let refused = world.user(2, "cluster retry h100.acme").await;
    assert!(refused.stderr.starts_with("only an admin of acme/ml may do that"), "{}", refused.stderr);
    assert_eq!(world.user(1, "cluster retry none.acme").await.stderr, "no such cluster: none.acme\n");
    assert_eq!(world.user(1, "cluster retry h100.acme").await.exit, 0);
    assert_eq!(state(&world, "h100.acme").await, "pending");
    let again = one(&world).await;
    assert_eq!(input(&again)["action"], json!("create"));
    report(&world, &again, failed("no quota")).await;
    world.pass(Duration::from_secs(10));
    let last = one(&world).await;
    report(&world, &last, Outcome::Ready).await;
    assert_eq!(state(&world, "h100.acme").await, "ready");
    // What is done can be asked for again too: machines break.
    world.user(1, "cluster retry h100.acme").await;
    assert_eq!(input(&one(&world).await)["action"], json!("change"));
}

#[tokio::test]
async fn what_is_not_done_yet_is_asked_about_again_when_the_machinery_says() {
    let world = site().await;
    world.user(1, "cluster create acme/ml h100").await;
    for (retry_after, expected) in [(Some(90), 90), (None, 15), (Some(0), 1), (Some(u32::MAX), 86_400)] {
        let task = one(&world).await;
        report(&world, &task, Outcome::Pending { retry_after }).await;
        assert_eq!(state(&world, "h100.acme").await, "pending");
        world.pass(Duration::from_secs(expected - 1));
        assert_eq!(due(&world, &[]).await, [], "{retry_after:?}");
        world.pass(Duration::from_secs(1));
    }
    // It works, if slowly: a failure after it is the first one.
    let task = one(&world).await;
    report(&world, &task, failed("x")).await;
    world.pass(Duration::from_secs(10));
    assert_eq!(due(&world, &[]).await.len(), 1);
    assert_eq!(audited(&world, "cluster.provision").await.len(), 1, "that it is not done yet fills no log");
}

#[tokio::test]
async fn a_name_that_is_given_again_waits_until_the_former_one_is_gone() {
    let world = site().await;
    world.user(1, "volume create acme/ml data --size 1T").await;
    let task = one(&world).await;
    report(&world, &task, Outcome::Ready).await;
    world.user(1, "volume delete acme/ml data --yes").await;
    world.user(1, "volume create acme/ml data --size 2T").await;
    let gone = one(&world).await;
    assert_eq!(input(&gone)["wanted"], json!("absent"));
    assert_eq!(due(&world, &[gone.resource]).await, [], "it waits also while the former one is being taken down");
    report(&world, &gone, failed("in use")).await;
    assert_eq!(due(&world, &[]).await, []);
    // By hand both are asked for again, still in order.
    assert_eq!(world.user(1, "volume retry acme/ml data").await.exit, 0);
    let gone = one(&world).await;
    assert_eq!((&input(&gone)["wanted"], &input(&gone)["volume"]["size"]), (&json!("absent"), &json!(1_u64 << 40)));
    report(&world, &gone, Outcome::Ready).await;
    assert_eq!(input(&one(&world).await)["volume"]["size"], json!(2_u64 << 40));
}

#[tokio::test]
async fn operators_see_what_is_not_done_and_can_retry_what_is_gone() {
    let world = site().await;
    let status = world.operator_status().await;
    assert!(status.contains("No provisioner is connected: what is asked of the site's machinery waits."), "{status}");
    world.user(1, "cluster create acme/ml h100").await;
    world.user(1, "volume create acme/ml data --size 1T").await;
    for task in due(&world, &[]).await {
        report(&world, &task, Outcome::Ready).await;
    }
    world.operator("project delete acme/ml --yes").await;
    for task in due(&world, &[]).await {
        report(&world, &task, failed("in use")).await;
    }
    let status = world.operator_status().await;
    assert!(status.contains("The provisioner is connected, "), "{status}");
    for row in ["h100.acme", "acme/ml data"] {
        let row = status.lines().find(|line| line.starts_with(row)).unwrap();
        assert!(row.contains("delete") && row.contains("failed: in use"), "{row}");
    }
    assert_eq!(due(&world, &[]).await, []);
    assert_eq!(
        world.user(1, "cluster retry h100.acme").await.stderr,
        "project acme/ml was deleted at 08:00 UTC by an operator\n"
    );
    for line in ["cluster retry h100.acme", "volume retry acme/ml data"] {
        world.operator(line).await;
    }
    let again = due(&world, &[]).await;
    assert_eq!(again.len(), 2);
    for task in again {
        report(&world, &task, Outcome::Ready).await;
    }
    assert!(!world.operator_status().await.contains("h100.acme"));
    for line in ["cluster retry h100.acme", "volume retry acme/ml data"] {
        assert!(world.refused_operator(line).await.starts_with("no "), "{line}");
    }
}

#[tokio::test]
async fn one_provisioner_at_a_time_is_woken_when_there_is_something_to_do() {
    let world = site().await;
    let app = world.app.clone();
    let waiting = tokio::spawn(async move { app.next_tasks(question("a", &[], 1, 30)).await });
    tokio::task::yield_now().await;
    // It is connected as soon as it asks; another one is not served then.
    assert!(world.operator_status().await.contains("The provisioner is connected"));
    assert!(matches!(world.app.next_tasks(question("b", &[], 1, 0)).await, NextAnswer::Another));
    world.user(1, "cluster create acme/ml h100").await;
    world.user(1, "cluster create acme/ml b200").await;
    let NextAnswer::Tasks(tasks) = waiting.await.unwrap() else { panic!("another one is connected") };
    assert_eq!(tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), ["h100.acme"], "room for one");

    // Who has no room waits, and is woken by a report: what it has said to be running is no longer so.
    let app = world.app.clone();
    let running = [tasks[0].resource];
    let waiting = tokio::spawn(async move { app.next_tasks(question("a", &running, 0, 30)).await });
    tokio::task::yield_now().await;
    report(&world, &tasks[0], Outcome::Ready).await;
    assert!(matches!(waiting.await.unwrap(), NextAnswer::Tasks(tasks) if tasks.is_empty()));

    // Who hangs up is gone at once, who is silent after a while.
    let app = world.app.clone();
    let waiting = tokio::spawn(async move { app.next_tasks(question("a", &[], 0, 30)).await });
    tokio::task::yield_now().await;
    waiting.abort();
    assert!(waiting.await.is_err());
    assert!(matches!(world.app.next_tasks(question("b", &[], 1, 0)).await, NextAnswer::Tasks(_)));
    assert!(matches!(world.app.next_tasks(question("c", &[], 1, 0)).await, NextAnswer::Another));
    world.pass(Duration::from_secs(15));
    assert!(matches!(world.app.next_tasks(question("c", &[], 1, 0)).await, NextAnswer::Tasks(_)));
}

#[tokio::test]
async fn without_machinery_the_directory_alone_is_changed() {
    let world = World::story().await;
    world.user(1, "cluster scale h100.acme --compute 4").await;
    world.user(1, "volume create acme/ml data --size 1T").await;
    assert_eq!(state(&world, "h100.acme").await, "ready");
    assert_eq!(world.app.directory().jobs().count(), 0);
    assert!(!world.operator_status().await.contains("machinery"));
    let refused = world.user(1, "cluster retry h100.acme").await;
    assert_eq!(refused.stderr, "nothing is made by machinery here, so there is nothing to try again\n");
    assert!(world.refused_operator("volume retry acme/ml data").await.contains("[provisioner] in authority.toml"));
}

#[tokio::test]
async fn a_file_that_describes_clusters_and_volumes_is_asked_for_like_the_commands() {
    let world = site().await;
    let apply = async |file: &str| {
        let operator = certgate::app::Asker::Operator { uid: 0 };
        let applied = output(world.answer(&operator, "apply - --yes --prune", None, Some(file)).await);
        assert_eq!(applied.exit, 0, "{}", applied.stderr);
    };
    let project =
        "format = 1\n[[projects]]\nname = \"acme/ml\"\n[projects.members]\n\"admin1@acme.example\" = \"admin\"\n";
    let cluster = "[[projects.clusters]]\nname = \"h100\"\nkind = \"slurm\"\nnodes = { compute = 4 }\n";
    let volume = "[[projects.volumes]]\nname = \"data\"\nsize = \"1T\"\n";
    apply(&format!("{project}{cluster}{volume}")).await;
    let tasks = due(&world, &[]).await;
    assert_eq!(tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), ["h100.acme", "acme/ml data"]);
    for task in &tasks {
        report(&world, task, Outcome::Ready).await;
    }
    // Two changes of one cluster are one request.
    let changed = cluster.replace('4', "8") + "configuration = \"image = 'x'\"\n";
    apply(&format!("{project}{changed}")).await;
    let tasks = due(&world, &[]).await;
    let told: Vec<_> =
        tasks.iter().map(|task| (input(task)["action"].clone(), input(task)["wanted"].clone())).collect();
    assert_eq!(told, [(json!("change"), json!("present")), (json!("delete"), json!("absent"))]);
    assert_eq!(input(&tasks[0])["cluster"]["nodes"]["compute"], json!(8));
}
