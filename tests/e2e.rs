//! Whole stories, with the real ssh, sshd, ssh-keygen, scp, sftp and rsync, on sites of their own (see `support`).

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use support::{HOST, LAPTOP, NODE, NODE_ADDRESS, Site};

#[test]
fn a_member_works_with_stock_openssh_only() {
    let mut site = Site::start();
    site.enrol(NODE, NODE_ADDRESS);
    site.add_user1();

    let welcome = site.user1(&format!("ssh {HOST}")).ok();
    assert!(welcome.contains("user1@acme.example") && welcome.contains("h100-cluster-1.acme"), "{welcome}");

    let certificate = site.user1(&format!("ssh {HOST} cert 2>/dev/null")).ok();
    assert_eq!(certificate.lines().count(), 1, "{certificate}");
    assert!(certificate.starts_with("ssh-ed25519-cert-v01@openssh.com "), "{certificate}");
    site.run_with(LAPTOP, "user1", "cat >kept.pub", &certificate).ok();
    let shown = site.user1("ssh-keygen -L -f kept.pub").ok();
    assert!(shown.contains("user1@acme/ml-training"), "{shown}");

    site.configure_user1();
    let issued = || site.operator_json("certificate list --json").as_array().unwrap().len();
    let before = issued();
    let plain = site.user1(&format!("ssh {NODE} hostname"));
    assert_eq!(
        (plain.status, plain.stdout.as_str(), plain.stderr.as_str()),
        (Some(0), "login-0.h100-cluster-1.acme\n", "")
    );
    assert_eq!(issued(), before + 1, "the first connection fetches a certificate");
    assert_eq!(site.user1("ssh h100-cluster-1.acme hostname").ok(), "login-0.h100-cluster-1.acme\n");
    assert_eq!(issued(), before + 1, "the second one does not");

    site.user1("mkdir data; head -c 4000000 /dev/urandom >data/weights; seq 100000 >data/steps").ok();
    site.user1("cd data && sha256sum * >../sums").ok();
    site.user1(&format!("scp -r data {NODE}:by-scp")).ok();
    site.user1(&format!("printf 'mkdir by-sftp\\nput data/* by-sftp\\n' | sftp -b - {NODE}")).ok();
    site.user1(&format!("rsync -a data/ {NODE}:by-rsync/")).ok();
    for way in ["scp", "sftp", "rsync"] {
        let checked = site.user1(&format!("ssh {NODE} 'cd by-{way} && sha256sum -c' <sums")).ok();
        assert_eq!(checked, "steps: OK\nweights: OK\n", "{way}");
    }
}
