//! `certgate-node doctor` on a machine that has joined for real: all is well there; then one thing after the other is broken
//! in earnest, and it is named, with what to do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use support::{BASTION, NODE, NODE_ADDRESS, Site, eventually};

const DROP_INS: &str = "/etc/ssh/sshd_config.d";
const STATE: &str = "/var/lib/certgate-node";
const HELPER: &str = "/usr/local/lib/certgate/certgate-principals";

struct Report {
    exit: i32,
    findings: Vec<Value>,
}

impl Report {
    #[track_caller]
    fn of(site: &Site, user: &str, more: &str) -> Self {
        let ran = site.run(NODE, user, &format!("certgate-node doctor --json {more}"));
        let json: Value = ran.stdout.parse().unwrap_or_else(|error| panic!("{error}: {ran:#?}"));
        let exit = ran.status.unwrap();
        assert_eq!(json["exit"], exit, "{ran:#?}");
        Self { exit, findings: json["findings"].as_array().unwrap().clone() }
    }

    /// What is worse than a hint.
    fn bad(&self) -> Vec<&Value> {
        self.findings.iter().filter(|f| !matches!(f["severity"].as_str(), Some("ok" | "hint"))).collect()
    }

    fn says(&self, check: &str, severity: &str, words: &str) -> bool {
        self.findings.iter().any(|f| {
            let all = format!("{} {}", f["finding"].as_str().unwrap(), f["mend"].as_str().unwrap_or_default());
            f["check"] == check && f["severity"] == severity && all.contains(words)
        })
    }
}

/// A node that has joined, with its agent and sshd.
fn node() -> Site {
    let mut site = Site::start();
    site.enrol(NODE, NODE_ADDRESS);
    site.add_user1();
    site
}

fn root(site: &Site, line: &str) {
    site.run(NODE, "root", line).ok();
}

/// Breaks something, sees it named, mends it.
#[track_caller]
fn breaks(site: &Site, wrong: &str, (check, severity, words): (&str, &str, &str), right: &str) {
    root(site, wrong);
    let report = Report::of(site, "root", "");
    root(site, right);
    assert!(report.says(check, severity, words), "{wrong}: {:#?}", report.findings);
    let exit = match severity {
        "error" => 2,
        "warning" => 1,
        _ => 0,
    };
    assert_eq!(report.exit, exit, "{wrong}: {:#?}", report.findings);
}

#[test]
fn a_node_that_has_joined_is_all_well_and_nothing_on_it_is_changed() {
    let site = node();
    // The agent makes accounts when it has time to.
    let look =
        format!("find /etc {STATE} /root -path /etc/userdb -prune -o -type f -printf '%p %s %m %U %T@\\n' | sort");
    let before = site.run(NODE, "root", &look).ok();
    let report = Report::of(&site, "root", "");
    assert!(report.exit == 0 && report.bad().is_empty(), "{:#?}", report.findings);
    for check in ["config", "drop-in", "in-force", "helper", "access-table", "bundle", "clock", "agent", "accounts"] {
        assert!(report.says(check, "ok", ""), "{check}: {:#?}", report.findings);
    }
    assert!(report.says("gateway", "ok", "reaches the authority"), "{:#?}", report.findings);
    assert!(report.says("clock", "ok", "the clock is the authority's"), "{:#?}", report.findings);
    assert!(report.says("bundle", "ok", "the last one that there is"), "{:#?}", report.findings);
    assert!(report.says("host-certificate", "ok", "sshd shows it"), "{:#?}", report.findings);
    assert_eq!(site.run(NODE, "root", &look).ok(), before);
    // The agent's own connection is still there: a removal arrives.
    site.admin1(&format!("ssh {} member remove {} user1@acme.example --yes --wait", support::HOST, support::PROJECT))
        .ok();

    // For people: a table, without colours where there is no terminal.
    let ran = site.run(NODE, "root", "certgate-node doctor");
    assert!(ran.stdout.starts_with("STATE  CHECK") && ran.stdout.contains("All is well"), "{ran:#?}");
    assert!(!ran.stdout.contains('\u{1b}') && ran.stderr.is_empty(), "{ran:#?}");

    // Whoever is not root learns what is hidden, and is not told that it is broken.
    let report = Report::of(&site, "user1", "");
    assert!(report.exit == 1 && report.says("config", "unseen", "root"), "{:#?}", report.findings);
    assert!(report.bad().iter().all(|finding| finding["severity"] == "unseen"), "{:#?}", report.findings);
}

#[test]
fn what_others_set_in_sshds_configuration_is_named() {
    let site = node();
    let old = Report::of(&site, "root", "");
    let version = old.findings.iter().find(|f| f["check"] == "sshd-version").unwrap()["finding"].as_str().unwrap();
    let number = version.strip_prefix("OpenSSH ").unwrap().split_once('.').unwrap();
    let number: (u32, u32) = (number.0.parse().unwrap(), number.1.parse().unwrap());

    let keys = "AuthorizedKeysCommand /opt/aws/bin/eic_run_authorized_keys %u %f\\nAuthorizedKeysCommandUser nobody\\n";
    let first = format!("{DROP_INS}/05-other.conf");
    let file = |name: &str, text: &str| format!("printf '{text}' >{DROP_INS}/{name}");
    // The real loss, on the sshd of this machine.
    let named = if number < (9, 4) {
        ("in-force", "error", "silently, because AuthorizedKeysCommand of EC2 Instance Connect stands before it")
    } else {
        ("other-files", "hint", "EC2 Instance Connect")
    };
    breaks(&site, &file("05-other.conf", keys), named, &format!("rm {first}"));
    let behind = ("other-files", "hint", "it lets people in whatever certgate says");
    breaks(&site, &file("20-other.conf", keys), behind, &format!("rm {DROP_INS}/20-other.conf"));
    for (text, words) in [
        ("TrustedUserCAKeys /etc/ssh/ssh_host_ed25519_key.pub\\n", "certificates of certgate are not accepted"),
        ("AuthorizedPrincipalsFile /etc/principals\\n", "05-other.conf line 1 sets it"),
        ("Match User user1\\nAuthorizedPrincipalsFile /etc/principals\\n", "for user1"),
    ] {
        breaks(&site, &file("05-other.conf", text), ("in-force", "error", words), &format!("rm {first}"));
    }
    // Of this directive sshd takes the last.
    let last =
        ("in-force", "error", "20-other.conf line 1 sets it; take that away or let certgate's file be read last");
    breaks(&site, &file("20-other.conf", "FingerprintHash md5\\n"), last, &format!("rm {DROP_INS}/20-other.conf"));
    let no_keys = ("certificate-login", "error", "PubkeyAuthentication");
    breaks(&site, &file("05-other.conf", "PubkeyAuthentication no\\n"), no_keys, &format!("rm {first}"));
    let bad = ("sshd-config", "error", "05-other.conf");
    breaks(&site, &file("05-other.conf", "Nonsense yes\\n"), bad, &format!("rm {first}"));
    let missing = ("revoked-keys", "error", "/etc/none");
    breaks(&site, &file("05-other.conf", "RevokedKeys /etc/none\\n"), missing, &format!("rm {first}"));
    root(&site, "ssh-keygen -q -k -f /etc/krl /etc/ssh/ssh_host_ed25519_key.pub");
    let good = ("revoked-keys", "ok", "/etc/krl");
    breaks(&site, &file("05-other.conf", "RevokedKeys /etc/krl\\n"), good, &format!("rm {first}"));
    let cut = format!("{}; truncate -s 50 /etc/krl", file("05-other.conf", "RevokedKeys /etc/krl\\n"));
    breaks(&site, &cut, ("revoked-keys", "error", "damaged"), &format!("rm {first}"));

    let ours = format!("{DROP_INS}/10-certgate.conf");
    breaks(&site, &format!("mv {ours} /root/x"), ("drop-in", "error", "join again"), &format!("mv /root/x {ours}"));
    let include = ("in-force", "error", "put 'Include /etc/ssh/sshd_config.d/10-certgate.conf' at the top");
    breaks(
        &site,
        "sed -i s/^Include/#Include/ /etc/ssh/sshd_config",
        include,
        "sed -i s/^#Include/Include/ /etc/ssh/sshd_config",
    );

    let adopt = "echo 'account required pam_slurm_adopt.so' >>/etc/pam.d/sshd";
    let undo = format!("rm {first}; sed -i /slurm/d /etc/pam.d/sshd");
    let misplaced = ("slurm", "error", "on a login node take it out");
    let uses = file("05-other.conf", "UsePAM yes\\n");
    breaks(&site, &format!("{uses}; {adopt}"), misplaced, &undo);
    let report = Report::of(&site, "root", "");
    assert!(report.exit == 0 && report.bad().is_empty(), "all mended: {:#?}", report.findings);
}

#[test]
fn what_is_wrong_with_certgates_own_files_and_programs_is_named() {
    let site = node();
    let table = format!("{STATE}/access.table");
    let bundle = format!("{STATE}/bundle.json");
    let cert = format!("{STATE}/ssh_host_key-cert.pub");
    let writable = ("helper", "error", "others than root can write to /usr/local/lib/certgate (mode 0777)");
    breaks(&site, "chmod 777 /usr/local/lib/certgate", writable, "chmod 755 /usr/local/lib/certgate");
    breaks(
        &site,
        &format!("chown 1001 {HELPER}"),
        ("helper", "error", "chown root:root"),
        &format!("chown 0 {HELPER}"),
    );
    breaks(
        &site,
        &format!("mv {HELPER} /root/x"),
        ("helper", "error", "No such file"),
        &format!("mv /root/x {HELPER}"),
    );
    // It is there, but cannot run.
    let broken = format!("cp {HELPER} /root/x; echo '#!/none' >{HELPER}");
    breaks(&site, &broken, ("helper", "error", "does not answer"), &format!("cp /root/x {HELPER}"));
    breaks(&site, &format!("chmod 600 {table}"), ("access-table", "error", "chmod o+r"), &format!("chmod 644 {table}"));
    breaks(&site, &format!("chmod 700 {STATE}"), ("access-table", "error", "chmod o+x"), &format!("chmod 755 {STATE}"));
    let cut = format!("cp -a {table} /root/x; truncate -s 100 {table}");
    breaks(&site, &cut, ("access-table", "error", "access.table"), &format!("mv /root/x {table}"));
    let forged = format!("cp -a {bundle} /root/x; sed -i s/acme/axme/ {bundle}");
    breaks(&site, &forged, ("bundle", "error", "signature"), &format!("mv /root/x {bundle}"));
    let ca = format!("cp -a {STATE}/user_ca.pub /root/x; cat /etc/ssh/ssh_host_ed25519_key.pub >>{STATE}/user_ca.pub");
    breaks(&site, &ca, ("bundle", "error", "file of user CAs"), &format!("mv /root/x {STATE}/user_ca.pub"));
    let number = ("accounts", "warning", "user1 has user number 4321 here");
    breaks(
        &site,
        "cp /etc/passwd /root/x; sed -i 's/^user1:x:[0-9]*/user1:x:4321/' /etc/passwd",
        number,
        "cp /root/x /etc/passwd",
    );
    breaks(
        &site,
        "mv /etc/certgate/node.toml /root/x",
        ("config", "error", "join"),
        "mv /root/x /etc/certgate/node.toml",
    );
    breaks(
        &site,
        &format!("mv {cert} /root/x"),
        ("host-certificate", "error", "No such file"),
        &format!("mv /root/x {cert}"),
    );

    // sshd was started without certgate's file, and has not been reloaded since.
    let drop_in = format!("{DROP_INS}/10-certgate.conf");
    root(&site, &format!("mv {drop_in} /root/x; /usr/local/sbin/reload-sshd"));
    eventually("an sshd that shows none", || {
        Report::of(&site, "root", "").says("host-certificate", "error", "shows no host certificate")
    });
    root(&site, &format!("mv /root/x {drop_in}"));
    let report = Report::of(&site, "root", "");
    assert!(report.says("host-certificate", "error", "shows no host certificate"), "{:#?}", report.findings);
    assert!(report.says("in-force", "ok", ""), "only a reload is missing: {:#?}", report.findings);
    root(&site, "/usr/local/sbin/reload-sshd");
    eventually("an sshd that shows it", || Report::of(&site, "root", "").bad().is_empty());

    // What hangs is said, and not waited for.
    root(&site, "printf '#!/bin/sh\\nexec sleep 100\\n' >/usr/local/sbin/slow; chmod 755 /usr/local/sbin/slow");
    let report = Report::of(&site, "root", "--sshd /usr/local/sbin/slow");
    assert!(report.says("sshd-version", "error", "no answer in 10 s"), "{:#?}", report.findings);
}

#[test]
fn who_does_not_answer_is_named() {
    let site = node();
    let key = "sed -i.bak 's/\\(gateway_host_keys = .\"SHA256:\\)..../\\1AAAA/' /etc/certgate/node.toml";
    let back = "mv /etc/certgate/node.toml.bak /etc/certgate/node.toml";
    breaks(&site, key, ("gateway", "error", "somebody may be in between"), back);

    site.signal(NODE, "agent", "TERM");
    let report = Report::of(&site, "root", "");
    assert!(report.exit == 2 && report.says("agent", "error", "does not run"), "{:#?}", report.findings);
    // What it has missed by that is known from the authority.
    site.operator("user suspend user1@acme.example").ok();
    let report = Report::of(&site, "root", "");
    assert!(report.says("bundle", "error", "who was removed since is still let in here"), "{:#?}", report.findings);
    site.operator("user resume user1@acme.example").ok();
    site.start_agent(NODE);
    site.in_force(NODE);

    site.signal(BASTION, "gateway", "TERM");
    let report = Report::of(&site, "root", "");
    assert!(report.exit == 2 && report.says("gateway", "error", "refused"), "{:#?}", report.findings);
    site.start_gateway();
    eventually("a node that is well", || Report::of(&site, "root", "").bad().is_empty());

    site.operator(&format!("node remove {NODE} --yes")).ok();
    // Until the node has heard of it, the gateway lets it in: for the bundle that says so.
    eventually("a node that knows that it is none", || {
        let report = Report::of(&site, "root", "");
        report.exit == 2 && report.says("bundle", "error", "lets nobody in: the node was removed")
    });

    site.signal(NODE, "sshd", "TERM");
    let report = Report::of(&site, "root", "");
    assert!(report.says("host-certificate", "error", "sshd does not answer"), "{:#?}", report.findings);
}
