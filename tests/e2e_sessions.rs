//! Sessions on nodes that did not come through the gateway, on real OpenSSH: whose end when, and what is left of them.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used)]

mod support;

use certgate::node::{helper::notice::Notice, sessions::inbox::Inbox};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Command, Stdio},
};
use support::{BASTION, HOST, LAPTOP, NODE, NODE_ADDRESS, PROJECT, REMOVED, Running, Site, eventually};

/// Where the agent keeps what it knows.
const STATE: &str = "/var/lib/certgate-node";

/// A command line with which `who` dials the node's sshd past the gateway.
fn dial(who: &str, key: &str, command: &str) -> String {
    format!(
        "ssh -tt -F none -i .ssh/{key} -o CertificateFile=kept.pub -o IdentitiesOnly=yes -o BatchMode=yes \
         -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null {who}@{NODE_ADDRESS} '{command}'"
    )
}

/// Begins a session of user1's past the gateway.
fn user1_begins(site: &Site, name: &str, command: &str) -> Running {
    site.user1(&format!("ssh {HOST} cert --ttl 30m >kept.pub")).ok();
    let session = site.begin(name, &dial("user1", "id_ed25519", &format!("{command}echo connected; exec sleep 1000")));
    session.says("connected");
    session
}

/// Begins one of admin1's.
fn admin1_begins(site: &Site) -> Running {
    site.admin1(&format!("ssh {HOST} cert --ttl 30m >kept.pub")).ok();
    let session = site.begin_as("admin1", "admin1", &dial("admin1", "id_ecdsa", "echo connected; exec cat"));
    session.says("connected");
    session
}

/// What runs on the node with this argument.
fn runs(site: &Site, argument: &str) -> bool {
    site.run(NODE, "root", &format!("pgrep -fx 'sleep {argument}'")).status == Some(0)
}

/// A stand-in for a job: as user1, below a program of Slurm's name that root runs.
fn start_job(site: &Site) {
    // Two commands: the shell that would run both in the background would keep hold of what it was started with.
    let start = "cp /bin/sh /usr/local/sbin/slurmstepd; \
                 setsid slurmstepd -c 'setpriv --reuid 1001 --regid 1001 --clear-groups sleep 7007; :' \
                 >/dev/null 2>&1 </dev/null &";
    site.run(NODE, "root", start).ok();
    eventually("the job runs", || runs(site, "7007"));
}

fn configure(site: &Site, line: &str) {
    let name = line.split(' ').next().unwrap();
    site.run(NODE, "root", &format!("sed -i 's/^{name} = .*/{line}/' /etc/certgate/node.toml")).ok();
    restart_agent(site, "TERM");
}

fn restart_agent(site: &Site, signal: &str) {
    site.signal(NODE, "agent", signal);
    site.start_agent(NODE);
    site.in_force(NODE);
}

/// Waits until the agent knows what a session came with, and has written it down.
fn is_known(site: &Site, login: &str) {
    let known = format!("grep -q '\"login\":\"{login}\",\"claim\":{{.*\"open\"' {STATE}/sessions.json");
    eventually(&format!("a session of {login} that is known"), || site.run(NODE, "root", &known).status == Some(0));
}

fn remove_user1(site: &Site) {
    site.admin1(&format!("ssh {HOST} member remove {PROJECT} user1@acme.example --yes --wait")).ok();
}

#[test]
fn a_removal_ends_what_came_past_the_gateway_and_nothing_else() {
    let site = Site::with_user1_at_work();
    let mut hers = user1_begins(&site, "hers", "setsid sleep 4242 >/dev/null 2>&1 </dev/null & ");
    let mut another = admin1_begins(&site);
    start_job(&site);
    is_known(&site, "user1");
    // A connection whose sshd she has stopped cannot end by itself.
    let mut stopped = user1_begins(&site, "stopped", "");
    site.run(NODE, "root", "pkill -STOP -n -u user1 sshd").ok();
    remove_user1(&site);
    hers.ends();
    stopped.ends();
    assert!(runs(&site, "4242"), "what she left in the background goes on");
    assert!(runs(&site, "7007"), "so does her job");
    assert!(!another.ended());
    eventually("nothing of her connections is left", || {
        !site.run(NODE, "root", "ps -o args= -u user1").stdout.contains("sshd")
    });
}

#[test]
fn a_grace_period_lets_what_is_open_go_on_so_long_on_both_ways_and_it_ends_without_the_authority() {
    let site = Site::with_user1_at_work();
    site.admin1(&format!("ssh {HOST} project update {PROJECT} --grace 6s")).ok();
    let mut past = user1_begins(&site, "past", "setsid sleep 4242 >/dev/null 2>&1 </dev/null & ");
    let mut through = site.begin("through", &format!("ssh -tt {NODE} 'echo connected; exec sleep 1000'"));
    through.says("connected");
    let mut another = admin1_begins(&site);
    eventually("all are known", || {
        site.run(NODE, "root", &format!("grep -o '\"open\"' {STATE}/sessions.json | wc -l")).stdout.trim() == "3"
    });
    // Gateway and node have confirmed that nothing new begins; what is open is open.
    remove_user1(&site);
    assert!(!past.ended() && !through.ended());
    site.user1(&dial("user1", "id_ed25519", "true")).refused("Permission denied");
    site.user1(&format!("ssh {NODE} true")).refused(REMOVED);
    // Nobody is there any more who could say that it is time, and the agent has to remember it.
    site.signal(BASTION, "authority", "KILL");
    site.signal(NODE, "agent", "KILL");
    site.start_agent(NODE);
    past.ends();
    through.ends();
    assert!(through.said().contains(REMOVED), "{}", through.said());
    assert!(runs(&site, "4242"), "what she left in the background goes on");
    assert!(!another.ended());

    // What was given as a grace period is none for whoever is suspended.
    site.start_authority();
    site.gateway_is_connected();
    site.admin1(&format!("ssh {HOST} project update {PROJECT} --grace 1h")).ok();
    site.add_user1();
    site.in_force(NODE);
    let mut past = user1_begins(&site, "again", "");
    is_known(&site, "user1");
    remove_user1(&site);
    assert!(!past.ended());
    site.operator("user suspend user1@acme.example").ok();
    past.ends();
}

#[test]
fn the_sessions_that_gateways_and_nodes_know_are_listed_once() {
    let site = Site::with_user1_at_work();
    configure(&site, "on_removal = \"terminate\"");
    let mut direct = user1_begins(&site, "direct", "setsid sleep 4242 >/dev/null 2>&1 </dev/null & ");
    let serial = site.user1("ssh-keygen -L -f kept.pub | sed -n 's/^ *Serial: //p'").ok();
    let mut through = site.begin("through", &format!("ssh -tt {NODE} 'echo connected; exec sleep 1000'"));
    through.says("connected");
    let list = || site.operator_json("session list --json").as_array().unwrap().clone();
    eventually("both are listed, each once", || {
        let sessions = list();
        let known = |session: &Value| session["process"].is_u64() && session["account"] == "user1@acme.example";
        let gateways: Vec<_> = sessions.iter().filter(|s| known(s)).map(|session| session["gateway"].clone()).collect();
        sessions.len() == 2 && gateways.contains(&Value::Null) && gateways.contains(&Value::from("gw1"))
    });
    let sessions = list();
    let past = sessions.iter().find(|session| session["gateway"].is_null()).unwrap();
    assert_eq!(past["certificate"].as_u64(), serial.trim().parse().ok());
    let own = site.user1(&format!("ssh {HOST} session list")).ok();
    assert!(own.contains("direct") && own.contains("gateway gw1"), "{own}");
    let name = past["session"].as_str().unwrap();
    site.admin1(&format!("ssh {HOST} session end {name}")).refused("no such open session");
    assert!(!direct.ended());
    site.user1(&format!("ssh {HOST} session end {name}")).ok();
    direct.ends();
    assert!(!through.ended() && runs(&site, "4242"), "nothing else is ended");
    site.user1(&format!("ssh {HOST} session end {name}")).refused("no such open session");
    drop(through);
    eventually("none is listed any more", || list().is_empty());
}

#[test]
fn terminate_ends_what_a_session_has_left_as_well_but_no_job() {
    let site = Site::with_user1_at_work();
    configure(&site, "on_removal = \"terminate\"");
    let mut hers = user1_begins(&site, "hers", "setsid sleep 4242 >/dev/null 2>&1 </dev/null & ");
    let mut another = admin1_begins(&site);
    start_job(&site);
    is_known(&site, "user1");
    // Dead, and back: it knows what it knew.
    restart_agent(&site, "KILL");
    remove_user1(&site);
    hers.ends();
    eventually("the end of what she left", || !runs(&site, "4242"));
    assert!(runs(&site, "7007"), "her job goes on");
    assert!(!another.ended());
}

#[test]
fn what_a_session_has_left_is_known_by_its_login_when_the_session_is_over() {
    let site = Site::with_user1_at_work();
    site.run(NODE, "root", "sed -i 's/^UsePAM no/UsePAM yes/' /etc/ssh/sshd_config && reload-sshd").ok();
    configure(&site, "on_removal = \"terminate\"");
    // Out of sight: neither a child nor in the POSIX session of anything that she has left.
    let daemon = "(setsid sh -c \"setsid sleep 4242 & exit\" >/dev/null 2>&1 </dev/null &) ; ";
    let hers = user1_begins(&site, "hers", daemon);
    let other =
        site.run(NODE, "root", "setsid setpriv --reuid 1001 --clear-groups sleep 4343 >/dev/null 2>&1 </dev/null &");
    other.ok();
    is_known(&site, "user1");
    drop(hers);
    eventually("her session is over", || {
        site.run(NODE, "root", &format!("grep -q '\"left\"' {STATE}/sessions.json")).status == Some(0)
    });
    assert!(runs(&site, "4242"));
    remove_user1(&site);
    eventually("the end of what she left", || !runs(&site, "4242"));
    assert!(runs(&site, "4343"), "not from her session, though it is hers");
}

#[test]
fn a_revoked_certificate_ends_the_sessions_that_came_with_it_and_no_others() {
    let site = Site::with_user1_at_work();
    let mut first = user1_begins(&site, "first", "");
    let serial = site.user1("ssh-keygen -L -f kept.pub | sed -n 's/^ *Serial: //p'").ok();
    let mut second = user1_begins(&site, "second", "");
    eventually("both are known", || {
        site.run(NODE, "root", &format!("grep -o '\"open\"' {STATE}/sessions.json | wc -l")).stdout.trim() == "2"
    });
    restart_agent(&site, "KILL");
    site.operator(&format!("certificate revoke {}", serial.trim())).ok();
    first.ends();
    assert!(!second.ended());
    let key = site.user1("ssh-keygen -lf .ssh/id_ed25519.pub | cut -d ' ' -f 2").ok();
    site.operator(&format!("key remove {} --account user1@acme.example --yes", key.trim())).ok();
    second.ends();
}

#[test]
fn a_suspension_ends_what_came_past_the_gateway_and_so_does_the_removal_of_its_key() {
    let site = Site::with_user1_at_work();
    let mut another = admin1_begins(&site);
    let mut hers = user1_begins(&site, "hers", "");
    is_known(&site, "user1");
    site.operator("user suspend user1@acme.example").ok();
    hers.ends();
    // Her certificate is good for half an hour still.
    let again = dial("user1", "id_ed25519", "true");
    site.user1(&again).refused("Permission denied");
    site.operator("user resume user1@acme.example").ok();
    site.in_force(NODE);
    site.user1(&format!("ssh {HOST} cert --ttl 30m >kept.pub")).ok();
    site.user1(&again).ok();

    // One of two keys goes: what came with the other stays.
    site.user1("ssh-keygen -q -t ed25519 -N '' -f .ssh/second").ok();
    site.user1(&format!("ssh {HOST} key add <.ssh/second.pub")).ok();
    let mut first = user1_begins(&site, "first", "");
    let own = "-F none -i .ssh/second -o IdentitiesOnly=yes -o StrictHostKeyChecking=no";
    site.user1(&format!("ssh {own} user1@{HOST} cert --ttl 30m >kept.pub")).ok();
    let mut second = site.begin("second", &dial("user1", "second", "echo connected; exec sleep 1000"));
    second.says("connected");
    eventually("both are known", || {
        site.run(NODE, "root", &format!("grep -o '\"open\"' {STATE}/sessions.json | wc -l")).stdout.trim() == "3"
    });
    let key = site.user1("ssh-keygen -lf .ssh/id_ed25519.pub | cut -d ' ' -f 2").ok();
    site.operator(&format!("key remove {} --account user1@acme.example --yes", key.trim())).ok();
    first.ends();
    site.in_force(NODE);
    assert!(!second.ended() && !another.ended());
    site.user1(&dial("user1", "second", "true")).ok();
}

#[test]
fn an_agent_that_does_not_answer_delays_no_login_and_finds_what_it_was_not_told() {
    let site = Site::with_user1_at_work();
    site.user1(&format!("ssh {HOST} cert --ttl 30m >kept.pub")).ok();
    site.signal(NODE, "agent", "STOP");
    // More than the kernel keeps for a socket that nobody reads (net.unix.max_dgram_qlen).
    let queue = site.run(NODE, "root", "cat /proc/sys/net/unix/max_dgram_qlen").ok();
    let flood = format!(
        "for i in $(seq 0 {queue}); do setpriv --reuid 65534 --clear-groups certgate-flood; done",
        queue = queue.trim()
    );
    let sender = "#!/usr/bin/perl\nuse Socket;\nsocket(my $s, PF_UNIX, SOCK_DGRAM | 04000, 0) or die;\n\
                  send($s, 'x', 0, sockaddr_un('/var/lib/certgate-node/logins.sock'));\n";
    site.run_with(NODE, "root", "install -m 0755 /dev/stdin /usr/local/bin/certgate-flood", sender).ok();
    site.run(NODE, "root", &flood).ok();
    let mut hers = user1_begins(&site, "hers", "");
    site.signal(NODE, "agent", "CONT");
    remove_user1(&site);
    hers.ends();
    // Nor does one that is not there.
    site.add_user1();
    site.signal(NODE, "agent", "KILL");
    let mut hers = user1_begins(&site, "again", "");
    site.start_agent(NODE);
    site.in_force(NODE);
    remove_user1(&site);
    hers.ends();
}

#[test]
fn what_a_local_user_makes_up_ends_nothing_and_fills_nothing() {
    let site = Site::with_user1_at_work();
    let mut hers = user1_begins(&site, "hers", "");
    let mut another = admin1_begins(&site);
    is_known(&site, "user1");
    is_known(&site, "admin1");
    // PARENT, LOGIN and SERIAL: a notice as the helper's.
    let forge = "#!/usr/bin/perl\nuse Socket;\nmy ($parent, $login, $serial) = @ARGV;\n\
                 socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die;\n\
                 my $n = pack('a8 V x4 Q< x32 a32 a32', 'CGLOGIN1', $parent, $serial, $login, $login);\n\
                 defined send($s, $n, 0, sockaddr_un('/var/lib/certgate-node/logins.sock')) or die \"$!\\n\";\n";
    site.run_with(NODE, "root", "install -m 0755 /dev/stdin /usr/local/bin/forge", forge).ok();
    site.run(NODE, "admin1", "forge 1 user1 1").refused("Permission denied");
    let known = || {
        let stored: Value = site.run(NODE, "root", &format!("cat {STATE}/sessions.json")).ok().parse().unwrap();
        stored["sessions"].as_array().unwrap().iter().map(|entry| entry[1].clone()).collect::<Vec<_>>()
    };
    let is_open = |session: &&Value| session["state"].get("open").is_some();
    let before = known().len();
    // As the user that the helper runs as: about every process there is, for each login.
    let all = "for pid in $(ps -eo pid=) 0 -1 4194304; do for login in user1 admin1 root; do \
               setpriv --reuid 65534 --regid 65534 --clear-groups forge $pid $login 6666666666; done; done";
    site.run(NODE, "root", all).ok();
    // A new login is noted after all of these.
    let mut third = user1_begins(&site, "third", "");
    eventually("the third session is known", || known().iter().filter(is_open).count() == 3);
    let after = known();
    assert!(after.iter().filter(is_open).all(|session| session["claim"]["serial"] != 6_666_666_666_u64), "{after:?}");
    // The listening sshd is one of root's, so it may be tried; it never becomes a session.
    assert!(after.len() <= before + 2, "{after:?}");
    remove_user1(&site);
    hers.ends();
    third.ends();
    assert!(!another.ended());
    site.run(LAPTOP, "admin1", &dial("admin1", "id_ecdsa", "hostname")).ok();
}

#[test]
fn who_sends_is_known_from_the_kernel_and_not_from_who_can_reach_the_socket() {
    let (helper, other) = (65534, 1234);
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("logins.sock");
    let inbox = Inbox::bind(&path, helper).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let send = |uid: u32, serial| {
        let notice = Notice { parent: 42, serial, key: [9; 32], login: b"user1", key_id: b"user1" };
        let script = "use Socket; local $/; my $n = <STDIN>; socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die; \
                      defined send($s, $n, 0, sockaddr_un($ARGV[0])) or die $!;";
        let mut command = Command::new("perl");
        let mut child =
            command.args(["-e", script]).arg(&path).uid(uid).gid(uid).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&notice.encode().unwrap()).unwrap();
        assert!(child.wait().unwrap().success(), "it was sent");
    };
    send(other, 1);
    send(helper, 2);
    send(0, 3);
    let heard = [inbox.receive().unwrap(), inbox.receive().unwrap()];
    assert_eq!(heard.map(|heard| heard.claim.serial.0), [2, 3]);
}
