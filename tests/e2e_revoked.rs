//! sshd's own refusal of what is revoked (`RevokedKeys`), on real OpenSSH: beside the helper, and never in the way of those
//! who may come.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::{BASTION, HOST, NODE, NODE_ADDRESS, Ran, Site, eventually};

const STATE: &str = "/var/lib/certgate-node";
const DROP_IN: &str = "/etc/ssh/sshd_config.d/10-certgate.conf";
const JOIN: &str = "certgate-node join --reload /usr/local/sbin/reload-sshd --revoked-keys \
                    --helper /usr/local/lib/certgate/certgate-principals";

/// A node whose sshd has the list, with user1's certificate in `kept.pub`, and a key of root's that has nothing to do with
/// certgate.
fn site() -> Site {
    let mut site = Site::start();
    site.server(NODE, NODE_ADDRESS);
    let token = site.token(NODE, NODE_ADDRESS, "");
    site.run(NODE, "root", &format!("{JOIN} {token}")).ok();
    site.start_agent(NODE);
    site.in_force(NODE);
    site.add_user1();
    site.user1("ssh-keygen -q -t ed25519 -N '' -f .ssh/root").ok();
    let key = site.user1("cat .ssh/root.pub").ok();
    let allow = "mkdir -p -m 0700 .ssh && cat >.ssh/authorized_keys && \
                 sed -i 's/^AuthorizedKeysFile .*/AuthorizedKeysFile .ssh\\/authorized_keys/' /etc/ssh/sshd_config && \
                 reload-sshd";
    site.run_with(NODE, "root", allow, &key).ok();
    eventually("root's own key lets root in", || root_dials(&site).status == Some(0));
    site
}

fn dials(site: &Site, certificate: &str) -> Ran {
    site.user1(&format!("ssh-keygen -L -f {certificate} >/dev/null && cp {certificate} kept.pub")).ok();
    site.user1_dials(NODE_ADDRESS)
}

fn root_dials(site: &Site) -> Ran {
    site.user1(&format!(
        "ssh -F none -i .ssh/root -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no \
         -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR root@{NODE_ADDRESS} hostname"
    ))
}

fn serial(site: &Site, certificate: &str) -> String {
    site.user1(&format!("ssh-keygen -L -f {certificate} | sed -n 's/^ *Serial: //p'")).ok().trim().to_owned()
}

#[test]
fn sshd_itself_refuses_what_is_revoked_whatever_the_helper_says() {
    let site = site();
    for name in ["first.pub", "second.pub"] {
        site.user1(&format!("ssh {HOST} cert --ttl 30m >{name}")).ok();
    }
    dials(&site, "first.pub").ok();
    let list = site.run(NODE, "root", &format!("ssh-keygen -Q -l -f {STATE}/revoked_keys")).ok();
    assert!(!list.contains("serial:"), "{list}");
    site.run(NODE, "root", &format!("cp -p {STATE}/access.table /root/old.table")).ok();

    site.operator(&format!("certificate revoke {}", serial(&site, "first.pub"))).ok();
    site.in_force(NODE);
    dials(&site, "first.pub").refused("Permission denied");
    // The helper, put back to when nothing was revoked, lets both in.
    site.signal(NODE, "agent", "STOP");
    site.run(NODE, "root", &format!("cp -p /root/old.table {STATE}/access.table")).ok();
    dials(&site, "second.pub").ok();
    dials(&site, "first.pub").refused("Permission denied");
    let log = site.log(NODE, "sshd");
    assert!(log.contains(&format!("revoked by file {STATE}/revoked_keys")), "{log}");
    root_dials(&site).ok();
    site.run(NODE, "root", &format!("sed -i '/^RevokedKeys/d' {DROP_IN} && reload-sshd")).ok();
    eventually("only the list stood in the way", || dials(&site, "first.pub").status == Some(0));
    site.run(NODE, "root", &format!("echo RevokedKeys {STATE}/revoked_keys >>{DROP_IN} && reload-sshd")).ok();

    // A key that was removed.
    site.signal(NODE, "agent", "CONT");
    let key = site.user1("ssh-keygen -lf .ssh/id_ed25519.pub | cut -d ' ' -f 2").ok();
    site.operator(&format!("key remove {} --account user1@acme.example --yes", key.trim())).ok();
    site.in_force(NODE);
    site.signal(NODE, "agent", "STOP");
    site.run(NODE, "root", &format!("cp -p /root/old.table {STATE}/access.table")).ok();
    let count = |site: &Site| site.log(NODE, "sshd").matches("revoked by file").count();
    let before = count(&site);
    dials(&site, "second.pub").refused("Permission denied");
    assert!(count(&site) > before, "sshd itself refused it");
    root_dials(&site).ok();
}

#[test]
fn a_list_that_is_lost_comes_back_and_leave_never_takes_it_from_an_sshd_that_reads_it() {
    let site = site();
    let lose = format!("rm {STATE}/revoked_keys {STATE}/bundle.json");
    site.signal(NODE, "agent", "KILL");
    site.run(NODE, "root", &lose).ok();
    // This is what must not stay so.
    root_dials(&site).refused("Permission denied");
    // No bundle comes from where nobody is; nobody is locked out for that.
    site.signal(BASTION, "gateway", "KILL");
    site.start_agent(NODE);
    eventually("root gets in again", || root_dials(&site).status == Some(0));
    assert!(site.log(NODE, "agent").contains("list of revoked keys was missing or damaged"));
    site.start_gateway();
    eventually("what is in force", || {
        site.run(NODE, "root", &format!("ssh-keygen -Q -l -f {STATE}/revoked_keys | grep -q 'version [1-9]'")).status
            == Some(0)
    });
    let report: Value = site.run(NODE, "root", "certgate-node doctor --json").stdout.parse().unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().any(|f| f["check"] == "revoked-keys" && f["severity"] == "ok"), "{report:#}");
    assert!(findings.iter().all(|f| f["check"] != "drop-in" || f["severity"] == "ok"), "{report:#}");

    site.signal(NODE, "agent", "TERM");
    let leave = "certgate-node leave";
    site.run(NODE, "root", "cp /usr/local/sbin/reload-sshd /root/ && echo '#!/bin/false' >/usr/local/sbin/reload-sshd")
        .ok();
    let said = site.run(NODE, "root", leave).said();
    assert!(said.contains("NOT reloaded") && said.contains("revoked_keys stays"), "{said}");
    root_dials(&site).ok();
    let left = site.run(NODE, "root", &format!("ls -A {STATE} {DROP_IN} /etc/certgate/node.toml")).stdout;
    assert_eq!(left.lines().filter(|line| !line.ends_with(':')).collect::<Vec<_>>(), ["revoked_keys"]);
    site.run(NODE, "root", &format!("sh /root/reload-sshd && sleep 1 && rm {STATE}/revoked_keys")).ok();
    root_dials(&site).ok();
}

#[test]
fn join_leaves_an_sshd_alone_that_has_a_list_of_its_own_and_one_that_is_reloaded_loses_nobody() {
    let mut site = Site::start();
    site.server(NODE, NODE_ADDRESS);
    let token = site.token(NODE, NODE_ADDRESS, "");
    let own =
        "ssh-keygen -q -k -f /etc/ssh/own.krl </dev/null && echo RevokedKeys /etc/ssh/own.krl >>/etc/ssh/sshd_config";
    site.run(NODE, "root", own).ok();
    site.run(NODE, "root", &format!("{JOIN} {token}"))
        .refused("already has a list of revoked keys, '/etc/ssh/own.krl'");
    site.run(NODE, "root", &format!("ls {STATE}/revoked_keys {DROP_IN}")).refused("No such file");
    // The token is still good.
    site.run(NODE, "root", "sed -i /own.krl/d /etc/ssh/sshd_config").ok();
    site.run(NODE, "root", &format!("{JOIN} {token}")).ok();
    let said = site.run(NODE, "root", "sshd -T | grep ^revokedkeys").ok();
    assert_eq!(said.trim(), format!("revokedkeys {STATE}/revoked_keys"));
    site.run(NODE, "root", "certgate-node leave").ok();
    site.run(NODE, "root", "sshd -T | grep '^revokedkeys none'").ok();
    site.run(NODE, "root", &format!("ls {STATE}/revoked_keys {DROP_IN}")).refused("No such file");
}
