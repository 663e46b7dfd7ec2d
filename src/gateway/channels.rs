//! The channels of one connection: counted, each with what its peer has sent.

use super::{inlet::Inlet, lock};
use crate::app::protocol::Terminal;
use russh::{ChannelId, ChannelWriteHalf, server::Msg};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What a full inlet means.
#[derive(Clone)]
pub(super) enum WhenFull {
    /// The rest is dropped: a command that does not read.
    Drop,
    /// Wait if this is the only channel, else end the forward: a node that does not read stalls only itself.
    Forward(CancellationToken),
    /// End the connection: an agent that floods.
    EndConnection,
    /// Wait: whoever takes waits for nobody.
    Wait,
}

/// One channel.
pub(super) struct Entry {
    pub(super) inlet: Arc<Inlet>,
    pub(super) when_full: WhenFull,
    /// A session channel on which nothing has been started.
    pub(super) waiting: Option<ChannelWriteHalf<Msg>>,
    pub(super) terminal: Arc<Pty>,
}

/// The terminal of a channel; none until one is asked for.
#[derive(Default)]
pub(super) struct Pty {
    /// Its width in characters.
    columns: AtomicU16,
    colours: AtomicBool,
}

impl Pty {
    /// One of a type (`TERM`) was asked for.
    pub(super) fn ask(&self, term: &str, columns: u32) {
        self.colours.store(Terminal::type_has_colours(term), Ordering::Relaxed);
        self.resize(columns);
    }

    /// It has another width now.
    pub(super) fn resize(&self, columns: u32) {
        // A terminal that does not know its width says 0.
        let columns = if columns == 0 { 80 } else { columns };
        self.columns.store(u16::try_from(columns).unwrap_or(u16::MAX), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Option<Terminal> {
        let columns = Some(self.columns.load(Ordering::Relaxed)).filter(|columns| *columns > 0)?;
        Some(Terminal { columns, colours: self.colours.load(Ordering::Relaxed) })
    }
}

/// What kinds of channels a connection has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kinds {
    /// That of a node's agent, or its tunnel.
    pub(super) agent: bool,
    /// A forward.
    pub(super) forward: bool,
    /// A command that runs.
    pub(super) command: bool,
}

/// The channels of a connection.
#[derive(Default)]
pub(super) struct Channels {
    all: Mutex<HashMap<ChannelId, Entry>>,
    /// There is one more, or one less.
    pub(super) changed: Notify,
}

impl Channels {
    /// How many there are, of all types, with those whose opening is not decided.
    pub(super) fn count(&self) -> usize {
        lock(&self.all).len()
    }

    /// What there is among them.
    pub(super) fn kinds(&self) -> Kinds {
        let channels = lock(&self.all);
        let any = |is: fn(&WhenFull) -> bool| channels.values().any(|entry| is(&entry.when_full));
        let runs = |entry: &Entry| entry.waiting.is_none() && matches!(entry.when_full, WhenFull::Drop);
        Kinds {
            command: channels.values().any(runs),
            agent: any(|when| matches!(when, WhenFull::EndConnection | WhenFull::Wait)),
            forward: any(|when| matches!(when, WhenFull::Forward(_))),
        }
    }

    /// Adds one.
    pub(super) fn insert(&self, id: ChannelId, entry: Entry) {
        lock(&self.all).insert(id, entry);
        self.changed.notify_one();
    }

    /// What `look` says of one, if it is there.
    pub(super) fn with<T>(&self, id: ChannelId, look: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        lock(&self.all).get_mut(&id).map(look)
    }

    /// The peer has closed one: its task, if it has one, removes it when it is done.
    pub(super) fn close(&self, id: ChannelId) {
        let mut channels = lock(&self.all);
        if let Some(entry) = channels.get(&id) {
            entry.inlet.close();
            if entry.waiting.is_some() {
                channels.remove(&id);
                self.changed.notify_one();
            }
        }
    }

    /// The connection is over.
    pub(super) fn close_all(&self) {
        for entry in lock(&self.all).values() {
            entry.inlet.close();
        }
    }
}

/// Removes a channel when the task that serves it ends, however it ends.
pub(super) struct Served {
    pub(super) channels: Arc<Channels>,
    pub(super) id: ChannelId,
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(entry) = lock(&self.channels.all).remove(&self.id) {
            entry.inlet.abandon();
        }
        self.channels.changed.notify_one();
    }
}
