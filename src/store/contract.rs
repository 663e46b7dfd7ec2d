//! What every store must do, whatever it is made of: run against each backend.

use super::{
    AuditQuery, Change, Commit, Commits, Decision, MemoryStore, SqliteStore, Store, StoreError, contract_audit::*,
    samples::*,
};
use crate::{
    audit::{Head, chain},
    domain::{AccountId, ClusterId, Directory, Mutation, Revision, Role, Serial, Timestamp, Version},
};
use futures_util::future::join_all;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, error::TryRecvError, unbounded_channel};

/// A backend, and what it needs to be opened again.
pub(super) trait Backend {
    type Store: Store;
    fn new() -> Self;
    fn open(&self, commits: Commits) -> Self::Store;
}

struct InMemory;

impl Backend for InMemory {
    type Store = MemoryStore;

    fn new() -> Self {
        Self
    }

    fn open(&self, commits: Commits) -> MemoryStore {
        MemoryStore::new(commits)
    }
}

struct InSqlite(TempDir);

impl Backend for InSqlite {
    type Store = SqliteStore;

    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self, commits: Commits) -> SqliteStore {
        SqliteStore::open(self.0.path(), commits).unwrap()
    }
}

pub(super) fn open<B: Backend>(backend: &B) -> (B::Store, UnboundedReceiver<Commit>) {
    let (commits, announced) = unbounded_channel();
    (backend.open(commits), announced)
}

pub(super) fn deciding(change: Change) -> Decision {
    Box::new(move |_| Some(change))
}

pub(super) async fn make(store: &impl Store, mutations: Vec<Mutation>) -> Result<Option<Version>, StoreError> {
    store.transact(deciding(Change { mutations, events: vec![event("make")], ..Change::default() })).await
}

async fn refuse(store: &impl Store, what: &str) -> Result<Option<Version>, StoreError> {
    store.transact(deciding(Change { events: vec![event(what)], ..Change::default() })).await
}

/// Issues the next certificate to account 2 and tells its serial.
async fn issue(store: &impl Store, valid_before: Timestamp) -> Serial {
    let (tell, told) = std::sync::mpsc::channel();
    let decision: Decision = Box::new(move |ledger| {
        tell.send(ledger.next_serial).unwrap();
        let certificate = Some(certificate(ledger.next_serial, AccountId(2), valid_before));
        Some(Change { certificate, events: vec![event("certificate.issue")], ..Change::default() })
    });
    store.transact(decision).await.unwrap();
    told.recv().unwrap()
}

pub(super) async fn all_entries(store: &impl Store) -> Vec<crate::audit::Entry> {
    let page = store.audit(AuditQuery::default()).await.unwrap();
    assert_eq!(page.more, None, "all were asked for");
    page.entries
}

async fn a_change_is_visible_and_announced_when_it_returns<B: Backend>() {
    let backend = B::new();
    let (store, mut announced) = open(&backend);
    assert_eq!(store.directory().version(), Version(0));

    assert_eq!(make(&store, people()).await.unwrap(), Some(Version(1)));
    let directory = store.directory();
    assert_eq!(directory.version(), Version(1));
    assert!(directory.account(AccountId(2)).is_some());
    let commit = announced.try_recv().unwrap();
    assert_eq!(*commit.directory, *directory);

    assert_eq!(make(&store, places()).await.unwrap(), Some(Version(2)));
    let commit = announced.try_recv().unwrap();
    assert_eq!(commit.directory.version(), Version(2));
    // What is touched is asked step by step: the membership's cluster exists only because of the step before.
    assert!(commit.touched.clusters.contains(&CLUSTER));
    assert!(commit.touched.accounts.contains(&AccountId(2)));

    let remove = vec![left(AccountId(2)), role(AccountId(3), Role::Member)];
    assert_eq!(make(&store, remove).await.unwrap(), Some(Version(3)));
    let commit = announced.try_recv().unwrap();
    assert_eq!(commit.touched.accounts, [AccountId(2), AccountId(3)].into());
    assert!(matches!(announced.try_recv(), Err(TryRecvError::Empty)));
}

async fn what_a_deletion_takes_away_is_touched<B: Backend>() {
    let (store, mut announced) = open(&B::new());
    make(&store, people()).await.unwrap();
    make(&store, places()).await.unwrap();
    make(&store, vec![enrolled(40, "login-0", 1)]).await.unwrap();
    make(&store, vec![project_deleted()]).await.unwrap();
    let commit = std::iter::from_fn(|| announced.try_recv().ok()).last().unwrap();
    assert_eq!(commit.touched.accounts, [AccountId(2), AccountId(3)].into());
    assert!(commit.touched.clusters.contains(&CLUSTER));
    assert_eq!(commit.touched.nodes.len(), 1);
}

async fn nothing_decided_leaves_nothing<B: Backend>() {
    let (store, mut announced) = open(&B::new());
    assert_eq!(store.transact(Box::new(|_| None)).await.unwrap(), None);
    assert_eq!(store.transact(deciding(Change::default())).await.unwrap(), None);
    assert_eq!(*store.directory(), Directory::default());
    assert!(all_entries(&store).await.is_empty());
    assert!(announced.try_recv().is_err());
}

async fn a_refusal_leaves_its_event_and_nothing_else<B: Backend>() {
    let (store, mut announced) = open(&B::new());
    make(&store, people()).await.unwrap();
    announced.try_recv().unwrap();
    let before = store.directory();
    assert_eq!(refuse(&store, "member.add").await.unwrap(), Some(Version(1)));
    assert_eq!(*store.directory(), *before);
    assert!(announced.try_recv().is_err());
    let entries = all_entries(&store).await;
    assert_eq!(entries.len(), 2);
    assert_eq!((entries[1].event.action.as_str(), entries[1].version), ("member.add", Version(1)));
}

async fn what_contradicts_leaves_nothing_and_spoils_nothing<B: Backend>() {
    let (store, mut announced) = open(&B::new());
    make(&store, people()).await.unwrap();
    announced.try_recv().unwrap();
    let before = store.directory();

    // The second of two changes is wrong: the first is not made either, nor its event kept.
    let error = make(&store, vec![org(70, "other"), org(71, "acme")]).await.unwrap_err();
    assert!(error.to_string().contains("organization name taken"), "{error}");
    let wrong_serial = certificate(Serial(7), AccountId(2), LATE);
    let change = Change { certificate: Some(wrong_serial), events: vec![event("x")], ..Change::default() };
    assert!(matches!(store.transact(deciding(change)).await, Err(StoreError::Failed(_))));
    let panicking: Decision = Box::new(|_| panic!("a defect, made on purpose by a test"));
    assert!(matches!(store.transact(panicking).await, Err(StoreError::Failed(_))));

    assert_eq!(*store.directory(), *before);
    assert_eq!(all_entries(&store).await.len(), 1);
    assert!(announced.try_recv().is_err());
    assert_eq!(store.certificate(Serial(7)).await.unwrap(), None);
    // And it goes on.
    assert_eq!(make(&store, vec![org(70, "other")]).await.unwrap(), Some(Version(2)));
    assert_eq!(issue(&store, LATE).await, Serial(1));
}

async fn good_and_bad_at_once_do_not_mix<B: Backend>() {
    let (store, mut announced) = open(&B::new());
    make(&store, people()).await.unwrap();
    announced.try_recv().unwrap();
    let decisions = (0..64).map(|n: u64| match n % 4 {
        0 => store.transact(Box::new(|_| panic!("a defect, made on purpose by a test"))),
        1 => store.transact(deciding(Change { mutations: vec![org(1, "acme")], ..Change::default() })),
        2 => store.transact(Box::new(|_| None)),
        _ => store.transact(deciding(Change {
            mutations: vec![org(100 + n, &format!("org-{n}"))],
            events: vec![event("org.create")],
            ..Change::default()
        })),
    });
    for (n, result) in join_all(decisions).await.into_iter().enumerate() {
        match n % 4 {
            0 | 1 => assert!(matches!(result, Err(StoreError::Failed(_))), "{n}: {result:?}"),
            2 => assert_eq!(result.unwrap(), None),
            _ => assert!(result.unwrap().is_some()),
        }
    }
    assert_eq!(store.directory().version(), Version(17));
    assert_eq!(store.directory().orgs().count(), 17);
    assert_eq!(all_entries(&store).await.len(), 17);
    let versions: Vec<u64> =
        std::iter::from_fn(|| announced.try_recv().ok()).map(|commit| commit.directory.version().0).collect();
    assert_eq!(versions, (2..=17).collect::<Vec<_>>());
}

async fn decisions_at_once_are_made_one_after_the_other<B: Backend>() {
    let (store, mut announced) = open(&B::new());
    let store = Arc::new(store);
    make(&*store, people()).await.unwrap();
    announced.try_recv().unwrap();
    let tasks = (0..64).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            // Read, decide, change: every one of them takes the number that it sees to be next.
            let decision: Decision = Box::new(move |ledger| {
                let next = ledger.directory.counters().id;
                let certificate = certificate(ledger.next_serial, AccountId(2), LATE);
                Some(Change {
                    mutations: vec![org(next, &format!("org-{n}"))],
                    certificate: Some(certificate),
                    events: vec![event("org.create"), event("certificate.issue")],
                    ..Change::default()
                })
            });
            let version = store.transact(decision).await.unwrap().unwrap();
            assert!(store.directory().version() >= version);
            version
        })
    });
    let mut versions: Vec<u64> = join_all(tasks).await.into_iter().map(|version| version.unwrap().0).collect();
    versions.sort_unstable();
    assert_eq!(versions, (2..=65).collect::<Vec<_>>());
    assert_eq!(store.directory().orgs().count(), 65);

    let commits: Vec<Commit> = std::iter::from_fn(|| announced.try_recv().ok()).collect();
    assert_eq!(
        commits.iter().map(|commit| commit.directory.version().0).collect::<Vec<_>>(),
        (2..=65).collect::<Vec<_>>()
    );
    let serials: Vec<u64> =
        store.live_certificates(EARLY).await.unwrap().into_iter().map(|record| record.serial.0).collect();
    assert_eq!(serials, (1..=64).collect::<Vec<_>>());
    let entries = all_entries(&*store).await;
    assert_eq!(entries.len(), 129);
    assert_eq!(chain::verify(Head::EMPTY, &entries).unwrap().seq, 129);
}

async fn queries_answer_what_was_asked<B: Backend>() {
    let (store, _announced) = open(&B::new());
    make(&store, people()).await.unwrap();
    for end in [300, 100, 200] {
        issue(&store, Timestamp::from_secs(end)).await;
    }
    let record = store.certificate(Serial(2)).await.unwrap().unwrap();
    assert_eq!(record, certificate(Serial(2), AccountId(2), Timestamp::from_secs(100)));
    for none in [0, 4, u64::MAX] {
        assert_eq!(store.certificate(Serial(none)).await.unwrap(), None);
    }
    let live = async |at| -> Vec<u64> {
        let live = store.live_certificates(Timestamp::from_secs(at)).await.unwrap();
        live.into_iter().map(|record| record.serial.0).collect()
    };
    assert_eq!(live(0).await, [1, 2, 3]);
    assert_eq!(live(100).await, [1, 3], "a certificate has ended at its end");
    assert_eq!(live(200).await, [1]);
    assert_eq!(live(300).await, [0_u64; 0]);

    let seqs = async |after, limit, latest| -> Vec<u64> {
        let page = store.audit(AuditQuery { after, limit, latest, ..AuditQuery::default() }).await.unwrap();
        page.entries.into_iter().map(|entry| entry.seq).collect()
    };
    assert_eq!(seqs(0, 10, false).await, [1, 2, 3, 4]);
    assert_eq!(seqs(0, 2, false).await, [1, 2]);
    assert_eq!(seqs(0, 2, true).await, [3, 4]);
    assert_eq!(seqs(1, 2, false).await, [2, 3]);
    assert_eq!(seqs(3, 2, true).await, [4]);
    assert_eq!(seqs(0, usize::MAX, true).await, [1, 2, 3, 4]);
    assert_eq!(seqs(4, 2, false).await, [0_u64; 0]);
    assert_eq!(seqs(u64::MAX, 2, true).await, [0_u64; 0]);
    assert_eq!(seqs(0, 0, true).await, [0_u64; 0]);
}

async fn every_configuration_of_a_cluster_is_kept<B: Backend>() {
    let (store, _announced) = open(&B::new());
    make(&store, people()).await.unwrap();
    make(&store, places()).await.unwrap();
    make(&store, vec![configured("# a\n", 5), configured("# b\n", 6)]).await.unwrap();
    make(&store, vec![project_deleted()]).await.unwrap();
    let kept = async |revision| store.revision(CLUSTER, revision).await.unwrap();
    assert_eq!(kept(1).await.unwrap().document, "");
    let second = Revision { revision: 2, document: "# a\n".into(), at: Timestamp::from_secs(5) };
    assert_eq!(kept(2).await, Some(second));
    assert_eq!(kept(3).await.unwrap().document, "# b\n");
    for none in [0, 4, u64::MAX] {
        assert_eq!(kept(none).await, None);
    }
    assert_eq!(store.revision(ClusterId(u64::MAX), 1).await.unwrap(), None);
}

async fn everything_survives_being_opened_again<B: Backend>() {
    let backend = B::new();
    let (store, _announced) = open(&backend);
    make(&store, people()).await.unwrap();
    make(&store, places()).await.unwrap();
    refuse(&store, "member.add").await.unwrap();
    let serial = issue(&store, LATE).await;
    let (directory, entries) = (store.directory(), all_entries(&store).await);
    drop(store);

    let (store, mut announced) = open(&backend);
    assert_eq!(*store.directory(), *directory);
    assert_eq!(all_entries(&store).await, entries);
    assert_eq!(store.certificate(serial).await.unwrap(), Some(certificate(serial, AccountId(2), LATE)));
    assert!(announced.try_recv().is_err(), "what was known is no news");

    assert_eq!(issue(&store, LATE).await, Serial(serial.0 + 1));
    assert_eq!(make(&store, vec![org(70, "other")]).await.unwrap(), Some(Version(3)));
    let entries = all_entries(&store).await;
    let head = chain::verify(Head::EMPTY, &entries).unwrap();
    assert_eq!(head.seq, 6);
    assert_eq!(*store.audit_end().borrow(), head);
}

/// One test a promise, for one backend.
macro_rules! contract {
    ($module:ident, $backend:ident: $($promise:ident),+ $(,)?) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise::<super::$backend>().await;
            })+
        }
    };
}

contract! {
    memory, InMemory:
    a_change_is_visible_and_announced_when_it_returns,
    what_a_deletion_takes_away_is_touched,
    nothing_decided_leaves_nothing,
    a_refusal_leaves_its_event_and_nothing_else,
    what_contradicts_leaves_nothing_and_spoils_nothing,
    good_and_bad_at_once_do_not_mix,
    decisions_at_once_are_made_one_after_the_other,
    queries_answer_what_was_asked,
    every_configuration_of_a_cluster_is_kept,
    audit_queries_find_what_the_filter_wants,
    the_end_of_the_log_is_told_when_it_is_durable,
    signed_heads_follow_one_another,
    the_log_is_shortened_up_to_a_signed_head_and_no_further,
}

contract! {
    sqlite, InSqlite:
    a_change_is_visible_and_announced_when_it_returns,
    what_a_deletion_takes_away_is_touched,
    nothing_decided_leaves_nothing,
    a_refusal_leaves_its_event_and_nothing_else,
    what_contradicts_leaves_nothing_and_spoils_nothing,
    good_and_bad_at_once_do_not_mix,
    decisions_at_once_are_made_one_after_the_other,
    queries_answer_what_was_asked,
    every_configuration_of_a_cluster_is_kept,
    audit_queries_find_what_the_filter_wants,
    the_end_of_the_log_is_told_when_it_is_durable,
    signed_heads_follow_one_another,
    signed_heads_survive_being_opened_again,
    the_log_is_shortened_up_to_a_signed_head_and_no_further,
    where_the_log_begins_survives_being_opened_again,
    everything_survives_being_opened_again,
}
