//! The commands: one grammar for both ways in (`ssh BASTION WORDS…` and `certgate WORDS…`), one file for each noun:
//! parse, apply, render. Text in, text out; what is done is the use cases' business.

mod access;
mod apply;
mod audit;
mod backup;
mod ca;
mod cert;
mod certificate;
mod cluster;
mod config;
mod difference;
mod grammar;
mod help;
mod key;
mod krl;
mod local;
mod manual;
mod member;
mod moment;
mod node;
mod org;
pub mod person;
mod project;
mod reply;
mod service;
mod session;
mod settings;
pub mod setup;
mod ssh_config;
mod status;
pub(crate) mod table;
pub(crate) mod text;
mod user;
mod volume;
mod whoami;

pub use grammar::grammar;
pub use local::{Local, RestoreOrder, locally};
pub use manual::Page;
pub use settings::{Setting, shown};

use crate::{
    app::{
        App, AppError, Asker, Bastion,
        protocol::{CommandAnswer, MAX_INPUT, MAX_INPUTS, MAX_LOCAL_INPUT, Output, Read, Terminal, wants_json},
    },
    policy::Reason,
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, ready},
};
use grammar::{Command, CommandLine};
use help::Reader;
use reply::{Reply, Written};
use sha2::{Digest, Sha256};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use text::{Screen, Text};
use tokio::{runtime::Handle, sync::Semaphore};

/// The most that a command reads at once unless it says otherwise, in bytes: a key, a document, or an answer.
const INPUT_LIMIT: u32 = 64 * 1024;

/// A command, as it was typed.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Its words.
    pub words: Vec<String>,
    /// The terminal, if there is one.
    pub terminal: Option<Terminal>,
    /// What was typed or sent each time that input was asked for, in order.
    pub inputs: Vec<String>,
    /// What came with the last question, as it was sent.
    pub context: Option<String>,
}

/// Why a command has no reply.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It was refused, or failed.
    Failed(AppError),
    /// It goes on when it has input.
    Input {
        /// For a person.
        prompt: String,
        /// What.
        read: Read,
        /// No more than so many bytes.
        limit: u32,
        /// What the answer is to be taken for.
        context: Option<String>,
    },
    /// What was given cannot be used; one line.
    Refused(String),
    /// Nobody has said yes.
    Unconfirmed(String),
}

impl From<AppError> for Stop {
    fn from(error: AppError) -> Self {
        Self::Failed(error)
    }
}

/// What a command has at hand.
pub(crate) struct Context<'a> {
    pub(crate) app: &'a Arc<App>,
    pub(crate) asker: &'a Asker,
    pub(crate) invocation: &'a Invocation,
    /// Whether a program reads the answer.
    pub(crate) json: bool,
    /// How many inputs have been taken: a command that asks twice runs three times, and takes them in the same order.
    taken: AtomicUsize,
}

impl Context<'_> {
    /// Where the answer will be read.
    pub(crate) fn screen(&self) -> Screen {
        Screen::of(self.invocation.terminal)
    }

    /// How the one who asks calls this program.
    pub(crate) fn program(&self) -> String {
        program(self.app, self.asker)
    }

    /// How accounts call it.
    pub(crate) fn way_in(&self) -> String {
        way_in(self.app)
    }

    /// Goes on only if a person at a terminal says yes, or `--yes` was given. A program is not asked.
    pub(crate) fn confirm(&self, yes: bool, question: impl FnOnce() -> String) -> Result<(), Stop> {
        self.confirm_shown(yes, None, |_| question())
    }

    /// The same, and the yes counts only for what was shown. If that is something else by the time the answer comes, it
    /// is asked again; `question` is told so.
    pub(crate) fn confirm_shown(
        &self,
        yes: bool,
        shown: Option<&str>,
        question: impl FnOnce(bool) -> String,
    ) -> Result<(), Stop> {
        if yes {
            return Ok(());
        }
        if self.json || self.invocation.terminal.is_none() {
            let terminal = if self.json { "without --json at a terminal" } else { "at a terminal" };
            return Err(Stop::Unconfirmed(format!("this needs a yes: add --yes, or run it {terminal} (ssh -t)")));
        }
        // The last one: those before were for what is no longer so.
        let answer = self.invocation.inputs.get(self.taken.load(Ordering::Relaxed)..).and_then(<[_]>::last);
        let context = shown.map(digest);
        match answer.map(|answer| answer.trim()) {
            Some("y" | "Y" | "yes" | "Yes" | "YES") if self.invocation.context == context => Ok(()),
            None | Some("y" | "Y" | "yes" | "Yes" | "YES") => Err(Stop::Input {
                prompt: format!("{} [y/N] ", question(answer.is_some())),
                read: Read::Line,
                limit: INPUT_LIMIT,
                context,
            }),
            Some(_) => Err(Stop::Unconfirmed("not confirmed; nothing was changed".into())),
        }
    }

    /// What came on standard input.
    pub(crate) fn input(&self) -> Result<&str, Stop> {
        self.read(Read::All, INPUT_LIMIT)
    }

    /// What is in the file that a word names, `-` for standard input. Through a gateway there is only that: a file would
    /// be one of the gateway's machine.
    pub(crate) fn file(&self, name: &str, limit: u32) -> Result<&str, Stop> {
        match (name, self.asker) {
            ("-", _) => self.read(Read::All, limit),
            (name, Asker::Operator { .. }) => self.read(Read::File(name.to_owned()), limit),
            (_, Asker::Account { .. }) => {
                Err(Stop::Refused("files are read from standard input here: give - as its name, and < FILE".into()))
            }
        }
    }

    fn read(&self, read: Read, limit: u32) -> Result<&str, Stop> {
        match self.invocation.inputs.get(self.taken.fetch_add(1, Ordering::Relaxed)) {
            Some(input) if input.len() > limit as usize => {
                Err(Stop::Refused(format!("the input is longer than {limit} bytes")))
            }
            Some(input) => Ok(input),
            None => Err(Stop::Input { prompt: String::new(), read, limit, context: None }),
        }
    }
}

/// For comparison only.
fn digest(shown: &str) -> String {
    Sha256::digest(shown).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn program(app: &App, asker: &Asker) -> String {
    match asker {
        Asker::Operator { .. } => "certgate".into(),
        Asker::Account { .. } => way_in(app),
    }
}

fn way_in(app: &App) -> String {
    match app.bastion() {
        Bastion { host, port: 22 } => format!("ssh {host}"),
        Bastion { host, port } => format!("ssh -p {port} {host}"),
    }
}

/// How many commands look through the directory at the same time. They have each a core, and all that they have found in
/// memory.
static LOOKING: Semaphore = Semaphore::const_new(2);

/// Runs a command. One that looks through the directory, which may be large, does so beside the async threads: nobody
/// else waits for a list of a hundred thousand accounts.
pub async fn run(app: &Arc<App>, asker: &Asker, invocation: Invocation) -> CommandAnswer {
    let json = wants_json(invocation.words.iter().map(String::as_str));
    let line = match read(app, asker, &invocation, json) {
        Ok(line) => line,
        Err(instead) => return CommandAnswer::Output(instead.into()),
    };
    if !line.command.as_ref().is_none_or(Command::looks) {
        return carry_out(app, asker, &invocation, line).await;
    }
    // It is never closed.
    let _turn = LOOKING.acquire().await;
    let (app, asker) = (Arc::clone(app), asker.clone());
    // A little of it waits for the store.
    let runtime = Handle::current();
    let work = move || {
        let answer = runtime.block_on(carry_out(&app, &asker, &invocation, line));
        if let CommandAnswer::Output(output) = &answer
            && output.stdout.len() > LONG
        {
            give_back();
        }
        answer
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a command failed on a defect in certgate");
        CommandAnswer::Output(Written::failure("failed", "this failed on a defect in certgate", 1, json).into())
    })
}

/// An answer that was long to make, in bytes.
const LONG: usize = 1 << 20;

/// Gives the system back what a long list has taken while it was made, several times its own size: glibc would keep it for
/// this thread, and another list is made on another one.
fn give_back() {
    // SAFETY: takes and returns numbers, and may be called on any thread (malloc_trim(3), MT-Safe).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

async fn carry_out(app: &Arc<App>, asker: &Asker, invocation: &Invocation, line: CommandLine) -> CommandAnswer {
    let json = wants_json(invocation.words.iter().map(String::as_str));
    let failed = |reason, text: &str| Written::failure(reason, text, 1, json);
    let context = Context { app, asker, invocation, json, taken: AtomicUsize::new(0) };
    let written = match dispatch(&context, line).await {
        Ok(reply) => reply.render(json),
        Err(Stop::Input { prompt, read, limit, context }) => {
            return CommandAnswer::Input { prompt: Text::from(prompt).into_string(), read, limit, context };
        }
        Err(Stop::Refused(text)) => failed("invalid", &text),
        Err(Stop::Unconfirmed(text)) => failed("unconfirmed", &text),
        Err(Stop::Failed(error)) => {
            let text = match asker {
                Asker::Operator { .. } => error.to_string(),
                Asker::Account { .. } => error.for_user(),
            };
            if error.reason().is_none() {
                tracing::error!(%error, "a command failed");
            }
            failed(error.reason().map_or("failed", Reason::as_str), &text)
        }
    };
    CommandAnswer::Output(written.into())
}

/// Reads the words; the error is what to answer instead.
fn read(app: &App, asker: &Asker, invocation: &Invocation, json: bool) -> Result<CommandLine, Written> {
    if let Some(problem) = too_much(asker, invocation) {
        return Err(Written::failure("usage", &problem, 2, json));
    }
    let program = program(app, asker);
    let operator = matches!(asker, Asker::Operator { .. });
    let reader = Reader { program: &program, operator, screen: Screen::of(invocation.terminal) };
    grammar::read(reader, &invocation.words)
}

/// What whoever asks has to keep to; a gateway and the operator's own program do.
fn too_much(asker: &Asker, invocation: &Invocation) -> Option<String> {
    let limit = match asker {
        Asker::Operator { .. } => MAX_LOCAL_INPUT,
        Asker::Account { .. } => MAX_INPUT,
    };
    if invocation.inputs.len() > MAX_INPUTS {
        return Some(format!("more than {MAX_INPUTS} inputs"));
    }
    (invocation.inputs.iter().map(String::len).sum::<usize>() > limit)
        .then(|| format!("the input is longer than {limit} bytes"))
}

/// Runs a command line as `ssh BASTION WORDS…` sends it: one string, quoted as for a POSIX shell.
pub async fn run_line(
    app: &Arc<App>,
    asker: &Asker,
    line: &str,
    terminal: Option<Terminal>,
    inputs: Vec<String>,
    context: Option<String>,
) -> CommandAnswer {
    match shell_words::split(line) {
        Ok(words) => run(app, asker, Invocation { words, terminal, inputs, context }).await,
        Err(_) => {
            let json = wants_json(line.split_whitespace());
            let text = "the command line has a quote that is not closed";
            CommandAnswer::Output(Output::failure("usage", text, 2, json))
        }
    }
}

/// Each command in a box of its own: one future for all would be as large as the largest, and be moved about with every
/// small one.
fn dispatch<'a>(context: &'a Context<'_>, line: CommandLine) -> BoxFuture<'a, Result<Reply, Stop>> {
    match line.command {
        None | Some(Command::Whoami) => ready(whoami::run(context)).boxed(),
        Some(Command::Cert(args)) => cert::run(context, args).boxed(),
        Some(Command::Config(args)) => ready(config::run(context, &args)).boxed(),
        Some(Command::Key(command)) => key::run(context, command).boxed(),
        Some(Command::Project(command)) => project::run(context, command).boxed(),
        Some(Command::Member(command)) => member::run(context, command).boxed(),
        Some(Command::Cluster(command)) => cluster::run(context, command).boxed(),
        Some(Command::Volume(command)) => volume::run(context, command).boxed(),
        Some(Command::Node(command)) => node::run(context, command).boxed(),
        Some(Command::Certificate(command)) => certificate::run(context, command).boxed(),
        Some(Command::Session(command)) => session::run(context, command).boxed(),
        Some(Command::Service(command)) => service::run(context, command).boxed(),
        Some(Command::Explain(args)) => ready(access::explain(context, &args)).boxed(),
        Some(Command::Reach(args)) => ready(access::reach(context, &args)).boxed(),
        Some(Command::Krl(args)) => ready(krl::run(context, &args)).boxed(),
        Some(Command::Org(command)) => org::run(context, command).boxed(),
        Some(Command::User(command)) => user::run(context, command).boxed(),
        Some(Command::Apply(args)) => apply::run(context, args).boxed(),
        Some(Command::Dump(args)) => apply::dump(context, args).boxed(),
        Some(Command::Audit(command)) => audit::run(context, command).boxed(),
        Some(Command::Ca(command)) => ready(ca::run(context, command)).boxed(),
        Some(Command::Status) => ready(status::run(context)).boxed(),
        Some(
            Command::Backup(_) | Command::Restore(_) | Command::Setup(_) | Command::Completions(_) | Command::Man(_),
        ) => ready(Err(local::elsewhere())).boxed(),
    }
}
