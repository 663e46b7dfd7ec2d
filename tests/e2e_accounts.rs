//! Accounts on a node that has none of its own: made by the agent as user records, resolved by the real nss-systemd, used
//! by the real sshd.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used)]

mod support;

use support::{HOST, NODE, NODE_ADDRESS, PROJECT, Site, eventually};

/// A node without accounts, and user1 as a member.
fn site(prepare: impl Fn(&Site)) -> Site {
    let mut site = Site::start();
    site.bare_server(NODE, NODE_ADDRESS);
    prepare(&site);
    let token = site.token(NODE, NODE_ADDRESS, "");
    let said = site.join(NODE, &token);
    assert!(said.said().contains("the agent will make the accounts"), "{}", said.said());
    site.start_agent(NODE);
    site.in_force(NODE);
    site.add_user1();
    site.configure_user1();
    site
}

fn uid(site: &Site, user: &str) -> u64 {
    let users = site.operator_json("user list --json");
    let account = users.as_array().unwrap().iter().find(|account| account["user"] == user).unwrap().clone();
    account["uid"].as_u64().unwrap()
}

fn on_node(site: &Site, line: &str) -> String {
    let ran = site.run(NODE, "root", line);
    format!("{}{}", ran.stdout, ran.stderr)
}

#[test]
fn people_have_accounts_on_the_node_while_they_may_log_in_and_a_locked_name_afterwards() {
    let site = site(|_| {});
    let user1 = uid(&site, "user1");
    let resolved = || on_node(&site, "getent passwd user1");
    let groups = "ml-training ml-training-admins\n";
    eventually("accounts", || resolved().contains("/home/user1") && on_node(&site, "id -Gn admin1") == groups);
    let gid = on_node(&site, "getent group ml-training").split(':').nth(2).unwrap().trim().to_owned();
    assert_eq!(resolved(), format!("user1:x:{user1}:{gid}:user1:/home/user1:/bin/bash\n"));
    assert_eq!(on_node(&site, &format!("getent passwd {user1} | cut -d: -f1")), "user1\n");
    assert_eq!(on_node(&site, "id -Gn user1"), "ml-training\n");
    assert_eq!(on_node(&site, "getent shadow user1 | cut -d: -f2"), "*\n");
    assert_eq!(
        site.user1(&format!("ssh {NODE} 'id -un; id -u; id -gn'")).ok(),
        format!("user1\n{user1}\nml-training\n")
    );
    assert_eq!(
        site.user1(&format!("ssh {NODE} 'pwd; stat -c \"%U %G %a\" .; ls -A | grep -x .profile'")).ok(),
        "/home/user1\nuser1 ml-training 700\n.profile\n"
    );
    assert_eq!(on_node(&site, "grep -c -e user1 -e admin1 /etc/passwd"), "0\n");

    // A role is a group.
    site.admin1(&format!("ssh {HOST} member role {PROJECT} user1@acme.example admin")).ok();
    eventually("a group for the admin", || on_node(&site, "id -Gn user1") == groups);

    // Removed: locked, without the groups, and still with a name for what she has left.
    on_node(&site, "touch /tmp/left && chown user1 /tmp/left");
    site.operator(&format!("member remove {PROJECT} user1@acme.example --yes")).ok();
    eventually("a locked account", || on_node(&site, "getent shadow user1 | cut -d: -f2").starts_with('!'));
    assert_eq!(on_node(&site, "stat -c %U /tmp/left"), "user1\n");
    assert_eq!(on_node(&site, "id -Gn user1"), "nogroup\n");
    assert_eq!(on_node(&site, "getent passwd user1 | cut -d: -f3,7"), format!("{user1}:/usr/sbin/nologin\n"));
    assert_eq!(on_node(&site, "id -Gn admin1"), groups);

    // And back.
    site.add_user1();
    eventually("an account of user1 again", || on_node(&site, "id -Gn user1") == "ml-training\n");
    eventually("a login", || site.user1(&format!("ssh {NODE} id -un")).stdout == "user1\n");
}

#[test]
fn a_node_that_leaves_is_as_it_was_before_it_joined() {
    let everything = "find /etc /var/lib ! -type d ! -path '/etc/ssh/ssh_host_*' -printf '%p %m %u\\n' | sort; \
                      sshd -T | sort";
    let before = std::cell::RefCell::new(String::new());
    let site = site(|site| *before.borrow_mut() = on_node(site, everything));
    eventually("an account of user1", || on_node(&site, "id -Gn user1") == "ml-training\n");
    let with = on_node(&site, everything);
    assert!(with.contains("/etc/userdb/user1.user ") && with.contains("10-certgate.conf "), "{with}");

    // What sshd would not take is not done: nothing has changed.
    on_node(&site, "echo 'Port nonsense' >/etc/ssh/sshd_config.d/90-broken.conf");
    let refused = site.run(NODE, "root", "certgate-node leave");
    assert!(refused.refused("nothing was changed").said().contains("90-broken.conf"));
    on_node(&site, "rm /etc/ssh/sshd_config.d/90-broken.conf");
    assert_eq!(on_node(&site, everything), with);

    site.signal(NODE, "agent", "TERM");
    let left = site.run(NODE, "root", "certgate-node leave");
    let said = left.said();
    left.ok();
    for step in ["reloaded sshd", "removed 2 accounts", &format!("node remove {NODE}")] {
        assert!(said.contains(step), "{said}");
    }
    assert_eq!(on_node(&site, everything), *before.borrow());
    site.user1(&format!("ssh {NODE} id -un")).refused("");
    // Once is enough, and somebody else's file is not ours to remove.
    site.run(NODE, "root", "certgate-node leave").refused("'certgate-node join TOKEN' writes this file");
}

#[test]
fn what_the_machine_has_already_is_left_alone_and_said() {
    let site = site(|site| {
        site.run(NODE, "root", "echo 'user1:x:1500:1500::/home/local:/bin/sh' >>/etc/passwd").ok();
        site.run(NODE, "root", "echo 'ml-training-admins:x:1600:' >>/etc/group").ok();
    });
    eventually("an account of admin1", || on_node(&site, "id -Gn admin1") == "ml-training\n");
    eventually("a word about user1", || site.log(NODE, "agent").contains("no account user1"));
    assert!(site.log(NODE, "agent").contains("no group ml-training-admins"), "{}", site.log(NODE, "agent"));
    assert_eq!(on_node(&site, "getent passwd user1"), "user1:x:1500:1500::/home/local:/bin/sh\n");
    // The stranger of that name is in no group of ours.
    assert!(!on_node(&site, "id -Gn user1").contains("ml-training"));
    assert_eq!(on_node(&site, "ls /etc/userdb | grep -c user1"), "0\n");
}
