//! Many at once, on the real database and over the real gateway socket: what everybody is answered is explained by one
//! serial order, that of the directory's versions.

use super::{
    authority_support::{PEER, World, key},
    model::{
        commands::Command,
        views::{lines, told},
        world::{Connection, Model},
    },
};
use certgate::{
    api::{
        client::GatewayClient,
        server::{Allowed, serve_gateway},
    },
    app::{
        App, Asker,
        authority::Authority,
        protocol::{CommandAnswer, CommandRequest, Credential, Open, OpenAnswer, OpenRequest, RunCommand},
    },
    command::{self, Invocation},
    domain::SessionId,
};
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngSeed, TestRunner},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{net::UnixListener, sync::Barrier};
use tokio_util::sync::CancellationToken;

const CALLERS: u8 = 50;
/// How often each caller asks.
const TIMES: usize = 20;

/// An authority on a database, served at a socket.
struct Served {
    world: World,
    client: Arc<GatewayClient>,
    _stop: tokio_util::sync::DropGuard,
    _dir: tempfile::TempDir,
}

impl Served {
    /// With an organization and an account for each caller, and a project of which the first ten are admins.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = World::on_disk(dir.path()).await.unwrap();
        let socket = dir.path().join("gateway.sock");
        let (listener, stop) = (UnixListener::bind(&socket).unwrap(), CancellationToken::new());
        tokio::spawn(serve_gateway(world.app.clone(), listener, Allowed::default(), stop.clone()));
        let client = Arc::new(GatewayClient::new(socket));
        world.operator("org create acme").await;
        for number in 1..=CALLERS {
            let (email, key) = (email(number), key(number));
            world.operator(&format!("user create {email} --org acme --name u{number} --key '{key}'")).await;
        }
        world.operator(&format!("project create acme/ml --admin {}", email(1))).await;
        for number in 2..=10 {
            world.operator(&format!("member add acme/ml {} --role admin", email(number))).await;
        }
        Self { world, client, _stop: stop.drop_guard(), _dir: dir }
    }

    /// The same as the model has it.
    fn model(&self) -> Model {
        let mut model = Model { now: self.world.app.now().secs(), ..Model::default() };
        let run = |model: &mut Model, command| {
            model.run(None, &command).unwrap();
        };
        run(&mut model, Command::OrgCreate { org: "acme".into() });
        for number in 1..=CALLERS {
            let (email, org, user) = (email(number), "acme".into(), format!("u{number}"));
            run(&mut model, Command::UserCreate { email, org, user, keys: vec![number] });
        }
        let project = || "acme/ml".to_owned();
        run(&mut model, Command::ProjectCreate { project: project(), admin: Some(email(1)) });
        for number in 2..=10 {
            run(&mut model, Command::MemberAdd { project: project(), email: email(number), role: "admin".into() });
        }
        model
    }
}

fn email(number: u8) -> String {
    format!("u{number}@acme.example")
}

/// What is said to a line over the socket, as one connection.
async fn ask(client: &GatewayClient, credential: &Credential, connection: String, words: &[String]) -> Value {
    let line = format!("{} --json", shell_words::join(words));
    let (credential, peer) = (credential.clone(), PEER.parse().unwrap());
    let request = CommandRequest { connection, peer, credential, line, terminal: None, inputs: vec![], context: None };
    said(client.call::<RunCommand>(request).await.unwrap())
}

fn said(answer: CommandAnswer) -> Value {
    match answer {
        CommandAnswer::Output(output) => serde_json::from_str(&output.stdout).unwrap(),
        CommandAnswer::Input { prompt, .. } => panic!("asked for input: {prompt}"),
    }
}

/// What somebody asks.
#[derive(Clone, Debug)]
enum Ask {
    Change(Command),
    Look(&'static [&'static str]),
}

impl Ask {
    fn words(&self) -> Vec<String> {
        match self {
            Self::Change(command) => command.words(),
            Self::Look(words) => words.iter().map(|&word| word.to_owned()).collect(),
        }
    }
}

/// What somebody asked and was told, between two versions that were seen.
#[derive(Debug)]
struct Told {
    who: Option<Connection>,
    ask: Ask,
    before: u64,
    after: u64,
    said: Value,
    /// Its name in the audit log.
    connection: String,
}

impl Told {
    fn refused(&self) -> Option<&str> {
        self.said["error"]["reason"].as_str()
    }

    /// Whether a state explains the answer.
    fn fits(&self, state: &Model) -> bool {
        match &self.ask {
            Ask::Change(command) => state.clone().run(self.who.as_ref(), command).err() == self.refused(),
            Ask::Look(words) => match (state.says(self.who.as_ref(), words), self.refused()) {
                (Ok(expected), None) => lines(words, &self.said) == expected,
                (Err(expected), Some(reason)) => expected == reason,
                _ => false,
            },
        }
    }
}

fn version(app: &App) -> u64 {
    app.directory().version().0
}

/// How many groups of callers there are, each with a project.
const GROUPS: u8 = 10;

/// What a caller asks: about few people and names, so that they meet; of `acme/ml`, and of a project that is created by
/// whoever of a few callers is first, so that some of what everybody asks is done.
fn asks(caller: u8) -> impl Strategy<Value = Ask> {
    let group = caller % GROUPS;
    let project = move || prop_oneof![2 => Just("acme/ml".to_owned()), 3 => Just(format!("acme/x{group}"))];
    let email = move || {
        prop_oneof![1 => 1..16_u8, 1 => (0..CALLERS / GROUPS).prop_map(move |n| n * GROUPS + group.max(1))]
            .prop_map(email)
    };
    let role = || select(&["member", "admin"][..]).prop_map(str::to_owned);
    let change = prop_oneof![
        8 => (project(), email(), role()).prop_map(|(project, email, role)| Command::MemberAdd { project, email, role }),
        4 => (project(), email())
            .prop_map(|(project, email)| Command::MemberRemove { project, email, force: false }),
        3 => (project(), email(), role())
            .prop_map(|(project, email, role)| Command::MemberRole { project, email, role, force: false }),
        1 => Just(Command::ProjectCreate { project: format!("acme/x{group}"), admin: None }),
        1 => Just(Command::ProjectDelete { project: "acme/x1".into() }),
        1 => (project(), select(&["c1", "c2"][..]))
            .prop_map(|(project, name)| Command::ClusterCreate { project, name: name.to_owned() }),
        1 => (project(), select(&["data", "home"][..]))
            .prop_map(|(project, name)| Command::VolumeCreate { project, name: name.to_owned() }),
        1 => (project(), select(&["data", "home"][..]))
            .prop_map(|(project, name)| Command::VolumeDelete { project, name: name.to_owned() }),
    ];
    const LOOKS: [&[&str]; 4] =
        [&["member", "list", "acme/ml"], &["whoami"], &["project", "list"], &["volume", "list"]];
    prop_oneof![5 => change.prop_map(Ask::Change), 1 => select(&LOOKS[..]).prop_map(Ask::Look)]
}

/// What the operator asks meanwhile: takes away, and sees to it that there is somebody left to do the rest.
fn operator_asks() -> impl Strategy<Value = Ask> {
    let (project, email) = (|| "acme/ml".to_owned(), || (1..16_u8).prop_map(email));
    let change = prop_oneof![
        6 => email().prop_map(move |email| Command::MemberAdd { project: project(), email, role: "admin".into() }),
        3 => email().prop_map(move |email| Command::MemberRole {
            project: project(),
            email,
            role: "admin".into(),
            force: false
        }),
        1 => email().prop_map(move |email| Command::MemberRemove { project: project(), email, force: true }),
        1 => email().prop_map(|email| Command::UserSuspend { email }),
        2 => email().prop_map(|email| Command::UserResume { email }),
        1 => (11..16_u8).prop_map(|key| Command::KeyRemove { account: Some(self::email(key)), key }),
    ];
    change.prop_map(Ask::Change)
}

fn some<T: std::fmt::Debug>(strategy: &impl Strategy<Value = T>, runner: &mut TestRunner, count: usize) -> Vec<T> {
    (0..count).map(|_| strategy.new_tree(runner).unwrap().current()).collect()
}

/// Everybody asks at once.
async fn crowd(served: &Served) -> Vec<Told> {
    let mut runner = TestRunner::new(Config { rng_seed: RngSeed::Fixed(1), ..Config::default() });
    let start = Arc::new(Barrier::new(usize::from(CALLERS) + 1));
    let mut callers = Vec::new();
    for number in 0..=CALLERS {
        let asks = match number {
            0 => some(&operator_asks(), &mut runner, 5 * TIMES),
            _ => {
                let project = format!("acme/x{}", number % GROUPS);
                let mut asks = some(&asks(number), &mut runner, TIMES);
                asks[0] = Ask::Change(Command::ProjectCreate { project, admin: None });
                asks
            }
        };
        let credential = if number == 0 { None } else { Some(served.world.credential(number).await) };
        let (app, client, start) = (served.world.app.clone(), served.client.clone(), start.clone());
        callers.push(tokio::spawn(async move {
            start.wait().await;
            let mut told = Vec::new();
            for (n, ask) in asks.into_iter().enumerate() {
                let (before, connection) = (version(&app), format!("{number}-{n}"));
                let said = match &credential {
                    Some(credential) => self::ask(&client, credential, connection.clone(), &ask.words()).await,
                    None => as_operator(&app, &ask.words()).await,
                };
                let who =
                    credential.as_ref().map(|_| Connection { email: email(number), key: number, certificate: None });
                told.push(Told { who, ask, before, after: version(&app), said, connection });
            }
            told
        }));
    }
    let mut all = Vec::new();
    for caller in callers {
        all.extend(caller.await.unwrap());
    }
    all
}

async fn as_operator(app: &Arc<App>, words: &[String]) -> Value {
    let words = words.iter().cloned().chain(["--json".to_owned()]).collect();
    let invocation = Invocation { words, terminal: None, inputs: vec![], context: None };
    said(command::run(app, &Asker::Operator { uid: 0 }, invocation).await)
}

/// The version at which each change was decided: as its answer says, or else as the audit log does.
async fn decided(served: &Served, told: &[Told]) -> BTreeMap<u64, usize> {
    let log = served.world.log().await;
    let logged: BTreeMap<&str, u64> =
        log.iter().filter_map(|entry| Some((entry.event.connection.as_deref()?, entry.version.0))).collect();
    let mut order = BTreeMap::new();
    for (n, told) in told.iter().enumerate() {
        if !matches!(told.ask, Ask::Change(_)) || told.refused().is_some() {
            continue;
        }
        let answered = told.said["version"].as_u64();
        let version = answered.or_else(|| logged.get(told.connection.as_str()).copied()).unwrap();
        if told.who.is_some() {
            assert_eq!(logged[told.connection.as_str()], version, "{told:?}");
        }
        // Not before it was asked, and there when it was answered.
        assert!(told.before < version && version <= told.after, "{version}: {told:?}");
        assert_eq!(order.insert(version, n), None, "two changes at version {version}");
    }
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fifty_callers_are_told_at_once_has_a_serial_order() {
    let served = Served::new().await;
    let first = version(&served.world.app);
    let told = crowd(&served).await;
    let order = decided(&served, &told).await;
    let last = version(&served.world.app);
    assert!(order.keys().copied().eq(first + 1..=last), "each version is one caller's: {first}, {last}, {order:?}");

    // In that order, each does what it was told it has done.
    let mut states = vec![served.model()];
    for n in order.values() {
        let (told, mut state) = (&told[*n], states.last().unwrap().clone());
        let Ask::Change(command) = &told.ask else { panic!("{told:?}") };
        assert!(state.run(told.who.as_ref(), command).is_ok(), "{told:?}");
        states.push(state);
    }
    // What changed nothing was so at some moment between question and answer.
    let mut explained = 0;
    for told in told.iter().filter(|told| matches!(told.ask, Ask::Look(_)) || told.refused().is_some()) {
        let between =
            &states[usize::try_from(told.before - first).unwrap()..=usize::try_from(told.after - first).unwrap()];
        assert!(between.iter().any(|state| told.fits(state)), "no state explains {told:?}");
        explained += 1;
    }
    assert!(order.len() > 50 && explained > 50, "{} changes and {explained} others are no crowd", order.len());

    // And where it ends is where the directory is.
    let state = states.last().unwrap();
    for number in 0..=CALLERS {
        let (who, asker) = match number {
            0 => (None, Asker::Operator { uid: 0 }),
            _ if !state.keys.contains_key(&number) => continue,
            _ => (
                Some(Connection { email: email(number), key: number, certificate: None }),
                served.world.asker(number).await,
            ),
        };
        for words in
            ["whoami", "project list", "cluster list", "volume list", "member list acme/ml", "member list acme/x1"]
        {
            let words: Vec<&str> = words.split(' ').collect();
            let shown = match told_by(&served.world.app, &asker, &words) {
                Ok(value) => Ok(lines(&words, &value)),
                Err(reason) => Err(reason),
            };
            assert_eq!(shown, state.says(who.as_ref(), &words), "{words:?} for {number}");
        }
    }
}

fn told_by(app: &Arc<App>, asker: &Asker, words: &[&str]) -> Result<Value, String> {
    told(app, asker, words).map_err(|error| error.reason().unwrap().as_str().to_owned())
}

/// Two lines at once, by two callers; what each was told.
async fn at_once(served: &Served, lines: [(u8, &str); 2]) -> [Value; 2] {
    let (start, mut running) = (Arc::new(Barrier::new(2)), Vec::new());
    for (number, line) in lines {
        let (client, start, credential) = (served.client.clone(), start.clone(), served.world.credential(number).await);
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        running.push(tokio::spawn(async move {
            start.wait().await;
            ask(&client, &credential, "c1".into(), &words).await
        }));
    }
    let second = running.pop().unwrap().await.unwrap();
    [running.pop().unwrap().await.unwrap(), second]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_is_never_lost_when_two_remove_each_other() {
    let served = Served::new().await;
    let (one, two) = (email(1), email(2));
    for round in 0..20 {
        let project = format!("acme/p{round}");
        served.world.operator(&format!("project create {project} --admin {one}")).await;
        served.world.operator(&format!("member add {project} {two} --role admin")).await;
        let lines = match round % 3 {
            0 => [format!("member remove {project} {two} --yes"), format!("member remove {project} {one} --yes")],
            1 => [format!("member role {project} {two} member"), format!("member role {project} {one} member")],
            // Each themselves.
            _ => [format!("member remove {project} {one} --yes"), format!("member remove {project} {two} --yes")],
        };
        let answers = at_once(&served, [(1, &lines[0]), (2, &lines[1])]).await;
        let refused: Vec<_> = answers.iter().filter_map(|said| said["error"]["reason"].as_str()).collect();
        let why = [["removed"], ["not-admin"], ["conflict"]][round % 3];
        assert_eq!(refused, why, "{lines:?}: {answers:?}");
        let list = served.world.operator(&format!("member list {project} --json")).await.stdout;
        assert_eq!(list.matches("\"admin\"").count(), 1, "{list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_many_want_at_once_is_given_once() {
    let served = Served::new().await;
    let start = Arc::new(Barrier::new(usize::from(CALLERS)));
    let mut callers = Vec::new();
    for number in 1..=CALLERS {
        let (client, start, credential) = (served.client.clone(), start.clone(), served.world.credential(number).await);
        let app = served.world.app.clone();
        callers.push(tokio::spawn(async move {
            let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
            let user = words(&format!("user create new{number}@acme.example --org acme --name new{number}"));
            start.wait().await;
            let mut won = 0;
            for line in ["project create acme/wanted", "project delete acme/wanted --yes", "project create acme/wanted"]
            {
                let said = ask(&client, &credential, "c1".into(), &words(line)).await;
                won += usize::from(line.contains("create") && said["error"].is_null());
            }
            // Numbers neither: each new account has its own.
            let uid = as_operator(&app, &user).await["uid"].as_u64().unwrap();
            (won, uid)
        }));
    }
    let (mut won, mut uids) = (0, BTreeSet::new());
    for caller in callers {
        let (times, uid) = caller.await.unwrap();
        won += times;
        assert!(uids.insert(uid), "{uid} was given out twice");
    }
    assert_eq!(won, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_removed_while_opening_has_nothing_open() {
    let served = Served::new().await;
    let mut stream = served.world.gateway(vec![]);
    tokio::spawn(async move { while stream.events.recv().await.is_some() {} });
    served.world.operator("cluster create acme/ml h100").await;
    served.world.node("login-0.h100.acme", 90).await;
    let (members, over) = (11..=18_u8, CancellationToken::new());
    let mut openers = Vec::new();
    for number in members.clone() {
        served.world.operator(&format!("member add acme/ml {}", email(number))).await;
        let (client, credential, over) = (served.client.clone(), served.world.credential(number).await, over.clone());
        openers.push(tokio::spawn(async move {
            let (mut opened, mut n) = (0, 0);
            while !over.is_cancelled() {
                n += 1;
                let request = OpenRequest {
                    gateway: "gw1".into(),
                    instance: None,
                    connection: format!("c{number}"),
                    peer: PEER.parse().unwrap(),
                    credential: credential.clone(),
                    session: SessionId::from_bits(u128::from(number) << 64 | n),
                    host: "h100.acme".into(),
                    port: 22,
                    tried: vec![],
                };
                let answer = client.call::<Open>(request).await.unwrap();
                opened += usize::from(matches!(answer, OpenAnswer::Permit(_)));
            }
            opened
        }));
    }
    let admin = served.world.credential(1).await;
    let admin = async |words: String| {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let said = ask(&served.client, &admin, "c1".into(), &words).await;
        assert!(said["error"].is_null(), "{words:?}: {said}");
    };
    for _ in 0..5 {
        for number in members.clone() {
            admin(format!("member remove acme/ml {} --yes", email(number))).await;
            admin(format!("member add acme/ml {}", email(number))).await;
        }
    }
    for number in members {
        admin(format!("member remove acme/ml {} --yes", email(number))).await;
    }
    over.cancel();
    for opener in openers {
        assert!(opener.await.unwrap() > 0, "nothing was opened, so nothing was tried");
    }
    // What was open when they were removed is ended by itself, soon.
    let open = || served.world.app.sessions(&Asker::Operator { uid: 0 }).unwrap().len();
    for _ in 0..2000 {
        if open() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} sessions of people who were removed are open", open());
}
