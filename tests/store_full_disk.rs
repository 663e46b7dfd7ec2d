//! A disk that is full: nothing half made, everyone told, and the next change works when there is space again. Space is
//! taken away with a limit on the size of files (RLIMIT_FSIZE), which needs no privilege. The limit is the whole
//! process's, so there is one test here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers as well")]

use certgate::{
    audit::{Event, Head, chain},
    domain::{Actor, Mutation, Org, OrgId, Timestamp},
    store::{AuditQuery, Change, Decision, SqliteStore, Store, StoreError},
};
use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::Path;
use tokio::sync::mpsc::unbounded_channel;

/// Makes the organization of the next number, with a bulky audit event.
fn create() -> Decision {
    Box::new(|ledger| {
        let id = ledger.directory.counters().id;
        let created = Timestamp::from_secs(1_795_000_000);
        let event = Event::new(created, Actor::Authority, "org.create", format!("org-{id}"));
        let event = Event { detail: "x".repeat(2000), ..event };
        let name = format!("org-{id}").parse().unwrap();
        let mutations = vec![Mutation::OrgCreated(Org { id: OrgId(id), name, created })];
        Some(Change { mutations, events: vec![event], ..Change::default() })
    })
}

fn limit_files(to: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: to.or(maximum), maximum }).unwrap();
}

async fn fill(store: &SqliteStore) -> u64 {
    for _ in 0..1000 {
        let before = store.directory();
        let results = join_all((0..8).map(|_| store.transact(create()))).await;
        let made = u64::try_from(results.iter().filter(|result| result.is_ok()).count()).unwrap();
        assert_eq!(store.directory().version().0, before.version().0 + made, "what is in force is what was said");
        for error in results.into_iter().filter_map(Result::err) {
            assert!(matches!(error, StoreError::Failed(_)), "{error:?}");
            assert!(error.to_string().starts_with("the change could not be made durable and was not made: "));
        }
        if made < 8 {
            return store.directory().version().0;
        }
    }
    panic!("the limit on the size of files was never reached");
}

async fn check(store: &SqliteStore, version: u64) {
    assert_eq!(store.directory().version().0, version);
    assert_eq!(u64::try_from(store.directory().orgs().count()).unwrap(), version);
    let entries = store.audit(AuditQuery::default()).await.unwrap().entries;
    assert_eq!(chain::verify(Head::EMPTY, &entries).unwrap().seq, version);
}

fn open(dir: &Path) -> (SqliteStore, tokio::sync::mpsc::UnboundedReceiver<certgate::store::Commit>) {
    let (commits, announced) = unbounded_channel();
    (SqliteStore::open(dir, commits).unwrap(), announced)
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_half_made() {
    // SAFETY: ignoring a signal installs no handler. Without this the limit would end the process instead of the write.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let dir = tempfile::tempdir().unwrap();
    let (store, mut announced) = open(dir.path());

    limit_files(Some(300_000));
    let version = fill(&store).await;
    assert!(version > 8, "full at once: the test has shown nothing");
    check(&store, version).await;
    // Still full, still said.
    let decisions = join_all((0..8).map(|_| store.transact(create()))).await;
    assert!(decisions.iter().any(Result::is_err));
    let version = store.directory().version().0;

    limit_files(None);
    store.transact(create()).await.unwrap();
    check(&store, version + 1).await;
    let versions: Vec<u64> =
        std::iter::from_fn(|| announced.try_recv().ok()).map(|commit| commit.directory.version().0).collect();
    assert_eq!(versions, (1..=version + 1).collect::<Vec<_>>(), "announced: what was made, and nothing else");
    drop(store);

    let (store, _announced) = open(dir.path());
    check(&store, version + 1).await;
}
