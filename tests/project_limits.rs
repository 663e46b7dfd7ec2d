//! What a project allows less than its site: how long certificates for it live, and what sessions may do with them.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{World, key};
use ssh_key::Certificate;

/// What a certificate for user1 says: for how many seconds it lives, and what it allows.
async fn certificate(world: &World, words: &str) -> Result<(u64, Vec<String>), String> {
    let said = world.user(2, &format!("cert {words}")).await;
    if said.exit != 0 {
        return Err(said.stderr);
    }
    let certificate = Certificate::from_openssh(&said.stdout).unwrap();
    // It begins a minute before it is made.
    let lives = certificate.valid_before() - certificate.valid_after() - 60;
    Ok((lives, certificate.extensions().keys().cloned().collect()))
}

const ALL: [&str; 4] = ["permit-agent-forwarding", "permit-port-forwarding", "permit-pty", "permit-user-rc"];

#[tokio::test]
async fn a_certificate_keeps_to_the_limits_of_every_project_that_it_is_for() {
    let world = World::story().await;
    world.operator("project create acme/open --admin user1@acme.example").await;
    assert_eq!(certificate(&world, "").await.unwrap(), (300, ALL.map(str::to_owned).to_vec()));
    let done = world.user(1, "project update acme/ml --max-ttl 2m --forbid agent-forwarding --forbid user-rc").await;
    assert_eq!(
        done.stderr,
        "acme/ml allows certificates of 2m at most, without agent-forwarding, user-rc, from the next certificate on\n"
    );
    let less = || ["permit-port-forwarding", "permit-pty"].map(str::to_owned).to_vec();
    for (words, expected) in [
        ("", (120, less())),
        ("--project acme/ml", (120, less())),
        ("--cluster h100.acme", (120, less())),
        ("--project acme/ml --project acme/open", (120, less())),
        ("--project acme/ml --ttl 60s", (60, less())),
        ("--project acme/open", (300, ALL.map(str::to_owned).to_vec())),
        ("--project acme/open --ttl 1h", (3600, ALL.map(str::to_owned).to_vec())),
    ] {
        assert_eq!(certificate(&world, words).await.unwrap(), expected, "{words}");
    }
    for words in ["--ttl 5m", "--project acme/ml --ttl 121s"] {
        let told = certificate(&world, words).await.unwrap_err();
        assert!(told.starts_with("certificates for acme/ml live 2m at most; ask for 2m or less"), "{words}: {told}");
    }
    let shown = world.user(2, "project show acme/ml").await.stdout;
    assert!(shown.ends_with("It allows certificates of 2m at most, without agent-forwarding, user-rc.\n"), "{shown}");

    // Never more than the site: X11 forwarding is off there, and an hour is the most.
    world.user(1, "project update acme/ml --max-ttl 8h --allow x11-forwarding --allow agent-forwarding").await;
    let (_, extensions) = certificate(&world, "").await.unwrap();
    assert_eq!(extensions, ["permit-agent-forwarding", "permit-port-forwarding", "permit-pty"]);
    assert!(certificate(&world, "--project acme/ml --ttl 2h").await.unwrap_err().contains("live 1h at most"));
    world.user(1, "project update acme/ml --max-ttl none --allow user-rc").await;
    assert_eq!(certificate(&world, "").await.unwrap(), (300, ALL.map(str::to_owned).to_vec()));
    assert!(!world.user(2, "project show acme/ml").await.stdout.contains("It allows"));
}

#[tokio::test]
async fn a_robot_of_a_limited_project_is_limited_twice() {
    let world = World::story().await;
    let line = format!("service create acme/ml ci --source-address 198.51.100.0/24 --max-ttl 10m --key '{}'", key(9));
    assert_eq!(world.user(1, &line).await.exit, 0);
    world.user(1, "project update acme/ml --max-ttl 2m --forbid port-forwarding").await;
    let said = world.user(9, "cert").await;
    let certificate = Certificate::from_openssh(&said.stdout).unwrap();
    assert_eq!(certificate.valid_before() - certificate.valid_after(), 180, "{}", said.stderr);
    let extensions: Vec<_> = certificate.extensions().keys().map(String::as_str).collect();
    assert_eq!(extensions, ["permit-pty"]);
}

#[tokio::test]
async fn limits_that_make_no_sense_are_refused() {
    let world = World::story().await;
    for (words, exit, told) in [
        ("", 2, "--max-ttl"),
        ("--max-ttl soon", 2, "soon"),
        ("--max-ttl 0s", 2, "0s"),
        ("--forbid everything", 2, "an extension is one of: pty, port-forwarding"),
        ("--forbid pty --allow pty", 1, "pty cannot be both forbidden and allowed"),
    ] {
        let before = world.app.directory().version();
        let refused = world.user(1, &format!("project update acme/ml {words}")).await;
        assert_eq!(refused.exit, exit, "{words}: {}", refused.stderr);
        assert!(refused.stderr.contains(told), "{words}: {}", refused.stderr);
        assert_eq!(world.app.directory().version(), before);
    }
}
