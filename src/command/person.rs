//! The person at this process's own terminal: how wide it is, and that something is going on while an answer is long in
//! coming. For the programs that people run; what answers over a connection knows its terminal from there.

use crate::app::{protocol::Terminal, waiting::Waiting};
use rustix::termios::tcgetwinsize;
use std::{
    io::{self, IsTerminal, Write},
    pin::pin,
    time::Duration,
};

/// What standard output is, if it is a terminal.
#[must_use]
pub fn terminal() -> Option<Terminal> {
    let size = io::stdout().is_terminal().then(|| tcgetwinsize(io::stdout()).ok()).flatten()?;
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = !plain && std::env::var("TERM").is_ok_and(|term| Terminal::type_has_colours(&term));
    // A terminal that does not know its width says 0.
    Some(Terminal { columns: if size.ws_col == 0 { 80 } else { size.ws_col }, colours })
}

/// Awaits an answer; who sits at a terminal is shown each second that something is going on.
pub async fn attended<T>(answer: impl Future<Output = T>) -> T {
    let person = io::stderr().is_terminal();
    // A terminal that is gone has nobody to tell.
    let tell = |text: &str| drop(io::stderr().write_all(text.as_bytes()));
    let mut answer = pin!(answer);
    let mut waiting = Waiting::default();
    loop {
        tokio::select! {
            answer = &mut answer => {
                tell(&waiting.over());
                return answer;
            }
            () = tokio::time::sleep(Duration::from_secs(1)), if person => tell(&waiting.second()),
        }
    }
}
