//! The main job, end to end: real ssh, sshd, scp, sftp and rsync against the real processes, on machines of their own.
//! What is shown here is that the parts are one whole; each part's own corners are tested beside it.

// A test that cannot set its stage has failed.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Site, eventually};

const LOGIN: &str = "login-0.h100-cluster-1.acme";
const OTHERS: &str = "login-0.b200-cluster.acme";
const REMOVE: &str = "ssh bastion.example.com member remove acme/ml-training user1@acme.example --yes";
const REMOVED: &str = "removed from acme/ml-training at ";
const BY: &str = " by admin1@acme.example";

#[test]
fn a_new_member_reaches_her_nodes_with_stock_openssh() {
    let site = Site::acme(&[LOGIN, "compute-0.h100-cluster-1.acme"]);

    let whoami = site.run("user1", "ssh -T bastion.example.com");
    assert!(whoami.ok().contains("user1@acme.example") && whoami.stdout.contains("h100-cluster-1.acme"), "{whoami:#?}");
    assert!(!whoami.stdout.contains("b200") && !whoami.stdout.contains("research"), "{whoami:#?}");

    let cert = site.run("user1", "ssh bastion.example.com cert");
    assert!(
        cert.ok().starts_with("ssh-ed25519-cert-v01@openssh.com ") && cert.stdout.lines().count() == 1,
        "{cert:#?}"
    );
    assert!(cert.stderr.contains("user1@acme/ml-training"), "{cert:#?}");
    let read = site.run("user1", "ssh bastion.example.com cert 2>/dev/null | ssh-keygen -L -f -");
    assert!(read.ok().contains("Key ID: \"user1\"") && !read.stdout.contains("research"), "{read:#?}");

    let issued = site.json("certificate list").as_array().unwrap().len();
    let first = site.run("user1", &format!("ssh {LOGIN} hostname"));
    assert_eq!((first.ok(), first.stderr.as_str()), (LOGIN, ""));
    let uid = site.json("user list")[1]["uid"].to_string();
    assert_eq!(site.run("user1", "ssh compute-0.h100-cluster-1.acme id -u").ok(), uid);
    // The name of a cluster is one of its login nodes, never a compute node.
    assert_eq!(site.run("user1", "ssh h100-cluster-1.acme hostname").ok(), LOGIN);
    // One certificate for all three: it is fetched only when the last one is used up.
    assert_eq!(site.json("certificate list").as_array().unwrap().len(), issued + 1);
    // The other two kinds of keys.
    assert_eq!(site.run("admin1", &format!("ssh {LOGIN} whoami")).ok(), "admin1");
    assert_eq!(site.run("user2", &format!("ssh {LOGIN} whoami")).ok(), "user2");
}

#[test]
fn files_arrive_as_they_were_by_scp_sftp_and_rsync() {
    let site = Site::acme(&[LOGIN]);
    let make = "mkdir data && head -c 5000000 /dev/urandom >data/weights && seq 10000 >data/steps && \
                (cd data && sha256sum *) >sums";
    site.run("user1", make).ok();
    site.run("user1", &format!("scp -qr data {LOGIN}:by-scp")).ok();
    site.run("user1", &format!("printf 'mkdir by-sftp\\nput data/* by-sftp\\n' | sftp -b - {LOGIN}")).ok();
    site.run("user1", &format!("rsync -a data/ {LOGIN}:by-rsync/")).ok();
    for way in ["scp", "sftp", "rsync"] {
        let sums = site.run("user1", &format!("ssh {LOGIN} 'cd by-{way} && sha256sum -c' <sums"));
        assert_eq!(sums.ok(), "steps: OK\nweights: OK", "{way}");
        site.run("user1", &format!("scp -qr {LOGIN}:by-{way} back-{way} && cd back-{way} && sha256sum -c ../sums"))
            .ok();
    }
}

#[test]
fn many_at_once_share_one_certificate() {
    let site = Site::acme(&[LOGIN]);
    let before = site.json("certificate list").as_array().unwrap().len();
    let line = format!("for i in $(seq 8); do ssh {LOGIN} hostname & done; wait");
    let all = site.run("user1", &line);
    assert_eq!((all.ok().lines().filter(|line| *line == LOGIN).count(), all.stderr.as_str()), (8, ""));
    assert_eq!(site.json("certificate list").as_array().unwrap().len(), before + 1);
}

#[test]
fn another_projects_nodes_are_out_of_reach_through_the_gateway_and_past_it() {
    let site = Site::acme(&[LOGIN, OTHERS]);
    for host in [OTHERS, "login-0.nowhere.acme"] {
        let through = site.run("user1", &format!("ssh -J bastion.example.com {host} hostname"));
        through.refused(255, &format!("no such node: {host}"));
    }
    // Neither an address nor another port gets past the names.
    for (host, port) in [("127.10.1.1", 22), ("127.0.0.1", 22), ("bastion.example.com", 22), (LOGIN, 80)] {
        let line = format!("ssh -W {host}:{port} bastion.example.com");
        site.run("user1", &line).refused(255, "administratively prohibited");
    }
    site.run("user1", "ssh bastion.example.com cert >kept.pub").ok();
    assert_eq!(site.dial("user1", "user1", "127.10.1.1").ok(), LOGIN);
    site.dial("user1", "user1", "127.10.1.2").refused(255, "Permission denied");
    // Who is in both projects may; a certificate for one of them opens only that one.
    site.run("user2", "ssh bastion.example.com cert --project acme/ml-training >kept.pub").ok();
    assert_eq!(site.dial("user2", "user2", "127.10.1.1").ok(), LOGIN);
    site.dial("user2", "user2", "127.10.1.2").refused(255, "Permission denied");
    site.run("user2", "ssh bastion.example.com cert >kept.pub").ok();
    assert_eq!(site.dial("user2", "user2", "127.10.1.2").ok(), OTHERS);
    // A certificate is for its own login.
    for login in ["user1", "admin1", "root"] {
        site.dial("user2", login, "127.10.1.1").refused(255, "Permission denied");
    }
}

#[test]
fn a_removal_ends_what_is_open_and_closes_every_door() {
    let site = Site::acme(&[LOGIN]);
    site.run("user1", &format!("ssh {LOGIN} 'setsid sleep 4242 >/dev/null 2>&1 </dev/null &'")).ok();
    let session = site.begin("user1", &format!("ssh -tt {LOGIN} 'echo connected; exec sleep 1000'"));
    eventually("her session is open", || session.output().contains("connected"));
    site.run("user1", "head -c 200000000 /dev/zero >big").ok();
    let transfer = site.begin("user1", &format!("scp -l 4000 big {LOGIN}:big"));
    eventually("her transfer is running", || site.run_at(LOGIN, "root", "test -s /home/user1/big").status == 0);
    let other = site.begin("user2", &format!("ssh {LOGIN} 'echo connected; exec cat'"));
    eventually("the other session is open", || other.output().contains("connected"));
    site.run("user1", "ssh bastion.example.com cert >kept.pub").ok();
    assert_eq!(site.dial("user1", "user1", "127.10.1.1").ok(), LOGIN);

    // Without a terminal and without --yes nothing happens.
    site.run("admin1", REMOVE.trim_end_matches(" --yes")).refused(1, "--yes");
    assert!(session.is_running());
    site.run("admin1", &format!("{REMOVE} --wait")).ok();
    for open in [&session, &transfer] {
        eventually("what was hers has ended", || !open.is_running());
        let said = open.output();
        assert!(said.contains(REMOVED) && said.contains(BY), "{said}");
    }
    site.run("user1", "ssh bastion.example.com cert").refused(1, REMOVED);
    site.run("user1", &format!("ssh {LOGIN} hostname")).refused(255, REMOVED);
    site.dial("user1", "user1", "127.10.1.1").refused(255, "Permission denied");
    eventually("her session's processes have ended", || {
        site.run_at(LOGIN, "root", "pgrep -u user1 -a").stdout.lines().all(|line| line.ends_with("sleep 4242"))
    });
    let job = site.run_at(LOGIN, "root", "pgrep -u user1 -a");
    assert!(job.ok().ends_with("sleep 4242"), "{job:#?}");

    other.type_line("still here");
    eventually("the other session goes on", || other.output().contains("still here"));
    // Somebody who was added again is let in again.
    site.run("admin1", "ssh bastion.example.com member add acme/ml-training user1@acme.example").ok();
    site.nodes_up_to_date();
    assert_eq!(site.run("user1", &format!("ssh {LOGIN} hostname")).ok(), LOGIN);
}

#[test]
fn a_suspension_and_a_removed_key_reach_the_nodes_like_a_removal() {
    let site = Site::acme(&[LOGIN]);
    for user in ["user1", "user2"] {
        site.run(user, "ssh bastion.example.com cert >kept.pub").ok();
        assert_eq!(site.dial(user, user, "127.10.1.1").ok(), LOGIN);
    }
    site.operator("user suspend user1@acme.example").ok();
    let fingerprint = site.run("user2", "ssh-keygen -lf key.pub | cut -d ' ' -f 2").ok().to_owned();
    site.operator(&format!("key remove {fingerprint} --account user2@acme.example --yes")).ok();
    site.nodes_up_to_date();
    for user in ["user1", "user2"] {
        site.dial(user, user, "127.10.1.1").refused(255, "Permission denied");
    }
    site.run("user1", "ssh bastion.example.com cert").refused(1, "suspended");
    site.run("user2", "ssh bastion.example.com cert").refused(255, "Permission denied");
    site.operator("user resume user1@acme.example").ok();
    site.nodes_up_to_date();
    assert_eq!(site.dial("user1", "user1", "127.10.1.1").ok(), LOGIN);
}

#[test]
fn a_restart_of_the_authority_changes_nothing_that_was_decided() {
    let site = Site::acme(&[LOGIN]);
    let session = site.begin("user2", &format!("ssh {LOGIN} 'echo connected; exec cat'"));
    eventually("a session is open", || session.output().contains("connected"));
    site.run("admin1", REMOVE).ok();
    let facts = || {
        ["ca show", "user list", "project list", "cluster list", "audit verify"]
            .map(|words| site.operator(words).ok().to_owned())
    };
    let before = facts();
    site.signal("bastion", "authority", "TERM");
    let away = site.run("user2", "ssh bastion.example.com");
    away.refused(255, "the access service is being restarted; try again");
    site.start_authority();
    site.gateway_connected();
    assert_eq!(before[..4], facts()[..4]);
    session.type_line("still here");
    eventually("the session was open all the time", || session.output().contains("still here"));
    assert_eq!(site.json("session list").as_array().unwrap().len(), 1, "the session is known again");
    assert_eq!(site.run("user2", &format!("ssh {LOGIN} hostname")).ok(), LOGIN);
    site.run("user1", "ssh bastion.example.com cert").refused(1, REMOVED);
    // And it can still be ended.
    site.operator("member remove acme/ml-training user2@acme.example --yes").ok();
    eventually("the session has ended", || !session.is_running());
}

#[test]
fn a_removal_while_the_gateway_is_down_reaches_the_node_when_it_is_back() {
    let site = Site::acme(&[LOGIN]);
    site.run("user1", "ssh bastion.example.com cert >kept.pub").ok();
    site.signal("bastion", "gateway", "TERM");
    site.operator("member remove acme/ml-training user1@acme.example --yes").ok();
    // The node cannot know yet: the certificate's lifetime is the bound.
    assert_eq!(site.dial("user1", "user1", "127.10.1.1").ok(), LOGIN);
    site.start_gateway();
    site.nodes_up_to_date();
    site.dial("user1", "user1", "127.10.1.1").refused(255, "Permission denied");
    assert_eq!(site.run("user2", &format!("ssh {LOGIN} hostname")).ok(), LOGIN);
}

#[test]
fn an_impostor_at_a_nodes_address_is_not_trusted() {
    let site = Site::acme(&[LOGIN]);
    assert_eq!(site.run("user1", &format!("ssh {LOGIN} hostname")).ok(), LOGIN);
    let swap = "rm /etc/ssh/ssh_host_ed25519_key* && ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key && \
                reload-sshd";
    site.run_at(LOGIN, "root", swap).ok();
    eventually("the other key is in use", || {
        site.run("user1", &format!("ssh {LOGIN} hostname")).stderr.contains("Host key verification failed")
    });
}

#[test]
fn a_token_joins_one_machine_once() {
    let site = Site::acme(&[LOGIN, OTHERS]);
    let token = site.token("login-1.h100-cluster-1.acme", "127.10.1.9");
    let name = "login-1.h100-cluster-1.acme";
    // A machine that is a node already has a key that is taken.
    site.join_again(LOGIN, &token).refused(1, "host key is registered already");
    let address = site.node(name);
    assert_eq!(address, "127.10.1.3");
    // The first token was not used by that, but its node exists now.
    let audit = site.operator("audit list --limit 200");
    assert!(audit.ok().lines().any(|line| line.contains("node.join") && line.contains("refused")), "{audit:#?}");
    site.join_again(LOGIN, "cgt1_bm90IGEgdG9rZW4").refused(1, "not a join token");
    site.run("user1", "ssh bastion.example.com node token login-2.h100-cluster-1.acme").refused(1, "admin");
    site.operator("audit verify").ok();
}

#[test]
fn what_is_typed_wrongly_over_ssh_changes_nothing() {
    let site = Site::acme(&[]);
    let ask = |line: &str| site.run("user1", &format!("ssh bastion.example.com {line}"));
    for line in ["fly away", "member add", "cert --no-such-flag", "'unclosed"] {
        let quoted = format!("\"{line}\"");
        let answer = ask(&quoted);
        assert_eq!((answer.status, answer.stdout.as_str()), (2, ""), "{answer:#?}");
        assert!(!answer.stderr.is_empty(), "{answer:#?}");
    }
    let before = site.json("status")["version"].clone();
    // What is not hers looks like what does not exist.
    for (mine, nobodys) in [
        ("project show acme/research", "project show acme/nothing"),
        ("member list acme/research", "member list acme/nothing"),
        ("member add acme/research user1@acme.example", "member add acme/nothing user1@acme.example"),
        ("node list b200-cluster.acme", "node list nothing.acme"),
        ("cluster delete b200-cluster.acme --yes", "cluster delete nothing.acme --yes"),
        ("cert --project acme/research", "cert --project acme/nothing"),
        ("cert --cluster b200-cluster.acme", "cert --cluster nothing.acme"),
    ] {
        let (mine, nobodys) = (ask(mine), ask(nobodys));
        assert_eq!((mine.status, nobodys.status), (1, 1), "{mine:#?} {nobodys:#?}");
        assert_eq!(mine.stderr.lines().count(), 1, "{mine:#?}");
        let same = mine.stderr.replace("acme/research", "X").replace("b200-cluster.acme", "X");
        assert_eq!(same, nobodys.stderr.replace("acme/nothing", "X").replace("nothing.acme", "X"));
    }
    for (line, why) in [
        ("user list", "operator"),
        ("audit list", "operator"),
        ("member add acme/ml-training admin1@acme.example", "admin"),
        ("cluster create acme/ml-training more", "admin"),
    ] {
        ask(line).refused(1, why);
    }
    assert_eq!(site.json("status")["version"], before);
}

#[test]
fn a_private_key_that_was_pasted_is_neither_kept_nor_logged() {
    let site = Site::acme(&[]);
    site.run("user1", "ssh-keygen -q -t ed25519 -N '' -f other && head -n 3 other | tail -n 1 >secret").ok();
    let secret = site.run("user1", "cat secret").ok().to_owned();
    assert!(secret.len() > 60, "{secret}");
    site.run("user1", "ssh bastion.example.com key add <other").refused(1, "PRIVATE key");
    let words = "user create user9@acme.example --org acme --name user9 --key";
    site.operator(&format!("{words} '-----BEGIN OPENSSH PRIVATE KEY----- {secret}'")).refused(1, "PRIVATE key");
    let found = site.run_at("bastion", "root", &format!("grep -rlF '{secret}' /var/lib /var/log /run /etc"));
    assert_eq!((found.status, found.stdout.as_str()), (1, ""), "{found:#?}");
    assert!(
        std::fs::metadata(site.logs("bastion").join("authority.log")).unwrap().len() > 0,
        "there is a log to look into"
    );
    // The public half is what was meant.
    site.run("user1", "ssh bastion.example.com key add <other.pub").ok();
    site.run("user2", "ssh bastion.example.com key add <../user2/key.pub").refused(1, "registered");
}
