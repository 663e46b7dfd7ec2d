//! Each problem that `status` can tell of, alone.

use super::{
    cluster_views::{RequestView, StateView},
    health::{Bounds, Severity, problems},
    nodes::TokenView,
    protocol::Reach,
    view_types::{GatewayView, NodeView, ProvisionerView, StatusView},
};
use crate::{
    domain::{PublicKey, Timestamp, Version},
    store::Space,
};
use std::time::Duration;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(NOW.checked_add_signed(secs).unwrap())
}

fn node(name: &str) -> NodeView {
    let key: PublicKey =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILM+hvqVBQLyBkxNzuHmXMvo6vRIFqgiUj1mL0BHkPc".parse().unwrap();
    NodeView {
        node: name.into(),
        role: "login".into(),
        address: "192.0.2.7:22".into(),
        reach: Reach::Direct,
        host_key: key.fingerprint(),
        version: Some(Version(7)),
        wanted: Some(Version(7)),
        heard: Some(at(-10)),
        problem: None,
        behind_since: None,
        host_certificate_until: Some(at(20 * 86_400)),
        program: Some("1.0.0".into()),
    }
}

fn token(node: &str, left: i64) -> TokenView {
    let (role, by) = ("login".into(), "an operator".into());
    TokenView { node: node.into(), role, address: None, port: 22, by, expires: at(left) }
}

/// One of which there is nothing to say.
fn healthy() -> StatusView {
    let gateway = GatewayView {
        gateway: "gw1".into(),
        host_key: node("n").host_key,
        since: at(-1000),
        program: Some("1.0.0".into()),
        certificate_until: Some(at(50_000)),
    };
    StatusView {
        problems: vec![],
        program: "1.0.0".into(),
        started: at(-1000),
        version: Version(7),
        accounts: 1,
        projects: 1,
        sessions: 0,
        certificates: 0,
        disk: Some(Space { free: 10 << 30, total: 20 << 30 }),
        last_backup: None,
        gateways: vec![gateway],
        provisioner: None,
        requests: vec![],
        tokens: vec![token("later.h100.acme", 3000)],
        nodes: vec![node("login-0.h100.acme"), node("c-0.h100.acme")],
    }
}

/// What is found of a status that this was done to, in one line each.
fn found(with: &Bounds, change: impl FnOnce(&mut StatusView)) -> Vec<String> {
    let mut status = healthy();
    change(&mut status);
    let found = problems(&status, with, at(0));
    assert!(found.iter().all(|problem| !problem.next.is_empty()), "{found:?}");
    found.into_iter().map(|problem| format!("{:?}: {}", problem.severity, problem.what)).collect()
}

#[track_caller]
fn one(expected: &str, change: impl FnOnce(&mut StatusView)) {
    assert_eq!(found(&Bounds::default(), change), [expected]);
}

#[track_caller]
fn none(change: impl FnOnce(&mut StatusView)) {
    assert_eq!(found(&Bounds::default(), change), [""; 0]);
}

#[test]
fn nothing_is_found_where_all_is_well() {
    none(|_| ());
}

#[test]
fn without_a_gateway_nobody_can_connect_and_nothing_else_is_said_of_the_nodes() {
    one("Critical: No gateway is connected, so nobody can connect", |status| {
        status.gateways.clear();
        status.nodes[0].heard = Some(at(-500));
    });
}

#[test]
fn a_gateway_whose_host_certificate_is_not_renewed() {
    one("Warning: The host certificate of the gateway gw1 was not renewed, and ends in 5 h", |status| {
        status.gateways[0].certificate_until = Some(at(21_599));
    });
    none(|status| status.gateways[0].certificate_until = Some(at(21_601)));
    one("Warning: The host certificate of the gateway gw1 could not be made", |status| {
        status.gateways[0].certificate_until = None;
    });
    // It gets one within a second or so.
    none(|status| {
        status.gateways[0].certificate_until = None;
        status.gateways[0].since = at(-5);
    });
    // Where they live for an hour, the half of it is no reason to worry.
    let hour = Bounds { host_ttl: Duration::from_secs(3600), ..Bounds::default() };
    assert_eq!(
        found(&hour, |status| {
            status.nodes.clear();
            status.gateways[0].certificate_until = Some(at(1700));
        }),
        [""; 0]
    );
}

#[test]
fn a_disk_that_is_nearly_full() {
    let left = |bytes| move |status: &mut StatusView| status.disk = Some(Space { free: bytes, total: 20 << 30 });
    none(left(512 << 20));
    one(
        "Warning: The state directory has 511 MiB left: when it is full, certificates and changes are refused",
        left((512 << 20) - 1),
    );
    one(
        "Critical: The state directory has 63 MiB left: certificates and changes are refused as soon as it is full",
        left((64 << 20) - 1),
    );
    none(|status| status.disk = None);
}

#[test]
fn a_node_that_does_not_take_what_it_is_sent() {
    one("Critical: The last access list was not taken, so removals do not hold there: login-0.h100.acme", |status| {
        status.nodes[0].problem = Some("no space".into());
        // It is said once.
        status.nodes[0].behind_since = Some(at(-500));
    });
}

#[test]
fn a_node_that_is_behind_for_longer_than_a_push_takes() {
    let behind = |since| {
        move |status: &mut StatusView| {
            status.nodes[1].version = Some(Version(6));
            status.nodes[1].behind_since = Some(at(since));
        }
    };
    none(behind(-60));
    one("Warning: Without the last access list for more than 60 s: c-0.h100.acme", behind(-61));
}

#[test]
fn nodes_that_are_not_heard() {
    let silent = |heard| move |status: &mut StatusView| status.nodes[0].heard = heard;
    none(silent(Some(at(-90))));
    one("Warning: Not heard for more than 90 s: login-0.h100.acme", silent(Some(at(-91))));
    one("Warning: Not heard for more than 90 s: login-0.h100.acme", silent(None));
    // An authority that was just started has not heard anybody.
    none(|status| {
        status.started = at(-20);
        status.nodes[0].heard = None;
    });
    one(
        "Warning: Not heard for more than 90 s: n0.c.acme, n1.c.acme, n2.c.acme, n3.c.acme, n4.c.acme, and 3 more",
        |status| {
            status.nodes = (0..8).map(|number| node(&format!("n{number}.c.acme"))).collect();
            status.nodes.iter_mut().for_each(|node| node.heard = None);
        },
    );
}

#[test]
fn a_node_whose_host_certificate_is_not_renewed() {
    let day = i64::try_from(DAY).unwrap();
    let until = |secs| move |status: &mut StatusView| status.nodes[0].host_certificate_until = Some(at(secs));
    none(until(8 * day));
    one("Warning: The host certificate was not renewed in time, and will end: login-0.h100.acme", until(7 * day));
    one("Critical: The host certificate has ended: login-0.h100.acme", until(0));
    none(|status| status.nodes[0].host_certificate_until = None);
}

#[test]
fn machinery_that_is_away_or_has_failed() {
    one("Warning: No provisioner is connected: what is asked of the site's machinery waits", |status| {
        status.provisioner = Some(ProvisionerView { connected: None });
    });
    let request = |state, reason: Option<&str>| {
        let state = StateView { state, reason: reason.map(str::to_owned) };
        RequestView {
            name: "h100.acme".into(),
            action: "create".into(),
            state,
            since: at(-9),
            failures: 1,
            next: at(9),
        }
    };
    let connected = Some(ProvisionerView { connected: Some(at(-100)) });
    none(|status| {
        status.provisioner = connected.clone();
        status.requests = vec![request("pending", None)];
    });
    one("Warning: The site's machinery has failed at: h100.acme", |status| {
        status.provisioner = connected.clone();
        status.requests = vec![request("failed", Some("no rack"))];
    });
    one(
        "Warning: No provisioner is configured, so that what was asked of the site's machinery before waits",
        |status| status.requests = vec![request("pending", None)],
    );
}

#[test]
fn a_backup_that_is_old_where_that_matters() {
    let bounds = Bounds { backup: Some(Duration::from_secs(2 * DAY)), ..Bounds::default() };
    let last = |last| found(&bounds, |status: &mut StatusView| status.last_backup = last);
    assert_eq!(last(None), ["Warning: There is no backup yet"]);
    assert_eq!(last(Some(at(-100))), [""; 0]);
    assert_eq!(last(Some(at(-200_000))), ["Warning: The last backup is of 2027-01-13 00:26 UTC"]);
    none(|status| status.last_backup = Some(at(-200_000)));
}

#[test]
fn tokens_that_are_about_to_end() {
    one("Notice: Join tokens that nobody has used are about to end: c-1.h100.acme", |status| {
        status.tokens.insert(0, token("c-1.h100.acme", 599));
    });
    none(|status| status.tokens.insert(0, token("c-1.h100.acme", 600)));
}

#[test]
fn programs_of_other_versions() {
    one("Notice: Gateways of another version than this authority: gw1", |status| {
        status.gateways[0].program = Some("0.9.0".into());
    });
    // One that drains, and one that does not say.
    none(|status| {
        status.gateways[0].program = Some("0.9.0".into());
        status.gateways[0].gateway = "gw1+1a2b3c4d".into();
        status.nodes[0].program = None;
    });
    one("Notice: Agents of another version than this authority: c-0.h100.acme", |status| {
        status.nodes[1].program = Some("0.9.0".into());
    });
}

#[test]
fn what_matters_most_comes_first() {
    let mut status = healthy();
    status.nodes[0].heard = None;
    status.nodes[1].problem = Some("no space".into());
    status.tokens.insert(0, token("c-1.h100.acme", 5));
    let severities: Vec<_> =
        problems(&status, &Bounds::default(), at(0)).into_iter().map(|problem| problem.severity).collect();
    assert_eq!(severities, [Severity::Critical, Severity::Warning, Severity::Notice]);
}
