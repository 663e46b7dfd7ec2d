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
    let alias = format!("certgate-{}", bastion.host);
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
        let lines: Vec<String> = known.gateways.iter().map(|key| format!("{alias} {key}")).collect();
        let _ = writeln!(text, "    KnownHostsCommand {}", printf(&lines));
    }
    text.push_str(&identity);
    if known.clusters.is_empty() {
        return Ok(text);
    }
    let hosts = patterns(known, " ");
    let authority = format!("@cert-authority {} {}", patterns(known, ","), known.host_ca);
    let _ = write!(
        text,
        "\nHost {hosts}\n    User {}\n    ProxyJump {alias}\n    StrictHostKeyChecking yes\n    UpdateHostKeys no\n    \
         KnownHostsCommand {}\n    CertificateFile {dir}/cert.pub\n{identity}\n# Fetches a certificate when the last \
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
/// The certificate's comment is `certgate:SECONDS`, the time of its end, so that no tool has to parse it. One of many
/// that run at once fetches (`mkdir` is atomic), the others wait for it, at most ten seconds; whoever finds a lock
/// that is older than that takes it over.
fn fetch(dir: &str, alias: &str) -> String {
    let good = format!(
        "good() {{ read -r t b c <cert.pub && test $(date +%%s) -lt $((${{c#certgate:}} - {MARGIN})); }} 2>/dev/null"
    );
    let get = format!(
        "get() {{ ssh -n -T -o ConnectTimeout=5 -o ServerAliveInterval=5 -o ServerAliveCountMax=2 -o LogLevel=ERROR \
         {alias} cert >new.$$ 2>err.$$ && mv -f new.$$ cert.pub || cat err.$$ >&2; rm -f new.$$ err.$$; }}"
    );
    let script = format!(
        "umask 077; mkdir -p {dir} && cd {dir} || exit 0; {good}; {get}; good && exit 0; n=0; \
         until mkdir lock 2>/dev/null; do n=$((n+1)); test $n -gt 100 && break; sleep 0.1; good && exit 0; done; \
         good || get; rmdir lock 2>/dev/null; exit 0"
    );
    format!("exec sh -c '{script}'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        app::Bastion,
        domain::{Account, AccountId, AccountState, OrgId, PublicKey, Timestamp, Uid},
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
}
