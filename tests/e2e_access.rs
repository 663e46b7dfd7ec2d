//! Who gets in, on real OpenSSH: what else takes access away than a removal, what a certificate is not good for, and
//! that neither an impostor nor a crowd disturbs. The main stories are in `e2e.rs`.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used)]

mod support;

use support::{BASTION, HOST, LAPTOP, NODE, NODE_ADDRESS, PROJECT, REMOVED, Site, eventually};

#[test]
fn many_connections_at_once_share_one_certificate() {
    let site = Site::with_user1_at_work();
    let issued = || site.operator_json("certificate list --json").as_array().unwrap().len();
    let before = issued();
    let all = site.user1(&format!("for i in $(seq 8); do ssh {NODE} hostname & done; wait"));
    assert_eq!((all.stdout.as_str(), all.stderr.as_str()), (format!("{NODE}\n").repeat(8).as_str(), ""));
    assert_eq!(issued(), before + 1);
}

#[test]
fn a_suspended_account_and_a_removed_key_are_refused_like_somebody_removed() {
    let site = Site::with_user1_at_work();
    let mut session = site.begin("session", &format!("ssh -tt {NODE} 'echo connected; exec sleep 1000'"));
    session.says("connected");
    site.user1(&format!("ssh {HOST} cert --ttl 30m >kept.pub")).ok();
    assert_eq!(site.user1_dials(NODE_ADDRESS).ok(), format!("{NODE}\n"));

    site.operator("user suspend user1@acme.example").ok();
    session.ends();
    assert!(session.said().contains("suspended"), "{}", session.said());
    site.in_force(NODE);
    site.user1_dials(NODE_ADDRESS).refused("Permission denied");
    site.user1(&format!("ssh {HOST} cert")).refused("suspended");

    site.operator("user resume user1@acme.example").ok();
    site.in_force(NODE);
    assert_eq!(site.user1_dials(NODE_ADDRESS).ok(), format!("{NODE}\n"));

    let mut session = site.begin("another", &format!("ssh -tt {NODE} 'echo connected; exec sleep 1000'"));
    session.says("connected");
    let fingerprint = site.user1("ssh-keygen -lf .ssh/id_ed25519.pub | cut -d ' ' -f 2").ok();
    site.operator(&format!("key remove {} --account user1@acme.example --yes", fingerprint.trim())).ok();
    session.ends();
    site.in_force(NODE);
    site.user1_dials(NODE_ADDRESS).refused("Permission denied");
    site.user1(&format!("ssh {HOST} cert")).refused("Permission denied");
}

#[test]
fn a_removal_while_no_gateway_is_up_reaches_the_node_when_one_is() {
    let site = Site::with_user1_at_work();
    site.user1(&format!("ssh {HOST} cert >kept.pub")).ok();
    site.signal(BASTION, "gateway", "TERM");
    site.operator("member remove acme/ml-training user1@acme.example --yes").ok();
    // The node cannot know yet; the certificate's lifetime is the bound.
    assert_eq!(site.user1_dials(NODE_ADDRESS).ok(), format!("{NODE}\n"));
    site.start_gateway();
    site.in_force(NODE);
    site.user1_dials(NODE_ADDRESS).refused("Permission denied");
}

#[test]
fn a_certificate_opens_its_own_login_in_its_own_cluster_only() {
    let mut site = Site::with_user1_at_work();
    site.operator("cluster create acme/ml-training h100-cluster-2 --kind slurm").ok();
    let other = "login-0.h100-cluster-2.acme";
    site.enrol(other, "127.10.1.2");
    let dials = |to: &str| {
        site.user1(&format!(
            "ssh -F none -i .ssh/id_ed25519 -o CertificateFile=kept.pub -o IdentitiesOnly=yes -o BatchMode=yes \
             -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null {to} hostname"
        ))
    };
    site.user1(&format!("ssh {HOST} cert >kept.pub")).ok();
    assert_eq!(dials("user1@127.10.1.1").ok(), format!("{NODE}\n"));
    assert_eq!(dials("user1@127.10.1.2").ok(), format!("{other}\n"));
    for login in ["root", "admin1", "nobody"] {
        dials(&format!("{login}@127.10.1.1")).refused("Permission denied");
    }
    site.user1(&format!("ssh {HOST} cert --cluster h100-cluster-2.acme >kept.pub")).ok();
    assert_eq!(dials("user1@127.10.1.2").ok(), format!("{other}\n"));
    dials("user1@127.10.1.1").refused("Permission denied");
}

#[test]
fn an_impostor_at_a_nodes_address_is_not_trusted() {
    let site = Site::with_user1_at_work();
    assert_eq!(site.user1(&format!("ssh {NODE} hostname")).ok(), format!("{NODE}\n"));
    let key = "/etc/ssh/ssh_host_ed25519_key";
    let swap = format!("rm {key} {key}.pub && ssh-keygen -q -t ed25519 -N '' -f {key} && reload-sshd");
    site.run(NODE, "root", &swap).ok();
    eventually("sshd has the other key, and ssh refuses it", || {
        site.user1(&format!("ssh {NODE} hostname")).stderr.contains("Host key verification failed")
    });
}

#[test]
fn openssh_reads_the_revocation_list_that_the_bastion_gives() {
    let site = Site::with_user1_at_work();
    let cluster = NODE.split_once('.').unwrap().1;
    site.user1(&format!("ssh {HOST} cert >kept.pub")).ok();
    let fetched = format!("ssh {HOST} krl {cluster} >/tmp/list && chmod a+r /tmp/list");
    let asked = || site.user1("ssh-keygen -Q -f /tmp/list kept.pub .ssh/id_ed25519.pub");
    site.admin1(&fetched).ok();
    assert_eq!(asked().ok().matches(": ok").count(), 2);

    // Removed: nothing that she holds was revoked by number, and the list says that it is refused all the same.
    site.admin1(&format!("ssh {HOST} member remove acme/ml-training user1@acme.example --yes")).ok();
    site.admin1(&fetched).ok();
    let answer = asked().refused("kept.pub").said();
    assert!(answer.contains("REVOKED") && answer.matches(": ok").count() == 1, "{answer}");
    site.user1(&format!("ssh {HOST} krl {cluster}")).refused("removed from");

    let fingerprint = site.user1("ssh-keygen -lf .ssh/id_ed25519.pub | cut -d ' ' -f 2").ok();
    site.operator(&format!("key remove {} --account user1@acme.example --yes", fingerprint.trim())).ok();
    site.admin1(&format!("ssh {HOST} krl >/tmp/list")).ok();
    let answer = asked().refused("REVOKED").said();
    assert_eq!(answer.matches("REVOKED").count(), 2, "{answer}");
    // The operator's program writes the same bytes.
    let sizes =
        site.run(BASTION, "root", "certgate krl | wc -c; certgate krl --json | jq -r .krl | base64 -d | wc -c").ok();
    let sizes: Vec<&str> = sizes.lines().collect();
    assert!(sizes[0] == sizes[1] && sizes[0] != "0", "{sizes:?}");
}

#[test]
fn a_shared_login_is_for_who_has_the_role_as_long_as_they_are_members() {
    let site = Site::with_user1_at_work();
    for (login, uid) in [("ubuntu", "1500"), ("ops", "1501")] {
        site.make_account(NODE, login, uid);
    }
    site.user1(&format!("ssh ubuntu@{NODE} id -un")).refused("Permission denied");
    let document = "[shared_logins]\nubuntu = \"member\"\nops = \"admin\"\n";
    let update = format!("ssh {HOST} cluster update h100-cluster-1.acme --yes");
    let shown = site.run_with(LAPTOP, "admin1", &update, document).ok();
    assert!(shown.contains("+ubuntu = \"member\"\n"), "{shown}");
    site.in_force(NODE);

    // With the configuration that she has, and nothing but another login name.
    let shared = site.user1(&format!("ssh ubuntu@{NODE} id -un"));
    assert_eq!((shared.status, shared.stdout.as_str(), shared.stderr.as_str()), (Some(0), "ubuntu\n", ""));
    assert_eq!(site.user1(&format!("ssh {NODE} id -un")).ok(), "user1\n");
    site.user1(&format!("ssh ops@{NODE} id -un")).refused("Permission denied");
    site.user1(&format!("ssh root@{NODE} id -un")).refused("Permission denied");
    let line = format!("ssh {HOST} config >.ssh/certgate.conf && echo 'Include certgate.conf' >>.ssh/config");
    site.admin1(&line).ok();
    for login in ["ops", "ubuntu"] {
        assert_eq!(site.admin1(&format!("ssh {login}@{NODE} id -un")).ok(), format!("{login}\n"));
    }

    site.user1(&format!("ssh {HOST} cert >kept.pub")).ok();
    let mut session = site.begin("session", &format!("ssh -tt ubuntu@{NODE} 'echo connected; exec sleep 1000'"));
    session.says("connected");
    site.admin1(&format!("ssh {HOST} member remove {PROJECT} user1@acme.example --yes")).ok();
    session.ends();
    assert!(session.said().contains(REMOVED), "{}", session.said());
    site.in_force(NODE);
    // The node itself refuses her, too: her certificate is good for minutes yet.
    site.user1(&format!(
        "ssh -F none -i .ssh/id_ed25519 -o CertificateFile=kept.pub -o IdentitiesOnly=yes -o BatchMode=yes \
         -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null ubuntu@{NODE_ADDRESS} id -un"
    ))
    .refused("Permission denied");
    assert_eq!(site.admin1(&format!("ssh ubuntu@{NODE} id -un")).ok(), "ubuntu\n");
}
