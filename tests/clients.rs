//! Conformance with SSH clients that nobody here wrote, on sites of their own (see `support`): OpenSSH, dropbear, PuTTY's
//! plink, libssh, paramiko and asyncssh, which `scripts/clients` installs. Each gets a certificate, jumps through the
//! gateway to a real sshd, moves 100 MB both ways, and is refused what it should be.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use support::{CLIENTS, HOST, LAPTOP, NODE, NODE_ADDRESS, PROJECT, Site, eventually};

/// A node of a project in which user1 is not.
const OTHER: &str = "login-0.b200-cluster.acme";
const MEGABYTES: usize = 100;

/// How a client is told what to do, as command lines of user1's in a directory of the client's own. In it are her
/// `.ssh`, `known_plain`, with the host keys of the gateway and the node, `stranger`, a key that is not registered, and,
/// once it was issued, `kept.pub`.
struct Client {
    name: &'static str,
    /// Made from her key and the certificate, for those that read neither as they are.
    prepare: &'static str,
    /// On the gateway with a key of hers, and a command.
    gateway: fn(key: &str, command: &str) -> String,
    /// On a node with the certificate, through the gateway, and a command.
    node: fn(node: &str, command: &str) -> String,
    /// What it says to a stranger's key.
    denied: &'static str,
    /// What is said when it asks for the other project's node, and how it is asked when the client itself loses that.
    unknown: (&'static str, fn() -> String),
    /// Asks a gateway for what it does not give, and what it says to that.
    asks: (fn() -> String, &'static [&'static str]),
}

/// A site with another project, whose node is there and works for those who are in it.
fn stage() -> Site {
    support::install_clients(&[]);
    let mut site = Site::start();
    site.enrol(NODE, NODE_ADDRESS);
    site.add_user1();
    site.operator("project create acme/research --admin admin1@acme.example").ok();
    site.operator("cluster create acme/research b200-cluster --kind slurm").ok();
    site.enrol(OTHER, "127.10.1.2");
    site.admin1(&format!("ssh {HOST} config >.ssh/certgate.conf && echo 'Include certgate.conf' >.ssh/config")).ok();
    assert_eq!(site.admin1(&format!("ssh {OTHER} hostname")).ok(), format!("{OTHER}\n"));

    let key = site.run(NODE, "root", "cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub").ok();
    let known = format!("{{ grep '^{HOST} ' .ssh/known_hosts; echo '{NODE} {}'; }} >known_plain", key.trim());
    site.user1(&known).ok();
    // dropbear reads no other file.
    site.user1("tail -n 1 known_plain >>.ssh/known_hosts").ok();
    site.user1("ssh-keygen -q -t ed25519 -N '' -C '' -f stranger").ok();
    site.user1(&format!("head -c {} /dev/urandom >big; sha256sum <big >sum", MEGABYTES << 20)).ok();
    site
}

fn conforms(site: &Site, client: &Client) {
    let name = client.name;
    site.user1(&format!("mkdir {name} && cp -a .ssh known_plain stranger* {name}")).ok();
    let user1 = |line: &str| site.user1(&format!("cd {name} && {line}"));
    let own = |key: &str, command: &str| user1(&format!("{} </dev/null", (client.gateway)(key, command)));
    let node = |node: &str, command: &str| user1(&format!("{} </dev/null", (client.node)(node, command)));

    user1(client.prepare).ok();
    let certificate = own(".ssh/id_ed25519", "cert").ok();
    assert_eq!(certificate.lines().count(), 1, "{certificate}");
    site.run_with(LAPTOP, "user1", &format!("cat >{name}/kept.pub"), &certificate).ok();
    let shown = user1("ssh-keygen -L -f kept.pub").ok();
    assert!(shown.contains(&format!("user1@{PROJECT}")), "{shown}");
    assert_eq!(own(".ssh/id_ed25519", "frobnicate").status, Some(2), "the exit status comes along");
    // Those that keep both in one file do it again, now that there is a certificate.
    user1(client.prepare).ok();

    assert_eq!(node(NODE, "hostname").ok(), format!("{NODE}\n"));
    assert_eq!(node(NODE, "exit 7").status, Some(7));
    let sum = user1("cat ../sum").ok();
    let up = (client.node)(NODE, &format!("tee {name} | sha256sum"));
    assert_eq!(user1(&format!("{up} <../big")).ok(), sum);
    let size = site.run(NODE, "root", &format!("stat -c %s /home/user1/{name}")).ok();
    assert_eq!(size.trim().parse(), Ok(MEGABYTES << 20));
    let down = (client.node)(NODE, &format!("cat {name}; rm {name}"));
    assert_eq!(user1(&format!("{down} </dev/null | sha256sum")).ok(), sum);

    let (unknown, ask) = client.unknown;
    let asked = user1(&format!("{} </dev/null", ask()));
    // dropbear's exit status says nothing of it.
    assert!(asked.stdout.is_empty() && asked.stderr.contains(unknown), "{asked:#?}");
    node(OTHER, "hostname").refused("");
    for command in ["whoami", ""] {
        assert_eq!(own("stranger", command).refused(client.denied).stdout, "");
    }
    let (ask, answers) = client.asks;
    let asked = user1(&format!("eval $(ssh-agent) >/dev/null; trap 'kill $SSH_AGENT_PID' EXIT; {}", ask()));
    for answer in answers {
        assert!(asked.said().contains(answer), "{answer:?} is not in what it said: {asked:#?}");
    }
    assert!(!asked.said().contains("GRANTED") && !asked.said().contains("NO ANSWER"), "{asked:#?}");
}

/// On one site, which costs more than most of them, and all at once: some of them mostly wait.
#[test]
fn clients_that_nobody_here_wrote_conform() {
    let site = stage();
    let clients = [OPENSSH, DROPBEAR, PLINK, LIBSSH, PARAMIKO, ASYNCSSH];
    std::thread::scope(|scope| {
        let running: Vec<_> = clients
            .iter()
            .map(|client| {
                // The thread's name is in what is printed when it fails.
                let thread = std::thread::Builder::new().name(client.name.into());
                thread.spawn_scoped(scope, || conforms(&site, client)).unwrap()
            })
            .collect();
        let failed: Vec<_> = running
            .into_iter()
            .zip(&clients)
            .filter_map(|(run, client)| run.join().err().map(|_| client.name))
            .collect();
        assert!(failed.is_empty(), "these do not conform, for what is printed above: {failed:?}");
    });
    // All machines of a site share one network.
    assert_eq!(site.run(LAPTOP, "root", "ss -Hltn sport = :7777").ok(), "", "somebody listens for a remote forward");

    // dropbear knows no certificates: it reaches the node's sshd by a jump of its own, and is turned away there.
    let jump = site.user1(&format!(
        "cd dropbear && /usr/bin/dbclient -T -i .ssh/id_ed25519.dropbear user1@{HOST},user1@{NODE} hostname </dev/null"
    ));
    assert_eq!(jump.refused("No auth methods could be used").stdout, "");
    eventually("the node has heard of it", || {
        site.log(NODE, "sshd").lines().any(|line| line.contains("closed by authenticating user user1"))
    });
}

/// OpenSSH with a certificate and no configuration of ours, by a way of its own.
fn openssh(way: &str, node: &str, command: &str) -> String {
    format!(
        "ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityFile=.ssh/id_ed25519 -o CertificateFile=kept.pub \
         -o StrictHostKeyChecking=yes {way} user1@{node} '{command}'"
    )
}

const BARE: &str = "ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes";

const OPENSSH: Client = Client {
    name: "openssh",
    prepare: "true",
    gateway: |key, command| format!("{BARE} -i {key} {HOST} {command}"),
    node: |node, command| openssh(&format!("-J user1@{HOST}"), node, command),
    denied: "Permission denied (publickey)",
    unknown: ("no such node: login-0.b200-cluster.acme", || openssh(&format!("-J user1@{HOST}"), OTHER, "hostname")),
    asks: (
        || {
            let all = "-v -A -Y -R 7777:127.0.0.1:22 -R /tmp/remote:/tmp/local";
            format!("ssh-add -q .ssh/id_ed25519; DISPLAY=127.0.0.1:0 {BARE} {all} {HOST} whoami")
        },
        &[
            "remote forward failure for: listen 7777",
            "remote forward failure for: listen /tmp/remote",
            "X11 forwarding request failed",
            "Requesting authentication agent forwarding",
            "You are user1@acme.example",
        ],
    ),
};

/// Knows no certificates: a node's sshd is reached with it, and OpenSSH goes through it.
const DROPBEAR: Client = Client {
    name: "dropbear",
    prepare: "for key in .ssh/id_ed25519 stranger; do \
                  dropbearconvert openssh dropbear $key $key.dropbear 2>/dev/null; done",
    gateway: |key, command| format!("dbclient -T -i {key}.dropbear user1@{HOST} {command}"),
    node: |node, command| {
        let jump = format!("dbclient -i .ssh/id_ed25519.dropbear -B %h:%p user1@{HOST}");
        openssh(&format!("-o \"ProxyCommand={jump}\""), node, command)
    },
    denied: "No auth methods could be used",
    // It does not say why.
    unknown: ("closed", || format!("dbclient -i .ssh/id_ed25519.dropbear -B {OTHER}:22 user1@{HOST}")),
    asks: (
        || {
            format!(
                "ssh-add -q .ssh/id_ed25519; dbclient -A -R 7777:127.0.0.1:22 -i .ssh/id_ed25519.dropbear {HOST} whoami"
            )
        },
        &["Remote TCP forward request failed", "You are user1@acme.example"],
    ),
};

/// `plink` with the host key's fingerprint, as its own store of host keys would have it.
fn plink(host: &str, options: &str) -> String {
    format!("plink -batch -ssh -hostkey $(ssh-keygen -lf known_plain -F {host} | grep -o 'SHA256:[^ ]*') {options}")
}

fn plink_through(node: &str, command: &str) -> String {
    let jump = plink(HOST, &format!("-i .ssh/id_ed25519.ppk -nc %host:%port user1@{HOST}"));
    // Of another project's node the key does not matter: nobody gets as far.
    plink(NODE, &format!("-T -proxycmd \"{jump}\" -i certified.ppk user1@{node} '{command}'"))
}

const PLINK: Client = Client {
    name: "plink",
    prepare: "for key in .ssh/id_ed25519 stranger; do puttygen $key -O private -o $key.ppk; done; \
                  ! test -e kept.pub || puttygen .ssh/id_ed25519.ppk --certificate kept.pub -O private -o certified.ppk",
    gateway: |key, command| plink(HOST, &format!("-T -i {key}.ppk user1@{HOST} {command}")),
    node: plink_through,
    denied: "No supported authentication methods available (server sent: publickey)",
    unknown: ("[no such node: login-0.b200-cluster.acme]", || {
        plink(HOST, &format!("-i .ssh/id_ed25519.ppk -nc {OTHER}:22 user1@{HOST}"))
    }),
    asks: (
        || {
            let all = "-v -A -X -R 7777:127.0.0.1:22";
            let all = plink(HOST, &format!("{all} -i .ssh/id_ed25519.ppk user1@{HOST} whoami </dev/null"));
            format!("export DISPLAY=127.0.0.1:0; ssh-add -q .ssh/id_ed25519; {all}")
        },
        &[
            "Remote port forwarding from 7777 refused",
            "X11 forwarding refused",
            "Agent forwarding refused",
            "You are user1@acme.example",
        ],
    ),
};

const LIBSSH: Client = Client {
    name: "libssh",
    prepare: "true",
    gateway: |key, command| format!("{CLIENTS}/libssh_client run -i {key} {HOST} '{command}'"),
    node: |node, command| format!("{CLIENTS}/libssh_client run -c kept.pub -J {HOST} {node} '{command}'"),
    denied: "Access denied for 'publickey'",
    unknown: ("no such node: login-0.b200-cluster.acme", || format!("{CLIENTS}/libssh_client jump {HOST} {OTHER}")),
    asks: (
        || format!("{CLIENTS}/libssh_client refused {HOST}"),
        &[
            "x11: refused",
            "subsystem: refused",
            "environment: refused",
            "remote forward: refused",
            "after asking for the agent: You are user1@acme.example",
        ],
    ),
};

fn python(script: &str, what: &str) -> String {
    format!("{CLIENTS}/venv/bin/python {CLIENTS}/{script}_client.py {what}")
}

fn paramiko(node: &str, command: &str) -> String {
    python("paramiko", &format!("run -c kept.pub -J {HOST} {node} '{command}'"))
}

const PARAMIKO: Client = Client {
    name: "paramiko",
    prepare: "true",
    gateway: |key, command| python("paramiko", &format!("run -i {key} {HOST} '{command}'")),
    node: paramiko,
    denied: "AuthenticationException: Authentication failed.",
    unknown: ("no such node: login-0.b200-cluster.acme", || paramiko(OTHER, "hostname")),
    asks: (
        || python("paramiko", &format!("refused {HOST}")),
        &[
            "x11: refused",
            "subsystem: refused",
            "remote forward: refused",
            "after asking for the agent: You are user1@acme.example",
        ],
    ),
};

fn asyncssh(node: &str, command: &str) -> String {
    python("asyncssh", &format!("run -c kept.pub -J {HOST} {node} '{command}'"))
}

const ASYNCSSH: Client = Client {
    name: "asyncssh",
    prepare: "true",
    gateway: |key, command| python("asyncssh", &format!("run -i {key} {HOST} '{command}'")),
    node: asyncssh,
    denied: "PermissionDenied: Permission denied",
    unknown: ("no such node: login-0.b200-cluster.acme", || asyncssh(OTHER, "hostname")),
    asks: (
        || python("asyncssh", &format!("refused {HOST}")),
        &[
            "x11: refused",
            "subsystem: refused",
            "remote forward: refused",
            "remote socket: refused",
            "socket: refused",
            "after asking for variables: You are user1@acme.example",
        ],
    ),
};
