//! Peers that keep to no rule, all at once, against a gateway in its own process: it stays up, its memory stays bounded,
//! and others are served meanwhile. What each of them does is in `tests/clients/hostile.py`; what certificates can be
//! wrong with is in `e2e.rs`, and what needs no process of its own in `gateway_hostile.rs` and `gateway_bounds.rs`.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::HashMap;
use support::{BASTION, CLIENTS, HOST, NODE, Running, Site, eventually};

/// Each attack, and the least that it must have counted of what, so that it was one.
const ATTACKS: [(&str, &[(&str, u64)]); 15] = [
    ("silent", &[("greeted", 128), ("turned away", 72)]),
    ("bytewise", &[("served", 1)]),
    ("banner", &[("cut", 1)]),
    ("lengths", &[("cut", 60)]),
    ("exchanges", &[("cut", 10)]),
    ("offers", &[("cut", 6), ("heard", 19)]),
    ("users", &[("refused", 5), ("herself", 1), ("still herself", 1)]),
    ("early", &[("asked", 18)]),
    ("opens", &[("most opened", 64), ("refused", 4000)]),
    ("execs", &[("most channels", 64), ("ended", 64), ("refused", 64)]),
    ("requests", &[("refused", 6000)]),
    ("deaf", &[("stopped listening", 1)]),
    ("closed", &[("still served", 4), ("cut", 4)]),
    ("windows", &[("floods", 1)]),
    ("nonsense", &[("sent", 700)]),
];
/// What it must not count more of, where that is a bound.
const MOST: [(&str, &str, u64); 5] = [
    ("silent", "greeted", 128),
    ("opens", "most opened", 64),
    ("execs", "most channels", 64),
    // What the buffers of two sockets hold is among it.
    ("banner", "most bytes heard", 32 << 20),
    ("lengths", "most bytes heard", 32 << 20),
];
/// The bounds that they run into, by their names in the metrics.
const BOUNDS: [&str; 6] =
    ["auth_attempts", "channels", "command_line", "input", "key_size", "unauthenticated_per_address"];
/// Megabytes of memory that all of this may cost at its worst. `requests` and `windows` send 200 of them in each round,
/// and `lengths` announces gigabytes.
const MOST_MEGABYTES: u64 = 32;

/// The gateway's process: its number, and the most memory that it ever had, in MB.
fn gateway(site: &Site) -> (String, u64) {
    let pid = site.run(BASTION, "root", "cat /run/gateway.pid").ok();
    let peak = site.run(BASTION, "root", "awk '/^VmHWM/ { print $2 }' /proc/$(cat /run/gateway.pid)/status").ok();
    (pid, peak.trim().parse::<u64>().unwrap() / 1024)
}

/// Connections of the attackers that the gateway has not closed.
fn left(site: &Site) -> usize {
    let states = "state established state close-wait state fin-wait-2";
    let theirs = format!("ss -Htn {states} 'src 127.10.0.1:22 and dst 127.66.0.0/16'");
    site.run(BASTION, "root", &theirs).ok().lines().count()
}

/// The last line of an attack: `WHAT: COUNT; … end`.
fn counts(said: &str) -> HashMap<&str, u64> {
    let last = said.lines().last().unwrap_or_default();
    let counted = last.strip_suffix("; end").unwrap_or_else(|| panic!("it did not come to its end: {said}"));
    let pairs = counted.split("; ").map(|pair| pair.rsplit_once(": ").unwrap());
    pairs.map(|(what, count)| (what, count.parse().unwrap())).collect()
}

#[test]
fn peers_that_keep_to_no_rule_harm_nobody() {
    support::install_clients(&[]);
    let site = Site::with_user1_at_work();
    site.user1("ssh-keygen -q -t ed25519 -N '' -f stranger").ok();
    site.user1(&format!("ssh {NODE} hostname")).ok();
    let before = gateway(&site);

    let mut running: Vec<(usize, Running)> = (0..ATTACKS.len())
        .map(|number| {
            let (attack, _) = ATTACKS[number];
            let python = format!("{CLIENTS}/venv/bin/python {CLIENTS}/hostile.py");
            // Its own address each, so that one's bounds are not another's.
            (number, site.begin(attack, &format!("{python} {attack} {HOST} 127.66.0.{}", number + 1)))
        })
        .collect();
    for (_, attack) in &running {
        attack.says("begun");
    }
    // Somebody who behaves, while all of that goes on and until she is through.
    for _ in 0..5 {
        let said = site.admin1(&format!("ssh {HOST} whoami")).ok();
        assert!(said.contains("admin1@acme.example"), "{said}");
    }
    assert_eq!(site.run(BASTION, "root", "curl -sf http://127.10.0.1:9722/ready").status, Some(0));
    assert!(left(&site) >= 128, "they are connected");
    for (number, attack) in &mut running {
        assert!(!attack.ended(), "{} gave up: {}", ATTACKS[*number].0, attack.said());
        drop(attack.stdin.take());
    }
    for (number, attack) in &mut running {
        let (name, least) = ATTACKS[*number];
        attack.ends();
        let said = attack.said();
        let counted = counts(&said);
        let count = |what: &str| counted.get(what).copied().unwrap_or(0);
        for (what, least) in least {
            assert!(count(what) >= *least, "{name}: {what} {}, not {least}: {said}", count(what));
        }
        for (_, what, most) in MOST.iter().filter(|(attack, ..)| *attack == name) {
            assert!(count(what) <= *most, "{name}: {what} {}, more than {most}: {said}", count(what));
        }
        // What must not happen is counted in capitals.
        assert!(counted.keys().all(|what| what.chars().any(char::is_lowercase)), "{name}: {said}");
    }

    assert_eq!(site.user1(&format!("ssh {NODE} hostname")).ok(), format!("{NODE}\n"));
    let after = gateway(&site);
    assert_eq!(after.0, before.0, "it is the same process");
    assert!(after.1 < before.1 + MOST_MEGABYTES, "{} MB at its worst, {} MB before", after.1, before.1);
    assert!(!site.log(BASTION, "gateway").contains("panic"), "something panicked");
    eventually("what they had open is closed", || left(&site) == 0);
    let metrics = site.run(BASTION, "root", "curl -sf http://127.10.0.1:9722/metrics").ok();
    for bound in BOUNDS {
        let name = format!("certgate_gateway_refused_total{{bound=\"{bound}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
        assert!(count.parse::<u64>().unwrap() > 0, "{bound} was never reached");
    }
}
