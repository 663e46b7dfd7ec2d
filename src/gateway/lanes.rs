//! The threads that carry connections. Each has a runtime of its own, and a connection stays on one of them with all its
//! tasks, but for the farewell of one that is ended from elsewhere.
//!
//! A runtime of several threads that share everything wakes one of them for each piece that arrives, to find that another is
//! at work on that connection already (what that cost: benches/README.md). Here, while a thread works,
//! nobody waits to be told what it will see by itself when it has done. The price is that connections which share a thread
//! wait for each other while another thread may have nothing to do: so each turn is short, and a new connection goes where
//! the fewest are.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};
use tokio::{net::TcpStream, runtime::Handle};
use tokio_util::sync::CancellationToken;

/// What wakes up is looked at after so many turns of tasks, also while there is more to do: a key that somebody presses must
/// not wait for many of them. In a turn a connection reads at most 128 times (tokio's budget; [`super::socket`]).
const LOOK_EVERY: u32 = 4;

/// See the module. Without any, connections are carried by whoever accepts them.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: Vec<Lane>,
    over: CancellationToken,
}

#[derive(Debug)]
struct Lane {
    handle: Handle,
    connections: Arc<AtomicUsize>,
}

impl Lanes {
    /// So many threads with stacks of so many bytes.
    ///
    /// # Errors
    /// The system has no more threads or file descriptors.
    pub fn start(threads: usize, stack: usize) -> io::Result<Self> {
        let over = CancellationToken::new();
        let mut lanes = Vec::with_capacity(threads);
        for number in 0..threads {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().event_interval(LOOK_EVERY).build()?;
            lanes.push(Lane { handle: runtime.handle().clone(), connections: Arc::default() });
            let over = over.clone();
            thread::Builder::new().name(format!("lane-{number}")).stack_size(stack).spawn(move || {
                let _alive = Alive(over.clone());
                runtime.block_on(over.cancelled());
            })?;
        }
        Ok(Self { lanes, over })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Carries a connection, on the one that has the fewest. A panic ends this connection only.
    pub(super) fn carry<F>(&self, stream: TcpStream, serve: impl FnOnce(TcpStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(lane) = self.lanes.iter().min_by_key(|lane| lane.connections.load(Relaxed)) else {
            tokio::spawn(serve(stream));
            return;
        };
        let counted = Counted::new(&lane.connections);
        // From here on the other thread is told what happens on it.
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(action = "accept", outcome = %error),
        };
        lane.handle.spawn(async move {
            let _counted = counted;
            match TcpStream::from_std(stream) {
                Ok(stream) => serve(stream).await,
                Err(error) => tracing::warn!(action = "accept", outcome = %error),
            }
        });
    }

    /// Does something on each of them, told which.
    pub(super) fn each<F>(&self, task: impl Fn(usize) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        for (number, lane) in self.lanes.iter().enumerate() {
            lane.handle.spawn(task(number));
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

/// A thread that carries connections must not end before it is told to: its connections would be gone without a word, and
/// each new one would go there, where the fewest are.
struct Alive(CancellationToken);

impl Drop for Alive {
    fn drop(&mut self) {
        if !self.0.is_cancelled() {
            tracing::error!("a thread that carries connections has failed: this process is of no more use");
            std::process::abort();
        }
    }
}

/// One connection more, until this is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Relaxed);
        Self(connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::{net::TcpListener, sync::oneshot};

    #[tokio::test]
    async fn a_connection_goes_where_the_fewest_are() {
        let lanes = Lanes::start(2, 1024 * 1024).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut ends = Vec::new();
        let mut carried = async || {
            let near = TcpStream::connect(address).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let (where_, told) = oneshot::channel();
            let (end, ended) = oneshot::channel::<()>();
            lanes.carry(stream, move |_stream| async move {
                where_.send(thread::current().name().unwrap().to_owned()).unwrap();
                let _ = ended.await;
            });
            ends.push((end, near));
            (told.await.unwrap(), ends.len() - 1)
        };
        let (first, number) = carried().await;
        let (second, _) = carried().await;
        assert_ne!(first, second);
        drop(ends.remove(number));
        while lanes.lanes.iter().all(|lane| lane.connections.load(Relaxed) == 1) {
            tokio::task::yield_now().await;
        }
        let least = lanes.lanes.iter().position(|lane| lane.connections.load(Relaxed) == 0).unwrap();
        assert_eq!(format!("lane-{least}"), first);
    }

    #[tokio::test]
    async fn each_does_what_all_are_asked_to_do() {
        let lanes = Lanes::start(3, 1024 * 1024).unwrap();
        let (told, mut done) = tokio::sync::mpsc::unbounded_channel();
        lanes.each(|number| {
            let told = told.clone();
            async move { told.send((number, thread::current().name().unwrap().to_owned())).unwrap() }
        });
        let mut all = [done.recv().await, done.recv().await, done.recv().await].map(Option::unwrap);
        all.sort();
        assert_eq!(all, [0, 1, 2].map(|number| (number, format!("lane-{number}"))));
    }

    #[tokio::test]
    async fn a_panic_is_the_end_of_one_connection() {
        let lanes = Lanes::start(1, 1024 * 1024).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::new(Mutex::new(0));
        for fails in [true, false] {
            let _near = TcpStream::connect(address).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let (done, is_done) = oneshot::channel::<()>();
            let served = served.clone();
            lanes.carry(stream, move |_stream| async move {
                let _done = done;
                assert!(!fails, "as a test");
                *served.lock().unwrap() += 1;
            });
            let _ = is_done.await;
        }
        assert_eq!(*served.lock().unwrap(), 1);
        while lanes.lanes[0].connections.load(Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
    }
}
