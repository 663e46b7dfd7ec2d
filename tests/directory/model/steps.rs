//! Random histories: who does what, out of a few names, so that they meet each other; now and then something that is no
//! name at all. Everything shrinks towards the operator, the first name of each list, and fewer steps.

use super::commands::{BAD, Command};
use proptest::{collection::vec, option, prelude::*, sample::select};

pub const ORGS: [&str; 2] = ["acme", "other"];
pub const PROJECTS: [&str; 3] = ["acme/ml", "acme/lab", "other/ml"];
pub const CLUSTERS: [&str; 3] = ["h1.acme", "b2.acme", "h1.other"];
pub const NODES: [&str; 4] = ["n0.h1.acme", "n1.h1.acme", "n0.b2.acme", "n0.h1.other"];
/// The last one is only created by a step.
pub const EMAILS: [&str; 6] =
    ["u0@acme.example", "u1@acme.example", "u2@acme.example", "u3@acme.example", "u4@other.example", "u5@acme.example"];
/// Keys of people; each of the first five is that of the email at its place.
pub const KEYS: [u8; 7] = [1, 2, 3, 4, 5, 6, 7];
/// Host keys; people's keys are tried as well.
const HOST_KEYS: [u8; 5] = [40, 41, 42, 1, 7];

/// Who does it.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    Operator,
    /// A connection with this key, from when that first became somebody's.
    Key(u8),
    /// A connection with a certificate, by the order in which they were made.
    Certificate(usize),
}

#[derive(Clone, Debug)]
pub enum Step {
    /// A command is typed.
    Type { who: Who, command: Command },
    /// Somebody connects anew with a key.
    Connect { key: u8 },
    /// Somebody connects with one of the certificates that were given.
    ConnectWithCertificate { number: usize },
    /// A machine uses one of the tokens that were given.
    Join { token: usize, key: u8 },
    /// A connection asks for a node.
    Open { who: Who, target: String },
    /// A forward ends by itself.
    Close { number: usize },
    /// Time passes, in seconds.
    Pass { seconds: u64 },
}

/// One of these, mostly the first, which is there at the beginning; seldom something that is none.
fn one_of(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![40 => Just(names[0]), 60 => select(names), 2 => select(BAD)].prop_map(str::to_owned)
}

/// The one who is a member at the beginning, or any.
fn email() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just(EMAILS[1].to_owned()), 2 => one_of(&EMAILS)]
}

fn project() -> impl Strategy<Value = String> {
    one_of(&PROJECTS)
}

fn role() -> impl Strategy<Value = String> {
    one_of(&["member", "admin"])
}

fn person_key() -> impl Strategy<Value = u8> {
    prop_oneof![20 => select(&KEYS[..]), 1 => Just(40)]
}

/// Mostly those who may.
fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        4 => Just(Who::Operator),
        5 => Just(Who::Key(1)),
        6 => select(&KEYS[..]).prop_map(Who::Key),
        1 => (0..4_usize).prop_map(Who::Certificate),
    ]
}

fn operator() -> impl Strategy<Value = Who> {
    prop_oneof![5 => Just(Who::Operator), 1 => who()]
}

/// Of somebody's who is not the operator.
fn connection() -> impl Strategy<Value = Who> {
    prop_oneof![6 => select(&KEYS[..]).prop_map(Who::Key), 1 => (0..4_usize).prop_map(Who::Certificate)]
}

/// What is for operators.
fn administration() -> impl Strategy<Value = Command> {
    let email = prop_oneof![Just(EMAILS[5]), select(&EMAILS[..])];
    let new_account = (email, one_of(&ORGS), vec(person_key(), 0..2)).prop_map(|(email, org, keys)| {
        let user = email.split_once('@').unwrap().0.to_owned();
        Command::UserCreate { email: email.to_owned(), org, user, keys }
    });
    prop_oneof![
        1 => one_of(&["new", "acme"]).prop_map(|org| Command::OrgCreate { org }),
        2 => new_account,
        2 => one_of(&EMAILS[1..3]).prop_map(|email| Command::UserSuspend { email }),
        3 => one_of(&EMAILS[1..3]).prop_map(|email| Command::UserResume { email }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let own = || option::weighted(0.3, email());
    prop_oneof![
        2 => (own(), person_key()).prop_map(|(account, key)| Command::KeyAdd { account, key }),
        2 => (own(), person_key()).prop_map(|(account, key)| Command::KeyRemove { account, key }),
        3 => (project(), own()).prop_map(|(project, admin)| Command::ProjectCreate { project, admin }),
        1 => project().prop_map(|project| Command::ProjectDelete { project }),
        6 => (project(), email(), role()).prop_map(|(project, email, role)| Command::MemberAdd { project, email, role }),
        5 => (project(), email(), any::<bool>())
            .prop_map(|(project, email, force)| Command::MemberRemove { project, email, force }),
        3 => (project(), email(), role(), any::<bool>())
            .prop_map(|(project, email, role, force)| Command::MemberRole { project, email, role, force }),
        2 => (project(), one_of(&["b2", "h1"])).prop_map(|(project, name)| Command::ClusterCreate { project, name }),
        1 => one_of(&CLUSTERS).prop_map(|cluster| Command::ClusterDelete { cluster }),
        2 => (project(), one_of(&["data", "home"])).prop_map(|(project, name)| Command::VolumeCreate { project, name }),
        2 => (project(), one_of(&["data", "home"])).prop_map(|(project, name)| Command::VolumeDelete { project, name }),
        2 => (one_of(&NODES), one_of(&["login", "compute"])).prop_map(|(node, role)| Command::NodeToken { node, role }),
        2 => one_of(&NODES).prop_map(|node| Command::NodeRemove { node }),
        4 => certificate(),
        2 => (0..4_usize).prop_map(|number| Command::CertificateRevoke { number }),
        2 => (0..3_usize).prop_map(|number| Command::SessionEnd { number }),
    ]
}

fn certificate() -> impl Strategy<Value = Command> {
    let ttl = option::weighted(0.3, select(&[60, 3600, 3601_u64][..]));
    (
        option::weighted(0.3, project()),
        option::weighted(0.3, one_of(&CLUSTERS)),
        option::weighted(0.2, person_key()),
        ttl,
    )
        .prop_map(|(project, cluster, key, ttl)| Command::Cert { project, cluster, key, ttl })
}

fn step() -> impl Strategy<Value = Step> {
    let targets =
        || select(vec!["n0.h1.acme", "n1.h1.acme", "n0.b2.acme", "n0.h1.other", "h1.acme", "b2.acme", "h9.acme"]);
    prop_oneof![
        22 => (who(), command()).prop_map(|(who, command)| Step::Type { who, command }),
        3 => (operator(), administration()).prop_map(|(who, command)| Step::Type { who, command }),
        2 => select(&KEYS[..]).prop_map(|key| Step::Connect { key }),
        2 => (0..6_usize).prop_map(|number| Step::ConnectWithCertificate { number }),
        3 => (0..4_usize, select(&HOST_KEYS[..])).prop_map(|(token, key)| Step::Join { token, key }),
        5 => (connection(), targets()).prop_map(|(who, target)| Step::Open { who, target: target.to_owned() }),
        1 => (0..6_usize).prop_map(|number| Step::Close { number }),
        1 => select(&[1, 301, 3601, 40 * 86_400][..]).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

pub fn history() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..60)
}

/// How every history begins: people in two organizations, one project with a member who has a certificate and a session, a
/// cluster and a node.
pub fn beginning() -> Vec<Step> {
    let operator = |command| Step::Type { who: Who::Operator, command };
    let admin = |command| Step::Type { who: Who::Key(1), command };
    let (project, cluster) = (|| PROJECTS[0].to_owned(), "h1".to_owned());
    let mut steps: Vec<Step> = ORGS.map(|org| operator(Command::OrgCreate { org: org.to_owned() })).into();
    for (email, key) in EMAILS.into_iter().zip(1..=5) {
        let (user, org) = email.strip_suffix(".example").and_then(|email| email.split_once('@')).unwrap();
        let (email, org, user) = (email.to_owned(), org.to_owned(), user.to_owned());
        steps.push(operator(Command::UserCreate { email, org, user, keys: vec![key] }));
    }
    steps.extend([
        admin(Command::ProjectCreate { project: project(), admin: None }),
        admin(Command::ClusterCreate { project: project(), name: cluster }),
        admin(Command::MemberAdd { project: project(), email: EMAILS[1].to_owned(), role: "member".to_owned() }),
        admin(Command::VolumeCreate { project: project(), name: "data".to_owned() }),
        admin(Command::NodeToken { node: NODES[0].to_owned(), role: "login".to_owned() }),
        Step::Join { token: 0, key: 40 },
        Step::Type { who: Who::Key(2), command: Command::Cert { project: None, cluster: None, key: None, ttl: None } },
        Step::ConnectWithCertificate { number: 0 },
        Step::Open { who: Who::Key(2), target: NODES[0].to_owned() },
    ]);
    steps
}
