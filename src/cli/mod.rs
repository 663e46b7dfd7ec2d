//! The operator's `certgate`: sends the words to the authority's admin socket and shows what comes back. The grammar is
//! the authority's, so that both ways in have one; what needs no authority (help, completions, man pages) is answered here,
//! and setup is done here.

mod archive;
mod backup;
mod restore;
pub(crate) mod setup;

pub use restore::UNFINISHED;

use crate::{
    app::{
        authority::{Console, Unreachable},
        protocol::{AdminCommand, CommandAnswer, MAX_INPUTS, MAX_LOCAL_INPUT, Output, Read, Terminal, wants_json},
    },
    command::{Local, Page, locally, person},
    domain::Timestamp,
};
use std::{
    ffi::OsString,
    fs::File,
    io::{BufRead, IsTerminal, Read as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// The admin socket where nothing else is said.
const SOCKET: &str = "/run/certgate/admin.sock";

/// Runs `certgate [--socket PATH] WORDS…`; `connect` gives the authority behind a socket, `programs` the command lines of
/// the other programs, for their man pages, `now` the time.
#[must_use]
pub fn main<C: Console>(
    arguments: impl IntoIterator<Item = OsString>,
    connect: impl FnOnce(PathBuf) -> C,
    programs: impl FnOnce() -> Vec<clap::Command>,
    now: impl FnOnce() -> Timestamp,
) -> ExitCode {
    let (socket, words) = match split(arguments) {
        Ok(split) => split,
        Err(problem) => return show(&failed("usage", &problem, 2, false)),
    };
    let json = wants_json(words.iter().map(String::as_str));
    // If a person sits at both ends of it.
    let terminal = person::terminal().filter(|_| std::io::stdin().is_terminal());
    let output = match locally(&words, terminal, programs) {
        Local::Answered(output) => output,
        Local::Pages { directory, pages } => write_pages(&directory, &pages)
            .unwrap_or_else(|error| failed("failed", &format!("{}: {error}", directory.display()), 1, json)),
        Local::Setup(setup) => match runtime() {
            Ok(runtime) => runtime.block_on(setup::run(&connect(socket), &setup, terminal.is_some(), json)),
            Err(error) => failed("failed", &error, 1, json),
        },
        Local::Archives { files, key } => archive::check(&files, key.as_ref(), json)
            .unwrap_or_else(|(reason, problem)| failed(reason, &problem, 1, json)),
        Local::Backup { request, file } => waiting(backup::make(&connect(socket), &request, &file, json), json),
        Local::Restore(order) => {
            let restored = runtime().map_err(|error| ("failed", error));
            let restored = restored.and_then(|runtime| restore::run(&runtime, &order, terminal, json, now()));
            restored.unwrap_or_else(|(reason, problem)| failed(reason, &problem, 1, json))
        }
        Local::Ask => waiting(ask(&connect(socket), words, terminal), json),
    };
    show(&output)
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("it could not start: {error}"))
}

/// What comes of asking the authority.
fn waiting(asked: impl Future<Output = Result<Output, Problem>>, json: bool) -> Output {
    match runtime() {
        Ok(runtime) => runtime.block_on(asked).unwrap_or_else(|(reason, problem)| failed(reason, &problem, 1, json)),
        Err(error) => failed("failed", &error, 1, json),
    }
}

/// What went wrong: one word, and sentences.
type Problem = (&'static str, String);

/// The socket, which is this program's own business and stands among the first options, from the words, which are the
/// authority's.
fn split(arguments: impl IntoIterator<Item = OsString>) -> Result<(PathBuf, Vec<String>), String> {
    let mut arguments = arguments.into_iter().skip(1).peekable();
    let mut socket = std::env::var_os("CERTGATE_SOCKET").map_or_else(|| PathBuf::from(SOCKET), PathBuf::from);
    let mut words = Vec::new();
    let mut word = |word: OsString| word.into_string().map(|word| words.push(word)).map_err(|_| "a word is not UTF-8");
    while let Some(option) = arguments.next_if(|option| option.as_encoded_bytes().starts_with(b"-")) {
        if option == "--socket" {
            socket = arguments.next().map(PathBuf::from).ok_or("--socket needs a path")?;
        } else if let Some(path) = option.to_str().and_then(|option| option.strip_prefix("--socket=")) {
            socket = PathBuf::from(path);
        } else {
            word(option)?;
        }
    }
    arguments.try_for_each(word)?;
    Ok((socket, words))
}

/// What the authority answers; or why it does not, and the word for that.
async fn ask(authority: &impl Console, words: Vec<String>, terminal: Option<Terminal>) -> Result<Output, Problem> {
    let mut command = AdminCommand { words, terminal, inputs: Vec::new(), context: None };
    loop {
        let answer = person::attended(authority.run(&command)).await.map_err(unreachable)?;
        match answer {
            CommandAnswer::Output(output) => return Ok(output),
            CommandAnswer::Input { .. } if command.inputs.len() == MAX_INPUTS => {
                return Err(("input", "the command asked for input too often".into()));
            }
            CommandAnswer::Input { prompt, read, limit, context } => {
                let left = MAX_LOCAL_INPUT.saturating_sub(command.inputs.iter().map(String::len).sum());
                let limit = usize::try_from(limit).unwrap_or(left).min(left);
                let input = answer_to(&prompt, &read, limit, &command.words).map_err(|problem| ("input", problem))?;
                command.inputs.push(input);
                command.context = context;
            }
        }
    }
}

fn unreachable(error: Unreachable) -> Problem {
    let next = "Is the authority running, and may this user use its admin socket? See: systemctl status \
                certgate-authority. Another socket: certgate --socket PATH";
    ("unavailable", format!("{error}\n{next}"))
}

fn write_pages(directory: &Path, pages: &[Page]) -> std::io::Result<Output> {
    std::fs::create_dir_all(directory)?;
    for Page { name, text } in pages {
        std::fs::write(directory.join(name), text)?;
    }
    let stderr = format!("wrote {} man pages to {}\n", pages.len(), directory.display());
    Ok(Output { stderr, ..Output::default() })
}

/// Shows the prompt and reads what is asked for. Whoever serves the socket does not choose which files are read: only
/// what the operator has named among the words is.
fn answer_to(prompt: &str, what: &Read, limit: usize, words: &[String]) -> Result<String, String> {
    let mut error = std::io::stderr();
    let shown = error.write_all(prompt.as_bytes()).and_then(|()| error.flush());
    shown.map_err(|error| format!("standard error: {error}"))?;
    let stdin = |error| format!("standard input: {error}");
    match what {
        Read::Line => line(std::io::stdin().lock(), limit).map_err(stdin),
        Read::All => all(std::io::stdin().lock(), limit).map_err(stdin),
        Read::File(name) if words.iter().any(|word| named(word, name)) => {
            File::open(name).and_then(|file| all(file, limit)).map_err(|error| format!("{name}: {error}"))
        }
        Read::File(_) => Err("the authority asked for a file that was not named; it was not read".into()),
    }
}

/// `NAME`, or `--option=NAME`.
fn named(word: &str, name: &str) -> bool {
    word == name || word.strip_prefix("--").and_then(|option| option.split_once('=')).is_some_and(|(_, it)| it == name)
}

fn line(from: impl BufRead, limit: usize) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(limit as u64 + 1).read_line(&mut text)?;
    within(text, limit)
}

fn all(from: impl std::io::Read, limit: usize) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(limit as u64 + 1).read_to_string(&mut text)?;
    within(text, limit)
}

fn within(text: String, limit: usize) -> std::io::Result<String> {
    if text.len() > limit {
        return Err(std::io::Error::other(format!("more than {limit} bytes")));
    }
    Ok(text)
}

/// Writes what there is to write, all of standard output first.
fn show(output: &Output) -> ExitCode {
    let mut stdout = std::io::stdout();
    let written = stdout
        .write_all(output.stdout.as_bytes())
        .and_then(|()| stdout.write_all(&output.binary.0))
        .and_then(|()| stdout.flush());
    // Where nobody reads what went wrong, nothing can be done about that either.
    let _ = std::io::stderr().write_all(output.stderr.as_bytes());
    match written {
        Ok(()) => ExitCode::from(output.exit),
        // A reader that went away (a pipe into head) is no failure of ours to report, but none of success either.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "certgate: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What goes wrong on this side of the socket.
fn failed(reason: &str, problem: &str, exit: u8, json: bool) -> Output {
    Output::failure(reason, &format!("certgate: {problem}"), exit, json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_stands_among_the_first_options() {
        let split = |line: &str| split(line.split(' ').map(OsString::from)).unwrap();
        for line in ["certgate --socket /s status --json", "certgate --socket=/s status --json"] {
            assert_eq!(split(line), (PathBuf::from("/s"), vec!["status".to_owned(), "--json".into()]), "{line}");
        }
        assert_eq!(split("certgate --json --socket /s status").1, ["--json", "status"]);
        assert_eq!(split("certgate org create --socket").1, ["org", "create", "--socket"]);
        assert!(super::split(["certgate", "--socket"].map(OsString::from)).is_err());
    }

    #[test]
    fn only_a_file_that_was_named_is_read_and_not_beyond_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f").to_str().unwrap().to_owned();
        std::fs::write(&path, "12345678").unwrap();
        let words = ["apply".to_owned(), path.clone()];
        let read = |name: &str, limit| answer_to("", &Read::File(name.to_owned()), limit, &words);
        let option = [format!("--config={path}")];
        assert_eq!(answer_to("", &Read::File(path.clone()), 8, &option).as_deref(), Ok("12345678"));
        assert_eq!(read(&path, 8).as_deref(), Ok("12345678"));
        assert_eq!(read(&path, 7), Err(format!("{path}: more than 7 bytes")));
        for other in ["/etc/hostname", &format!("{path}/"), &path[1..], "apply"] {
            let problem = read(other, 8).unwrap_err();
            assert!(problem.contains("was not read") || other == "apply", "{problem}");
        }
        std::fs::write(&path, [0xff]).unwrap();
        assert!(read(&path, 8).unwrap_err().contains("valid UTF-8"));
    }
}
