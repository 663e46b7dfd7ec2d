//! A directory of a hundred thousand accounts as a file, brought into an empty authority, and written back.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that meets an error has failed")]

mod support;

use std::{fmt::Write, time::Instant};
use support::{
    Numbers,
    authority::Authority,
    disk::place,
    median, memory, progress,
    report::{Mark, Unit, note, row},
    world,
};

const ORGS: usize = 20;
const ACCOUNTS: usize = 100_000;
/// Each with one cluster.
const PROJECTS: usize = 5_000;
/// Of each account, in different projects.
const MEMBERSHIPS: usize = 2;
/// Each on an authority of its own; fewer than elsewhere, because each takes long.
const ROUNDS: usize = 3;

fn main() {
    if support::asked_for() {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(bench());
    }
}

async fn bench() {
    let file = file();
    let (mut applied, mut again, mut dumped, mut grown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let dir = place();
        let authority = Authority::start(&dir.path().join("state"));
        let take = async |words: &[&str], inputs: Vec<String>| {
            let begun = Instant::now();
            let output = authority.operator_with(words, inputs).await;
            (begun.elapsed().as_secs_f64(), output)
        };
        let (seconds, _) = take(&["apply", "-", "--yes"], vec![file.clone()]).await;
        applied.push(seconds);
        grown.push(memory(authority.pid()).1);
        again.push(take(&["apply", "-", "--yes"], vec![file.clone()]).await.0);
        let (seconds, written) = take(&["dump"], Vec::new()).await;
        dumped.push(seconds);
        assert_eq!(written.matches("[[accounts]]").count(), ACCOUNTS, "not everybody is there");
        authority.stop();
        progress(&format!(
            "apply {round} of {ROUNDS}: {seconds:.1} s for the dump, {:.1} s to apply",
            applied[round - 1]
        ));
    }
    row("apply a file to an empty directory", median(&applied), Unit::Seconds, Mark::None);
    row("  the same again: nothing to do", median(&again), Unit::Seconds, Mark::None);
    row("  memory of the authority after it, PSS", median(&grown), Unit::Megabytes, Mark::None);
    row("dump it", median(&dumped), Unit::Seconds, Mark::None);
    #[allow(clippy::cast_precision_loss, reason = "it is shown in MB")]
    let size = file.len() as f64 / 1e6;
    note(&format!(
        "The file: {ACCOUNTS} accounts with a key each, {PROJECTS} projects with one cluster each, {} memberships; \
         {size:.0} MB. Medians of {ROUNDS}, each into a new authority, over its socket.",
        ACCOUNTS * MEMBERSHIPS
    ));
}

/// What is applied.
fn file() -> String {
    let mut text = String::from("format = 1\n");
    let mut numbers = Numbers(9);
    for org in 0..ORGS {
        write!(text, "[[organizations]]\nname = \"org-{org}\"\n").unwrap();
    }
    for n in 0..ACCOUNTS {
        let key = world::ed25519(&mut numbers);
        write!(
            text,
            "[[accounts]]\nemail = \"{}\"\norg = \"org-{}\"\nuser = \"user{n}\"\nkeys = [\"{key}\"]\n",
            email(n),
            n % ORGS
        )
        .unwrap();
    }
    for n in 0..PROJECTS {
        write!(text, "[[projects]]\nname = \"org-{}/project-{n}\"\n[projects.members]\n", n % ORGS).unwrap();
        // Every project has other members, and each account has as many projects.
        let each = ACCOUNTS / PROJECTS;
        for at in 0..MEMBERSHIPS * each {
            let account = (n * each + at) % ACCOUNTS;
            let role = if at == 0 { "admin" } else { "member" };
            writeln!(text, "\"{}\" = \"{role}\"", email(account)).unwrap();
        }
        write!(text, "[[projects.clusters]]\nname = \"cluster-{n}\"\nkind = \"slurm\"\n").unwrap();
    }
    text
}

fn email(n: usize) -> String {
    format!("user{n}@org-{}.example", n % ORGS)
}
