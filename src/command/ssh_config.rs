//! The OpenSSH client configuration: text that works with stock ssh alone.
//!
//! Constraints (each of them was a trap): POSIX sh only; no quotes inside the `exec` string, since OpenSSH before 8.7
//! cannot escape them; `%` doubled, since ssh expands it; no network while the last certificate is good; replaced by
//! rename, since many `ssh` run at once; silent when all is well; never a word for hosts that are not ours.

use crate::app::KnownHosts;
use std::fmt::Write;

/// Seconds before its end at which a certificate counts as used up.
const MARGIN: u32 = 30;

/// Lines for a known_hosts file: the bastion's host keys, and the CA of the nodes' host certificates.
pub(super) fn known_hosts(known: &KnownHosts) -> String {
    let bastion = match known.bastion.port {
        22 => known.bastion.host.clone(),
        port => format!("[{}]:{port}", known.bastion.host),
    };
    let mut text = String::new();
    for key in &known.gateways {
        let _ = writeln!(text, "{bastion} {key}");
    }
    // Also a gateway whose key is new.
    let _ = writeln!(text, "@cert-authority {bastion} {}", known.host_ca);
    if !known.clusters.is_empty() {
        let _ = writeln!(text, "@cert-authority {} {}", patterns(known, ","), known.host_ca);
    }
    text
}

/// Every node of every cluster, and the clusters themselves.
fn patterns(known: &KnownHosts, separator: &str) -> String {
    let names = known.clusters.iter().flat_map(|cluster| [format!("*.{cluster}"), cluster.to_string()]);
    names.collect::<Vec<_>>().join(separator)
}

/// The whole configuration.
///
/// The error is for the one who asked.
pub(super) fn config(known: &KnownHosts, identity: Option<&str>) -> Result<String, String> {
    let Some(account) = &known.account else {
        return Err("the configuration is for an account; ask for it through the gateway, as 'ssh BASTION config'; \
                    operators have 'config known-hosts'"
            .into());
    };
    let identity = identity_lines(identity)?;
    let bastion = &known.bastion;
    let alias = bastion.alias();
    // One directory for each bastion, so that two sites do not share a certificate. No space or quote is in a host.
    let dir = format!("~/.ssh/certgate/{}-{}", bastion.host, bastion.port);
    let mut text = format!(
        "# certgate, for {} ({}). Made by: ssh BASTION config\n# Make it anew when your projects or their clusters \
         change. Needs OpenSSH 8.5 or later.\n\nIgnoreUnknown KnownHostsCommand\n\nHost {alias}\n    HostName {}\n    \
         Port {}\n    User {}\n    HostKeyAlias {alias}\n    StrictHostKeyChecking yes\n    UpdateHostKeys no\n    \
         ForwardAgent no\n    ForwardX11 no\n",
        account.email, account.user, bastion.host, bastion.port, account.user
    );
    if !known.gateways.is_empty() {
        let keys = known.gateways.iter().map(|key| format!("{alias} {key}"));
        let lines: Vec<String> = keys.chain([format!("@cert-authority {alias} {}", known.host_ca)]).collect();
        let _ = writeln!(text, "    KnownHostsCommand {}", printf(&lines));
    }
    text.push_str(&identity);
    if known.clusters.is_empty() {
        return Ok(text);
    }
    let hosts = patterns(known, " ");
    // What runs a command that is forced gets no terminal, and would be told so each time that it asks for one.
    let bound = account.service().is_some_and(|terms| terms.force_command.is_some());
    let terminal = if bound { "    RequestTTY no\n" } else { "" };
    let authority = format!("@cert-authority {} {}", patterns(known, ","), known.host_ca);
    let _ = write!(
        text,
        "\nHost {hosts}\n    User {}\n    ProxyJump {alias}\n    StrictHostKeyChecking yes\n    UpdateHostKeys no\n    \
         KnownHostsCommand {}\n    CertificateFile {dir}/cert.pub\n{terminal}{identity}\n# Fetches a certificate when the last \
         one is used up; while it is good this costs no network.\nMatch host {} exec \"{}\"\n",
        account.user,
        printf(&[authority]),
        patterns(known, ","),
        fetch(&dir, &alias),
    );
    // A Match block ends where another begins: whatever is included after this file is for every host again.
    text.push_str("\nMatch all\n");
    Ok(text)
}

fn identity_lines(identity: Option<&str>) -> Result<String, String> {
    let Some(file) = identity else { return Ok(String::new()) };
    let plain = |c: char| c.is_alphanumeric() || "/._-~+@ ".contains(c);
    if file.is_empty() || file.starts_with('-') || !file.chars().all(plain) {
        return Err("--identity takes a file name of letters, digits and / . _ - ~ + @".into());
    }
    Ok(format!("    IdentityFile \"{file}\"\n    IdentitiesOnly yes\n"))
}

/// A command that prints lines; an absolute path, as ssh demands, that Linux and macOS share.
fn printf(lines: &[String]) -> String {
    format!("/usr/bin/printf \"{}\\n\"", lines.join("\\n"))
}

/// The script of `Match exec`. Always succeeds where a certificate could not be had: the gateway will say why.
///
/// The certificate's comment is `certgate:SECONDS`, the time of its end, so that no tool has to parse it. What a gateway
/// sent is looked at before it is used: shell arithmetic would run a command in it (bash expands subscripts), so the
/// seconds are ten digits or nothing, and a new file takes the old one's place only if it is good by the same test. One of
/// many that run at once fetches (`mkdir` is atomic), the others wait for it, at most ten seconds; who has waited so long
/// takes over. An interrupted one takes its lock away.
fn fetch(dir: &str, alias: &str) -> String {
    let good = format!(
        "good() {{ c=; read -r t b c <$1 || return 1; e=${{c#certgate:}}; case $e in *[!0-9]*) return 1;; \
         ??????????) ;; *) return 1;; esac; test $(date +%%s) -lt $((e - {MARGIN})); }} 2>/dev/null"
    );
    let get = format!(
        "get() {{ ssh -n -T -o ConnectTimeout=5 -o ServerAliveInterval=5 -o ServerAliveCountMax=2 -o LogLevel=ERROR \
         {alias} cert >new.$$ 2>err.$$ && good new.$$ && mv -f new.$$ cert.pub || cat err.$$ >&2; rm -f new.$$ err.$$; }}"
    );
    let script = format!(
        "umask 077; mkdir -p {dir} && cd {dir} || exit 0; {good}; {get}; good cert.pub && exit 0; n=0; \
         until mkdir lock 2>/dev/null; do n=$((n+1)); test $n -gt 100 && break; sleep 0.1; good cert.pub && exit 0; \
         done; trap : INT TERM HUP; good cert.pub || get; rmdir lock 2>/dev/null; exit 0"
    );
    format!("exec sh -c '{script}'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        app::Bastion,
        domain::{Account, AccountId, AccountKind, AccountState, OrgId, PublicKey, Timestamp, Uid},
    };
    use std::sync::Arc;

    fn known() -> KnownHosts {
        let key: PublicKey =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk8sJwgtvJwSAGHSLkJL7gTrZgcoLYZQ+9yCxGwBZ1R".parse().unwrap();
        KnownHosts {
            bastion: Bastion { host: "bastion.example.com".into(), port: 2222 },
            gateways: vec![key.clone()],
            host_ca: key.clone(),
            clusters: vec!["h100.acme".parse().unwrap()],
            account: Some(Arc::new(Account {
                id: AccountId(1),
                org: OrgId(1),
                email: "user1@acme.example".parse().unwrap(),
                user: "user1".parse().unwrap(),
                uid: Uid(200_000),
                state: AccountState::Active,
                kind: AccountKind::Person,
                created: Timestamp::from_secs(0),
            })),
            key: Some(key),
        }
    }

    #[test]
    fn known_hosts_name_the_port_and_only_our_hosts() {
        let text = known_hosts(&known());
        assert!(text.starts_with("[bastion.example.com]:2222 ssh-ed25519 "));
        assert!(text.contains("\n@cert-authority *.h100.acme,h100.acme ssh-ed25519 "));
    }

    #[test]
    fn the_exec_string_has_no_quote_that_old_ssh_could_trip_over() {
        let text = config(&known(), None).unwrap();
        let exec = text.lines().find(|line| line.starts_with("Match host")).unwrap();
        assert_eq!(exec.matches('"').count(), 2, "{exec}");
        assert_eq!(exec.matches('\'').count(), 2, "{exec}");
        // ssh expands a lone % in the string.
        assert_eq!(exec.matches('%').count(), 2 * exec.matches("%%").count(), "{exec}");
    }

    #[test]
    fn an_identity_cannot_smuggle_in_other_settings() {
        assert!(config(&known(), Some("~/.ssh/work key")).unwrap().contains("IdentityFile \"~/.ssh/work key\""));
        for bad in ["", "-x", "a\"\n    ProxyCommand evil", "a\nb", "$(x)", "%d/x"] {
            assert!(config(&known(), Some(bad)).is_err(), "{bad:?}");
        }
    }

    /// Runs the script as ssh does, with an `ssh` that prints `sent`; returns what it said.
    fn run(shell: &[&str], dir: &std::path::Path, sent: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("sent"), sent).unwrap();
        let fake = format!("#!/bin/sh\necho asked >>{0}/asked\ncat {0}/sent\necho why >&2\n", bin.display());
        std::fs::write(bin.join("ssh"), fake).unwrap();
        std::fs::set_permissions(bin.join("ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
        // What ssh makes of it: `%%` is `%`, and the whole goes to the user's shell.
        let script = fetch(&dir.join("state").display().to_string(), "alias").replace("%%", "%");
        let script = script.replacen("exec sh", &format!("exec {}", shell.join(" ")), 1);
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let output = std::process::Command::new("sh").arg("-c").arg(script).env("PATH", path).output().unwrap();
        assert!(output.status.success());
        assert!(output.stdout.is_empty());
        let left: Vec<_> = std::fs::read_dir(dir.join("state")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "cert.pub"), "left behind: {left:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn asked(dir: &std::path::Path) -> usize {
        std::fs::read_to_string(dir.join("bin/asked")).unwrap_or_default().lines().count()
    }

    #[test]
    fn a_certificate_is_fetched_once_and_used_until_it_ends() {
        for shell in [&["sh"][..], &["bash", "--posix"], &["bash"]] {
            let dir = tempfile::tempdir().unwrap();
            let cert = dir.path().join("state/cert.pub");
            assert_eq!(run(shell, dir.path(), "type base64 certgate:9999999999\n"), "", "{shell:?}");
            assert_eq!(run(shell, dir.path(), "another certgate:9999999999\n"), "");
            assert_eq!(
                (asked(dir.path()), std::fs::read_to_string(&cert).unwrap().as_str()),
                (1, "type base64 certgate:9999999999\n")
            );
            std::fs::write(&cert, "type base64 certgate:1000000000\n").unwrap();
            assert_eq!(run(shell, dir.path(), "type newer certgate:9999999999\n"), "");
            assert_eq!(asked(dir.path()), 2);
        }
    }

    /// A gateway that was taken over must get nothing on the machines of those who connect through it.
    #[test]
    fn nothing_that_a_gateway_sends_is_run() {
        for shell in [&["sh"][..], &["bash", "--posix"], &["bash"]] {
            let dir = tempfile::tempdir().unwrap();
            let marker = dir.path().join("ran");
            let touch = format!("$(touch${{IFS}}{})", marker.display());
            for sent in [
                format!("t b x[{touch}]\n"),
                format!("t b certgate:x[{touch}]\n"),
                format!("t b certgate:{touch}\n"),
                format!("t b certgate:`touch {}`\n", marker.display()),
                format!("t b certgate:9999999999[{touch}]\n"),
                "t b certgate:99999999999\n".into(),
                "t b certgate:\n".into(),
                "t b\n".into(),
                String::new(),
            ] {
                assert!(run(shell, dir.path(), &sent).contains("why"), "{sent:?} was taken");
                assert!(!dir.path().join("state/cert.pub").exists(), "{sent:?} was kept");
                // Nor from a file that is there already.
                std::fs::write(dir.path().join("state/cert.pub"), &sent).unwrap();
                run(shell, dir.path(), &sent);
                std::fs::remove_file(dir.path().join("state/cert.pub")).unwrap();
                assert!(!marker.exists(), "{shell:?} ran {sent:?}");
            }
        }
    }
}
