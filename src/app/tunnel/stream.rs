//! One stream of a tunnel.

use super::{
    Shared, WINDOW,
    frame::{Fault, Frame, MAX_DATA, Refusal},
};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use thiserror::Error;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

/// Credit is given back when so much was taken: a fraction of the window, so that the writer need not wait for it.
const GIVE_BACK: usize = WINDOW / 4;

type Answer = oneshot::Sender<Result<(), Refusal>>;

/// What both the tunnel and whoever uses the stream know of it.
#[derive(Debug)]
pub(super) struct State {
    inbox: Mutex<Inbox>,
    filled: Notify,
    /// Bytes that may be sent; closed when the other end takes no more.
    credit: Semaphore,
    answer: Mutex<Option<Answer>>,
    /// The other end has closed it.
    closed: CancellationToken,
    /// The other end wants nothing more delivered, or is gone.
    aborted: CancellationToken,
}

#[derive(Debug)]
struct Inbox {
    data: VecDeque<Bytes>,
    /// What the other end may still send.
    granted: usize,
    /// What was taken from `data` and not given back.
    taken: usize,
    ended: bool,
}

/// The other end takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the stream has ended")]
pub struct Ended;

impl State {
    fn new(answer: Option<Answer>) -> Arc<Self> {
        Arc::new(Self {
            inbox: Mutex::new(Inbox { data: VecDeque::new(), granted: WINDOW, taken: 0, ended: false }),
            filled: Notify::new(),
            credit: Semaphore::new(WINDOW),
            answer: Mutex::new(answer),
            closed: CancellationToken::new(),
            aborted: CancellationToken::new(),
        })
    }

    /// For a stream that this end opens.
    pub(super) fn opening() -> (Arc<Self>, oneshot::Receiver<Result<(), Refusal>>) {
        let (sender, receiver) = oneshot::channel();
        (Self::new(Some(sender)), receiver)
    }

    /// For one that the other end opens.
    pub(super) fn opened() -> Arc<Self> {
        Self::new(None)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // A panic while it was held leaves an inbox that is whole.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what the other end says.
    pub(super) fn act(&self, frame: Frame) -> Result<(), Fault> {
        match frame {
            Frame::Open => return Err(Fault("a stream that is open already")),
            Frame::Accept => self.answer(Ok(()))?,
            Frame::Refuse(refusal) => self.answer(Err(refusal))?,
            Frame::Data(data) => {
                let mut inbox = self.inbox();
                inbox.granted = inbox.granted.checked_sub(data.len()).ok_or(Fault("more than it may"))?;
                if !inbox.ended {
                    inbox.data.push_back(data);
                }
                drop(inbox);
                self.filled.notify_one();
            }
            Frame::Credit(bytes) => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                if bytes.saturating_add(self.credit.available_permits()) > WINDOW {
                    return Err(Fault("more credit than there is"));
                }
                self.credit.add_permits(bytes);
            }
            Frame::Eof => self.end(),
            Frame::Close => {
                self.end();
                self.credit.close();
                self.closed.cancel();
            }
            Frame::Abort => self.lost(),
        }
        Ok(())
    }

    fn answer(&self, answer: Result<(), Refusal>) -> Result<(), Fault> {
        let waiting = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let waiting = waiting.ok_or(Fault("an answer to what nobody asked"))?;
        // Whoever asked may have gone.
        let _ = waiting.send(answer);
        Ok(())
    }

    fn end(&self) {
        self.inbox().ended = true;
        self.filled.notify_one();
    }

    /// Nothing more is to be delivered, in either direction.
    pub(super) fn lost(&self) {
        {
            let mut inbox = self.inbox();
            inbox.ended = true;
            inbox.data.clear();
        }
        self.filled.notify_one();
        self.credit.close();
        // Whoever waits for an answer learns that there will be none.
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.closed.cancel();
        self.aborted.cancel();
    }
}

/// A stream. Dropped, it ends at once, and what the other end has not delivered yet is not delivered any more, unless it
/// was let go with [`Stream::finish`].
#[derive(Debug)]
pub struct Stream {
    number: u32,
    state: Arc<State>,
    tunnel: Arc<Shared>,
    finished: AtomicBool,
}

impl Stream {
    pub(super) fn new(number: u32, state: Arc<State>, tunnel: Arc<Shared>) -> Self {
        Self { number, state, tunnel, finished: AtomicBool::new(false) }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.state.inbox().data.iter().map(Bytes::len).sum()
    }

    /// It is connected: the answer to a stream that the other end has opened.
    pub fn accept(&self) {
        self.tunnel.send(self.number, &Frame::Accept);
    }

    /// It is not.
    pub fn refuse(self, why: Refusal) {
        if self.tunnel.table().streams.remove(&self.number).is_some() {
            self.tunnel.send(self.number, &Frame::Refuse(why));
        }
    }

    /// The next bytes; none at the end. What was returned before counts as taken, and its place is given back.
    pub async fn read(&self) -> Option<Bytes> {
        loop {
            let filled = self.state.filled.notified();
            {
                let mut inbox = self.state.inbox();
                if inbox.taken >= GIVE_BACK {
                    let taken = std::mem::take(&mut inbox.taken);
                    inbox.granted += taken;
                    self.tunnel.send(self.number, &Frame::Credit(u32::try_from(taken).unwrap_or(u32::MAX)));
                }
                if let Some(data) = inbox.data.pop_front() {
                    inbox.taken += data.len();
                    return Some(data);
                }
                if inbox.ended {
                    return None;
                }
            }
            filled.await;
        }
    }

    /// Sends bytes, as the other end takes them.
    ///
    /// # Errors
    /// It takes no more.
    pub async fn write(&self, mut data: Bytes) -> Result<(), Ended> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_DATA));
            let length = u32::try_from(piece.len()).map_err(|_| Ended)?;
            self.state.credit.acquire_many(length).await.map_err(|_| Ended)?.forget();
            self.tunnel.send_data(self.number, piece).await;
        }
        Ok(())
    }

    /// Nothing more will be sent; reading goes on.
    pub fn end(&self) {
        self.tunnel.send(self.number, &Frame::Eof);
    }

    /// What was sent is to be delivered though this is dropped.
    pub fn finish(&self) {
        self.finished.store(true, Relaxed);
    }

    /// Resolves when the other end has closed it: nothing more will come, and nothing more is taken.
    pub async fn closed(&self) {
        self.state.closed.cancelled().await;
    }

    /// Resolves when nothing more is to be delivered.
    pub async fn aborted(&self) {
        self.state.aborted.cancelled().await;
    }

    /// Resolves when the tunnel is gone.
    pub async fn lost(&self) {
        self.tunnel.over.cancelled().await;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Gone already if the other end has ended it.
        if self.tunnel.table().streams.remove(&self.number).is_some() {
            let frame = if self.finished.load(Relaxed) { Frame::Close } else { Frame::Abort };
            self.tunnel.send(self.number, &frame);
        }
    }
}
