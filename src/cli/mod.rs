//! The operator's `certgate`: sends the words to the authority's admin socket and shows what comes back. The grammar is
//! the authority's, so that both ways in have one.

use crate::app::{
    authority::Console,
    protocol::{AdminCommand, CommandAnswer, Output, Terminal},
};
use rustix::termios::tcgetwinsize;
use std::{
    ffi::OsString,
    io::{BufRead, IsTerminal, Read, Write},
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
    let mut command = AdminCommand { words, terminal: terminal(), input: None };
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
            // It asked, and was answered: asking again would never end.
            CommandAnswer::Input { .. } if command.input.is_some() => return fail("the input was not understood", 1),
            CommandAnswer::Input { prompt, line, limit } => match read(&prompt, line, limit) {
                Ok(input) => command.input = Some(input),
                Err(error) => return fail(&format!("standard input: {error}"), 1),
            },
        }
    }
}

/// The terminal, if a person sits at both ends of it.
fn terminal() -> Option<Terminal> {
    let person = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let size = person.then(|| tcgetwinsize(std::io::stdout()).ok()).flatten()?;
    Some(Terminal { columns: size.ws_col.max(1) })
}

fn read(prompt: &str, line: bool, limit: u32) -> std::io::Result<String> {
    let mut error = std::io::stderr();
    error.write_all(prompt.as_bytes())?;
    error.flush()?;
    let mut text = String::new();
    let mut input = std::io::stdin().lock().take(u64::from(limit) + 1);
    if line {
        input.read_line(&mut text)?
    } else {
        input.read_to_string(&mut text)?
    };
    if text.len() > limit as usize {
        return Err(std::io::Error::other(format!("more than {limit} bytes")));
    }
    Ok(text)
}

fn show(output: &Output) -> ExitCode {
    let written = std::io::stdout()
        .write_all(output.stdout.as_bytes())
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
