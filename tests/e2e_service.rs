//! Robots on real OpenSSH: one command and nothing else, from their own networks and nowhere else, at the gateway and, past
//! it, at the node's sshd.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used)]

mod support;

use support::{HOST, LAPTOP, NODE, NODE_ADDRESS, PROJECT, Ran, Running, Site, eventually};

const EMAIL: &str = "ci@ml-training.acme.service";
/// In its networks.
const HOME: &str = "127.10.3.1";
/// Not in them.
const ELSEWHERE: &str = "127.10.4.1";

/// A site whose admin has made a robot, with an account on the laptop for it.
fn site(more: &str) -> Site {
    let mut site = Site::start();
    site.enrol(NODE, NODE_ADDRESS);
    site.account(LAPTOP, "robot", "1002");
    robot(&site, "mkdir -m 0700 .ssh && ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519").ok();
    let key = robot(&site, "cat .ssh/id_ed25519.pub").ok();
    let create = format!("ssh {HOST} \"service create {PROJECT} ci --source-address 127.10.3.0/24 {more}\"");
    site.run_with(LAPTOP, "admin1", &create, &key).ok();
    let users = site.operator_json("user list --json");
    let made = users.as_array().unwrap().iter().find(|user| user["email"] == EMAIL).unwrap().clone();
    assert_eq!((made["user"].as_str(), made["kind"].as_str()), (Some("svc-ci"), Some("service")));
    site.account(NODE, "svc-ci", &made["uid"].to_string());
    let known = site.operator("config known-hosts").ok();
    site.run_with(LAPTOP, "robot", "cat >.ssh/known_hosts", &known).ok();
    // All of its connections to the bastion come from there.
    let bound = format!("Host {HOST} certgate-{HOST}\n    BindAddress {HOME}\nHost *\nInclude certgate.conf\n");
    site.run_with(LAPTOP, "robot", "cat >.ssh/config", &bound).ok();
    robot(&site, &format!("ssh {HOST} config >certgate.conf && mv certgate.conf .ssh/")).ok();
    site.in_force(NODE);
    site
}

fn robot(site: &Site, line: &str) -> Ran {
    site.run(LAPTOP, "robot", line)
}

/// Past the gateway: dials the node with the certificate in `kept.pub`.
fn dials(site: &Site, from: &str, command: &str) -> Ran {
    robot(
        site,
        &format!(
            "ssh -F none -b {from} -i .ssh/id_ed25519 -o CertificateFile=kept.pub -o IdentitiesOnly=yes -o BatchMode=yes \
             -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR svc-ci@{NODE_ADDRESS} {command}"
        ),
    )
}

fn session(site: &Site, name: &str) -> Running {
    let running = site.begin_as("robot", name, &format!("ssh {NODE} 'echo connected; exec sleep 1000'"));
    running.says("connected");
    running
}

#[test]
fn a_robot_runs_its_one_command_from_its_own_networks_and_nothing_else() {
    let site = site("--force-command 'echo only this: \\$SSH_ORIGINAL_COMMAND'");
    let plain = robot(&site, &format!("ssh {NODE} 'hostname; id'"));
    assert_eq!(
        (plain.status, plain.stdout.as_str(), plain.stderr.as_str()),
        (Some(0), "only this: hostname; id\n", "")
    );
    // Without a command too, and without a complaint about the terminal that it cannot have.
    let shell = robot(&site, &format!("ssh {NODE}"));
    assert_eq!((shell.status, shell.stdout.as_str(), shell.stderr.as_str()), (Some(0), "only this:\n", ""));
    let terminal = robot(&site, &format!("ssh -tt {NODE} id"));
    assert!(terminal.stderr.contains("PTY allocation request failed"), "{terminal:?}");
    // No file, no port: the certificate names no extension.
    let copy = robot(&site, &format!("scp .ssh/known_hosts {NODE}:taken"));
    assert_ne!(copy.status, Some(0), "{copy:?}");
    assert_ne!(site.run(NODE, "root", "test -e /home/svc-ci/taken").status, Some(0));
    let forward = format!("ssh -o ExitOnForwardFailure=yes -N -R 127.0.0.1:2299:127.0.0.1:22 {NODE}");
    robot(&site, &forward).refused("remote port forwarding failed");

    robot(&site, &format!("ssh {HOST} cert >kept.pub")).ok();
    let shown = robot(&site, "ssh-keygen -L -f kept.pub").ok();
    for said in [
        "svc-ci@acme/ml-training\n",
        "force-command echo only this: $SSH_ORIGINAL_COMMAND\n",
        "source-address 127.0.0.1/32,127.10.3.0/24\n",
        "Extensions: (none)",
    ] {
        assert!(shown.contains(said), "{said:?} is not in\n{shown}");
    }

    // From another address: at the gateway, by key and by certificate, whatever it wants.
    let away = |words: &str| robot(&site, &format!("ssh -o BindAddress={ELSEWHERE} -o BatchMode=yes {words}"));
    let told = format!("used from certain networks only, and you come from {ELSEWHERE}");
    away(&format!("{HOST} whoami")).refused(&told);
    away(&format!("-o CertificateFile=kept.pub {HOST} cert")).refused(&told);
    let jump = format!("ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -J robot@{HOST} svc-ci@{NODE} id");
    robot(&site, &jump).refused("used from certain networks only, and you come from 127.0.0.1");
    let recorded = site.refusals("authenticate");
    assert!(recorded.iter().filter(|detail| detail.starts_with("source: ")).count() >= 3, "{recorded:?}");
    assert!(recorded.iter().any(|detail| detail.starts_with("certificate-source: ")), "{recorded:?}");

    // And past the gateway by sshd, which runs the one command only.
    assert_eq!(dials(&site, HOME, "hostname").ok(), "only this: hostname\n");
    dials(&site, ELSEWHERE, "hostname").refused("Permission denied");
    eventually("sshd has said why", || site.log(NODE, "sshd").contains("not from a permitted source address"));
}

#[test]
fn what_a_robot_may_no_longer_do_ends_at_the_gateway_and_at_the_node() {
    let site = site("");
    let mut running = session(&site, "first");
    robot(&site, &format!("ssh {HOST} cert --ttl 30m >kept.pub")).ok();
    assert_eq!(dials(&site, HOME, "hostname").ok(), format!("{NODE}\n"));

    // Another command: what runs something else ends, and the node refuses the certificate that has none.
    let bound = site.admin1(&format!("ssh {HOST} service update {EMAIL} --force-command hostname"));
    assert!(bound.stderr.contains("revoked"), "{bound:?}");
    running.ends();
    assert!(running.said().contains("connect again"), "{}", running.said());
    site.in_force(NODE);
    dials(&site, HOME, "id").refused("Permission denied");
    // What it has kept is refused until it fetches another one, as it was told.
    robot(&site, "rm .ssh/certgate/*/cert.pub").ok();
    assert_eq!(robot(&site, &format!("ssh {NODE} id")).ok(), format!("{NODE}\n"));

    site.admin1(&format!("ssh {HOST} service update {EMAIL} --no-force-command")).ok();
    robot(&site, "rm .ssh/certgate/*/cert.pub").ok();
    let mut running = session(&site, "second");
    robot(&site, &format!("ssh {HOST} cert --ttl 30m >kept.pub")).ok();
    site.admin1(&format!("ssh {HOST} service update {EMAIL} --source-address 127.10.5.0/24")).ok();
    running.ends();
    assert!(running.said().contains("used from certain networks only"), "{}", running.said());
    site.in_force(NODE);
    dials(&site, HOME, "id").refused("Permission denied");

    site.admin1(&format!("ssh {HOST} service update {EMAIL} --source-address 127.10.3.0/24")).ok();
    robot(&site, "rm .ssh/certgate/*/cert.pub").ok();
    let mut running = session(&site, "third");
    robot(&site, &format!("ssh {HOST} cert --ttl 30m >kept.pub")).ok();
    site.admin1(&format!("ssh {HOST} service delete {EMAIL} --yes")).ok();
    running.ends();
    site.in_force(NODE);
    dials(&site, HOME, "id").refused("Permission denied");
    robot(&site, &format!("ssh {HOST} whoami")).refused("Permission denied");
    site.operator("audit verify").ok();
}
