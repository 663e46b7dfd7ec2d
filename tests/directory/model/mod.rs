//! Random histories of commands, over both ways in, by everybody: certgate against a model of it. After each step all
//! that anybody can look at is compared, and each answer is. What can be typed and is not in the model is listed, with
//! where it is tested.
//!
//! The same histories every time, as many as fit in a few seconds. For longer, and others each time:
//!
//! ```text
//! CERTGATE_MODEL_CASES=5000 cargo test --test directory model:: -- --nocapture
//! ```
//!
//! What fails is printed as the shortest history that does.

pub mod commands;
mod steps;
pub mod views;
pub mod world;

use super::authority_support::{PEER, World, key};
use base64::{Engine, engine::general_purpose::STANDARD};
use certgate::{
    app::{
        Asker, Stream,
        protocol::{
            AuthenticateAnswer, AuthenticateRequest, ClosedRequest, ClosedSession, CommandAnswer, Event, JoinAnswer,
            OpenAnswer, OpenRequest, Presented,
        },
        token::TokenText,
    },
    domain::SessionId,
};
use commands::{Command, Done};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use serde_json::Value;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use steps::{CLUSTERS, EMAILS, KEYS, NODES, PROJECTS, Step, Who};
use views::{Seen, lines, told};
use world::{Caller, Certificate, Connection, Model, Node, Session};

/// How many histories are tried unless said otherwise.
const CASES: u32 = 50;

/// In how many parts what everybody is shown is compared as it is typed.
const PARTS: usize = 20;

/// Both, side by side.
struct Pair {
    model: Model,
    world: World,
    stream: Stream,
    /// Connections by key, and in the order of [`Who::Certificate`]; as both know them.
    by_key: BTreeMap<u8, (Connection, Asker)>,
    by_certificate: Vec<(Connection, Asker)>,
    tokens: Vec<TokenText>,
    certificates: Vec<String>,
    opened: usize,
    /// Each command that was typed, and how it was answered.
    answered: Vec<(String, String)>,
}

type Check = Result<(), String>;

fn same<T: PartialEq + std::fmt::Debug>(what: &str, certgate: &T, model: &T) -> Check {
    if certgate == model { Ok(()) } else { Err(format!("{what}\n  certgate: {certgate:?}\n  model:    {model:?}")) }
}

impl Pair {
    async fn new() -> Self {
        let world = World::new().await;
        let stream = world.gateway(vec![]);
        Self {
            model: Model { now: world.app.now().secs(), ..Model::default() },
            world,
            stream,
            by_key: BTreeMap::new(),
            by_certificate: Vec::new(),
            tokens: Vec::new(),
            certificates: Vec::new(),
            opened: 0,
            answered: Vec::new(),
        }
    }

    async fn step(&mut self, step: &Step) -> Check {
        match step {
            Step::Type { who, command } => self.type_command(*who, command).await?,
            Step::Connect { key } => self.connect(*key).await?,
            Step::ConnectWithCertificate { number } => self.connect_with(*number).await?,
            Step::Join { token, key } => self.join(*token, *key).await?,
            Step::Open { who, target } => self.open(*who, target).await?,
            Step::Close { number } => self.close(*number).await,
            Step::Pass { seconds } => {
                self.world.pass(Duration::from_secs(*seconds));
                self.model.now += seconds;
            }
        }
        self.model.end_sessions();
        self.settle().await
    }

    /// The connection, if there is one.
    async fn caller(&mut self, who: Who) -> Result<Option<(Option<Connection>, Asker)>, String> {
        let found = match who {
            Who::Operator => return Ok(Some((None, Asker::Operator { uid: 0 }))),
            Who::Key(key) => {
                if !self.by_key.contains_key(&key) {
                    self.connect(key).await?;
                }
                self.by_key.get(&key)
            }
            Who::Certificate(number) => self.by_certificate.get(number),
        };
        Ok(found.map(|(connection, asker)| (Some(connection.clone()), asker.clone())))
    }

    async fn authenticate(&self, presented: Presented) -> Option<Asker> {
        let (connection, peer) = ("c1".to_owned(), PEER.parse().unwrap());
        let request = AuthenticateRequest { connection: connection.clone(), peer, presented, joining: false };
        match self.world.app.authenticate(request).await {
            AuthenticateAnswer::Account { credential, .. } => Some(Asker::Account { credential, peer, connection }),
            _ => None,
        }
    }

    async fn connect(&mut self, number: u8) -> Check {
        let asker = self.authenticate(Presented::Key(STANDARD.encode(key(number).to_wire()))).await;
        let email = self.model.keys.get(&number).cloned();
        same(&format!("whether key {number} is somebody's"), &asker.is_some(), &email.is_some())?;
        if let (Some(email), Some(asker)) = (email, asker) {
            self.by_key.insert(number, (Connection { email, key: number, certificate: None }, asker));
        }
        Ok(())
    }

    async fn connect_with(&mut self, number: usize) -> Check {
        let Some(blob) = self.certificates.get(number) else { return Ok(()) };
        let asker = self.authenticate(Presented::Certificate(blob.clone())).await;
        let Certificate { email, key, .. } = self.model.certificates[number].clone();
        let connection = Connection { email, key, certificate: Some(number) };
        let good = self.model.known(Some(&connection)).is_ok();
        same(&format!("whether certificate {number} is good"), &asker.is_some(), &good)?;
        self.by_certificate.extend(asker.map(|asker| (connection, asker)));
        Ok(())
    }

    async fn type_command(&mut self, who: Who, command: &Command) -> Check {
        let Some((connection, asker)) = self.caller(who).await? else { return Ok(()) };
        let version = self.world.app.directory().version();
        let (said, reason) = self.run(&asker, &command.words(), command.input()).await?;
        let expected = self.model.run(connection.as_ref(), command);
        let reason = reason.map(forgotten);
        same(&format!("{who:?} {command:?}"), &reason.as_deref(), &expected.as_ref().err().copied())?;
        self.answered.push((command.name(), reason.unwrap_or_else(|| "done".to_owned())));
        let changed = self.world.app.directory().version() != version;
        same("whether the version rose", &changed, &matches!(expected, Ok(Done::Changed | Done::Token)))?;
        match expected {
            Ok(Done::Token) => self.tokens.push(said["token"].as_str().unwrap().parse().unwrap()),
            Ok(Done::Certificate(scopes)) => {
                let user = connection.unwrap().email.split_once('@').unwrap().0.to_owned();
                let scopes: BTreeSet<String> = scopes.iter().map(|scope| format!("{user}@{scope}")).collect();
                let principals = said["principals"].as_array().unwrap();
                same("principals", &principals.iter().map(|p| p.as_str().unwrap().to_owned()).collect(), &scopes)?;
                let text = said["certificate"].as_str().unwrap();
                self.certificates.push(text.split(' ').nth(1).unwrap().to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// What is said to words, and the reason if they were refused: an account's words come as one line.
    async fn run(
        &self,
        asker: &Asker,
        words: &[String],
        input: Option<String>,
    ) -> Result<(Value, Option<String>), String> {
        let words: Vec<String> = words.iter().cloned().chain(["--json".to_owned()]).collect();
        let mut answer = self.world.type_words(asker, &words, vec![]).await;
        if let CommandAnswer::Input { .. } = answer {
            answer = self.world.type_words(asker, &words, input.into_iter().collect()).await;
        }
        let CommandAnswer::Output(output) = answer else { return Err(format!("{words:?} asks again")) };
        let said: Value = serde_json::from_str(&output.stdout).map_err(|e| format!("{e}: {}", output.stdout))?;
        let reason = said["error"]["reason"].as_str().map(str::to_owned);
        let exit = match reason.as_deref() {
            None if said["access"] == false => 1,
            None => 0,
            Some("usage") => 2,
            Some(_) => 1,
        };
        same(&format!("exit status of {words:?}"), &output.exit, &exit)?;
        Ok((said, reason))
    }

    async fn join(&mut self, number: usize, host_key: u8) -> Check {
        let Some(text) = self.tokens.get(number) else { return Ok(()) };
        let answer = self.world.join(text, host_key, &text.node.to_string()).await;
        let token = self.model.tokens[number].clone();
        let model = &mut self.model;
        // The machine itself may come again; another one may not take its place, nor a machine a second one.
        let taken = model.nodes.get(&token.node).is_some_and(|node| node.key != host_key);
        let elsewhere = model.nodes.iter().any(|(node, is)| is.key == host_key && *node != token.node);
        // Who asked for it can still do so.
        let there = model.clusters.get(world::cluster_of(&token.node)).is_some_and(|project| {
            token.by.as_ref().is_none_or(|(by, key)| {
                !model.people[by].suspended
                    && model.keys.get(key) == Some(by)
                    && model.projects[project].get(by).is_some_and(|member| member.admin)
            })
        });
        let good = !token.used && model.now < token.expires && there;
        let joins = good && !taken && !elsewhere && !model.keys.contains_key(&host_key);
        same(&format!("whether {host_key} joins as {}", token.node), &matches!(answer, JoinAnswer::Joined(_)), &joins)?;
        if joins {
            model.tokens[number].used = true;
            model.host_keys.insert(host_key);
            model.nodes_ever += 1;
            let node = Node { key: host_key, login: token.login, number: model.nodes_ever };
            model.nodes.insert(token.node, node);
        }
        Ok(())
    }

    async fn open(&mut self, who: Who, target: &str) -> Check {
        let Some((Some(connection), Asker::Account { credential, peer, .. })) = self.caller(who).await? else {
            return Ok(());
        };
        let number = self.opened;
        let request = OpenRequest {
            gateway: "gw1".into(),
            instance: None,
            connection: "c1".into(),
            peer,
            credential,
            session: SessionId::from_bits(number as u128),
            host: target.to_owned(),
            port: 22,
            tried: vec![],
        };
        let answer = match self.world.app.open(request).await {
            OpenAnswer::Permit(permit) => Ok(permit.node.to_string()),
            OpenAnswer::Refused { message, .. } => Err(reason_of(&message)),
        };
        let expected = self.model.opens(&connection, target).map_err(str::to_owned);
        same(&format!("{who:?} opens {target}"), &answer, &expected)?;
        if let Ok(node) = expected {
            let session = Session { connection, number: self.model.nodes[&node].number, node };
            self.model.sessions.insert(number, session);
            self.opened += 1;
        }
        Ok(())
    }

    async fn close(&mut self, number: usize) {
        let session = SessionId::from_bits(number as u128);
        let sessions = vec![ClosedSession { session, up: 0, down: 0 }];
        self.world.app.closed(ClosedRequest { sessions, done: None }).await;
        self.model.sessions.remove(&number);
    }

    /// Waits until what had to end has ended: that travels by itself. What must not end would be missed in the comparison.
    async fn settle(&mut self) -> Check {
        let operator = Asker::Operator { uid: 0 };
        for round in 0..2000 {
            while let Ok(event) = self.stream.events.try_recv() {
                if let Event::End { session, .. } = event {
                    let number = usize::from_str_radix(&session.to_string(), 16).unwrap();
                    same("a session was ended that should not be", &self.model.sessions.contains_key(&number), &false)?;
                }
            }
            if self.world.app.sessions(&operator).unwrap().len() <= self.model.sessions.len() {
                return Ok(());
            }
            if round < 100 {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Err("sessions have not ended".into())
    }

    /// Everybody who can ask now.
    fn callers(&self) -> Vec<(Option<Connection>, Asker)> {
        let connections = self.by_key.values().chain(&self.by_certificate);
        let accounts = connections.map(|(connection, asker)| (Some(connection.clone()), asker.clone()));
        [(None, Asker::Operator { uid: 0 })].into_iter().chain(accounts).collect()
    }

    /// An explanation says no exactly when one of its steps does, and who reaches a node is for whom it says yes. That it
    /// says what the gateway would is in the comparison with the model, which both are held against.
    fn compare_explanations(&self) -> Check {
        let (app, operator) = (&self.world.app, Asker::Operator { uid: 0 });
        for node in NODES {
            let Ok(reached) = app.reach(&operator, &node.parse().unwrap()) else { continue };
            let reached: BTreeSet<String> = reached.iter().map(|reacher| reacher.email.to_string()).collect();
            let mut yes = BTreeSet::new();
            for email in self.model.people.keys() {
                let explained = app.explain(&operator, &email.parse().unwrap(), &node.parse().unwrap());
                let explained = explained.map_err(|error| error.to_string())?;
                let no = explained.steps.iter().any(|step| step.holds == Some(false));
                same(&format!("whether {email} gets into {node}, by {explained:?}"), &explained.access, &!no)?;
                yes.extend(explained.access.then(|| email.clone()));
            }
            same(&format!("who gets into {node}"), &reached, &yes)?;
        }
        Ok(())
    }

    /// What everybody is shown.
    fn compare(&self) -> Check {
        self.compare_explanations()?;
        for (connection, asker) in self.callers() {
            for words in questions(connection.as_ref()) {
                let words: Vec<&str> = words.split(' ').collect();
                let said: Seen = match told(&self.world.app, &asker, &words) {
                    Ok(value) => Ok(lines(&words, &value)),
                    Err(error) => Err(forgotten(error.reason().map_or("failed", |reason| reason.as_str()).to_owned())),
                };
                same(&format!("{connection:?}: {words:?}"), &said, &self.model.says(connection.as_ref(), &words))?;
            }
        }
        Ok(())
    }

    /// The same as it is typed, a part of it in each history, since that takes longer; and a certificate for everybody.
    async fn compare_commands(&mut self, part: usize) -> Check {
        for (connection, asker) in self.callers() {
            for question in questions(connection.as_ref()).into_iter().skip(part % PARTS).step_by(PARTS) {
                let words: Vec<&str> = question.split(' ').collect();
                let typed: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
                let said: Seen = match self.run(&asker, &typed, None).await? {
                    (value, None) => Ok(lines(&words, &value)),
                    (_, Some(reason)) => Err(forgotten(reason)),
                };
                same(&format!("{connection:?}: {words:?}"), &said, &self.model.says(connection.as_ref(), &words))?;
            }
        }
        let cert = Command::Cert { project: None, cluster: None, key: None, ttl: None };
        for number in KEYS {
            self.type_command(Who::Key(number), &cert).await?;
        }
        for number in 0..self.by_certificate.len() {
            self.type_command(Who::Certificate(number), &cert).await?;
        }
        Ok(())
    }
}

/// All that somebody can ask.
fn questions(connection: Caller<'_>) -> Vec<String> {
    let mut questions: Vec<String> = [
        "whoami",
        "project list",
        "cluster list",
        "volume list",
        "key list",
        "certificate list",
        "session list",
        "org list",
        "user list",
    ]
    .map(str::to_owned)
    .into();
    let mut about = |words: &str, names: &[&str]| questions.extend(names.iter().map(|name| format!("{words} {name}")));
    about("project show", &PROJECTS);
    about("member list", &PROJECTS);
    about("node list", &CLUSTERS);
    about("reach", &CLUSTERS);
    about("reach", &NODES[..2]);
    match connection {
        None => EMAILS.iter().for_each(|email| about(&format!("explain {email}"), &NODES)),
        Some(c) => {
            about(&format!("explain {}", c.email), &NODES);
            about(&format!("explain {}", EMAILS[1]), &NODES[..1]);
        }
    }
    questions
}

/// The record of a certificate that has run out may be forgotten.
fn forgotten(reason: String) -> String {
    if reason == "certificate-record" { "certificate-validity".into() } else { reason }
}

/// A gateway gets only the words for the one who is refused.
fn reason_of(message: &str) -> String {
    let known = [
        ("no such node", "not-found"),
        ("removed from", "removed"),
        ("your account is suspended", "suspended"),
        ("this key was removed", "unknown-key"),
        ("permission denied", "foreign-key"),
        ("your certificate was revoked", "certificate-revoked"),
        ("your certificate has run out", "certificate-validity"),
        ("the certificate that you connected with is not for", "out-of-scope"),
    ];
    if message.contains(" was deleted at ") {
        return "removed".into();
    }
    let found = known.into_iter().find(|(words, _)| message.starts_with(words));
    found
        .map_or_else(|| if message.contains("has no login node") { "no-node" } else { message }, |(_, reason)| reason)
        .into()
}

/// How often each command was answered how.
type Tally = BTreeMap<(String, String), usize>;

async fn play(history: &[Step], tally: &RefCell<Tally>) -> Check {
    let mut pair = Pair::new().await;
    for (number, step) in steps::beginning().iter().enumerate() {
        pair.step(step).await.map_err(|problem| format!("step {number} of the beginning, {step:?}: {problem}"))?;
    }
    pair.answered.clear();
    for (number, step) in history.iter().enumerate() {
        let gone = match pair.step(step).await {
            Ok(()) => pair.compare(),
            wrong => wrong,
        };
        gone.map_err(|problem| format!("step {number}, {step:?}: {problem}"))?;
    }
    pair.compare_commands(history.len()).await.map_err(|problem| format!("at the end: {problem}"))?;
    for answered in pair.answered {
        *tally.borrow_mut().entry(answered).or_default() += 1;
    }
    Ok(())
}

#[test]
fn every_history_goes_as_the_model_says() {
    let cases = std::env::var("CERTGATE_MODEL_CASES").ok().map(|cases| cases.parse().unwrap());
    let config = Config {
        cases: cases.unwrap_or(CASES),
        rng_seed: if cases.is_some() { RngSeed::Random } else { RngSeed::Fixed(1) },
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let tally = RefCell::default();
    let outcome = TestRunner::new(config)
        .run(&steps::history(), |history| runtime.block_on(play(&history, &tally)).map_err(TestCaseError::fail));
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(problem, history)) => panic!("{problem}\nin the history {history:#?}"),
        Err(error) => panic!("{error}"),
    }
    // Histories in which nothing happens would agree on anything.
    let tally = tally.into_inner();
    let tried = |command: &str, done: bool| {
        tally.iter().any(|((what, how), times)| what == command && (how == "done") == done && *times > 0)
    };
    let seldom: Vec<&str> =
        commands::EVERY.into_iter().filter(|command| !tried(command, true) || !tried(command, false)).collect();
    let tally: Vec<String> = tally.iter().map(|((what, how), times)| format!("{times} × {what}: {how}")).collect();
    assert!(seldom.is_empty(), "never done, or never refused: {seldom:?} in\n{}", tally.join("\n"));
}

/// Commands that no history has, and where they are tested as well as the answers to everybody that `permissions` has.
const ELSEWHERE: &[(&str, &str)] = &[
    ("apply", "apply/main.rs"),
    ("audit export", "audit_document.rs"),
    ("audit head", "authority_audit.rs"),
    ("audit list", "authority_audit.rs"),
    ("audit verify", "audit_tamper.rs"),
    ("backup", "backup.rs"),
    ("ca show", "audit_document.rs"),
    ("certificate show", "authority_audit.rs"),
    ("cluster retry", "machinery.rs"),
    ("cluster scale", "clusters.rs"),
    ("cluster show", "clusters.rs"),
    ("cluster update", "clusters.rs"),
    ("completions", "command_surface.rs"),
    ("config", "e2e_service.rs"),
    ("dump", "apply/round_trip.rs"),
    ("krl", "e2e_access.rs"),
    ("man", "command_surface.rs"),
    ("node show", "authority_sessions.rs"),
    ("node tokens", "authority_gone.rs"),
    ("project update", "project_limits.rs"),
    ("restore", "backup.rs"),
    ("service create", "service_accounts.rs"),
    ("service delete", "service_accounts.rs"),
    ("service key add", "service_accounts.rs"),
    ("service key list", "service_accounts.rs"),
    ("service key remove", "service_accounts.rs"),
    ("service list", "service_accounts.rs"),
    ("service show", "service_accounts.rs"),
    ("service update", "service_accounts.rs"),
    ("setup", "setup.rs"),
    ("status", "command_surface.rs"),
    ("user show", "service_accounts.rs"),
    ("volume retry", "machinery.rs"),
    ("volume show", "clusters.rs"),
    ("volume update", "machinery.rs"),
];

#[test]
fn every_command_is_in_the_model_or_tested_elsewhere() {
    let looks = questions(None).into_iter();
    let modelled: Vec<String> = looks.chain(commands::EVERY.map(str::to_owned)).collect();
    let is_modelled = |leaf: &String| modelled.iter().any(|line| format!("{line} ").starts_with(&format!("{leaf} ")));
    let missing: Vec<String> = super::permissions::leaves().into_iter().filter(|leaf| !is_modelled(leaf)).collect();
    let listed: Vec<&str> = ELSEWHERE.iter().map(|(command, _)| *command).collect();
    assert_eq!(missing, listed);
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (command, test) in ELSEWHERE {
        let text = std::fs::read_to_string(tests.join(test)).unwrap();
        let typed = ["\"", "certgate "].iter().any(|before| text.contains(&format!("{before}{command}")));
        assert!(typed, "{command} is not in {test}");
    }
}
