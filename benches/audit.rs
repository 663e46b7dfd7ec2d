//! An audit log of a million events: to verify all of it, and to find something in it. The real process, on a database on
//! a real disk.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that meets an error has failed")]

mod support;

use certgate::{
    audit::{Event, Outcome},
    domain::{AccountId, Actor, Fingerprint, Holder, Serial, SessionId, Timestamp},
    store::{Change, SqliteStore, Store},
};
use std::{path::Path, time::Instant};
use support::{
    ROUNDS,
    authority::Authority,
    disk::place,
    median, progress,
    report::{Mark, Unit, note, row},
    timed,
};

const EVENTS: u64 = 1_000_000;
/// In one transaction.
const BATCH: u64 = 5_000;
/// Who did it all.
const ACCOUNTS: u64 = 20_000;
/// One event for each second from here on.
const FROM: u64 = 1_790_000_000;

/// What is looked for.
const SEARCHES: &[(&str, &[&str])] = &[
    ("the last 50", &[]),
    ("--what member.remove: one of ten", &["--what", "member.remove"]),
    ("--who, somebody with 50 in all", &["--who", "user77@org.example"]),
    ("--who --what: 5 in all", &["--who", "user77@org.example", "--what", "member.remove"]),
    ("--on, what nobody ever did anything to", &["--on", "org/project-none"]),
    ("--since --until: one hour", &["--since", "2026-09-25T00:00:00Z", "--until", "2026-09-25T01:00:00Z"]),
];

fn main() {
    if support::asked_for() {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(bench());
    }
}

async fn bench() {
    let dir = place();
    let state = dir.path().join("state");
    // It makes its keys; the log comes into its empty database.
    Authority::start(&state).stop();
    make(&state).await;
    let size = SqliteStore::database(&state).metadata().unwrap().len() / 1_000_000;
    let (starting, authority) = timed(|| Authority::start(&state));
    progress(&format!("{size} MB, started in {starting:.2} s"));
    let rounds = async |words: &[&str]| {
        let mut costs = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let output = authority.operator(words).await;
            assert!(!output.is_empty(), "{words:?} says nothing");
            costs.push(begun.elapsed().as_secs_f64());
        }
        progress(&format!("audit {}: {:.3} s", words[1..].join(" "), median(&costs)));
        median(&costs)
    };
    row("audit verify", rounds(&["audit", "verify", "--json"]).await, Unit::Seconds, Mark::None);
    for (what, filter) in SEARCHES {
        let words: Vec<&str> = ["audit", "list", "--json"].iter().chain(*filter).copied().collect();
        row(&format!("audit list {what}"), rounds(&words).await * 1e3, Unit::Millis, Mark::None);
    }
    authority.stop();
    row("start on it", starting, Unit::Seconds, Mark::None);
    note(&format!(
        "{EVENTS} events, {size} MB of SQLite. Medians of {ROUNDS}, from the request at the socket to the whole answer; the \
         database is in the page cache."
    ));
}

async fn make(state: &Path) {
    let (commits, _committed) = tokio::sync::mpsc::unbounded_channel();
    let store = tokio::task::block_in_place(|| SqliteStore::open(state, commits)).unwrap();
    for first in (0..EVENTS).step_by(usize::try_from(BATCH).unwrap()) {
        let events = (first..first + BATCH).map(event).collect();
        store.transact(Box::new(|_| Some(Change { events, ..Change::default() }))).await.unwrap();
    }
    tokio::task::block_in_place(|| drop(store));
}

/// Half of them certificates, four of ten sessions, the rest removals.
fn event(n: u64) -> Event {
    let account = n / 10 % ACCOUNTS;
    let (action, outcome) = match n % 10 {
        0..5 => ("certificate.issue", Outcome::Done),
        5..7 => ("session.open", Outcome::Done),
        7 => ("session.open", Outcome::Refused),
        8 => ("session.end", Outcome::Done),
        _ => ("member.remove", Outcome::Done),
    };
    let key = Fingerprint::from_bytes(std::array::from_fn(|at| account.to_le_bytes()[at % 8]));
    Event {
        at: Timestamp::from_secs(FROM + n),
        actor: Actor::Account {
            id: AccountId(account),
            email: format!("user{account}@org.example").parse().unwrap(),
            kind: Holder::Person,
            key,
        },
        source: "192.0.2.1".into(),
        connection: Some("0123456789abcdef".into()),
        action: action.into(),
        object: format!("org/project-{} user{account}@org.example", account % 1_000),
        outcome,
        reason: (outcome == Outcome::Refused).then(|| "not-a-member".into()),
        detail: format!("serial {n} key {key} as user{account}@org/project-{}", account % 1_000),
        certificate: Some(Serial(n)),
        session: action.starts_with("session").then(|| SessionId::from_bits(u128::from(n))),
    }
}
