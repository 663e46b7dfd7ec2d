//! Both ends of a tunnel in one process, against each other and against what an end should not send.

use super::*;
use frame::MAX_DATA;
use tokio::task::JoinHandle;

/// Two ends, and who carries between them: the streams that the second is asked for come out of the receiver.
struct Pair {
    here: Tunnel,
    there: Tunnel,
    asked: mpsc::UnboundedReceiver<Stream>,
    pumps: [JoinHandle<()>; 2],
}

fn pump(mut from: Outgoing, mut to: Incoming, asked: mpsc::UnboundedSender<Stream>) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(frame) = from.next().await {
            for stream in to.take(frame.bytes.clone()).unwrap() {
                asked.send(stream).unwrap();
            }
        }
    })
}

fn pair(limit: usize) -> Pair {
    let (here, in_here, out_here) = tunnel(0);
    let (there, in_there, out_there) = tunnel(limit);
    let (sender, asked) = mpsc::unbounded_channel();
    let pumps = [pump(out_here, in_there, sender.clone()), pump(out_there, in_here, sender)];
    Pair { here, there, asked, pumps }
}

impl Pair {
    async fn open(&mut self) -> (Stream, Stream) {
        let (near, far) = tokio::join!(self.here.open(), async {
            let far = self.asked.recv().await.unwrap();
            far.accept();
            far
        });
        (near.unwrap(), far)
    }
}

async fn read_all(stream: &Stream) -> Vec<u8> {
    let mut all = vec![];
    while let Some(data) = stream.read().await {
        all.extend_from_slice(&data);
    }
    all
}

#[tokio::test]
async fn what_is_written_arrives_and_no_more_after_the_end() {
    let mut pair = pair(10);
    let (near, far) = pair.open().await;
    let sent: Vec<u8> = (0..5 * WINDOW).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let (arrived, ()) = tokio::join!(read_all(&far), async {
        near.write(sent.clone().into()).await.unwrap();
        near.end();
    });
    assert!(arrived == sent);
    far.write(Bytes::from_static(b"back")).await.unwrap();
    far.end();
    assert_eq!(read_all(&near).await, b"back");
    // What was sent before an end that was meant is delivered, also after it.
    near.finish();
    drop(near);
    far.closed().await;
    assert!(far.write(Bytes::from_static(b"x")).await.is_err());
    drop(far);
    assert!(pair.here.0.table().streams.is_empty() && pair.there.0.table().streams.is_empty());
}

#[tokio::test]
async fn an_end_that_is_meant_delivers_and_one_that_is_not_does_not() {
    let mut pair = pair(10);
    for finish in [true, false] {
        let (near, far) = pair.open().await;
        near.write(vec![1; 100_000].into()).await.unwrap();
        near.end();
        if finish {
            near.finish();
        }
        drop(near);
        far.closed().await;
        assert_eq!(read_all(&far).await.len(), if finish { 100_000 } else { 0 });
    }
}

#[tokio::test]
async fn whoever_does_not_read_stops_only_its_own_writer_and_holds_one_window() {
    let mut pair = pair(1000);
    let mut stalled = vec![];
    for _ in 0..200 {
        let (near, far) = pair.open().await;
        stalled.push((Arc::new(near), far));
    }
    let writers: Vec<_> = stalled
        .iter()
        .map(|(near, _)| {
            let near = near.clone();
            tokio::spawn(async move { near.write(vec![0; 3 * WINDOW].into()).await })
        })
        .collect();
    // One that is read goes on through all of it.
    let (near, far) = pair.open().await;
    for round in 0..3_u8 {
        let (arrived, written) = tokio::join!(
            async {
                let mut count = 0;
                while count < 2 * WINDOW {
                    count += far.read().await.unwrap().len();
                }
                count
            },
            near.write(vec![round; 2 * WINDOW].into())
        );
        assert_eq!((arrived, written), (2 * WINDOW, Ok(())));
    }
    for ((_, far), writer) in stalled.iter().zip(&writers) {
        assert!(far.held() <= WINDOW && !writer.is_finished());
    }
    // An end is for that stream alone, stalled as it is.
    let (near, far) = stalled.pop().unwrap();
    let mut writers = writers;
    writers.pop().unwrap().abort();
    tokio::task::yield_now().await;
    drop(near);
    far.aborted().await;
    assert_eq!(far.read().await, None);
    assert!(writers.iter().all(|writer| !writer.is_finished()));
    // And with the far end goes what the writer waits for.
    let (_, far) = stalled.pop().unwrap();
    drop(far);
    assert!(writers.pop().unwrap().await.unwrap().is_err());
}

#[tokio::test]
async fn the_end_of_the_tunnel_ends_every_stream_and_opens_none() {
    let mut pair = pair(10);
    let (near, far) = pair.open().await;
    let here = pair.here.clone();
    let waiting = tokio::spawn(async move { here.open().await.map(|_| ()) });
    let _unanswered = pair.asked.recv().await.unwrap();
    for pump in &pair.pumps {
        pump.abort();
    }
    pair.here.over().await;
    near.lost().await;
    assert_eq!(waiting.await.unwrap(), Err(Refusal::Lost));
    assert_eq!(pair.here.open().await.map(|_| ()), Err(Refusal::Lost));
    assert_eq!((near.read().await, far.read().await), (None, None));
    assert!(near.write(Bytes::from_static(b"x")).await.is_err());
}

#[tokio::test]
async fn no_more_are_open_than_may_be_and_a_refusal_says_why() {
    let mut pair = pair(2);
    let (_one, _two) = (pair.open().await, pair.open().await);
    assert_eq!(pair.here.open().await.map(|_| ()), Err(Refusal::TooMany));
    drop(_one);
    let (refused, ()) = tokio::join!(pair.here.open(), async {
        pair.asked.recv().await.unwrap().refuse(Refusal::NotListening);
    });
    assert_eq!(refused.map(|_| ()), Err(Refusal::NotListening));
    // The end that opens is asked for nothing.
    assert_eq!(pair.there.open().await.map(|_| ()), Err(Refusal::TooMany));
}

#[test]
fn who_asks_and_does_not_read_the_answers_fills_no_memory() {
    let ask = |number: u32| Frame::Open.encode(number);
    let (_tunnel, mut incoming, _outgoing) = tunnel(0);
    let asked = (1..).take_while(|number| incoming.take(ask(*number)).is_ok()).count();
    assert_eq!(asked, MAX_WAITING + 1);
    // Who reads them may ask on.
    let (_tunnel, mut incoming, mut outgoing) = tunnel(0);
    for number in 1..=2 * u32::try_from(MAX_WAITING).unwrap() {
        incoming.take(ask(number)).unwrap();
        drop(outgoing.0.try_recv().unwrap());
    }
}

#[test]
fn whoever_breaks_the_rules_is_found_out() {
    let open = Frame::Open.encode(7);
    let after_open = |frames: &[Frame]| {
        let (_tunnel, mut incoming, _outgoing) = tunnel(10);
        let streams = incoming.take(open.clone()).unwrap();
        let result = frames.iter().try_for_each(|frame| incoming.take(frame.encode(7)).map(|_| ()));
        drop(streams);
        result
    };
    let data = |length: usize| Frame::Data(vec![0; length].into());
    let whole: Vec<Frame> = std::iter::repeat_n(data(MAX_DATA), WINDOW / MAX_DATA).collect();
    assert_eq!(after_open(&whole), Ok(()));
    let rest = WINDOW % MAX_DATA;
    assert_eq!(after_open(&[&whole[..], &[data(rest)]].concat()), Ok(()));
    assert_eq!(after_open(&[&whole[..], &[data(rest), data(1)]].concat()), Err(Fault("more than it may")));
    assert!(after_open(&[Frame::Credit(1)]).is_err());
    assert!(after_open(&[Frame::Accept]).is_err());
    assert!(after_open(&[Frame::Refuse(Refusal::Timeout)]).is_err());
    assert!(after_open(&[Frame::Open]).is_err());
    // After its end it is nobody's.
    assert_eq!(after_open(&[Frame::Abort, Frame::Credit(1), Frame::Accept]), Ok(()));
}
