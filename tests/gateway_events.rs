//! The authority's event stream as a gateway reads it, from an authority that is newer than the gateway.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub, reason = "each test file has its own")]
mod http_support;

use certgate::{
    api::client::GatewayClient,
    app::{
        authority::{Authority, EventStream},
        protocol::{Event, Hello},
    },
};
use std::{
    io::{BufReader, Write},
    os::unix::net::UnixListener,
    path::Path,
    thread::JoinHandle,
};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILM+hvqVBQLyBkxNzuHmXMvo6vRIFqgiUj1mL0BHkPc";

/// Answers one hello with these lines, and hangs up.
fn authority(socket: &Path, lines: &'static str) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        http_support::request(BufReader::new(&stream));
        write!(&stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{lines}").unwrap();
    })
}

async fn heard(lines: &'static str) -> (Vec<Event>, String) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("gateway.sock");
    let answering = authority(&socket, lines);
    let hello = Hello {
        gateway: "gw1".into(),
        instance: None,
        host_key: KEY.parse().unwrap(),
        sessions: vec![],
        lost_after: 300,
        seen: None,
        program: None,
    };
    let mut stream = GatewayClient::new(socket).events(hello).await.unwrap();
    let mut events = Vec::new();
    let problem = loop {
        match stream.next().await {
            Ok(event) => events.push(event),
            Err(error) => break error.to_string(),
        }
    };
    answering.join().unwrap();
    (events, problem)
}

/// An authority is upgraded before its gateways, and those that drain live on beside their successors for a day.
#[tokio::test]
async fn events_that_a_gateway_does_not_know_are_passed_over() {
    let (events, problem) = heard(concat!(
        "\"ready\"\n",
        "\"something-new\"\n",
        "{\"something-else\":{\"with\":[1,2]}}\n",
        "{\"end\":{\"session\":\"000102030405060708090a0b0c0d0e0f\",\"reason\":\"removed\",\"more\":1}}\n",
        "{\"mark\":{\"version\":7}}\n",
    ))
    .await;
    let session = "000102030405060708090a0b0c0d0e0f".to_owned().try_into().unwrap();
    let end = Event::End { session, reason: "removed".into() };
    assert_eq!(events, [Event::Ready, end, Event::Mark { version: certgate::domain::Version(7) }]);
    assert!(problem.contains("closed the event stream"), "{problem}");
}

/// It is no event of whatever version: nobody knows where the next one begins.
#[tokio::test]
async fn what_is_no_event_at_all_ends_the_stream() {
    let (events, problem) = heard("\"ready\"\n{\"mark\":\n\"ready\"\n").await;
    assert_eq!(events, [Event::Ready]);
    assert!(!problem.contains("closed the event stream"), "{problem}");
}
