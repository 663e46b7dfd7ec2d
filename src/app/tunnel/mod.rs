//! Many connections to one node's sshd through one SSH channel of its agent: what both ends of it do.
//!
//! The gateway opens streams, the agent connects each to its sshd. Each stream has a window of its own, given back as its
//! reader takes: one that is not read holds [`WINDOW`] bytes of memory and stops only its own writer. Whoever receives
//! never waits, so nothing can stop the channel as a whole; whoever sends waits its turn, frame by frame.
//!
//! Not a channel of SSH for each: russh gives windows back as bytes arrive and not as they are taken, so one reader that
//! stalls fills the memory or stops the connection; and it keeps 4 kB of each channel that it closed first (0.65.1),
//! which an agent's connection, that lasts for months, cannot afford.

mod frame;
mod stream;

pub use frame::{Fault, Refusal};
pub use stream::Stream;

use bytes::Bytes;
use frame::{Frame, Frames};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use stream::State;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Bytes of one stream that may be on their way to somebody who does not take them.
pub const WINDOW: usize = 1024 * 1024;

/// Frames with data that wait for the channel, of all streams together.
const QUEUE: usize = 32;

/// Frames without data that may wait when another arrives: more than as many streams as there can be have to say. Who makes
/// us answer, and does not read the answers, fills no memory with them.
const MAX_WAITING: usize = 64 * 1024;

/// One end of a tunnel.
#[derive(Clone, Debug)]
pub struct Tunnel(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    /// At most so many streams that the other end has opened.
    limit: usize,
    queue: mpsc::UnboundedSender<Queued>,
    /// Frames without data that wait.
    waiting: Arc<AtomicUsize>,
    /// Data takes a place here first. The rest does not: there are only a few such frames for each stream, and whoever
    /// ends a stream cannot wait.
    room: Arc<Semaphore>,
    over: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    streams: HashMap<u32, Arc<State>>,
    /// Numbers are not used twice: what still arrives for a stream that has ended is for nobody.
    last: u32,
}

/// A frame on its way to the channel.
#[derive(Debug)]
pub struct Queued {
    /// What to send.
    pub bytes: Bytes,
    /// Given back when this is dropped, after it was sent.
    _place: Place,
}

/// What a frame takes while it waits.
#[derive(Debug)]
enum Place {
    Data { _room: OwnedSemaphorePermit },
    Bare(Arc<AtomicUsize>),
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Bare(waiting) = self {
            waiting.fetch_sub(1, Relaxed);
        }
    }
}

/// What is to be sent, in order.
#[derive(Debug)]
pub struct Outgoing(mpsc::UnboundedReceiver<Queued>);

impl Outgoing {
    /// The next frame; drop it when it was sent.
    pub async fn next(&mut self) -> Option<Queued> {
        self.0.recv().await
    }
}

/// What is received, and the end of the tunnel when dropped.
#[derive(Debug)]
pub struct Incoming {
    tunnel: Tunnel,
    frames: Frames,
}

/// A tunnel over a channel; the other end may open `limit` streams at the same time.
#[must_use]
pub fn tunnel(limit: usize) -> (Tunnel, Incoming, Outgoing) {
    let (queue, outgoing) = mpsc::unbounded_channel();
    let tunnel = Tunnel(Arc::new(Shared {
        table: Mutex::default(),
        limit,
        queue,
        waiting: Arc::default(),
        room: Arc::new(Semaphore::new(QUEUE)),
        over: CancellationToken::new(),
    }));
    (tunnel.clone(), Incoming { tunnel, frames: Frames::default() }, Outgoing(outgoing))
}

impl Tunnel {
    /// Opens a stream.
    ///
    /// # Errors
    /// The other end did not connect it, or is gone.
    pub async fn open(&self) -> Result<Stream, Refusal> {
        let (state, answer) = State::opening();
        let stream = {
            let mut table = self.0.table();
            // The end is told under the same lock: nothing is entered after it.
            if self.0.over.is_cancelled() {
                return Err(Refusal::Lost);
            }
            table.last = table.last.checked_add(1).ok_or(Refusal::TooMany)?;
            let number = table.last;
            table.streams.insert(number, state.clone());
            Stream::new(number, state, self.0.clone())
        };
        self.0.send(stream.number(), &Frame::Open);
        match answer.await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(Refusal::Lost),
        }
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.0.over.is_cancelled()
    }

    /// How many streams there are.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.0.table().streams.len()
    }

    /// Resolves when the tunnel has ended, and with it every stream.
    pub async fn over(&self) {
        self.0.over.cancelled().await;
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic while it was held leaves a table that is whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what is no data. Never waits.
    fn send(&self, stream: u32, frame: &Frame) {
        // Nobody to send to: then the tunnel is over, and whoever cares is told so.
        self.waiting.fetch_add(1, Relaxed);
        let place = Place::Bare(self.waiting.clone());
        let _ = self.queue.send(Queued { bytes: frame.encode(stream), _place: place });
    }

    /// Sends data when it is its turn.
    async fn send_data(&self, stream: u32, data: Bytes) {
        // Never closed.
        let Ok(room) = self.room.clone().acquire_owned().await else { return };
        let place = Place::Data { _room: room };
        let _ = self.queue.send(Queued { bytes: Frame::Data(data).encode(stream), _place: place });
    }
}

impl Incoming {
    /// Takes what has arrived, and returns the streams that the other end wants: each is to be accepted or refused.
    /// Never waits.
    ///
    /// # Errors
    /// The other end does not keep to the rules: drop this.
    pub fn take(&mut self, data: Bytes) -> Result<Vec<Stream>, Fault> {
        self.frames.push(data);
        let mut opened = Vec::new();
        while let Some((number, frame)) = self.frames.next()? {
            if self.tunnel.0.waiting.load(Relaxed) > MAX_WAITING {
                return Err(Fault("more than can be answered, and does not read the answers"));
            }
            opened.extend(self.act(number, frame)?);
        }
        Ok(opened)
    }

    fn act(&self, number: u32, frame: Frame) -> Result<Option<Stream>, Fault> {
        let shared = &self.tunnel.0;
        let mut table = shared.table();
        if frame == Frame::Open {
            let count = table.streams.len();
            let Entry::Vacant(place) = table.streams.entry(number) else {
                return Err(Fault("a stream that is open already"));
            };
            if count >= shared.limit {
                drop(table);
                shared.send(number, &Frame::Refuse(Refusal::TooMany));
                return Ok(None);
            }
            let state = State::opened();
            place.insert(state.clone());
            return Ok(Some(Stream::new(number, state, shared.clone())));
        }
        // One that has ended here; the other end did not know yet.
        let Some(state) = table.streams.get(&number).cloned() else { return Ok(None) };
        if matches!(frame, Frame::Close | Frame::Abort | Frame::Refuse(_)) {
            table.streams.remove(&number);
        }
        drop(table);
        state.act(frame)?;
        Ok(None)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let shared = &self.tunnel.0;
        let streams = {
            let mut table = shared.table();
            shared.over.cancel();
            std::mem::take(&mut table.streams)
        };
        for state in streams.into_values() {
            state.lost();
        }
    }
}

#[cfg(test)]
mod tests;
