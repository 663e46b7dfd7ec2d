//! What a gateway has sent on the agent's channel and the agent has not looked at yet, cut into lines.
//!
//! russh stops the whole connection, the tunnel's streams included, while nobody takes what comes on one channel; and
//! the agent takes its time when it installs a bundle. So a task of its own takes it, and keeps it within a bound.

use super::state_dir::MAX_SIGNED_BYTES;
use russh::{ChannelMsg, ChannelReadHalf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The longest line that is read: a message around a signed bundle.
const MAX_LINE: usize = MAX_SIGNED_BYTES;
/// The most that is kept: of bundles, a gateway sends the next one when the last is on its way.
const MAX_KEPT: usize = 2 * MAX_LINE;

/// Why there are no more lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The channel was closed.
    Closed,
    /// The connection is gone.
    Broken,
    /// A line is too long, or too many wait.
    TooMuch,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Feed {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    lines: Lines,
    end: Option<End>,
}

impl Feed {
    /// Takes what comes on a channel, until it ends.
    pub(super) fn follow(mut channel: ChannelReadHalf, lines: Lines) -> Arc<Self> {
        let feed = Arc::new(Self { state: Mutex::new(State { lines, end: None }), filled: Notify::new() });
        let filler = feed.clone();
        tokio::spawn(async move {
            let end = loop {
                match channel.wait().await {
                    Some(ChannelMsg::Data { data }) if filler.push(&data) => {}
                    Some(ChannelMsg::Data { .. }) => break End::TooMuch,
                    Some(ChannelMsg::Eof | ChannelMsg::Close) => break End::Closed,
                    Some(_) => {}
                    None => break End::Broken,
                }
            };
            filler.state().end = Some(end);
            filler.filled.notify_one();
        });
        feed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Bytes are appended whole or not at all.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if it is too much.
    fn push(&self, data: &[u8]) -> bool {
        let mut state = self.state();
        if state.lines.bytes.len().saturating_add(data.len()) > MAX_KEPT {
            return false;
        }
        state.lines.push(data);
        drop(state);
        self.filled.notify_one();
        true
    }

    /// The next line, without its end. Nothing is lost when the future is dropped and asked for again.
    ///
    /// # Errors
    /// There is none, and why.
    pub(super) async fn next(&self) -> Result<Vec<u8>, End> {
        loop {
            let filled = self.filled.notified();
            {
                let mut state = self.state();
                if let Some(line) = state.lines.next() {
                    return Ok(line);
                }
                if state.lines.is_too_long() {
                    return Err(End::TooMuch);
                }
                if let Some(end) = state.end {
                    return Err(end);
                }
            }
            filled.await;
        }
    }
}

/// Bytes cut into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// No line ends before this place.
    searched: usize,
}

impl Lines {
    pub(super) fn push(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let Some(end) = self.bytes[self.searched..].iter().position(|b| *b == b'\n') else {
            self.searched = self.bytes.len();
            return None;
        };
        let rest = self.bytes.split_off(self.searched + end + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.pop();
        self.searched = 0;
        Some(line)
    }

    pub(super) fn is_too_long(&self) -> bool {
        self.bytes.len() > MAX_LINE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_as_they_were_however_they_arrive() {
        let text = b"one\n\ntwo\nthree";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let mut out = vec![];
            for piece in text.chunks(size) {
                lines.push(piece);
                out.extend(std::iter::from_fn(|| lines.next()));
            }
            assert_eq!(out, [&b"one"[..], b"", b"two"]);
            assert_eq!(lines.bytes, b"three");
        }
    }
}
