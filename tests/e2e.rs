//! Whole stories, with the real ssh, sshd, ssh-keygen, scp, sftp and rsync, on sites of their own (see `support`).

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use certgate::app::token::TokenText;
use std::io::Write;
use support::{BASTION, HOST, LAPTOP, NODE, NODE_ADDRESS, PROJECT, REMOVED, Ran, Site, eventually};

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

#[test]
fn another_projects_node_is_out_of_reach_both_ways() {
    let mut site = Site::with_user1_at_work();
    site.operator("project create acme/research --admin admin1@acme.example").ok();
    site.operator("cluster create acme/research b200-cluster --kind slurm").ok();
    let other = "login-0.b200-cluster.acme";
    site.enrol(other, "127.10.1.2");

    let through = |name: &str| site.user1(&format!("ssh -o BatchMode=yes -J {HOST} {name} hostname"));
    through(other).refused(&format!("no such node: {other}"));
    // What does not exist at all is refused in the same words.
    through("login-0.b300-cluster.acme").refused("no such node: login-0.b300-cluster.acme");

    site.user1(&format!("ssh {HOST} cert >kept.pub")).ok();
    assert_eq!(site.user1_dials(NODE_ADDRESS).ok(), format!("{NODE}\n"));
    site.user1_dials("127.10.1.2").refused("Permission denied");
    eventually("the other node has asked its helper", || site.log(other, "sshd").contains("user1"));
}

#[test]
fn a_removal_ends_what_is_open_and_says_why() {
    let site = Site::with_user1_at_work();
    site.user1(&format!("ssh {NODE} 'setsid sleep 4242 >/dev/null 2>&1 </dev/null &'")).ok();
    let mut session = site.begin("session", &format!("ssh -tt {NODE} 'echo connected; exec sleep 1000'"));
    session.says("connected");
    site.user1("head -c 100000000 /dev/zero >big").ok();
    let mut transfer = site.begin("transfer", &format!("scp -l 4000 big {NODE}:big"));
    eventually("the transfer has begun", || site.run(NODE, "root", "test -s /home/user1/big").status == Some(0));
    site.user1(&format!("ssh {HOST} cert --ttl 30m >kept.pub")).ok();
    site.user1_dials(NODE_ADDRESS).ok();

    let receipt = site.admin1(&format!("ssh {HOST} member remove {PROJECT} user1@acme.example --yes --wait")).ok();
    assert!(receipt.contains(NODE) && receipt.contains("confirmed") && !receipt.contains("not confirmed"), "{receipt}");

    session.ends();
    transfer.ends();
    for said in [session.said(), transfer.said()] {
        assert!(said.contains(REMOVED) && said.contains("by admin1@acme.example"), "{said}");
    }
    site.user1(&format!("ssh {HOST} cert")).refused(REMOVED);
    site.user1(&format!("ssh {NODE} hostname")).refused(REMOVED);
    // The certificate is good for half an hour yet; the node knows better.
    site.user1_dials(NODE_ADDRESS).refused("Permission denied");
    let left = site.run(NODE, "root", "ps -o user:20,args -C sleep").ok();
    assert!(left.contains("sleep 4242"), "a job that she left running goes on: {left}");
    eventually("her session's process has ended", || {
        !site.run(NODE, "root", "ps -o user:20,args -C sleep").stdout.contains("sleep 1000")
    });
}

#[test]
fn an_authority_that_restarts_forgets_nothing_and_ends_nothing() {
    let site = Site::with_user1_at_work();
    let mut session = site.begin("session", &format!("ssh {NODE} 'echo connected; exec cat'"));
    session.says("connected");
    let facts = || {
        // Not the list of clusters: how many of their nodes are connected is no fact about the directory.
        let commands = ["ca show", "user list", "project list", "dump"].map(|words| site.operator(words).ok());
        (commands, site.operator(&format!("member list {PROJECT}")).ok())
    };
    let before = facts();

    site.signal(BASTION, "authority", "TERM");
    site.start_authority();
    assert_eq!(facts(), before, "the same CA and the same directory");
    site.gateway_is_connected();
    session.stdin.as_mut().unwrap().write_all(b"still here\n").unwrap();
    session.says("still here");
    assert_eq!(site.operator_json("session list --json").as_array().unwrap().len(), 1, "it knows of the session again");

    site.admin1(&format!("ssh {HOST} member remove {PROJECT} user1@acme.example --yes")).ok();
    session.ends();
    assert!(session.said().contains(REMOVED), "{}", session.said());
    site.operator("audit verify").ok();
}

#[test]
fn a_token_is_good_once_for_one_node_and_not_for_long() {
    let mut site = Site::start();
    site.server(NODE, NODE_ADDRESS);
    let second = "login-1.h100-cluster-1.acme";
    site.server(second, "127.10.1.2");
    let invalid = |ran: Ran, why: &str| {
        let ran = ran.refused("refused: the token is not valid");
        assert_eq!(ran.stderr.lines().filter(|line| line.contains("refused")).count(), 1, "{ran:#?}");
        let last = site.refusals("node.join").pop().unwrap_or_default();
        assert!(last.starts_with("token: ") && last.contains(why), "on record is {last:?}, not {why:?}");
    };

    let token = site.token(NODE, NODE_ADDRESS, "");
    let mut elsewhere: TokenText = token.parse().unwrap();
    elsewhere.node = second.parse().unwrap();
    invalid(site.join(second, &elsewhere.to_string()), "the token is for login-0.");

    // Whoever is at the gateway's address without its key gets no token: nothing is asked of the authority.
    let mut impostor: TokenText = token.parse().unwrap();
    let key = site.run(NODE, "root", "ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub | cut -d ' ' -f 2").ok();
    impostor.host_keys = vec![key.trim().parse().unwrap()];
    let asked = site.refusals("node.join").len();
    site.join(NODE, &impostor.to_string()).refused("the token is still good");
    assert_eq!(site.refusals("node.join").len(), asked);

    site.join(NODE, &token).ok();
    invalid(site.join(second, &token), "the token was used");

    let short = site.token(second, "127.10.1.2", "--ttl 1s");
    std::thread::sleep(std::time::Duration::from_secs(2));
    invalid(site.join(second, &short), "the token expired");
    assert_eq!(site.refusals("node.join").len(), 3);
}

#[test]
fn bad_input_is_answered_in_one_line_and_not_kept() {
    let site = Site::with_user1_at_work();
    let other = "acme/research";
    site.operator(&format!("project create {other} --admin admin1@acme.example")).ok();
    site.operator("cluster create acme/research b200-cluster --kind slurm").ok();
    for words in ["frobnicate", "member list --frobnicate", "cert --ttl"] {
        let ran = site.user1(&format!("ssh {HOST} {words}"));
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""), "{ran:#?}");
        assert!(ran.stderr.contains(" See: ssh ") && ran.stderr.contains("help"), "{ran:#?}");
    }
    // What is not hers is answered like what is not there, name for name.
    for (command, theirs, nobodys) in
        [("member list", "acme/research", "acme/nothing"), ("node list", "b200-cluster.acme", "nothing.acme")]
    {
        let answer = |name: &str| {
            let ran = site.user1(&format!("ssh {HOST} {command} {name}"));
            (ran.status, ran.stdout, ran.stderr.replace(name, "NAME"))
        };
        assert_eq!(answer(theirs), answer(nobodys));
        assert!(answer(theirs).2.starts_with("no such "), "{:?}", answer(theirs));
    }

    let private = site.user1("cat .ssh/id_ed25519").ok();
    site.run_with(LAPTOP, "user1", &format!("ssh {HOST} key add"), &private)
        .refused("PRIVATE key; it was not stored or logged");
    // Of a private key's lines, the first tells only its type.
    let secret = private.lines().nth(2).unwrap();
    assert!(secret.len() >= 32 && !secret.contains("PRIVATE"), "{}", secret.len());
    let kept = |machine: &str| {
        let line = format!("grep -rlF -e '{secret}' /var/lib /var/log /run /etc/certgate /tmp");
        site.run(machine, "root", &line)
    };
    for machine in [BASTION, NODE] {
        let found = kept(machine);
        assert_eq!((found.status, found.stdout.as_str()), (Some(1), ""), "{}", found.stderr);
    }
    // The search finds what is there.
    site.run_with(BASTION, "root", "cat >/var/log/planted", secret).ok();
    assert_eq!(kept(BASTION).status, Some(0));
}

#[test]
fn a_gateway_may_restart_and_an_agent_may_die() {
    let site = Site::with_user1_at_work();
    assert_eq!(site.user1(&format!("ssh {NODE} hostname")).ok(), format!("{NODE}\n"));
    site.signal(BASTION, "gateway", "TERM");
    site.user1(&format!("ssh {HOST}")).refused("");
    site.start_gateway();
    assert_eq!(site.user1(&format!("ssh {NODE} hostname")).ok(), format!("{NODE}\n"));
    // The agent is back when the node confirms what was decided since.
    site.operator("member remove acme/ml-training user1@acme.example --yes").ok();
    site.in_force(NODE);
    site.add_user1();

    site.signal(NODE, "agent", "KILL");
    site.user1(&format!("ssh {HOST} cert >kept.pub")).ok();
    assert_eq!(site.user1_dials(NODE_ADDRESS).ok(), format!("{NODE}\n"), "with the table that it has");
    site.start_agent(NODE);
    site.operator("member remove acme/ml-training user1@acme.example --yes").ok();
    site.in_force(NODE);
    site.user1_dials(NODE_ADDRESS).refused("Permission denied");
}

#[test]
fn what_a_gateway_had_open_that_was_killed_is_over_when_another_process_of_it_is_there() {
    let site = Site::with_user1_at_work();
    let open = || site.operator_json("session list --json").as_array().unwrap().len();
    // No session of sshd's, which its node would list as well.
    let mut forward = site.begin("forward", &format!("ssh -W {NODE}:22 {HOST}"));
    forward.says("SSH-2.0-");
    eventually("it is listed, and nothing else", || open() == 1);
    site.signal(BASTION, "gateway", "KILL");
    forward.ends();
    assert_eq!(open(), 1, "nobody has said that it has ended");
    site.start_gateway();
    // Not at a later hello: none comes while nothing breaks.
    eventually("it is not listed any more", || open() == 0);
    eventually("it is on record", || {
        let closed = site.operator("audit list --what session.close --json").ok();
        closed.contains("the gateway has come back as another process")
    });
}

#[test]
fn a_hostile_certificate_is_refused_for_what_is_wrong_with_it() {
    let site = Site::with_user1_at_work();
    site.user1(&format!("ssh {HOST} cert >kept.pub")).ok();
    let shown = site.user1("ssh-keygen -L -f kept.pub").ok();
    let serial = shown.lines().find_map(|line| line.trim().strip_prefix("Serial: ")).unwrap().to_owned();
    site.run(
        BASTION,
        "root",
        "mkdir /root/ca && cd /root/ca && cp /var/lib/certgate/user_ca ours && chown root ours \
         && ssh-keygen -q -t ed25519 -N '' -f theirs && ssh-keygen -q -t rsa -b 2048 -N '' -f rsa",
    )
    .ok();

    // An agent presents a certificate whatever it says, and without the plain key that would let her in.
    let present = |user: &str, key: &str, ca: &str, options: &str| {
        let public = site.run(LAPTOP, user, &format!("cat .ssh/{key}.pub")).ok();
        let sign =
            format!("cd /root/ca && cat >key.pub && ssh-keygen -q -s {ca} {options} key.pub && cat key-cert.pub");
        let certificate = site.run_with(BASTION, "root", &sign, &public).ok();
        let line = format!(
            "rm -rf hostile && mkdir -m 0700 hostile && cp .ssh/{key} hostile/key && cp .ssh/{key}.pub hostile/key.pub \
             && cat >hostile/key-cert.pub && eval $(ssh-agent) >/dev/null && trap 'kill $SSH_AGENT_PID' EXIT \
             && ssh-add -q hostile/key && ssh-add -q -k -d hostile/key && ssh-add -L | grep -q cert-v01 \
             && ssh -F none -o IdentityFile=none -o BatchMode=yes -v user1@{HOST} whoami"
        );
        site.run_with(LAPTOP, user, &line, &certificate)
    };
    let good = format!("-I user1 -n user1@{PROJECT} -z {serial} -V -1m:+4m");
    let hers = |ca: &str, options: &str| present("user1", "id_ed25519", ca, options);

    hers("ours", &good).ok();
    let accepted = |line: &str| line.contains("certificate") && line.contains("accepted") && line.contains("user1");
    assert!(site.log(BASTION, "gateway").lines().any(accepted), "the certificate itself let her in");

    let named = format!("-I user1 -n user1@{PROJECT} -z {serial}");
    let hostile = [
        ("certificate-authority", "theirs", good.clone()),
        ("certificate-type", "ours", format!("-h {good}")),
        ("certificate-principals", "ours", format!("-I user1 -z {serial} -V -1m:+4m")),
        (
            "certificate-principals",
            "ours",
            format!("-I user1 -n user1@{PROJECT},root@{PROJECT} -z {serial} -V -1m:+4m"),
        ),
        ("certificate-option", "ours", format!("{good} -O critical:unknown@example.com=1")),
        ("certificate-source", "ours", format!("{good} -O source-address=203.0.113.0/24")),
        ("certificate-record", "ours", format!("-I user1 -n user1@{PROJECT} -z 4242 -V -1m:+4m")),
        ("certificate-authority", "rsa", format!("{good} -t rsa-sha2-512")),
    ];
    let mut wrong = vec![];
    let mut refused = |reason: &str, what: &str, ran: Ran, before: usize| {
        let on_record = site.refusals("authenticate").split_off(before);
        let denied = ran.status != Some(0) && ran.stderr.contains("Permission denied");
        // What another CA signed is logged, not recorded: strangers could fill the disk with it.
        let said = if reason == "certificate-authority" {
            on_record.is_empty()
        } else {
            on_record.len() == 1 && on_record[0].starts_with(&format!("{reason}: "))
        };
        if !denied || !said {
            wrong.push(format!("{reason} ({what}): on record {on_record:?}, {ran:#?}"));
        }
    };
    for (reason, ca, options) in &hostile {
        let before = site.refusals("authenticate").len();
        refused(reason, options, hers(ca, options), before);
    }
    // These the gateway refuses by itself, before the authority is asked: they are not on record.
    for options in [format!("{named} -V -10m:-5m"), format!("{named} -V +5m:+10m")] {
        hers("ours", &options).refused("Permission denied");
    }
    // SHA-1: her own signature is asked for and given, and then the certificate is refused, with no word in any log.
    hers("rsa", &format!("{good} -t ssh-rsa")).refused("Permission denied").refused("Server accepts key: ");
    let before = site.refusals("authenticate").len();
    let another = present("admin1", "id_ecdsa", "ours", &good);
    refused("certificate-record", "another user's key", another, before);
    site.operator(&format!("certificate revoke {serial}")).ok();
    let before = site.refusals("authenticate").len();
    refused("certificate-revoked", "revoked", hers("ours", &good), before);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
