//! What is sent to a command on standard input by real OpenSSH: too much of it, what is none, and a client that is gone in
//! the middle. Each ends in one line or in nothing, and changes nothing.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used)]

mod support;

use support::{BASTION, HOST, PROJECT, Site, eventually};

/// What there is, without the version that an entry in the log does not change either.
fn state(site: &Site) -> String {
    let keys = site.operator("key list --account user1@acme.example --json").ok();
    format!("{}{keys}", site.operator("dump").ok())
}

/// Connections to the gateway, as its machine's kernel has them.
fn connections(site: &Site) -> usize {
    // st 01: established; port 22 is 0016.
    let line = "cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == \"01\" && $2 ~ /:0016$/' | wc -l";
    site.run(BASTION, "root", line).ok().trim().parse().unwrap()
}

#[test]
fn too_much_and_nonsense_are_refused_in_a_line() {
    let site = Site::start();
    site.admin1(&format!("ssh {HOST} member add {PROJECT} user1@acme.example")).ok();
    let before = state(&site);
    for (sent, told) in [
        ("head -c 1048576 /dev/zero | tr '\\0' x", "longer than 65536 bytes"),
        ("yes 'ssh-ed25519 AAAA' | head -c 1048576", "longer than 65536 bytes"),
        ("head -c 4096 /dev/urandom", ""),
        ("printf 'ssh-ed25519 AAAA\\n\\033[31mred\\n'", ""),
        ("true", ""),
    ] {
        let ran = site.user1(&format!("{sent} | ssh {HOST} key add")).refused(told);
        assert_eq!((ran.stdout.as_str(), ran.stderr.trim_end().lines().count()), ("", 1), "{sent}: {ran:#?}");
        assert!(!ran.stderr.trim_end().chars().any(char::is_control), "{sent}: {ran:#?}");
    }
    let long = "x".repeat(100_000);
    let ran = site.user1(&format!("ssh {HOST} member list {long}")).refused("longer than");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
    assert_eq!(state(&site), before);
}

#[test]
fn who_hangs_up_in_the_middle_has_changed_nothing() {
    let site = Site::start();
    site.admin1(&format!("ssh {HOST} member add {PROJECT} user1@acme.example")).ok();
    site.user1("ssh-keygen -q -t ed25519 -N '' -f new").ok();
    let before = state(&site);
    for _ in 0..3 {
        // At the question.
        let asked = format!(
            "rm -f asked; sleep 60 2>/dev/null | ssh -tt {HOST} member remove {PROJECT} user1@acme.example >asked 2>&1 & \
             until grep -q y/N asked; do sleep 0.05; done; kill -9 $!"
        );
        site.admin1(&asked).ok();
        // A whole key, without the end of the input that would make it a command.
        let half = format!("(cat new.pub; sleep 60) 2>/dev/null | ssh {HOST} key add & sleep 1; kill -9 $!");
        site.user1(&half).ok();
    }
    eventually("nobody connected to the gateway", || connections(&site) == 0);
    assert_eq!(state(&site), before);
    // With that end it is one.
    site.user1(&format!("ssh {HOST} key add <new.pub")).ok();
    assert_ne!(state(&site), before);
}
