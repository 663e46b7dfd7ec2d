//! Who may open which node, and what a certificate covers: the decisions against tiny obvious models of them.

use crate::policy::{
    Action, Caller, CertificateSettings, IssueRequest, Narrowing, OpenTarget, Place, Reason, Stay, authorize, identify,
    issue, open, stays, still_open,
    test_world::{NOW, World, key, peer},
};
use crate::{
    bundle::{CaPublicKeys, Login, bundle_for},
    domain::*,
};
use proptest::prelude::*;

const USERS: [&str; 5] = ["admin1", "user1", "admin2", "admin3", "user2"];
const PROJECTS: [(u64, &str, &str); 3] =
    [(21, "acme/ml", "h100.acme"), (22, "acme/research", "b200.acme"), (23, "other/lab", "a100.other")];

/// A step of a history: (user, project, what).
fn steps() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
    prop::collection::vec((0..USERS.len(), 0..PROJECTS.len(), 0..3_u8), 0..30)
}

proptest! {
    /// After any history: who is in a project opens its nodes, is named by its certificates and is in its bundles;
    /// nobody else does, is, and is.
    #[test]
    fn gateway_certificate_and_node_agree_with_the_membership(steps in steps()) {
        let mut world = World::new();
        let mut members: std::collections::BTreeSet<(usize, usize)> =
            [(0, 0), (1, 0), (2, 1), (3, 2)].into();
        let mut suspended = std::collections::BTreeSet::new();
        for (user, project, what) in steps {
            let (id, account) = (PROJECTS[project].0, world.id(USERS[user]));
            match what {
                0 if members.insert((user, project)) => world.add(id, account.0, Role::Member),
                1 if members.remove(&(user, project)) => world.remove(id, account.0, "admin1@acme.example"),
                2 => {
                    let state = if suspended.remove(&user) { AccountState::Active } else { AccountState::Suspended };
                    if state == AccountState::Suspended { suspended.insert(user); }
                    let by = Actor::Operator { uid: 0 };
                    world.apply(Mutation::AccountStateSet { account, state, at: NOW, by });
                }
                _ => {}
            }
        }
        let directory = &world.directory;
        let ca = CaPublicKeys { user: key(100), host: key(101) };
        for (user, name) in USERS.iter().enumerate() {
            let account = world.id(name);
            let fingerprint = key(u8::try_from(account.0).unwrap()).fingerprint();
            let identity = identify(directory, account, fingerprint, None, peer(), NOW);
            prop_assert_eq!(identity.is_err(), suspended.contains(&user));
            for (project, (_, path, cluster)) in PROJECTS.iter().enumerate() {
                let expected = members.contains(&(user, project)) && !suspended.contains(&user);
                let cluster: ClusterPath = cluster.parse().unwrap();
                let bundle = bundle_for(directory, directory.cluster_at(&cluster).unwrap().id, &ca, NOW).unwrap();
                let login = bundle.logins.iter().find(|login: &&Login| login.name.as_str() == *name);
                prop_assert_eq!(login.is_some(), expected);
                let Ok(identity) = &identity else { continue };
                for host in [format!("login-0.{cluster}"), format!("compute-0.{cluster}"), cluster.to_string()] {
                    let target = OpenTarget { host: &host, port: 22 };
                    let permit = open(directory, identity, target, &|_| Some(0), NOW);
                    prop_assert_eq!(permit.is_ok(), expected, "{} to {}", name, host);
                    if let Ok(permit) = permit {
                        prop_assert!(still_open(directory, identity, permit.node(), permit.path(), NOW, NOW).is_ok());
                    }
                }
                let permit = issue(directory, identity, &IssueRequest::default(), &CertificateSettings::default(), Serial(1), NOW);
                let principal = format!("{name}@{path}");
                let named = permit.is_ok_and(|permit| permit.principals.iter().any(|p| p.to_string() == principal));
                prop_assert_eq!(named, expected);
                if let Some(login) = login {
                    prop_assert!(login.principals.contains(&principal));
                }
            }
        }
    }
}

#[test]
fn only_the_ssh_port_of_a_node_that_is_named_is_dialled() {
    let world = World::new();
    let identity = world.identity("user1");
    let ask = |host: &str, port| open(&world.directory, &identity, OpenTarget { host, port }, &|_| Some(0), NOW);
    let permit = ask("login-0.h100.acme", 22).unwrap();
    assert_eq!(permit.address(), ("192.0.2.7".parse().unwrap(), 2222));
    assert!(ask("login-0.h100.acme", 2222).is_ok());
    for (host, port, reason) in [
        ("login-0.h100.acme", 80, Reason::WrongPort),
        ("login-0.h100.acme", 65_558, Reason::WrongPort),
        ("192.0.2.7", 2222, Reason::NotFound),
        ("127.0.0.1", 22, Reason::NotFound),
        ("localhost", 22, Reason::NotFound),
        ("", 22, Reason::NotFound),
        ("login-9.h100.acme", 22, Reason::NotFound),
        ("login-0.b200.acme", 22, Reason::NotFound),
        ("login-0.h100.acme.", 22, Reason::NotFound),
        ("LOGIN-0.h100.acme", 22, Reason::NotFound),
        ("\u{1b}[2J.h100.acme", 22, Reason::NotFound),
    ] {
        let denial = ask(host, port).unwrap_err();
        assert_eq!(denial.reason, reason, "{host}:{port}");
        assert!(!denial.user.contains('\u{1b}'));
    }
}

#[test]
fn a_cluster_name_takes_the_login_node_that_is_preferred() {
    let world = World::new();
    let identity = world.identity("user1");
    let target = OpenTarget { host: "h100.acme", port: 22 };
    let permit = open(&world.directory, &identity, target, &|_| Some(0), NOW).unwrap();
    assert_eq!(permit.path().to_string(), "login-0.h100.acme");
}

#[test]
fn certificates_keep_to_what_may_be_asked_for() {
    let world = World::new();
    let identity = world.identity("user1");
    let settings = CertificateSettings::default();
    let ask = |request: IssueRequest| issue(&world.directory, &identity, &request, &settings, Serial(1), NOW);
    let permit = ask(IssueRequest::default()).unwrap();
    assert_eq!((permit.valid_after, permit.valid_before), (NOW.secs() - 60, NOW.secs() + 300));

    let long = ask(IssueRequest { ttl: Some("2h".parse().unwrap()), ..IssueRequest::default() });
    assert_eq!(long.unwrap_err().reason, Reason::Invalid);
    let foreign = ask(IssueRequest { key: Some(key(11).fingerprint()), ..IssueRequest::default() });
    assert_eq!(foreign.unwrap_err().reason, Reason::ForeignKey);
    for narrow in [
        Narrowing::Projects(vec!["acme/research".parse().unwrap()]),
        Narrowing::Projects(vec!["acme/ml".parse().unwrap(), "acme/none".parse().unwrap()]),
        Narrowing::Cluster("b200.acme".parse().unwrap()),
    ] {
        let refused = ask(IssueRequest { narrow: Some(narrow), ..IssueRequest::default() });
        assert_eq!(refused.unwrap_err().reason, Reason::NotFound);
    }
    let narrow = Some(Narrowing::Cluster("h100.acme".parse().unwrap()));
    let permit = ask(IssueRequest { narrow, ..IssueRequest::default() }).unwrap();
    assert_eq!(permit.principals.iter().map(ToString::to_string).collect::<Vec<_>>(), ["user1@acme/ml/h100"]);
}

#[test]
fn a_robot_s_second_certificate_is_bound_like_the_first() {
    let gateway_addresses = Some("198.51.100.1".parse().unwrap());
    let settings = CertificateSettings { gateway_addresses, ..CertificateSettings::default() };
    let world = World::with_service(Some("sync"));
    let ask = |identity: &crate::policy::Identity| {
        issue(&world.directory, identity, &IssueRequest::default(), &settings, Serial(8), NOW).unwrap()
    };
    let by_key = ask(&world.identity("svc-ci"));
    assert_eq!(by_key.force_command.as_ref().map(ForceCommand::as_str), Some("sync"));
    assert_eq!(by_key.source_address.as_deref(), Some("192.0.2.0/24,198.51.100.1/32"));
    assert_eq!(by_key.principals.iter().map(ToString::to_string).collect::<Vec<_>>(), ["svc-ci@acme/ml"]);
    assert!(by_key.extensions.is_empty());
    // Restrictions come from the account, whatever the connection came with (x/crypto/ssh CVE-2026-39828).
    assert_eq!(ask(&world.identity_with_certificate("svc-ci", "svc-ci@acme/ml")), by_key);
}

#[test]
fn a_robot_is_in_its_project_and_nowhere_else() {
    let world = World::with_service(None);
    let by = Actor::Operator { uid: 0 };
    let (robot, own, other) = (AccountId(16), ProjectId(21), ProjectId(22));
    let member =
        |project, role| Mutation::MemberAdded(Membership { project, account: robot, role, since: NOW, by: by.clone() });
    let refused = |mutation: Mutation| world.directory.after([&mutation]).is_err();
    assert!(refused(member(other, Role::Member)));
    assert!(refused(Mutation::RoleSet { project: own, account: robot, role: Role::Admin }));
    let left =
        Mutation::MemberRemoved(Departure { project: own, account: robot, at: NOW, by: by.clone(), until: None });
    let left = world.directory.after([&left]).unwrap();
    assert!(left.after([&member(own, Role::Admin)]).is_err() && left.after([&member(own, Role::Member)]).is_ok());
}

#[test]
fn what_a_robot_opened_ends_when_it_is_bound_to_another_command() {
    let mut world = World::with_service(None);
    let later = NOW.after(std::time::Duration::from_secs(60));
    let stays = |world: &World, since| {
        still_open(
            &world.directory,
            &world.identity("svc-ci"),
            NodeId(41),
            &"login-0.h100.acme".parse().unwrap(),
            since,
            later,
        )
        .map(|_| ())
        .map_err(|d| d.reason)
    };
    assert_eq!(stays(&world, NOW), Ok(()));
    let mut terms = world.directory.account(AccountId(16)).unwrap().service().unwrap().clone();
    terms.force_command = Some("sync".parse().unwrap());
    terms.command_since = later;
    world.apply(Mutation::ServiceTermsSet { account: AccountId(16), terms: Box::new(terms.clone()) });
    assert_eq!(stays(&world, NOW), Err(Reason::ServiceAccount));
    assert_eq!(stays(&world, later), Ok(()));
    // Bound to nothing again: whatever is open may be.
    terms.force_command = None;
    terms.command_since = later.after(std::time::Duration::from_secs(60));
    world.apply(Mutation::ServiceTermsSet { account: AccountId(16), terms: Box::new(terms) });
    assert_eq!(stays(&world, NOW), Ok(()));
}

#[test]
fn what_is_open_when_somebody_is_removed_stays_for_the_grace_period_and_nothing_else_does() {
    let secs = |secs| NOW.after(std::time::Duration::from_secs(secs));
    let limit = |world: &mut World, grace: Option<&str>| {
        let grace = grace.map(|grace| grace.parse().unwrap());
        world.apply(Mutation::ProjectLimited { project: ProjectId(21), limits: Limits { grace, ..Limits::default() } });
    };
    let remove = |world: &mut World, until| {
        let (by, account) = (Actor::Operator { uid: 0 }, AccountId(12));
        world.apply(Mutation::MemberRemoved(Departure { project: ProjectId(21), account, at: NOW, by, until }));
    };
    let path = "login-0.h100.acme".parse().unwrap();
    let stay = |world: &World, since, now| match stays(
        &world.directory,
        &world.identity("user1"),
        NodeId(41),
        &path,
        since,
        now,
    ) {
        Ok(Stay::Permitted(_)) => Ok(None),
        Ok(Stay::Lingers(lingering)) => Ok(Some(lingering.until)),
        Err(denial) => Err(denial.reason),
    };
    let before = Timestamp::from_millis(NOW.millis() - 1);
    let mut world = World::new();
    limit(&mut world, Some("10m"));
    assert_eq!(stay(&world, before, secs(1)), Ok(None));
    remove(&mut world, Some(secs(600)));
    assert_eq!(stay(&world, before, NOW), Ok(Some(secs(600))));
    assert_eq!(stay(&world, before, secs(599)), Ok(Some(secs(600))));
    for (since, now) in [(before, secs(600)), (NOW, secs(1)), (secs(1), secs(1)), (before, before)] {
        assert_eq!(stay(&world, since, now), Err(Reason::Removed), "since {since}, at {now}");
    }
    // It is never a permit: neither to open, nor to be counted as open when it is asked for, nor for a certificate.
    let identity = world.identity("user1");
    let target = OpenTarget { host: "login-0.h100.acme", port: 22 };
    assert!(open(&world.directory, &identity, target, &|_| Some(0), secs(1)).is_err());
    assert!(still_open(&world.directory, &identity, NodeId(41), &path, before, secs(1)).is_err());
    let (request, settings) = (IssueRequest::default(), CertificateSettings::default());
    assert!(issue(&world.directory, &identity, &request, &settings, Serial(1), secs(1)).is_err());
    let ca = CaPublicKeys { user: key(100), host: key(101) };
    let bundle = |world: &World, now| bundle_for(&world.directory, ClusterId(31), &ca, now).unwrap();
    let leaving = |bundle: crate::bundle::Bundle| {
        bundle.leaving.iter().map(|l| (l.name.to_string(), l.until)).collect::<Vec<_>>()
    };
    assert_eq!(leaving(bundle(&world, secs(1))), [("user1".to_owned(), secs(600))]);
    assert!(bundle(&world, secs(1)).logins.iter().all(|login| login.name.as_str() != "user1"));
    assert!(leaving(bundle(&world, secs(600))).is_empty());
    // Shorter is shorter for them, longer is not longer, and none is none.
    for (grace, until) in [(Some("1h"), Some(600)), (Some("5m"), Some(300)), (None, None)] {
        limit(&mut world, grace);
        assert_eq!(stay(&world, before, secs(1)), until.map_or(Err(Reason::Removed), |until| Ok(Some(secs(until)))));
        assert_eq!(leaving(bundle(&world, secs(1))).len(), usize::from(until.is_some()));
    }
    limit(&mut world, Some("10m"));
    assert_eq!(stay(&world, before, secs(1)), Ok(Some(secs(600))), "it was given at the removal");
    // Who is suspended has none, and who is back needs none.
    let state = |state| Mutation::AccountStateSet { account: AccountId(12), state, at: NOW, by: Actor::Authority };
    world.apply(state(AccountState::Suspended));
    assert!(world.directory.touched(&state(AccountState::Active)).clusters.contains(&ClusterId(31)));
    assert!(leaving(bundle(&world, secs(1))).is_empty());
    world.apply(state(AccountState::Active));
    world.add(21, 12, Role::Member);
    assert_eq!(stay(&world, before, secs(1)), Ok(None));
    assert!(leaving(bundle(&world, secs(1))).is_empty());
    // Without one at the removal there is none afterwards.
    remove(&mut world, None);
    assert_eq!(stay(&world, before, secs(1)), Err(Reason::Removed));
    assert!(leaving(bundle(&world, secs(1))).is_empty());
}

#[test]
fn a_robot_that_is_removed_has_no_grace_period() {
    let mut world = World::with_service(None);
    let limits = Limits { grace: Some("10m".parse().unwrap()), ..Limits::default() };
    world.apply(Mutation::ProjectLimited { project: ProjectId(21), limits });
    let later = NOW.after(std::time::Duration::from_secs(60));
    let (by, account) = (Actor::Operator { uid: 0 }, AccountId(16));
    // As no command would say it.
    let departure = Departure { project: ProjectId(21), account, at: NOW, by, until: Some(later) };
    world.apply(Mutation::MemberRemoved(departure));
    assert_eq!(world.directory.lingers(account, ProjectId(21), NOW), None);
    assert_eq!(world.directory.lingering(ProjectId(21), NOW).count(), 0);
}

#[test]
fn a_narrow_certificate_does_not_become_a_wide_one() {
    let mut world = World::new();
    world.add(22, 12, Role::Member);
    let record = CertificateRecord {
        serial: Serial(7),
        account: AccountId(12),
        key: key(12).fingerprint(),
        principals: vec!["user1@acme/ml/h100".into()],
        valid_after: NOW,
        valid_before: NOW.after(std::time::Duration::from_secs(300)),
        source: String::new(),
        issued: NOW,
    };
    let (account, key) = (AccountId(12), key(12).fingerprint());
    let identity = identify(&world.directory, account, key, Some((Serial(7), Some(&record))), peer(), NOW).unwrap();
    let host = |host| open(&world.directory, &identity, OpenTarget { host, port: 22 }, &|_| Some(0), NOW).map(|_| ());
    assert!(host("login-0.h100.acme").is_ok());
    assert_eq!(host("login-0.b200.acme").unwrap_err().reason, Reason::OutOfScope);
    let settings = CertificateSettings::default();
    // Neither all projects nor even the whole of the one: the certificate was for a cluster.
    let wide = issue(&world.directory, &identity, &IssueRequest::default(), &settings, Serial(8), NOW);
    assert!(wide.is_err());
    let caller = Caller::Account(identity);
    let change = authorize(&world.directory, &caller, Action::KeyAdd, &Place::Nowhere, NOW);
    assert_eq!(change.unwrap_err().reason, Reason::OutOfScope);
}
