//! What every store must do with the audit log: part of the suite in `contract`.

use super::{
    AuditPage, AuditQuery, Change, Decision, Mark, Store, StoreError,
    contract::{Backend, all_entries, deciding, make, open},
    samples::{event, people},
};
use crate::{
    audit::{Entry, Event, Filter, Head, Outcome, SignedHead},
    domain::{AccountId, Actor, Fingerprint, Holder, Serial, SessionId, Timestamp, Version},
};
use ed25519_dalek::SigningKey;

/// Events of all sorts: some alike, some not, times that go back now and then.
fn events() -> Vec<Event> {
    let account = |n: u8| Actor::Account {
        id: AccountId(n.into()),
        email: format!("user{n}@acme.example").parse().unwrap(),
        kind: Holder::Person,
        key: Fingerprint::from_bytes([n; 32]),
    };
    let actors = [
        Actor::Operator { uid: 0 },
        Actor::Operator { uid: 1000 },
        Actor::Authority,
        account(1),
        account(2),
        // Names that hold what a careless search would look for.
        Actor::Node { name: "user1@acme.example".into(), key: Fingerprint::from_bytes([9; 32]) },
        Actor::Node { name: r#"\"email\":\"user2@acme.example\""#.into(), key: Fingerprint::from_bytes([8; 32]) },
        Actor::Stranger { key: Fingerprint::from_bytes([1; 32]) },
    ];
    let actions = ["member.add", "member.remove", "members.x", "session.open", "certificate.issue", "member"];
    let objects = ["acme/ml user1@acme.example", "acme/ml", "acme/ml-2", "serial 7", "%", "\"a b\":22"];
    let sources = ["local", "192.0.2.7", "2001:db8::7"];
    (0..400_u64)
        .map(|n| {
            // A fixed mixture in which nothing goes with anything else.
            let pick = |salt: u64, of: usize| {
                let mixed = (n + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                usize::try_from(mixed).unwrap() % of
            };
            let at = Timestamp::from_secs(1_000_000 + n * 10 - if n % 37 == 0 { 500 } else { 0 });
            let certificate = (n % 5 == 0).then_some(Serial(if n % 2 == 0 { 7 } else { u64::MAX }));
            Event {
                source: sources[pick(1, 3)].into(),
                connection: (n % 3 == 0).then(|| format!("c{n}")),
                outcome: if pick(2, 4) == 0 { Outcome::Refused } else { Outcome::Done },
                reason: (n % 4 == 0).then(|| "not-admin".into()),
                detail: format!("é \u{0} {n}"),
                certificate,
                session: (n % 7 == 0).then(|| SessionId::from_bits((n % 21).into())),
                ..Event::new(at, actors[pick(3, 8)].clone(), actions[pick(4, 6)], objects[pick(5, 6)])
            }
        })
        .collect()
}

fn filters() -> Vec<Filter> {
    let all = Filter::default;
    let mut filters = vec![all()];
    let key = Fingerprint::from_bytes([1; 32]).to_string();
    for who in [
        "uid:0",
        "uid:7",
        "operator",
        "certgate",
        "local",
        "192.0.2.7",
        "2001:db8::7",
        "user1@acme.example",
        "user2@acme.example",
        "login-9.h100.acme",
        key.as_str(),
    ] {
        filters.push(Filter { who: Some(who.parse().unwrap()), ..all() });
    }
    for what in ["member", "member.remove", "members", "session", "nothing"] {
        filters.push(Filter { what: Some(what.parse().unwrap()), ..all() });
    }
    for on in ["acme/ml", "user1@acme.example", "acme", "serial 7", "7", "%", "\"a b\":22", ""] {
        filters.push(Filter { on: Some(on.into()), ..all() });
    }
    let at = |secs| Some(Timestamp::from_secs(secs));
    filters.push(Filter { outcome: Some(Outcome::Refused), ..all() });
    filters.push(Filter { since: at(1_003_000), ..all() });
    filters.push(Filter { until: at(1_003_000), ..all() });
    filters.push(Filter { since: at(1_002_000), until: at(1_002_100), ..all() });
    filters.push(Filter { since: at(9_000_000), ..all() });
    filters.push(Filter { until: at(1), ..all() });
    filters.push(Filter { certificate: Some(Serial(7)), ..all() });
    filters.push(Filter { certificate: Some(Serial(u64::MAX)), what: "session".parse().ok(), ..all() });
    filters.push(Filter { certificate: Some(Serial(8)), ..all() });
    filters.push(Filter { session: Some(SessionId::from_bits(14)), ..all() });
    filters.push(Filter {
        what: "member".parse().ok(),
        who: "user1@acme.example".parse().ok(),
        outcome: Some(Outcome::Done),
        since: at(1_001_000),
        ..all()
    });
    filters
}

/// Everything that a query has, page by page, and how many pages that took.
async fn pages(store: &impl Store, mut query: AuditQuery) -> (Vec<Entry>, usize) {
    let mut found = Vec::new();
    for count in 1.. {
        let AuditPage { entries, more } = store.audit(query.clone()).await.unwrap();
        assert!(entries.len() <= query.limit);
        let at = if query.latest { 0 } else { found.len() };
        found.splice(at..at, entries);
        match more {
            None => return (found, count),
            Some(seq) if query.latest => query.before = seq,
            Some(seq) => query.after = seq,
        }
    }
    unreachable!("a query has an end")
}

pub(super) async fn audit_queries_find_what_the_filter_wants<B: Backend>() {
    let (store, _announced) = open(&B::new());
    store.transact(deciding(Change { events: events(), ..Change::default() })).await.unwrap();
    let log = all_entries(&store).await;
    assert_eq!(log.iter().map(|entry| entry.event.clone()).collect::<Vec<_>>(), events());
    for filter in filters() {
        let wanted: Vec<u64> = log.iter().filter(|e| filter.wants(&e.event)).map(|entry| entry.seq).collect();
        for latest in [false, true] {
            for (limit, scan) in [(usize::MAX, u64::MAX), (usize::MAX, 100), (7, u64::MAX), (40, 150)] {
                let query = AuditQuery { limit, scan, latest, filter: filter.clone(), ..AuditQuery::default() };
                let (found, count) = pages(&store, query).await;
                let found: Vec<u64> = found.iter().map(|entry| entry.seq).collect();
                assert_eq!(found, wanted, "{filter:?} latest {latest} limit {limit} scan {scan}");
                assert!(count >= wanted.len() / limit.max(1), "{filter:?}");
            }
        }
        let part =
            AuditQuery { after: 100, before: 400, latest: true, filter: filter.clone(), ..AuditQuery::default() };
        let found: Vec<u64> = pages(&store, part).await.0.iter().map(|entry| entry.seq).collect();
        assert_eq!(found, wanted.into_iter().filter(|seq| (101..400).contains(seq)).collect::<Vec<_>>());
    }
    // A search that no index helps says where it has stopped.
    let filter = Filter { on: Some("nowhere".into()), ..Filter::default() };
    let query = AuditQuery { latest: true, scan: 100, filter, ..AuditQuery::default() };
    assert_eq!(store.audit(query).await.unwrap(), AuditPage { entries: vec![], more: Some(301) });
}

pub(super) async fn the_end_of_the_log_is_told_when_it_is_durable<B: Backend>() {
    let (store, _announced) = open(&B::new());
    let mut end = store.audit_end();
    assert_eq!(*end.borrow_and_update(), Head::EMPTY);
    make(&store, people()).await.unwrap();
    assert!(end.has_changed().unwrap());
    let head = *end.borrow_and_update();
    assert_eq!(head, Head::after(&all_entries(&store).await[0]));
    // What leaves no event does not change it.
    store.transact(Box::new(|_| None)).await.unwrap();
    sign(&store, 0).await.unwrap();
    assert!(!end.has_changed().unwrap());
    make(&store, people()).await.unwrap_err();
    assert!(!end.has_changed().unwrap());
    assert_eq!(*store.audit_end().borrow(), head);
}

/// Signs the end of the log; what is wrong with the number or the entry is added.
async fn sign(store: &impl Store, wrong: u64) -> Result<Option<Version>, StoreError> {
    let decision: Decision = Box::new(move |ledger| {
        let head = Head { seq: ledger.head.seq + wrong / 2, ..ledger.head };
        let key = SigningKey::from_bytes(&[7; 32]);
        let signed = SignedHead::sign(ledger.signed.number + 1 + wrong % 2, head, Timestamp::from_secs(5), &key);
        Some(Change { signed: Some(signed), ..Change::default() })
    });
    store.transact(decision).await
}

async fn mark(store: &impl Store) -> Mark {
    let (tell, told) = std::sync::mpsc::channel();
    let decision: Decision = Box::new(move |ledger| {
        tell.send(ledger.signed).unwrap();
        None
    });
    store.transact(decision).await.unwrap();
    told.recv().unwrap()
}

pub(super) async fn signed_heads_follow_one_another<B: Backend>() {
    let (store, mut announced) = open(&B::new());
    assert!(sign(&store, 0).await.is_err(), "nothing was signed");
    let mut heads = Vec::new();
    for number in 1..=3 {
        let refusal = Change { events: vec![event("member.add"), event("member.add")], ..Change::default() };
        store.transact(deciding(refusal)).await.unwrap();
        for wrong in [1, 2, 3] {
            assert!(sign(&store, wrong).await.is_err(), "{wrong}");
        }
        assert_eq!(sign(&store, 0).await.unwrap(), Some(Version(0)));
        assert!(sign(&store, 0).await.is_err(), "the same was signed twice");
        assert_eq!(mark(&store).await, Mark { number, seq: number * 2 });
        let last = store.last_signed_head().await.unwrap().unwrap();
        assert_eq!((last.number, last.head), (number, *store.audit_end().borrow()));
        heads.push(last);
    }
    assert_eq!(store.signed_heads(0, 10).await.unwrap(), heads);
    assert_eq!(store.signed_heads(1, 1).await.unwrap(), heads[1..2]);
    assert_eq!(store.signed_heads(3, 10).await.unwrap(), []);
    assert_eq!(store.signed_heads(u64::MAX, 10).await.unwrap(), []);
    assert!(announced.try_recv().is_err(), "the directory has not changed");
}

pub(super) async fn signed_heads_survive_being_opened_again<B: Backend>() {
    let backend = B::new();
    let (store, _announced) = open(&backend);
    make(&store, people()).await.unwrap();
    sign(&store, 0).await.unwrap();
    let last = store.last_signed_head().await.unwrap();
    drop(store);
    let (store, _announced) = open(&backend);
    assert_eq!(store.last_signed_head().await.unwrap(), last);
    assert_eq!(mark(&store).await, Mark { number: 1, seq: 1 });
    assert!(sign(&store, 0).await.is_err(), "nothing is new");
    make(&store, vec![super::samples::org(70, "other")]).await.unwrap();
    sign(&store, 0).await.unwrap();
    assert_eq!(mark(&store).await, Mark { number: 2, seq: 2 });
}

pub(super) async fn the_log_is_shortened_up_to_a_signed_head_and_no_further<B: Backend>() {
    let backend = B::new();
    let (store, _announced) = open(&backend);
    for _ in 0..3 {
        let change = Change { events: vec![event("member.add"), event("member.add")], ..Change::default() };
        store.transact(deciding(change)).await.unwrap();
        sign(&store, 0).await.unwrap();
    }
    store.transact(deciding(Change { events: vec![event("member.add")], ..Change::default() })).await.unwrap();
    let (whole, heads) = (all_entries(&store).await, store.signed_heads(0, 10).await.unwrap());
    assert_eq!(store.audit_start().await.unwrap(), None);
    assert_eq!(store.signed_head_at(Timestamp::from_secs(5)).await.unwrap(), Some(heads[2]));
    assert_eq!(store.signed_head_at(Timestamp::from_secs(4)).await.unwrap(), None);
    let hash = |seq: u64| whole.get(usize::try_from(seq).unwrap().wrapping_sub(1)).map_or(Head::EMPTY.hash, |e| e.hash);
    let signed =
        |number, head| SignedHead::sign(number, head, Timestamp::from_secs(5), &SigningKey::from_bytes(&[7; 32]));
    let forget_head =
        |head| deciding(Change { events: vec![event("audit.archive")], forget: Some(head), ..Change::default() });
    let forget = |number, seq| forget_head(signed(number, Head { seq, hash: hash(seq) }));
    // One of another log that went on from the same beginning.
    assert!(store.transact(forget_head(signed(2, Head { seq: 4, hash: hash(3) }))).await.is_err());
    // No head, or not as it was signed, or after the last.
    for (number, seq) in [(0, 0), (2, 5), (2, 2), (4, 7), (4, 6), (3, 7)] {
        assert!(store.transact(forget(number, seq)).await.is_err(), "{number} {seq}");
    }
    assert_eq!((all_entries(&store).await, store.signed_heads(0, 10).await.unwrap()), (whole.clone(), heads.clone()));
    store.transact(forget(2, 4)).await.unwrap();
    assert!(store.transact(forget(2, 4)).await.is_err(), "it is gone already");
    assert!(store.transact(forget(1, 2)).await.is_err(), "it would have to come back");
    let check = async |store: &B::Store, more: usize| {
        let entries = all_entries(store).await;
        assert_eq!(entries[..3], whole[4..]);
        assert_eq!(entries.len(), 3 + more);
        assert_eq!(store.signed_heads(0, 2).await.unwrap(), heads[1..]);
        assert_eq!(store.audit_start().await.unwrap(), Some(heads[1]));
        let latest = AuditQuery { latest: true, scan: 10, ..AuditQuery::default() };
        let page = store.audit(latest).await.unwrap();
        assert_eq!((page.entries.len(), page.more), (3 + more, None), "what is gone costs no search anything");
    };
    check(&store, 1).await;
    // It goes on as it would have.
    make(&store, people()).await.unwrap();
    sign(&store, 0).await.unwrap();
    check(&store, 2).await;
    assert_eq!(mark(&store).await, Mark { number: 4, seq: 9 });
    // All of it can go.
    let last = store.last_signed_head().await.unwrap();
    store.transact(deciding(Change { forget: last, ..Change::default() })).await.unwrap();
    assert_eq!(all_entries(&store).await, []);
    assert_eq!(mark(&store).await, Mark { number: 4, seq: 9 });
}

pub(super) async fn where_the_log_begins_survives_being_opened_again<B: Backend>() {
    let backend = B::new();
    let (store, _announced) = open(&backend);
    for _ in 0..2 {
        store.transact(deciding(Change { events: vec![event("member.add")], ..Change::default() })).await.unwrap();
        sign(&store, 0).await.unwrap();
    }
    let heads = store.signed_heads(0, 10).await.unwrap();
    let forget = |number: usize| deciding(Change { forget: Some(heads[number - 1]), ..Change::default() });
    for number in 1..=2 {
        store.transact(forget(number)).await.unwrap();
    }
    let (start, end) = (store.audit_start().await.unwrap(), *store.audit_end().borrow());
    assert_eq!(start.unwrap().number, 2);
    drop(store);
    // Nothing is left of it but where it ended.
    let (store, _announced) = open(&backend);
    assert_eq!((store.audit_start().await.unwrap(), *store.audit_end().borrow()), (start, end));
    assert_eq!(all_entries(&store).await, []);
    assert!(store.transact(forget(2)).await.is_err(), "it is gone already");
    store.transact(deciding(Change { events: vec![event("member.add")], ..Change::default() })).await.unwrap();
    assert_eq!(all_entries(&store).await[0].seq, 3);
}
