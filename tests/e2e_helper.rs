//! What the one who connects can put into sshd's environment, and what of it reaches the helper: nothing. On real OpenSSH,
//! and with a helper that has a loader, which the shipped one has not.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used)]

mod support;

use support::{HOST, NODE, NODE_ADDRESS, Site, eventually};

#[test]
fn a_library_that_a_client_names_is_loaded_in_its_session_and_not_in_the_helper() {
    let site = Site::with_user1_at_work();
    // A careless site: sshd takes whatever clients send.
    let careless = "echo 'AcceptEnv *' >>/etc/ssh/sshd_config && reload-sshd && install -d -m 1777 /tmp/loaded";
    site.run(NODE, "root", careless).ok();
    let code = "#include <stdio.h>\n#include <fcntl.h>\n#include <unistd.h>\n\
                __attribute__((constructor)) static void in(void) {\n  char name[64];\n  \
                sprintf(name, \"/tmp/loaded/%d\", (int)getuid());\n  close(open(name, O_CREAT | O_WRONLY, 0600));\n}\n";
    site.run_with(NODE, "root", "cc -shared -fPIC -x c -o /usr/local/lib/intruder.so -", code).ok();
    site.user1(&format!("ssh {HOST} cert --ttl 30m >kept.pub")).ok();
    let dial = |login: &str| {
        site.user1(&format!(
            "ssh -F none -i .ssh/id_ed25519 -o CertificateFile=kept.pub -o IdentitiesOnly=yes -o BatchMode=yes \
             -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
             -o SetEnv=LD_PRELOAD=/usr/local/lib/intruder.so {login}@{NODE_ADDRESS} true"
        ))
    };
    eventually("sshd with the new configuration", || {
        dial("user1").ok();
        !site.run(NODE, "root", "ls /tmp/loaded").ok().is_empty()
    });
    dial("admin1").refused("Permission denied");
    let uid = site.run(NODE, "root", "id -u user1").ok();
    // In hers, which she can do there as she likes; not as root, not as the helper's user.
    assert_eq!(site.run(NODE, "root", "ls /tmp/loaded").ok().trim(), uid.trim());
    // It would work on that helper.
    let by_hand = "LD_PRELOAD=/usr/local/lib/intruder.so setpriv --reuid 65534 --clear-groups \
                   /usr/local/lib/certgate/certgate-principals";
    site.run(NODE, "root", by_hand).refused("usage");
    assert!(site.run(NODE, "root", "ls /tmp/loaded").ok().contains("65534"));
}
