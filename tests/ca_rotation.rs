//! How the keys of a CA are replaced by hand, as docs/operator/ca-rotation.md says: what works during and after it.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used)]

mod support;

use support::{BASTION, HOST, LAPTOP, NODE, Site, eventually};

/// Replaces a key in the state directory of an authority that is stopped.
fn replace(site: &Site, name: &str) {
    let line = format!(
        "cd /var/lib/certgate && mv {name} /root/{name}.old && ssh-keygen -q -t ed25519 -N '' -C {name} -f {name} && rm \
         {name}.pub && chown --reference . {name}"
    );
    site.run(BASTION, "root", &line).ok();
}

fn restart_authority(site: &Site, changed: impl FnOnce()) {
    site.signal(BASTION, "authority", "TERM");
    changed();
    site.start_authority();
    site.gateway_is_connected();
}

fn node_has(site: &Site, what: &str, file: &str) {
    let key = site.operator_json("ca show --json")[what].as_str().unwrap().to_owned();
    eventually(&format!("the new key of the {what} CA on the node"), || {
        site.run(NODE, "root", &format!("grep -q '{key}' {file}")).status == Some(0)
    });
}

#[test]
#[ignore = "takes a minute and a half, most of it waiting for agents; cargo nextest run --test ca_rotation --run-ignored all"]
fn each_key_of_the_ca_can_be_replaced() {
    let site = Site::with_user1_at_work();
    let line = format!("ssh -o BatchMode=yes {NODE} hostname");
    site.user1(&line).ok();

    // The user CA: nodes take it from a bundle; certificates of the old one are refused from then on.
    restart_authority(&site, || replace(&site, "user_ca"));
    node_has(&site, "user", "/var/lib/certgate-node/user_ca.pub");
    site.user1(&line).refused("Permission denied");
    site.user1("rm -r .ssh/certgate").ok();
    site.user1(&line).ok();

    // The host CA: each node gets another certificate when it says that it has none, and people another configuration.
    restart_authority(&site, || replace(&site, "host_ca"));
    node_has(&site, "host", "/var/lib/certgate-node/bundle.json");
    site.user1(&line).ok();
    let certificates = "rm /var/lib/certgate-node/ssh_host_key-cert.pub";
    site.run(NODE, "root", certificates).ok();
    site.signal(NODE, "agent", "TERM");
    site.start_agent(NODE);
    let renewed = "test -e /var/lib/certgate-node/ssh_host_key-cert.pub";
    eventually("another host certificate", || site.run(NODE, "root", renewed).status == Some(0));
    eventually("old configurations do not know the node", || site.user1(&line).said().contains("verification failed"));
    site.user1(&format!("ssh {HOST} config >.ssh/certgate.conf")).ok();
    site.user1(&line).ok();

    // The key of the audit log: the authority works on, but what the former one has signed it cannot check any more.
    restart_authority(&site, || replace(&site, "audit_key"));
    site.user1(&line).ok();
    site.operator("audit verify").refused("sign");

    // The bundle key: nodes must know the new one before it is used.
    let make = "ssh-keygen -q -t ed25519 -N '' -C bundle_key -f bundle_key";
    site.run(BASTION, "root", make).ok();
    let public = "cut -d ' ' -f 2 bundle_key.pub | base64 -d | tail -c 32 | base64";
    let public = site.run(BASTION, "root", public).ok();
    let add = format!("sed -i 's#^bundle_keys = \\[#&\"{}\", #' /etc/certgate/node.toml", public.trim());
    site.run(NODE, "root", &add).ok();
    site.signal(NODE, "agent", "TERM");
    site.start_agent(NODE);
    let install = "cd /var/lib/certgate && mv bundle_key /root/bundle_key.old && install -m 0600 /root/bundle_key . && \
                   chown --reference . bundle_key";
    restart_authority(&site, || drop(site.run(BASTION, "root", install).ok()));
    site.admin1(&format!("ssh {HOST} member remove acme/ml-training user1@acme.example --yes --wait")).ok();
    site.in_force(NODE);
    site.user1(&line).refused("");
    assert_eq!(site.run(LAPTOP, "user1", &line).status, Some(255));
}
