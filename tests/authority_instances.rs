//! Which process of a gateway had opened what: one that crashed has nothing open any more as soon as another one of its name
//! is there, and one that has made room for another keeps what it has.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{World, key};
use certgate::{
    app::{
        Stream,
        protocol::{Hello, OpenAnswer, OpenRequest, OpenSession},
    },
    domain::{InstanceId, NodeId, SessionId},
};
use serde_json::Value;
use std::time::Duration;

const NODE: &str = "login-0.h100.acme";
const OTHER_NAME: &str = "gw1+0000abcd";

/// Before any time is over after which it would be known otherwise.
const SOON: Duration = Duration::from_secs(1);

fn hello(world: &World, gateway: &str, process: Option<u128>, sessions: Vec<OpenSession>) -> Stream {
    world.app.hello(Hello {
        gateway: gateway.into(),
        instance: process.map(InstanceId::from_bits),
        host_key: key(90),
        sessions,
        lost_after: 300,
        seen: None,
        program: None,
    })
}

/// user1 opens one through a process that goes by this name.
async fn open(world: &World, gateway: &str, process: Option<u128>, session: u128) {
    let request = OpenRequest {
        gateway: gateway.into(),
        instance: process.map(InstanceId::from_bits),
        connection: format!("c{session}"),
        peer: "192.0.2.7".parse().unwrap(),
        credential: world.credential(2).await,
        session: SessionId::from_bits(session),
        host: NODE.into(),
        port: 22,
        tried: vec![],
    };
    let answer = world.app.open(request).await;
    assert!(matches!(answer, OpenAnswer::Permit(_)), "{answer:?}");
}

/// The same as its gateway says that it has it.
async fn listed(world: &World, session: u128, node: NodeId) -> OpenSession {
    OpenSession {
        session: SessionId::from_bits(session),
        connection: format!("c{session}"),
        peer: "192.0.2.7".parse().unwrap(),
        credential: world.credential(2).await,
        node_id: node,
        since: world.now(),
        leaves: false,
    }
}

/// What is open, by its number, in order.
async fn known(world: &World) -> Vec<u128> {
    let listed: Value = serde_json::from_str(&world.operator("session list --json").await.stdout).unwrap();
    let names = listed.as_array().unwrap().iter().map(|session| session["session"].as_str().unwrap());
    let mut known: Vec<u128> = names.map(|name| u128::from_str_radix(name, 16).unwrap()).collect();
    known.sort_unstable();
    known
}

async fn closed(world: &World) -> Vec<String> {
    world.settle().await;
    let entries = world.log().await.into_iter().map(|entry| entry.event);
    let closed = entries.filter(|event| event.action == "session.close");
    closed.map(|event| format!("{} {}", event.object, event.detail)).collect()
}

/// Its log comes a moment after its hello.
async fn closed_in_time(world: &World, count: usize) -> Vec<String> {
    for _ in 0..1000 {
        let found = closed(world).await;
        if found.len() >= count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{:?}", closed(world).await)
}

async fn world() -> (World, NodeId) {
    let world = World::story().await;
    let node = world.node_with_gateway().await.node;
    (world, node)
}

#[tokio::test]
async fn what_a_gateway_that_crashed_had_open_is_over_as_soon_as_it_is_back() {
    let (world, _) = world().await;
    let stream = hello(&world, "gw1", Some(1), vec![]);
    open(&world, "gw1", Some(1), 10).await;
    world.app.goodbye(&stream);
    world.pass(SOON);
    assert_eq!(known(&world).await, [10], "it may come back with it");
    // One of the new process's own was faster than its hello.
    open(&world, "gw1", Some(2), 20).await;
    let _stream = hello(&world, "gw1", Some(2), vec![]);
    assert_eq!(known(&world).await, [20]);
    assert_eq!(closed_in_time(&world, 1).await, [format!("{NODE} the gateway has come back as another process")]);
    // The same process again, which has lost its stream: it may have asked for it since.
    let _stream = hello(&world, "gw1", Some(2), vec![]);
    assert_eq!(known(&world).await, [20]);
}

#[tokio::test]
async fn what_a_process_has_open_that_makes_room_for_another_stays() {
    let (world, node) = world().await;
    let old = hello(&world, "gw1", Some(1), vec![]);
    // Of one it has had the answer, of the next not yet.
    open(&world, "gw1", Some(1), 10).await;
    open(&world, "gw1", Some(1), 11).await;
    let first = listed(&world, 10, node).await;
    let aside = hello(&world, OTHER_NAME, Some(1), vec![first.clone()]);
    // The end of the stream by its former name is seen later.
    world.app.goodbye(&old);
    // Asked by its former name, and overtaken by the new one's hello or not.
    open(&world, "gw1", Some(1), 12).await;
    let new = hello(&world, "gw1", Some(2), vec![]);
    open(&world, "gw1", Some(2), 20).await;
    world.pass(SOON);
    assert_eq!(known(&world).await, [10, 11, 12, 20]);
    assert!(closed(&world).await.is_empty());
    // The new one crashes; only what it had is over.
    world.app.goodbye(&new);
    let _newer = hello(&world, "gw1", Some(3), vec![]);
    assert_eq!(known(&world).await, [10, 11, 12]);
    assert_eq!(closed_in_time(&world, 1).await.len(), 1);
    // And it takes its own name again, when nobody has taken over.
    world.app.goodbye(&aside);
    let others = [listed(&world, 11, node).await, listed(&world, 12, node).await];
    let _back = hello(&world, "gw1", Some(1), [vec![first], others.to_vec()].concat());
    assert_eq!(known(&world).await, [10, 11, 12]);
    assert_eq!(closed(&world).await.len(), 1);
}

/// It does not say which process it is. What another one of its name may have opened is known to be over later.
#[tokio::test]
async fn an_older_gateway_is_taken_as_before() {
    let (world, _) = world().await;
    for (before, after) in [(None, None), (None, Some(2)), (Some(1), None)] {
        let stream = hello(&world, "gw1", before, vec![]);
        open(&world, "gw1", before, 10).await;
        world.app.goodbye(&stream);
        world.pass(SOON);
        let stream = hello(&world, "gw1", after, vec![]);
        assert_eq!(known(&world).await, [10], "{before:?} {after:?}: it may have been asked for since");
        world.pass(Duration::from_secs(15));
        world.app.goodbye(&stream);
        let _stream = hello(&world, "gw1", after, vec![]);
        assert!(known(&world).await.is_empty());
    }
    let why = format!("{NODE} the gateway has come back without it");
    assert_eq!(closed_in_time(&world, 3).await, [&*why; 3]);
}
