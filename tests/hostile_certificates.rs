//! Hostile certificates against the real gateway and authority, presented by OpenSSH and signed by `ssh-keygen` with
//! the authority's own CA key: each carries the serial of a certificate that was really issued, and differs from that
//! one in one thing.
//!
//! OpenSSH offers the plain key after a certificate that was refused, and the plain key is registered: so a refusal
//! shows as a login by the key (`whoami` names no certificate), and in the audit log with its reason.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

struct Site {
    dir: tempfile::TempDir,
    port: u16,
    running: Vec<Child>,
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// Runs a program that has to succeed.
fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    output
}

impl Site {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Free when it was asked for; nobody else here takes a port that it has not been given.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = dir.path().display();
        let authority = format!(
            "state_dir = \"{at}/state\"\nadmin_socket = \"{at}/admin.sock\"\ngateway_socket = \
             \"{at}/gateway.sock\"\n[bastion]\nhost = \"127.0.0.1\"\nport = {port}\n"
        );
        let gateway = format!(
            "listen = [\"127.0.0.1:{port}\"]\nauthority_socket = \"{at}/gateway.sock\"\nhost_key = \
             \"{at}/host_key\"\nname = \"gw1\"\n"
        );
        fs::write(dir.path().join("authority.toml"), authority).unwrap();
        fs::write(dir.path().join("gateway.toml"), gateway).unwrap();
        let mut site = Self { dir, port, running: Vec::new() };
        for role in ["authority", "gateway"] {
            let log = fs::File::create(site.path(&format!("{role}.log"))).unwrap();
            let config = site.path(&format!("{role}.toml"));
            let mut command = Command::new(env!("CARGO_BIN_EXE_certgated"));
            site.running.push(command.arg(role).arg("--config").arg(config).stderr(log).spawn().unwrap());
        }
        // `status` succeeds when a gateway is connected.
        let deadline = Instant::now() + Duration::from_secs(60);
        while !site.certgate(&["status"]).status.success() {
            assert!(Instant::now() < deadline, "the site did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        let known = text(&site.operator(&["config", "known-hosts"]).stdout);
        fs::write(site.path("known_hosts"), known).unwrap();
        site.operator(&["org", "create", "acme"]);
        for name in ["user1", "user2"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(site.path(name)));
            let key = fs::read_to_string(site.path(&format!("{name}.pub"))).unwrap();
            let email = format!("{name}@acme.example");
            site.operator(&["user", "create", &email, "--org", "acme", "--name", name, "--key", key.trim()]);
        }
        site.operator(&["project", "create", "acme/ml", "--admin", "user1@acme.example"]);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn certgate(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certgate"));
        command.arg("--socket").arg(self.path("admin.sock")).args(words).stdin(Stdio::null()).output().unwrap()
    }

    fn operator(&self, words: &[&str]) -> Output {
        let output = self.certgate(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        output
    }

    fn ssh(&self, user: &str, certificate: Option<&Path>, line: &str) -> Output {
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", self.path("known_hosts").display()));
        command.arg("-i").arg(self.path(user)).arg("-p").arg(self.port.to_string());
        if let Some(certificate) = certificate {
            command.arg("-o").arg(format!("CertificateFile={}", certificate.display()));
        }
        command.args(["127.0.0.1", line]).stdin(Stdio::null()).output().unwrap()
    }

    /// With what somebody was let in: the serial of a certificate, or none for the key.
    fn with(&self, user: &str, certificate: &Path) -> Option<u64> {
        let output = self.ssh(user, Some(certificate), "whoami --json");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let who: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(who["user"], user);
        who["certificate"].as_u64()
    }

    /// A certificate on a user's key, by `ssh-keygen`.
    fn sign(&self, name: &str, ca: &Path, user: &str, options: &[&str]) -> PathBuf {
        let key = self.path(&format!("{name}.pub"));
        fs::copy(self.path(&format!("{user}.pub")), &key).unwrap();
        run(Command::new("ssh-keygen").arg("-q").arg("-s").arg(ca).args(options).arg(&key));
        self.path(&format!("{name}-cert.pub"))
    }

    /// Reasons of the refused certificates that are on record.
    fn refusals(&self) -> Vec<String> {
        let log: serde_json::Value =
            serde_json::from_slice(&self.operator(&["audit", "list", "--limit", "1000", "--json"]).stdout).unwrap();
        let events = log["entries"].as_array().unwrap().iter().map(|entry| &entry["event"]);
        let refused = events.filter(|event| event["action"] == "authenticate" && event["outcome"] == "refused");
        refused.map(|event| event["detail"].as_str().unwrap().split(':').next().unwrap().to_owned()).collect()
    }
}

/// Its name, the CA that signs, whose key, the options of `ssh-keygen`, and the reason of the authority's refusal.
type Case<'a> = (&'a str, &'a Path, &'a str, Vec<String>, Option<&'a str>);

#[test]
fn each_hostile_certificate_is_refused_and_a_good_one_is_not() {
    let site = Site::start();
    let issued = site.ssh("user1", None, "cert --json");
    assert!(issued.status.success(), "{}", text(&issued.stderr));
    let serial = serde_json::from_slice::<serde_json::Value>(&issued.stdout).unwrap()["serial"].as_u64().unwrap();
    let z = serial.to_string();
    let ca = site.path("state/user_ca");
    let good = ["-I", "user1", "-n", "user1@acme/ml", "-V", "-1m:+4m", "-z", &z];
    let but = |replaced: &[(&str, &'static str)]| -> Vec<String> {
        let mut options: Vec<String> = good.iter().map(|&option| option.to_owned()).collect();
        for (option, value) in replaced {
            let at = options.iter().position(|have| have == option).unwrap();
            options[at + 1] = (*value).to_owned();
        }
        options
    };
    let plus = |more: &[&str]| [&good[..], more].concat().iter().map(|&option| option.to_owned()).collect::<Vec<_>>();
    let other_ca = site.path("other_ca");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&other_ca));
    let rsa_ca = site.path("rsa_ca");
    run(Command::new("ssh-keygen").args(["-q", "-t", "rsa", "-b", "3072", "-N", "", "-f"]).arg(&rsa_ca));
    let nobody = but(&[])[..].iter().filter(|o| *o != "-n" && *o != "user1@acme/ml").cloned().collect::<Vec<_>>();

    // The reason is none where russh refuses before the authority is asked, or OpenSSH does not offer such a thing;
    // the authority's own refusal of it is tested in `policy::hostile_tests`.
    let table: Vec<Case<'_>> = vec![
        ("wrong-ca", &other_ca, "user1", but(&[]), Some("certificate-authority")),
        ("rsa-sha1", &rsa_ca, "user1", plus(&["-t", "ssh-rsa"]), None),
        ("rsa-sha2", &rsa_ca, "user1", plus(&["-t", "rsa-sha2-512"]), Some("certificate-authority")),
        ("host-type", &ca, "user1", plus(&["-h"]), None),
        ("expired", &ca, "user1", but(&[("-V", "-10m:-1m")]), None),
        ("not-yet-valid", &ca, "user1", but(&[("-V", "+1h:+2h")]), None),
        ("no-principal", &ca, "user1", nobody, Some("certificate-principals")),
        ("another-s-principal", &ca, "user1", but(&[("-n", "user2@acme/ml")]), Some("certificate-principals")),
        ("more-principals", &ca, "user1", but(&[("-n", "user1@acme/ml,user1@acme/x")]), Some("certificate-principals")),
        ("another-s-key-id", &ca, "user1", but(&[("-I", "user2")]), Some("certificate-principals")),
        ("unknown-option", &ca, "user1", plus(&["-O", "critical:x@example.com=1"]), Some("certificate-option")),
        ("force-command", &ca, "user1", plus(&["-O", "force-command=id"]), Some("certificate-option")),
        ("elsewhere", &ca, "user1", plus(&["-O", "source-address=192.0.2.1/32"]), Some("certificate-source")),
        ("another-s-key", &ca, "user2", but(&[]), Some("certificate-record")),
        ("never-issued", &ca, "user1", but(&[("-z", "4711")]), Some("certificate-record")),
    ];
    let mut expected = Vec::new();
    for (name, ca, user, options, reason) in table {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let certificate = site.sign(name, ca, user, &options);
        assert_eq!(site.with(user, &certificate), None, "{name} was believed");
        expected.extend(reason.map(str::to_owned));
    }
    // The audit log is written beside; what it has is complete once the last of these is there.
    let deadline = Instant::now() + Duration::from_secs(30);
    while site.refusals().len() < expected.len() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(site.refusals(), expected);

    // What only the serial, the key, the names and the time say is the same as in the one that was issued.
    let plain = site.sign("good", &ca, "user1", &good);
    assert_eq!(site.with("user1", &plain), Some(serial));
    let here = site.sign("here", &ca, "user1", &[&good[..], &["-O", "source-address=127.0.0.0/8"]].concat());
    assert_eq!(site.with("user1", &here), Some(serial));

    site.operator(&["certificate", "revoke", &z]);
    assert_eq!(site.with("user1", &plain), None, "a revoked certificate was believed");
    // And the key goes on working without it.
    assert!(site.ssh("user1", None, "whoami").status.success());
}
