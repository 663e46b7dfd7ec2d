//! `kill -9` in the middle of a burst of certificates: what was acknowledged has its record and its audit event. The
//! burst runs in this test binary, started again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers as well")]

use certgate::{
    audit::{Event, Head, chain},
    domain::{
        Account, AccountId, AccountKind, AccountState, Actor, CertificateRecord, Fingerprint, Mutation, Org, OrgId,
        Serial, Timestamp, Uid,
    },
    store::{AuditQuery, Change, Decision, SqliteStore, Store, StoreError},
};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};
use tokio::sync::mpsc::unbounded_channel;

const CHILD: &str = "CERTGATE_TEST_CRASH_DIRECTORY";
const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);

fn open(dir: &Path) -> Result<SqliteStore, StoreError> {
    let (commits, _) = unbounded_channel();
    SqliteStore::open(dir, commits)
}

fn event(action: &str, object: String) -> Event {
    Event::new(NOW, Actor::Authority, action, object)
}

fn first() -> Decision {
    let mutations = vec![
        Mutation::OrgCreated(Org { id: OrgId(1), name: "acme".parse().unwrap(), created: NOW }),
        Mutation::AccountCreated(Account {
            id: AccountId(2),
            org: OrgId(1),
            email: "user1@acme.example".parse().unwrap(),
            user: "user1".parse().unwrap(),
            uid: Uid(200_000),
            state: AccountState::Active,
            kind: AccountKind::Person,
            created: NOW,
        }),
    ];
    Box::new(move |ledger| {
        let is_new = ledger.directory.account(AccountId(2)).is_none();
        is_new.then(|| Change { mutations, events: vec![event("org.create", "acme".into())], ..Change::default() })
    })
}

/// Issues certificates, 64 at a time, and says on standard output which are acknowledged, until it is killed.
fn burst(dir: &Path) {
    // Whatever the umask: nobody else may read the files.
    rustix::process::umask(rustix::fs::Mode::empty());
    let store = Arc::new(open(dir).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        store.transact(first()).await.unwrap();
        let callers: Vec<_> = (0..64).map(|_| tokio::spawn(caller(Arc::clone(&store)))).collect();
        for caller in callers {
            caller.await.unwrap();
        }
    });
}

async fn caller(store: Arc<SqliteStore>) {
    loop {
        let (tell, told) = tokio::sync::oneshot::channel();
        let decision: Decision = Box::new(move |ledger| {
            let serial = ledger.next_serial;
            tell.send(serial).unwrap();
            let certificate = Some(CertificateRecord {
                serial,
                account: AccountId(2),
                key: Fingerprint::from_bytes([1; 32]),
                principals: vec!["user1@acme/ml-training".into()],
                valid_after: NOW,
                valid_before: NOW,
                source: "192.0.2.1".into(),
                issued: NOW,
            });
            let events = vec![event("certificate.issue", serial.to_string())];
            Some(Change { certificate, events, ..Change::default() })
        });
        store.transact(decision).await.unwrap();
        let serial = told.await.unwrap();
        // One write a line, so that a line is there or not.
        std::io::stdout().lock().write_all(format!("\nacknowledged {serial}\n").as_bytes()).unwrap();
    }
}

/// Starts a burst, kills it after `enough` certificates, and tells which were acknowledged.
fn killed_burst(dir: &Path, enough: usize) -> BTreeSet<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "what_was_acknowledged_survives_kill_9"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = BTreeSet::new();
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        let serial = line.strip_prefix("acknowledged ").and_then(|rest| rest.strip_suffix('\n'));
        if let Some(serial) = serial {
            acknowledged.insert(serial.parse().unwrap());
            if acknowledged.len() == enough {
                match open(dir) {
                    Err(StoreError::Held { holder, path }) => {
                        assert_eq!(holder, child.id().to_string());
                        assert_eq!(path, dir.join("lock"));
                    }
                    other => panic!("a second one on the same directory: {other:?}"),
                }
                child.kill().unwrap();
            }
        }
        line.clear();
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= enough, "the burst ended by itself");
    acknowledged
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return burst(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..3 {
        let new = killed_burst(dir.path(), 300 + 100 * round);
        assert!(acknowledged.is_disjoint(&new), "a serial number was given out twice");
        acknowledged.extend(new);
    }
    for file in fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.file_name());
    }
    let store = open(dir.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let entries = store.audit(AuditQuery::default()).await.unwrap().entries;
        chain::verify(Head::EMPTY, &entries).unwrap();
        let recorded: BTreeSet<u64> = entries
            .iter()
            .filter(|entry| entry.event.action == "certificate.issue")
            .map(|entry| entry.event.object.parse().unwrap())
            .collect();
        for serial in acknowledged {
            assert!(store.certificate(Serial(serial)).await.unwrap().is_some(), "no record of {serial}");
            assert!(recorded.contains(&serial), "no audit event of {serial}");
        }
    });
}
