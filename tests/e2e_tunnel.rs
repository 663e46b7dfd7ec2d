//! A node that nobody can dial, reached through its agent: the real ssh, scp, sftp and sshd (see `support`).

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use support::{BASTION, HOST, NODE, NODE_ADDRESS, PROJECT, REMOVED, Ran, Site, eventually};

/// Where the token says that the node is: nobody listens there.
const ELSEWHERE: &str = "127.10.9.9";

/// A site whose node is reached through its agent.
fn site() -> Site {
    let mut site = Site::start();
    site.server(NODE, NODE_ADDRESS);
    let token = site.token(NODE, ELSEWHERE, "");
    let tunnel = format!("--reach tunnel --sshd-address {NODE_ADDRESS}:22");
    site.join(NODE, &format!("{tunnel} {token}")).ok();
    site.start_agent(NODE);
    site.in_force(NODE);
    site
}

fn hostname(site: &Site) -> Ran {
    site.user1(&format!("ssh -o BatchMode=yes {NODE} hostname"))
}

/// Makes user1 a member, and waits until she gets through the tunnel.
fn admit_user1(site: &Site) {
    site.add_user1();
    site.configure_user1();
    eventually("the tunnel is open", || hostname(site).status == Some(0));
}

#[test]
fn a_node_that_takes_no_connections_is_reached_through_its_agent() {
    let site = site();
    site.user1(&format!("ssh -o BatchMode=yes -J {HOST} {NODE} hostname")).refused(&format!("no such node: {NODE}"));
    admit_user1(&site);
    assert_eq!(hostname(&site).ok(), format!("{NODE}\n"));
    let list = site.operator("node list h100-cluster-1.acme").ok();
    assert!(list.contains("through its agent"), "{list}");

    site.user1("head -c 4000000 /dev/urandom >weights && sha256sum weights >sum").ok();
    site.user1(&format!("scp weights {NODE}:weights && scp {NODE}:weights back && cmp weights back")).ok();
    site.user1(&format!("printf 'put weights by-sftp\\n' | sftp -b - {NODE}")).ok();
    site.user1(&format!("ssh {NODE} 'cmp weights by-sftp && sha256sum -c' <sum")).ok();

    // Known once, by the certificate, though sshd sees the agent.
    let mut session = site.begin("session", &format!("ssh -tt {NODE} 'echo connected; exec sleep 1000'"));
    session.says("connected");
    let list = || site.operator_json("session list --json").as_array().unwrap().clone();
    eventually("the session is listed once", || {
        let sessions = list();
        sessions.len() == 1 && sessions[0]["process"].is_u64() && sessions[0]["gateway"] == "gw1"
    });
    let log = site.operator_json("audit list --limit 10000 --json").to_string();
    assert!(log.contains("through its agent, through gateway gw1"), "{log}");

    let doctor = site.run(NODE, "root", "certgate-node doctor --json");
    let report: Value = doctor.stdout.parse().unwrap();
    let findings = report["findings"].as_array().unwrap();
    let said = |check: &str| findings.iter().any(|f| f["check"] == check && f["severity"] == "ok");
    assert!(report["exit"] == 0 && said("tunnel"), "{report:#}");

    // Without the agent there is no way, and it is said.
    site.signal(NODE, "agent", "KILL");
    session.ends();
    assert!(session.said().contains("through its agent, whose connection was lost"), "{}", session.said());
    hostname(&site).refused("is reached through its agent, which is not connected to this gateway");
}

#[test]
fn a_removal_ends_what_is_open_through_the_tunnel_and_nothing_else() {
    let site = site();
    admit_user1(&site);
    let config = format!("ssh {HOST} config >.ssh/certgate.conf && echo 'Include certgate.conf' >>.ssh/config");
    site.admin1(&config).ok();
    let line = format!("ssh {NODE} 'echo connected; exec cat'");
    let mut hers = site.begin("hers", &line);
    let mut theirs = site.begin_as("admin1", "theirs", &line);
    hers.says("connected");
    theirs.says("connected");
    // One more of hers, which nobody reads at the other end.
    site.user1("head -c 100000000 /dev/zero >big").ok();
    let mut stalled = site.begin("stalled", &format!("ssh {NODE} 'echo connected; kill -s STOP $$; cat' <big"));
    stalled.says("connected");

    site.operator(&format!("member remove {PROJECT} user1@acme.example --yes --wait")).ok();
    hers.ends();
    stalled.ends();
    assert!(hers.said().contains(REMOVED), "{}", hers.said());
    hostname(&site).refused(REMOVED);
    assert!(!theirs.ended());
    std::io::Write::write_all(theirs.stdin.as_mut().unwrap(), b"still here\n").unwrap();
    theirs.says("still here");
}

/// sshd sees whoever comes through the tunnel at the address that the agent dials.
#[test]
fn certificates_that_are_bound_to_addresses_need_the_agents_among_the_gateways() {
    let site = site();
    admit_user1(&site);
    let bind = |gateways: &str| {
        let config = "/etc/certgate/authority.toml";
        // The section is the last one.
        let edit = format!(
            "sed -i '/^source_addresses/d; /^gateway_addresses/d' {config} && cat >>{config} <<END\n\
             source_addresses = ['127.99.0.0/16']\ngateway_addresses = [{gateways}]\nEND"
        );
        site.signal(BASTION, "authority", "TERM");
        site.run(BASTION, "root", &edit).ok();
        site.start_authority();
        site.gateway_is_connected();
        site.user1(&format!("ssh {HOST} cert >kept.pub")).ok();
        site.user1(&format!(
            "ssh -F none -J {HOST} -i .ssh/id_ed25519 -o CertificateFile=kept.pub -o IdentitiesOnly=yes \
             -o BatchMode=yes user1@{NODE} hostname"
        ))
    };
    bind("'127.0.0.1'").refused("Permission denied");
    assert_eq!(bind(&format!("'127.0.0.1', '{NODE_ADDRESS}'")).ok(), format!("{NODE}\n"));
}
