//! The operator's `certgate`: sends the words to the authority's admin socket and shows what comes back. The grammar is
//! the authority's, so that both ways in have one.

use crate::app::{
    authority::Console,
    protocol::{AdminCommand, CommandAnswer, MAX_INPUTS, MAX_LOCAL_INPUT, Output, Read, Terminal},
};
use rustix::termios::tcgetwinsize;
use std::{
    ffi::OsString,
    fs::File,
    io::{BufRead, IsTerminal, Read as _, Write},
    path::PathBuf,
    process::ExitCode,
};

/// The admin socket where nothing else is said.
const SOCKET: &str = "/run/certgate/admin.sock";

/// Runs `certgate [--socket PATH] WORDS…`; `connect` gives the authority behind a socket.
#[must_use]
pub fn main<C: Console>(arguments: impl IntoIterator<Item = OsString>, connect: impl FnOnce(PathBuf) -> C) -> ExitCode {
    let (socket, words) = match split(arguments) {
        Ok(split) => split,
        Err(problem) => return fail(&problem, 2),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("certgate could not start: {error}"), 1),
    };
    runtime.block_on(run(&connect(socket), words))
}

/// The socket, which is this program's own business, from the words, which are the authority's.
fn split(arguments: impl IntoIterator<Item = OsString>) -> Result<(PathBuf, Vec<String>), String> {
    let mut arguments = arguments.into_iter().skip(1).peekable();
    let mut socket = std::env::var_os("CERTGATE_SOCKET").map_or_else(|| PathBuf::from(SOCKET), PathBuf::from);
    if arguments.peek().is_some_and(|first| first == "--socket") {
        arguments.next();
        socket = arguments.next().map(PathBuf::from).ok_or("--socket needs a path")?;
    }
    let words = arguments.map(|word| word.into_string().map_err(|_| "a word is not UTF-8".to_owned()));
    Ok((socket, words.collect::<Result<_, _>>()?))
}

async fn run(authority: &impl Console, words: Vec<String>) -> ExitCode {
    let mut command = AdminCommand { words, terminal: terminal(), inputs: Vec::new(), context: None };
    loop {
        let answer = match authority.run(&command).await {
            Ok(answer) => answer,
            Err(error) => {
                let text = format!(
                    "{error}\nIs the authority running, and may this user use its admin socket? (systemctl status \
                     certgate-authority; --socket PATH for another one)"
                );
                return fail(&text, 1);
            }
        };
        match answer {
            CommandAnswer::Output(output) => return show(&output),
            CommandAnswer::Input { .. } if command.inputs.len() == MAX_INPUTS => {
                return fail("the command asked for input too often", 1);
            }
            CommandAnswer::Input { prompt, read, limit, context } => {
                let left = MAX_LOCAL_INPUT.saturating_sub(command.inputs.iter().map(String::len).sum());
                let limit = usize::try_from(limit).unwrap_or(left).min(left);
                match answer_to(&prompt, &read, limit, &command.words) {
                    Ok(input) => command.inputs.push(input),
                    Err(problem) => return fail(&problem, 1),
                }
                command.context = context;
            }
        }
    }
}

/// The terminal, if a person sits at both ends of it.
fn terminal() -> Option<Terminal> {
    let person = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let size = person.then(|| tcgetwinsize(std::io::stdout()).ok()).flatten()?;
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = !plain && std::env::var("TERM").is_ok_and(|term| Terminal::type_has_colours(&term));
    // A terminal that does not know its width says 0.
    Some(Terminal { columns: if size.ws_col == 0 { 80 } else { size.ws_col }, colours })
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

fn show(output: &Output) -> ExitCode {
    let written = std::io::stdout()
        .write_all(output.stdout.as_bytes())
        .and_then(|()| std::io::stdout().write_all(&output.binary.0))
        .and_then(|()| std::io::stdout().flush())
        .and_then(|()| std::io::stderr().write_all(output.stderr.as_bytes()));
    match written {
        Ok(()) => ExitCode::from(output.exit),
        // A reader that went away (a pipe into head) is no failure of ours to report, but none of success either.
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(text: &str, exit: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "certgate: {text}");
    ExitCode::from(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

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
