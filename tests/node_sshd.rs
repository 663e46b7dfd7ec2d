//! A machine joins, a real sshd asks the real helper, and what the authority takes back the node takes back.
//!
//! The machine is a mount namespace of its own: its /etc/passwd has the users, its /run and /srv are empty, and nothing
//! of it is left afterwards. The gateway here only relays what the test signs; the gateway itself is tested elsewhere.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

mod node_support;

use certgate::{
    app::{
        protocol::{FromNode, ToNode},
        token::TokenText,
    },
    bundle::SignedBundle,
    domain::{Fingerprint, Version},
};
use node_support::{
    GATEWAY, HOST, HOST_CA, NODE, OTHER_CA, Relay, Shared, USER, USER_CA, certify, public, serve, signed, ssh_key,
    write_key,
};
use ssh_key::certificate::CertType;
use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// A machine with the script running in it, as process 1 of a namespace that ends with it.
struct Machine(Child);

impl Machine {
    fn start(dir: &Path, port: u16, script: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "sshd and mount namespaces want root: run the tests as root");
        let script = format!(
            "set -eu
            mount -t tmpfs -o mode=755 tmpfs /srv
            mount -t tmpfs -o mode=755 tmpfs /run
            mkdir -p /run/sshd /srv/ssh/conf.d
            cp {helper} /srv/certgate-principals
            cp {dir}/host_key /srv/ssh/host_key
            cp /etc/passwd /srv/passwd
            echo 'user1:*:12345:12345::/srv:/bin/sh' >> /srv/passwd
            echo 'user2:*:12346:12346::/srv:/bin/sh' >> /srv/passwd
            mount --bind /srv/passwd /etc/passwd
            {{
                echo 'Include /srv/ssh/conf.d/*.conf'
                echo 'ListenAddress 127.0.0.1:{port}'
                echo 'HostKey /srv/ssh/host_key'
                echo 'PidFile none'
                echo 'UsePAM no'
                echo 'AuthorizedKeysFile none'
                echo 'PasswordAuthentication no'
                echo 'KbdInteractiveAuthentication no'
            }} > /srv/ssh/sshd_config
            join() {{
                {node} join \"$(cat {dir}/token)\" --config /srv/node.toml --state-dir /srv/state \\
                    --host-key /srv/ssh/host_key --sshd-config /srv/ssh/sshd_config --no-reload \\
                    --drop-in /srv/ssh/conf.d/10-certgate.conf --helper /srv/certgate-principals --accounts none
            }}
            {script}",
            helper = env!("CARGO_BIN_EXE_certgate-principals"),
            node = env!("CARGO_BIN_EXE_certgate-node"),
            dir = dir.display(),
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script]);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn finish(mut self) -> Output {
        use std::io::Read;
        let (mut stdout, mut stderr) = (vec![], vec![]);
        self.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        self.0.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        Output { status: self.0.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The namespace and everything in it ends with unshare(1), --kill-child.
        let _ = (self.0.kill(), self.0.wait());
    }
}

struct Site {
    dir: tempfile::TempDir,
    relay: Shared,
    runtime: tokio::runtime::Runtime,
    /// Where the node's sshd will listen.
    port: u16,
}

impl Site {
    fn new(users: &[&str], secret: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let relay = Arc::new(Mutex::new(Relay {
            bundle: signed(5, users),
            version: 5,
            receipts: vec![],
            agents: vec![],
            endless: None,
        }));
        let gateway = runtime.block_on(serve(Arc::clone(&relay)));
        let token = TokenText {
            gateways: vec![format!("127.0.0.1:{gateway}")],
            host_keys: vec![public(&ssh_key(GATEWAY)).fingerprint()],
            node: NODE.parse().unwrap(),
            secret: secret.into(),
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let site = Self { dir, relay, runtime, port };
        site.write_token(&token);
        write_key(&site.dir.path().join("host_key"), &ssh_key(HOST));
        write_key(&site.dir.path().join("user_key"), &ssh_key(USER));
        let known = format!("@cert-authority {NODE} {}\n", public(&ssh_key(HOST_CA)));
        fs::write(site.dir.path().join("known_hosts"), known).unwrap();
        site
    }

    fn write_token(&self, token: &TokenText) {
        fs::write(self.dir.path().join("token"), token.to_string()).unwrap();
    }

    fn machine(&self, script: &str) -> Machine {
        Machine::start(self.dir.path(), self.port, script)
    }

    /// Logs in with stock ssh and a certificate; the output of a command there, or ssh's complaint.
    fn ssh(&self, login: &str, certificate: &str) -> Result<String, String> {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        fs::write(path("cert.pub"), certificate).unwrap();
        let output = Command::new("ssh")
            .args(["-F", "none", "-p", &self.port.to_string(), "-i", &path("user_key")])
            .args(["-o", &format!("CertificateFile={}", path("cert.pub")), "-o", "IdentitiesOnly=yes"])
            .args(["-o", &format!("UserKnownHostsFile={}", path("known_hosts")), "-o", "StrictHostKeyChecking=yes"])
            .args(["-o", "HostKeyAlias=login-0.h100.acme", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"])
            .args([&format!("{login}@127.0.0.1"), "id -un"])
            .env_remove("SSH_AUTH_SOCK")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn push(&self, version: u64, bundle: SignedBundle) {
        let agents = {
            let mut relay = self.relay.lock().unwrap();
            (relay.version, relay.bundle) = (version, bundle.clone());
            relay.agents.clone()
        };
        let line = format!("{}\n", serde_json::to_string(&ToNode::Bundle(bundle)).unwrap());
        self.runtime.block_on(async {
            for (handle, channel) in agents {
                // The connection that joined is gone.
                let _ = handle.data(channel, line.clone().into_bytes()).await;
            }
        });
    }

    fn wait_for_receipt(&self, wanted: impl Fn(&FromNode) -> bool) {
        eventually("a receipt", || self.relay.lock().unwrap().receipts.iter().any(&wanted));
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "no {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_machine_joins_and_its_sshd_follows_the_bundle() {
    let site = Site::new(&["user1"], "good");
    let node = env!("CARGO_BIN_EXE_certgate-node");
    let _machine = site.machine(&format!(
        "join
        /usr/sbin/sshd -D -f /srv/ssh/sshd_config &
        exec {node} run --config /srv/node.toml"
    ));
    let cert = |ca, who: &str| certify(CertType::User, USER, ca, who, &format!("{who}@acme/ml"));
    let mut last = String::new();
    eventually("login of user1", || match site.ssh("user1", &cert(USER_CA, "user1")) {
        Ok(name) => name == "user1",
        Err(error) => {
            last.clone_from(&error);
            false
        }
    });

    let denied = |login: &str, certificate: &str| {
        let error = site.ssh(login, certificate).unwrap_err();
        assert!(error.contains("Permission denied"), "{error}");
    };
    denied("user2", &cert(USER_CA, "user2"));
    denied("user2", &cert(USER_CA, "user1"));
    denied("user1", &cert(USER_CA, "user2"));
    denied("user1", &cert(OTHER_CA, "user1"));
    denied("root", &certify(CertType::User, USER, USER_CA, "root", "root"));

    // Removed: as soon as the agent has confirmed, the certificate that is still valid is refused.
    eventually("agent", || self::agents(&site) >= 2);
    site.push(6, signed(6, &["user2"]));
    site.wait_for_receipt(|r| matches!(r, FromNode::Receipt { version: Some(Version(6)), problem: None, .. }));
    denied("user1", &cert(USER_CA, "user1"));
    assert_eq!(site.ssh("user2", &cert(USER_CA, "user2")), Ok("user2".into()));

    // An older bundle that let user1 in is refused, and changes nothing.
    site.push(6, signed(5, &["user1"]));
    site.wait_for_receipt(|r| {
        matches!(r, FromNode::Receipt { version: Some(Version(6)), problem: Some(why), .. } if why.contains("version 5"))
    });
    denied("user1", &cert(USER_CA, "user1"));
}

fn agents(site: &Site) -> usize {
    site.relay.lock().unwrap().agents.len()
}

#[test]
fn a_join_that_sshd_does_not_follow_leaves_everything_as_it_was() {
    let site = Site::new(&["user1"], "good");
    let output = site
        .machine(
            "sed -i '/Include/d' /srv/ssh/sshd_config
            mkdir /srv/state
            echo before > /srv/state/access.table
            join && echo JOINED
            find /srv -newer /srv/ssh/sshd_config -type f
            cat /srv/state/access.table",
        )
        .finish();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("is 'none' instead of '/srv/state/user_ca.pub'"), "{said}");
    assert!(said.contains("All files are as they were before"), "{said}");
    assert_eq!(output.stdout, b"/srv/state/access.table\nbefore\n", "{said}");
}

#[test]
fn a_machine_whose_sshd_tells_ports_apart_joins_and_a_later_file_that_undoes_it_is_named() {
    let site = Site::new(&["user1"], "good");
    let blocks = "printf 'Match LocalPort 2222\\n  Banner none\\nMatch LocalAddress 192.0.2.1\\n  Banner none\\n' \
                  >> /srv/ssh/sshd_config\njoin && echo JOINED";
    let output = site.machine(blocks).finish();
    assert_eq!(output.stdout, b"JOINED\n", "{}", String::from_utf8_lossy(&output.stderr));

    let later = "echo FingerprintHash md5 > /srv/ssh/conf.d/20-other.conf\njoin || echo REFUSED";
    let output = Site::new(&["user1"], "good").machine(later).finish();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("takes the last value") && !said.contains("sets it first"), "{said}");
    assert_eq!(output.stdout, b"REFUSED\n");
}

#[test]
fn what_is_wrong_on_the_machine_is_said_before_the_token_is_used() {
    let site = Site::new(&["user1"], "good");
    for (wrong, why) in [
        ("mkdir -m 700 /srv/state", "/srv/state: only its owner and group can look into it"),
        ("chmod 775 /srv/certgate-principals", "/srv/certgate-principals: others than root can write to it"),
        ("chmod 777 /srv", "/srv: others than root can write to it"),
        ("chown 1000 /srv/certgate-principals", "/srv/certgate-principals: it does not belong to root"),
        ("rm /srv/certgate-principals", "/srv/certgate-principals: No such file"),
        ("echo Nonsense >> /srv/ssh/sshd_config", "sshd does not accept its configuration"),
        ("chmod 666 /srv/ssh/host_key", "sshd does not accept its configuration"),
    ] {
        let output = site.machine(&format!("{wrong}\njoin || find /srv/ssh/conf.d /srv/node.toml -type f")).finish();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(why), "{wrong}: {said}");
        assert_eq!(output.stdout, b"", "{wrong}");
    }
    assert_eq!(agents(&site), 0, "the gateway must not hear the secret");
}

#[test]
fn nothing_is_written_for_a_token_that_is_refused_or_a_gateway_that_is_another() {
    let site = Site::new(&["user1"], "used");
    let look = "join || find /srv/state /srv/node.toml /srv/ssh/conf.d -type f";
    let output = site.machine(look).finish();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("refused: the token has been used"), "{said}");
    assert_eq!(output.stdout, b"");

    let token: TokenText = fs::read_to_string(site.dir.path().join("token")).unwrap().parse().unwrap();
    site.write_token(&TokenText { host_keys: vec![Fingerprint::from_bytes([9; 32])], secret: "good".into(), ..token });
    let output = site.machine(look).finish();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("somebody may be in between"), "{said}");
    assert_eq!(output.stdout, b"");
    assert!(site.relay.lock().unwrap().agents.len() == 1, "the other gateway must not hear the secret");
}

#[test]
fn a_broken_table_leaves_one_line_in_the_system_log() {
    let site = Site::new(&[], "good");
    let log = UnixDatagram::bind(site.dir.path().join("log")).unwrap();
    log.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let script = format!(
        "mkdir /srv/dev
        touch /srv/dev/log
        mknod /srv/dev/null c 1 3
        mount --bind {}/log /srv/dev/log
        mount --rbind /srv/dev /dev
        /srv/certgate-principals --table /srv/none user1 1 x y user1",
        site.dir.path().display()
    );
    let output = site.machine(&script).finish();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let mut buffer = [0; 4096];
    let length = log.recv(&mut buffer).unwrap();
    let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(line.contains("certgate-principals") && line.contains("/srv/none: No such file"), "{line}");
    log.set_nonblocking(true).unwrap();
    assert!(log.recv(&mut buffer).is_err(), "one line only");
}
