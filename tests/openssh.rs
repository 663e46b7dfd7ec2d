//! What people do with OpenSSH, through the gateway to a node: every way to jump, shared connections, forwards, copies,
//! git, and the patterns of VS Code and Ansible. All on user1's laptop as `ssh BASTION config` has set it up.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::io::Write;
use support::{BASTION, CLIENTS, HOST, LAPTOP, NODE, Running, Site, eventually};

/// The bastion, as the configuration calls it.
const GATEWAY: &str = "certgate-bastion.example.com";

fn at_work(options: &[&str]) -> Site {
    support::install_clients(options);
    let site = Site::with_user1_at_work();
    // More people than a node expects to log in at the same moment.
    site.run(NODE, "root", "echo MaxStartups 200 >>/etc/ssh/sshd_config && reload-sshd").ok();
    site
}

/// How often user1 has logged in on the gateway.
fn logins(site: &Site) -> usize {
    let log = site.log(BASTION, "gateway");
    log.lines().filter(|line| line.contains(" user=user1 action=\"login\"") && line.contains("accepted")).count()
}

/// How often on the node.
fn logins_on_node(site: &Site) -> usize {
    site.log(NODE, "sshd").matches("Accepted publickey for user1 ").count()
}

/// A daemon of somebody's on a machine.
fn daemon(site: &Site, machine: &str, user: &str, line: &str) {
    site.run(machine, user, &format!("setsid {line} >/dev/null 2>&1 </dev/null &")).ok();
}

fn type_in(session: &mut Running, text: &str) {
    session.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn every_way_to_jump_leads_there_and_connections_can_be_shared() {
    let site = at_work(&[]);
    for way in [
        String::new(),
        format!("-J {GATEWAY}"),
        format!("-o ProxyJump=user1@{HOST}:22"),
        format!("-o 'ProxyCommand=ssh -W %h:%p {GATEWAY}'"),
        format!("-o 'ProxyCommand=ssh -o ClearAllForwardings=yes {GATEWAY} -W [%h]:%p'"),
    ] {
        assert_eq!(site.user1(&format!("ssh {way} {NODE} hostname")).ok(), format!("{NODE}\n"), "{way}");
    }
    let banner = site.user1(&format!("ssh -W {NODE}:22 {GATEWAY} </dev/null | head -c 15"));
    assert_eq!(banner.stdout, "SSH-2.0-OpenSSH");

    // One connection to the gateway, with its commands and its jumps in it.
    let before = logins(&site);
    site.user1(&format!("ssh -M -S gateway -o ControlPersist=yes {GATEWAY} whoami")).ok();
    let commands = format!("seq 40 | xargs -P 40 -I N ssh -S gateway {GATEWAY} whoami | grep -c '^You are user1@'");
    assert_eq!(site.user1(&commands).ok(), "40\n");
    let jump = format!("-o 'ProxyCommand=ssh -S gateway -W %h:%p {GATEWAY}'");
    let jumps = format!("seq 16 | xargs -P 16 -I N ssh {jump} {NODE} 'sleep 1; echo N-$(hostname)' | sort -n");
    let expected: String = (1..=16).map(|n| format!("{n}-{NODE}\n")).collect();
    assert_eq!(site.user1(&jumps).ok(), expected);
    assert_eq!(logins(&site), before + 1, "all of these are in one connection");
    site.user1(&format!("ssh -S gateway -O exit {GATEWAY}")).ok();

    // One to the node, with as many sessions at the same time as its sshd permits.
    let before = logins_on_node(&site);
    site.user1(&format!("ssh -M -S node -o ControlPersist=yes {NODE} true")).ok();
    let sessions = format!("seq 40 | xargs -P 10 -I N ssh -S node {NODE} 'read line; echo N-$(hostname)' | sort -n");
    let expected: String = (1..=40).map(|n| format!("{n}-{NODE}\n")).collect();
    assert_eq!(site.user1(&sessions).ok(), expected);
    assert_eq!(logins_on_node(&site), before + 1);
    site.user1(&format!("ssh -S node -O exit {NODE}")).ok();
}

/// All machines of a site share one network: a name that only one of them knows, and a socket that only one of them
/// has, tell where a forward came out.
#[test]
fn forwards_and_the_agent_reach_the_node_untouched() {
    let site = at_work(&[]);
    for (machine, address) in [(NODE, "127.0.0.77"), (LAPTOP, "127.0.0.78")] {
        let user = "user1";
        site.run(machine, "root", &format!("echo {address} only-here >>/etc/hosts")).ok();
        site.run(machine, user, &format!("mkdir www && echo served by {machine} >www/page")).ok();
        daemon(&site, machine, user, &format!("python3 -m http.server --bind {address} --directory www 8000"));
        daemon(&site, machine, user, "socat UNIX-LISTEN:socket,fork EXEC:hostname");
        let serves = format!("curl -sf http://{address}:8000/page && test -S socket");
        eventually("its servers serve", || site.run(machine, user, &serves).status == Some(0));
    }
    site.user1("ssh-agent -a agent >/dev/null && SSH_AUTH_SOCK=/home/user1/agent ssh-add -q .ssh/id_ed25519").ok();
    let forwards = "-L 127.0.0.1:7001:only-here:8000 -L /home/user1/local:/home/user1/socket \
                    -R 127.0.0.1:7002:only-here:8000 -R /home/user1/remote:/home/user1/socket -D 127.0.0.1:7003";
    let line = format!(
        "SSH_AUTH_SOCK=/home/user1/agent ssh -A -o ExitOnForwardFailure=yes {forwards} {NODE} 'echo connected; exec bash'"
    );
    let mut session = site.begin("forwards", &line);
    session.says("connected");

    let of_node = format!("served by {NODE}\n");
    assert_eq!(site.user1("curl -sf http://127.0.0.1:7001/page").ok(), of_node, "-L");
    assert_eq!(site.user1("curl -sf --socks5-hostname 127.0.0.1:7003 http://only-here:8000/page").ok(), of_node, "-D");
    assert_eq!(
        site.user1("socat - UNIX-CONNECT:/home/user1/local </dev/null").ok(),
        format!("{NODE}\n"),
        "-L with a socket"
    );
    let on_node = |line: &str| site.run(NODE, "user1", line).ok();
    assert_eq!(on_node("curl -sf http://127.0.0.1:7002/page"), "served by laptop\n", "-R");
    assert_eq!(on_node("socat - UNIX-CONNECT:remote </dev/null"), "laptop\n", "-R with a socket");

    // What the agent on the laptop signs on the node, her key on the laptop verifies.
    let key = site.user1("cat .ssh/id_ed25519.pub").ok();
    type_in(&mut session, &format!("echo '{}' >hers.pub; ssh-add -L\n", key.trim()));
    session.says(key.trim());
    type_in(&mut session, "rm -f s.sig; echo signed here >s; ssh-keygen -q -Y sign -n t -f hers.pub s; echo end: $?\n");
    session.says("end: 0");
    let signature = on_node("cat s.sig");
    site.run_with(LAPTOP, "user1", "cat >s.sig", &signature).ok();
    site.user1("echo signed here | ssh-keygen -Y check-novalidate -n t -s s.sig").ok();
    site.user1(&format!("SSH_AUTH_SOCK=/home/user1/agent ssh {NODE} ssh-add -l")).refused("");
}

#[test]
fn copies_arrive_whole_by_every_program_and_rekeying_is_not_noticed() {
    let site = at_work(&[]);
    site.user1("mkdir -p data/deep/er; head -c 6000000 /dev/urandom >data/weights; seq 100000 >data/deep/er/steps")
        .ok();
    site.user1(
        "head -c 300 /dev/zero >'data/a name with  spaces'; cd data && find . -type f -exec sha256sum {} + >../sums",
    )
    .ok();
    let whole = "3\n";
    for (way, up, down) in [
        ("scp-old", format!("scp -q -O -r data {NODE}:scp-old"), format!("scp -q -O -r {NODE}:scp-old back-scp-old")),
        ("scp-new", format!("scp -q -s -r data {NODE}:scp-new"), format!("scp -q -s -r {NODE}:scp-new back-scp-new")),
        (
            "sftp",
            format!("printf 'mkdir sftp\\nput -R data/. sftp\\n' | sftp -q -b - {NODE}"),
            format!("mkdir back-sftp && printf 'get -R sftp/. back-sftp\\n' | sftp -q -b - {NODE}"),
        ),
        ("rsync", format!("rsync -a data/ {NODE}:rsync/"), format!("rsync -az {NODE}:rsync/ back-rsync/")),
        (
            "tar",
            format!("tar -C data -c . | ssh {NODE} 'mkdir tar && tar -C tar -x'"),
            format!("mkdir back-tar && ssh -C {NODE} 'tar -C tar -c .' | tar -C back-tar -x"),
        ),
    ] {
        site.user1(&up).ok();
        let there = site.user1(&format!("ssh {NODE} 'cd {way} && sha256sum -c' <sums | grep -c ': OK$'"));
        assert_eq!(there.stdout, whole, "{way}, up: {there:#?}");
        site.user1(&down).ok();
        let here = site.user1(&format!("cd back-{way} && sha256sum -c <../sums | grep -c ': OK$'"));
        assert_eq!(here.stdout, whole, "{way}, down: {here:#?}");
    }

    // New keys for both connections, about once a megabyte.
    let often = "-v -o RekeyLimit=1M";
    let ssh = format!("ssh {often} -E node.log -o 'ProxyCommand=ssh {often} -E gateway.log -W %h:%p {GATEWAY}' {NODE}");
    site.user1("head -c 12000000 /dev/urandom >much").ok();
    let sum = site.user1("sha256sum <much").ok();
    assert_eq!(site.user1(&format!("{ssh} 'tee rekeyed | sha256sum' <much")).ok(), sum);
    assert_eq!(site.user1(&format!("{ssh} 'cat rekeyed' </dev/null | sha256sum")).ok(), sum);
    for log in ["node.log", "gateway.log"] {
        let count = site.user1(&format!("grep -c 'SSH2_MSG_NEWKEYS received' {log}")).ok();
        assert!(count.trim().parse::<usize>().unwrap() >= 10, "{log}: new keys {count} times");
    }
}

/// Two minutes: `cargo nextest run --test openssh --run-ignored only`.
#[test]
#[ignore = "moves more than 2 GB, after which the gateway wants new keys by itself"]
fn the_gateway_gets_new_keys_by_itself_in_the_longest_transfers() {
    let site = at_work(&[]);
    let jump = format!("-o 'ProxyCommand=ssh -v -E gateway.log -W %h:%p {GATEWAY}'");
    for (way, line) in [
        ("up", format!("head -c 1200000000 /dev/zero | ssh {jump} {NODE} sha256sum")),
        ("down", format!("ssh {jump} {NODE} 'head -c 1200000000 /dev/zero' | sha256sum")),
    ] {
        let sum = site.user1("head -c 1200000000 /dev/zero | sha256sum").ok();
        assert_eq!(site.user1(&format!("rm -f gateway.log; {line}")).ok(), sum);
        let count = site.user1("grep -c 'SSH2_MSG_NEWKEYS received' gateway.log").ok();
        assert!(count.trim().parse::<usize>().unwrap() >= 2, "{way}: new keys {count} times");
    }
}

#[test]
fn git_editors_and_agents_with_many_keys_work() {
    let site = at_work(&[]);
    // git.
    site.user1("git config --global user.name user1; git config --global user.email user1@acme.example").ok();
    site.user1(&format!("ssh {NODE} git init -q --bare repository.git")).ok();
    site.user1(&format!("git clone -q {NODE}:repository.git here")).ok();
    let commit =
        "head -c 3000000 /dev/urandom >weights && git add . && git commit -q -m first && git push -q origin HEAD:main";
    site.user1(&format!("cd here && {commit}")).ok();
    let head = site.user1("git -C here rev-parse HEAD").ok();
    assert_eq!(site.run(NODE, "user1", "git -C repository.git rev-parse main").ok(), head);
    site.user1(&format!(
        "git clone -q -b main ssh://{NODE}/home/user1/repository.git again && cmp here/weights again/weights"
    ))
    .ok();

    // VS Code: one long-lived shell that is fed its commands, and a dynamic forward to what it starts there.
    let mut code = site.begin("code", &format!("ssh -T -D 127.0.0.1:7004 {NODE} bash"));
    type_in(&mut code, "echo ready-$((6*7))\n");
    code.says("ready-42");
    type_in(&mut code, "mkdir server && base64 -d >server/page <<'END'\nd2hhdCBpdCB3YXMgZmVkCg==\nEND\n");
    type_in(
        &mut code,
        "cd server && echo in-$(basename $PWD); python3 -m http.server --bind 127.0.0.80 8004 2>/dev/null & \n",
    );
    code.says("in-server");
    type_in(&mut code, "until curl -sf http://127.0.0.80:8004/page; do sleep 0.1; done\n");
    code.says("what it was fed");
    let page = "curl -sf --socks5-hostname 127.0.0.1:7004 http://127.0.0.80:8004/page";
    // As an extension host does: several at once, for a while.
    let many = site.user1(&format!("seq 60 | xargs -P 6 -I N {page} | sort | uniq -c"));
    assert_eq!(many.ok().trim(), "60 what it was fed");
    type_in(&mut code, "kill %1; echo still-$(hostname)\n");
    code.says(&format!("still-{NODE}"));
    drop(code);

    // An agent with many keys of which the ninth is registered, and no key in a file.
    site.user1("for n in 1 2 3 4 5 6 7 8 9; do ssh-keygen -q -t ed25519 -N '' -C other$n -f other$n; done").ok();
    let agent = "mkdir away && eval $(ssh-agent -a agent) >/dev/null && ssh-add -q other[1-8] .ssh/id_ed25519 other9 \
                 && mv .ssh/id_ed25519* away && ssh-add -l | grep -n user1@ ; ssh-add -l | wc -l";
    assert_eq!(site.user1(agent).ok().lines().last(), Some("10"));
    let plain = site.user1(&format!("SSH_AUTH_SOCK=/home/user1/agent ssh -v -o IdentitiesOnly=no {HOST} whoami"));
    let offers = plain.stderr.matches("Offering public key: ").count();
    assert!(offers >= 9, "the right key was not the ninth but number {offers}");
    assert!(plain.ok().contains("You are user1@acme.example"));
    site.user1("rm -r .ssh/certgate").ok();
    assert_eq!(site.user1(&format!("SSH_AUTH_SOCK=/home/user1/agent ssh {NODE} hostname")).ok(), format!("{NODE}\n"));
}

/// What Ansible runs for each host, with the options that it gives: the same steps, without its own weight.
const LIKE_ANSIBLE: &str = r#"
set -eu
host=$1 node=$2
common="-C -o ControlMaster=auto -o ControlPersist=60s -o KbdInteractiveAuthentication=no
  -o PreferredAuthentications=gssapi-with-mic,gssapi-keyex,hostbased,publickey -o PasswordAuthentication=no
  -o ConnectTimeout=10 -o ControlPath=/home/user1/cp/$host"
run() { ssh $common $node "/bin/sh -c '$1'"; }
home=$(run "echo ~ && sleep 0")
run "( umask 77 && mkdir -p $home/tmp && mkdir $home/tmp/$host && echo made )" >/dev/null
printf 'print("module of %s")\n' "$host" >module.$host
printf 'put module.%s %s/tmp/%s/module.py\n' "$host" "$home" "$host" | sftp -q -b - $common "[$node]" >/dev/null
run "chmod u+x $home/tmp/$host/ $home/tmp/$host/module.py"
ssh $common -tt $node "/bin/sh -c 'python3 $home/tmp/$host/module.py && sleep 0'" </dev/null
run "rm -f -r $home/tmp/$host/ >/dev/null 2>&1 && sleep 0"
"#;

#[test]
fn fifty_forks_of_ansible_are_served() {
    let site = at_work(&[]);
    site.run_with(LAPTOP, "user1", "mkdir cp && cat >host.sh", LIKE_ANSIBLE).ok();
    let issued = || site.operator_json("certificate list --json").as_array().unwrap().len();
    let before = (issued(), logins_on_node(&site));
    let all = format!("seq -f host-%02g 50 | xargs -P 50 -I N bash host.sh N {NODE} | tr -d '\\r' | sort");
    let expected: String = (1..=50).map(|n| format!("module of host-{n:02}\n")).collect();
    assert_eq!(site.user1(&all).ok(), expected);
    assert_eq!((issued(), logins_on_node(&site)), (before.0 + 1, before.1 + 50), "one certificate, fifty connections");
    assert_eq!(site.run(NODE, "user1", "ls tmp").ok(), "");
}

/// A minute or two of both cores: `cargo nextest run --test openssh --run-ignored only`.
#[test]
#[ignore = "the real Ansible is heavy"]
fn fifty_forks_of_the_real_ansible_are_served() {
    let site = at_work(&["--ansible"]);
    let hosts: String = (1..=50)
        .map(|n| format!("host-{n:02} ansible_host={NODE} ansible_control_path=/home/user1/cp/%%h-{n:02}\n"))
        .collect();
    site.run_with(LAPTOP, "user1", "mkdir cp && cat >inventory", &hosts).ok();
    let play = "- hosts: all\n  gather_facts: true\n  tasks:\n  \
                - copy: {content: 'for {{ inventory_hostname }}', dest: '~/{{ inventory_hostname }}'}\n  \
                - command: cat {{ inventory_hostname }}\n    register: said\n  \
                - assert: {that: \"said.stdout == 'for ' + inventory_hostname\"}\n";
    site.run_with(LAPTOP, "user1", "cat >play.yml", play).ok();
    let ran = site.user1(&format!(
        "ANSIBLE_SSH_CONTROL_PATH_DIR=~/cp LC_ALL=C.UTF-8 {CLIENTS}/venv/bin/python -m ansible playbook -f 50 -i inventory play.yml"
    ));
    let said = ran.ok();
    let recap = said
        .lines()
        .filter(|line| line.contains("ok=4") && line.contains("unreachable=0") && line.contains("failed=0"));
    assert_eq!(recap.count(), 50, "{said}");
    assert_eq!(site.run(NODE, "user1", "cat host-* | grep -o host- | wc -l").ok(), "50\n");
}
