//! An audit log that is shortened at its beginning: nothing is lost of it, and the archive and what is left are one chain.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::World;
use certgate::{
    app::Retention,
    archive,
    audit::{Entry, chain},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

const DAY: Duration = Duration::from_secs(86_400);

fn state_dir(dir: &Path) -> PathBuf {
    let state = dir.join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    state
}

/// Three parts of a log, each signed, a day after the other; the clock stands at the last.
async fn three_days(state: &Path) -> World {
    let world = World::on_disk(state).await.unwrap();
    world.tell().await;
    world.settle().await;
    for name in ["one", "two"] {
        world.pass(DAY);
        world.operator(&format!("org create {name}")).await;
        world.settle().await;
    }
    world
}

fn retention(dir: &Path, days: u32) -> Retention {
    Retention { keep: DAY * days, archive: dir.join("audit") }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("audit")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The program, where no authority answers.
fn verified(files: &[PathBuf], more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_certgate"));
    command.args(["--socket", "/nonexistent", "audit", "verify"]).args(more).arg("--archive").args(files);
    command.output().unwrap()
}

async fn archive(world: &World, retention: &Retention) {
    world.app.archive_old(retention, world.app.now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_goes_into_the_archive_and_the_chain_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let state = state_dir(dir.path());
    let world = three_days(&state).await;
    let whole = world.log().await;
    // Young enough, all of it.
    archive(&world, &retention(dir.path(), 3)).await;
    assert!(!dir.path().join("audit").exists());
    assert_eq!(world.log().await, whole);
    // The first part is two days old, and so a day over; the second is not yet a day over, but as old as it is kept.
    archive(&world, &retention(dir.path(), 1)).await;
    let left = world.log().await;
    let first = left[0].seq;
    assert_eq!(left[..left.len() - 1], whole[usize::try_from(first).unwrap() - 1..]);
    assert_eq!(left.last().unwrap().event.action, "audit.archive");
    assert!(first > 2 && left.len() > 1, "{left:?}");
    let archived = files(dir.path());
    assert_eq!(archived.len(), 1);
    let checked = archive::check(&archived[0], None, None).unwrap();
    assert_eq!((checked.verdict.entries, checked.verdict.end.seq), (first - 1, first - 1));
    assert!(left.last().unwrap().event.detail.contains(&checked.sha256));
    // Nothing that stands in it is lost.
    let text = fs::read_to_string(&archived[0]).unwrap();
    let entries: Vec<Entry> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(entries, whole[..entries.len()]);
    assert_eq!(chain::verify(certgate::audit::Head::EMPTY, &entries).unwrap(), checked.verdict.end);

    // The operator checks both, and that they are one.
    let told = String::from_utf8(verified(&archived, &[]).stderr).unwrap();
    let (_, head) = told.trim_end().rsplit_once("--head ").unwrap();
    assert_eq!(head, checked.verdict.end.to_string());
    let verdict = world.operator(&format!("audit verify --head {head}")).await;
    assert!(verdict.stderr.contains("are in the archive"), "{}", verdict.stderr);
    let older = whole[0].hash;
    let refused = world.refused_operator(&format!("audit verify --head 1:{older}")).await;
    assert!(refused.contains("is in the archive"), "{refused}");

    // Again at once: nothing to do. After more days: another file, which continues the first.
    archive(&world, &retention(dir.path(), 1)).await;
    assert_eq!(files(dir.path()), archived);
    world.settle().await;
    for _ in 0..3 {
        world.pass(DAY);
        world.operator("org list").await;
        world.operator(&format!("org create later-{}", world.app.now().millis())).await;
        world.settle().await;
    }
    archive(&world, &retention(dir.path(), 1)).await;
    let archived = files(dir.path());
    assert_eq!(archived.len(), 2);
    let key = world.operator("ca show --json").await;
    let key: serde_json::Value = serde_json::from_str(&key.stdout).unwrap();
    let key = key["audit"].as_str().unwrap().to_owned();
    assert!(verified(&archived, &["--key", &key]).status.success());
    let reversed: Vec<PathBuf> = archived.iter().rev().cloned().collect();
    let told = verified(&reversed, &[]);
    assert_eq!(told.status.code(), Some(1));
    assert!(String::from_utf8(told.stderr).unwrap().contains("is a file missing"));
    world.operator("audit verify").await;

    // An authority that starts on what is left goes on.
    let left = world.log().await;
    world.close().await;
    let world = World::on_disk(&state).await.unwrap();
    world.operator("audit verify").await;
    assert_eq!(world.log().await[..left.len()], left);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_short_is_gone_on_with_and_what_is_wrong_stays() {
    let dir = tempfile::tempdir().unwrap();
    let state = state_dir(dir.path());
    let world = three_days(&state).await;
    let whole = world.log().await;
    world.close().await;
    // A file was written, and then nothing more: as if the authority had been killed there.
    let copy = dir.path().join("copy");
    assert!(Command::new("cp").arg("-a").arg(&state).arg(&copy).status().unwrap().success());
    let world = World::on_disk(&copy).await.unwrap();
    world.pass(DAY * 2);
    archive(&world, &retention(dir.path(), 1)).await;
    world.close().await;
    let file = files(dir.path()).remove(0);
    let text = fs::read_to_string(&file).unwrap();

    let world = World::on_disk(&state).await.unwrap();
    world.pass(DAY * 2);
    // Something else than what the log has: nothing leaves it, and the file is not touched.
    fs::write(&file, text.replace("acme/ml", "acme/xx")).unwrap();
    let before = world.log().await;
    archive(&world, &retention(dir.path(), 1)).await;
    assert_eq!(world.log().await, before);
    assert!(fs::read_to_string(&file).unwrap().contains("acme/xx"));
    // What it should be: it is used as it is.
    fs::write(&file, &text).unwrap();
    archive(&world, &retention(dir.path(), 1)).await;
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    assert_eq!(files(dir.path()).len(), 1);
    let left = world.log().await;
    assert!(left.len() < whole.len() && left.last().unwrap().event.action == "audit.archive");
    world.operator("audit verify").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restoration_the_archive_of_the_lost_log_takes_nothing_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = state_dir(dir.path());
    World::on_disk(&state).await.unwrap().close().await;
    let copy = dir.path().join("copy");
    assert!(Command::new("cp").arg("-a").arg(&state).arg(&copy).status().unwrap().success());
    // Two logs with one beginning and one key, as many entries and heads in each.
    for (place, name) in [(&copy, "lost"), (&state, "kept")] {
        let world = World::on_disk(place).await.unwrap();
        for n in 0..3 {
            world.operator(&format!("org create {name}-{n}")).await;
            world.settle().await;
            world.pass(DAY);
        }
        if name == "lost" {
            archive(&world, &retention(dir.path(), 1)).await;
            assert_eq!(files(dir.path()).len(), 1);
        } else {
            let before = world.log().await;
            archive(&world, &retention(dir.path(), 1)).await;
            assert_eq!(world.log().await, before, "something left the log that is archived nowhere");
        }
        world.close().await;
    }
}
