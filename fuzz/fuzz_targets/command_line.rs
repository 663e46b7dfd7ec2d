//! What is typed, over both ways in: whatever the words are, and whatever comes on standard input, somebody gets an answer
//! that is bounded, safe for a terminal and JSON if that was asked for; a refusal is one line, and changes nothing.
#![no_main]

use arbitrary::Arbitrary;
use certgate::{
    app::{
        App, Asker, Bastion, Clock, Entropy, NoEntropy, Site,
        protocol::{AuthenticateAnswer, AuthenticateRequest, CommandAnswer, MAX_INPUTS, Output, Presented, Terminal},
    },
    ca::CaKeys,
    command::{self, Invocation},
    domain::Timestamp,
    policy::{CertificateSettings, NodeNetworks},
    store::{Commit, MemoryStore},
};
use libfuzzer_sys::fuzz_target;
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};
use tokio_util::sync::{CancellationToken, DropGuard};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    who: Who,
    typed: Typed<'a>,
    /// What is read, each time.
    inputs: Vec<&'a str>,
    columns: Option<u16>,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum Who {
    Operator,
    Admin,
    Outsider,
}

#[derive(Arbitrary, Debug)]
enum Typed<'a> {
    /// As it comes, quotes and all.
    Line(&'a str),
    /// Words, most of which mean something.
    Words(Vec<Word<'a>>),
}

#[derive(Arbitrary, Debug)]
enum Word<'a> {
    /// One of the grammar's.
    Command(u16),
    /// An option of the grammar's.
    Option(u16),
    /// The name of something that is there, or a value that some option takes.
    Name(u8),
    Json,
    Yes,
    Help,
    Text(&'a str),
    /// An option and its value in one.
    Both(u16, &'a str),
}

const KEYS: [&str; 3] = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO1JKMYo0cLG6ukDOJBZlWEpWSc6XGP5NjbBRhSshzfR",
];
const PEER: &str = "198.51.100.7";

const NAMES: [&str; 32] = [
    "acme",
    "acme/ml",
    "acme/new",
    "h100.acme",
    "login-0.h100.acme",
    "h100",
    "data",
    "admin1@acme.example",
    "user1@acme.example",
    "ci@ml.acme.service",
    "ci",
    "192.0.2.0/24",
    "192.0.2.7",
    "5m",
    "1T",
    "/data",
    "1",
    "2",
    "0",
    "-1",
    "18446744073709551615",
    "member",
    "admin",
    "login",
    "kubernetes",
    "-",
    "--",
    "2027-01-15T08:00:00Z",
    "today",
    "SHA256:0000000000000000000000000000000000000000000",
    KEYS[2],
    "help",
];

fuzz_target!(|input: Input<'_>| {
    let mut running = running().lock().expect("no panic is survived");
    let version = running.app.directory().version();
    let asker = beginning().asker(input.who);
    let Some((output, words)) = beginning().runtime.block_on(run(&running.app, &asker, &input)) else { return };
    let changed = running.app.directory().version() != version;
    assert!(output.exit == 0 || !changed, "{words:?} changed something: {output:?}");
    check(&output, &words);
    let typed = words.iter().map(|word| word.len() + 1).sum::<usize>();
    let read = input.inputs.iter().map(|input| input.len()).sum::<usize>();
    let said = output.stdout.len() + output.stderr.len();
    assert!(said <= 64 * 1024 + 64 * (typed + read), "{said} bytes are said to {typed} and {read}");
    // What was done is nothing to the next line.
    if output.exit == 0 {
        *running = beginning().again();
    }
});

/// What is said in the end, and to which words; none if more is wanted than there is.
async fn run(app: &Arc<App>, asker: &Asker, input: &Input<'_>) -> Option<(Output, Vec<String>)> {
    let terminal = input.columns.map(|columns| Terminal { columns, colours: false });
    let (mut inputs, mut context) = (Vec::new(), None);
    let words: Vec<String> = match &input.typed {
        Typed::Line(line) => line.split_whitespace().map(str::to_owned).collect(),
        Typed::Words(words) => words.iter().flat_map(Word::words).collect(),
    };
    for next in input.inputs.iter().map(Some).chain([None]).take(MAX_INPUTS) {
        let (read, given) = (inputs.clone(), context.clone());
        let answer = match &input.typed {
            Typed::Line(line) => command::run_line(app, asker, line, terminal, read, given).await,
            Typed::Words(_) => {
                let invocation = Invocation { words: words.clone(), terminal, inputs: read, context: given };
                command::run(app, asker, invocation).await
            }
        };
        match (answer, next) {
            (CommandAnswer::Output(output), _) => return Some((output, words)),
            (CommandAnswer::Input { prompt, context: about, .. }, Some(next)) => {
                safe(&prompt);
                inputs.push((*next).to_owned());
                context = about;
            }
            (CommandAnswer::Input { .. }, None) => break,
        }
    }
    None
}

fn check(output: &Output, words: &[String]) {
    let Output { stdout, stderr, exit, .. } = output;
    assert!(*exit <= 2, "{output:?}");
    safe(stdout);
    safe(stderr);
    let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    if json && !stdout.is_empty() {
        let said = serde_json::from_str::<serde_json::Value>(stdout);
        // Lines of JSON, help, and what is an artefact of its own are what they are.
        let other = ["export", "help", "-h", "--help", "--version", "-V", "--config", "--sshsig"];
        let other = words.iter().any(|word| other.iter().any(|other| word.contains(other)));
        assert!(said.is_ok() || other, "{words:?}: no JSON: {stdout}");
    }
    // A description that cannot be applied has a line for each of its problems.
    let lines = stderr.lines().count();
    if *exit == 2 || (*exit == 1 && stdout.is_empty() && !words.iter().any(|word| word == "apply")) {
        assert!(lines == 1 && stderr.ends_with('\n'), "a refusal is one line: {stderr:?}");
    }
}

fn safe(text: &str) {
    let unsafe_one = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(unsafe_one, None, "{text:?}");
}

impl Word<'_> {
    fn words(&self) -> Vec<String> {
        let (commands, options) = grammar();
        let option = |n: u16| options[usize::from(n) % options.len()].clone();
        match self {
            Self::Command(n) => commands[usize::from(*n) % commands.len()].clone(),
            Self::Option(n) => vec![option(*n)],
            Self::Name(n) => vec![NAMES[usize::from(*n) % NAMES.len()].to_owned()],
            Self::Json => vec!["--json".to_owned()],
            Self::Yes => vec!["--yes".to_owned()],
            Self::Help => vec!["--help".to_owned()],
            Self::Text(text) => vec![(*text).to_owned()],
            Self::Both(n, text) => vec![format!("{}={text}", option(*n))],
        }
    }
}

type Grammar = (Vec<Vec<String>>, Vec<String>);

/// The words of every command, and every option of any.
fn grammar() -> &'static Grammar {
    static GRAMMAR: OnceLock<Grammar> = OnceLock::new();
    GRAMMAR.get_or_init(|| {
        let mut found = (Vec::new(), Vec::new());
        collect(&command::grammar(), &[], &mut found);
        found
    })
}

fn collect(command: &clap::Command, words: &[String], found: &mut Grammar) {
    found.1.extend(command.get_arguments().filter_map(|arg| arg.get_long()).map(|long| format!("--{long}")));
    for sub in command.get_subcommands() {
        let words: Vec<String> = words.iter().cloned().chain([sub.get_name().to_owned()]).collect();
        collect(sub, &words, found);
        found.0.push(words);
    }
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }
}

/// Different bytes every time.
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        let seed = self.0.fetch_add(1, Ordering::Relaxed);
        buffer.iter_mut().zip(seed.to_le_bytes().into_iter().cycle()).for_each(|(to, from)| *to = from);
        Ok(())
    }
}

/// An authority in memory, as it is at first every time: a few people and things.
struct Beginning {
    runtime: Runtime,
    keys: PathBuf,
    store: MemoryStore,
    /// Two accounts' connections.
    askers: Vec<Asker>,
}

/// One that may have been changed.
struct Running {
    app: Arc<App>,
    _stop: DropGuard,
}

fn beginning() -> &'static Beginning {
    static BEGINNING: OnceLock<Beginning> = OnceLock::new();
    BEGINNING.get_or_init(Beginning::new)
}

fn running() -> &'static Mutex<Running> {
    static RUNNING: OnceLock<Mutex<Running>> = OnceLock::new();
    RUNNING.get_or_init(|| Mutex::new(beginning().again()))
}

impl Beginning {
    fn new() -> Self {
        let keys = std::env::temp_dir().join(format!("certgate-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&keys).expect("a directory for keys");
        CaKeys::make(&keys).expect("keys");
        // Nobody waits for a timer, least of all the fuzzer.
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let store = MemoryStore::new(unbounded_channel().0);
        let mut beginning = Self { runtime, keys, store, askers: Vec::new() };
        let (commits, committed) = unbounded_channel();
        let store = Arc::new(MemoryStore::new(commits));
        let running = beginning.over(store.clone(), committed);
        let operator = |line: String| {
            let answer = command::run_line(&running.app, &Asker::Operator { uid: 0 }, &line, None, vec![], None);
            match beginning.runtime.block_on(answer) {
                CommandAnswer::Output(output) => assert_eq!(output.exit, 0, "{line}: {}", output.stderr),
                CommandAnswer::Input { prompt, .. } => panic!("{line} asks {prompt}"),
            }
        };
        operator("org create acme".into());
        for (name, key) in ["admin1", "user1"].into_iter().zip(KEYS) {
            operator(format!("user create {name}@acme.example --org acme --name {name} --key '{key}'"));
        }
        operator("project create acme/ml --admin admin1@acme.example".into());
        operator("cluster create acme/ml h100 --compute 2".into());
        operator("volume create acme/ml data --size 1T".into());
        operator(format!("service create acme/ml ci --source-address {PEER} --key '{}'", KEYS[2]));
        let connect = |key: &str| beginning.runtime.block_on(authenticated(&running.app, key));
        beginning.askers = KEYS[..2].iter().map(|key| connect(key)).collect();
        beginning.store = store.fork(unbounded_channel().0);
        beginning
    }

    fn again(&self) -> Running {
        let (commits, committed) = unbounded_channel();
        self.over(Arc::new(self.store.fork(commits)), committed)
    }

    fn over(&self, store: Arc<MemoryStore>, committed: UnboundedReceiver<Commit>) -> Running {
        let site = Site {
            bastion: Bastion { host: "bastion.example.com".into(), port: 22 },
            certificates: CertificateSettings {
                gateway_addresses: Some("203.0.113.1".parse().expect("an address")),
                ..CertificateSettings::default()
            },
            node_networks: NodeNetworks::default(),
            provisioner: true,
            upkeep: certgate::app::Upkeep::default(),
        };
        let ca = CaKeys::load(&self.keys, &self.keys).expect("keys");
        // Random numbers that begin elsewhere than those that are in the store.
        let entropy = Arc::new(Counter(AtomicU64::new(self.askers.len() as u64 * 1_000_000 + 1)));
        let start = App::start(store, ca, site, Arc::new(Still), entropy);
        let app = self.runtime.block_on(start).expect("an authority");
        let stop = CancellationToken::new();
        self.runtime.spawn(app.clone().publish(committed, stop.clone()));
        Running { app, _stop: stop.drop_guard() }
    }

    fn asker(&self, who: Who) -> Asker {
        match who {
            Who::Operator => Asker::Operator { uid: 0 },
            Who::Admin => self.askers[0].clone(),
            Who::Outsider => self.askers[1].clone(),
        }
    }
}

async fn authenticated(app: &Arc<App>, key: &str) -> Asker {
    let (connection, peer) = ("c1".to_owned(), PEER.parse().expect("an address"));
    let presented = Presented::Key(key.split(' ').nth(1).expect("a key").to_owned());
    let request = AuthenticateRequest { connection: connection.clone(), peer, presented, joining: false };
    match app.authenticate(request).await {
        AuthenticateAnswer::Account { credential, .. } => Asker::Account { credential, peer, connection },
        other => panic!("{other:?}"),
    }
}
