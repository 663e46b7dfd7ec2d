//! As what a gateway makes itself known to the authority: by a name, which becomes another one when it makes room for another
//! process, and as the process that it is, which never changes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod gateway_support;

use certgate::domain::InstanceId;
use gateway_support::{Running, start, until};
use std::process::Stdio;
use tokio::{net::TcpListener, process::Child};

/// `ssh -W` to a node, once the node is dialled.
async fn open(gateway: &Running, node: &TcpListener) -> (Child, tokio::net::TcpStream) {
    let key = gateway.dir.path().join("id");
    let mut ssh = gateway.ssh(&["-i", key.to_str().unwrap(), "-W", "login-0.h100.acme:22", "127.0.0.1"]);
    let ssh = ssh.stdin(Stdio::piped()).spawn().unwrap();
    (ssh, node.accept().await.unwrap().0)
}

/// The name of the last hello, the process, and how many forwards it lists.
fn hello(gateway: &Running) -> (String, InstanceId, usize) {
    let hellos = gateway.fake.hellos.lock().unwrap();
    let last = hellos.last().unwrap();
    (last.gateway.clone(), last.instance.clone().unwrap(), last.sessions.len())
}

/// The name and the process of the last request for a forward.
fn opening(gateway: &Running) -> (String, InstanceId) {
    let openings = gateway.fake.openings.lock().unwrap();
    let last = openings.last().unwrap();
    (last.gateway.clone(), last.instance.clone().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_makes_room_takes_another_name_and_stays_the_same_process() {
    let gateway = start(|_| {}).await;
    let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
    *gateway.fake.target.lock().unwrap() = Some(node.local_addr().unwrap());
    let (name, process, none) = hello(&gateway);
    assert_eq!((&*name, none), ("gw1", 0));
    let _first = open(&gateway, &node).await;
    assert_eq!(opening(&gateway), (name, process.clone()));

    gateway.control.step_aside().await;
    let (aside, same, with) = hello(&gateway);
    assert!(aside.starts_with("gw1+") && same == process && with == 1, "{aside} {same} {with}");
    let _second = open(&gateway, &node).await;
    assert_eq!(opening(&gateway), (aside, process.clone()));

    // Nobody has taken over; and then its stream breaks.
    gateway.control.step_back().await;
    assert_eq!(hello(&gateway), ("gw1".into(), process.clone(), 2));
    let before = gateway.fake.hellos.lock().unwrap().len();
    *gateway.fake.events.lock().unwrap() = None;
    until("it is back", || gateway.fake.hellos.lock().unwrap().len() > before).await;
    assert_eq!(hello(&gateway), ("gw1".into(), process, 2));
}
