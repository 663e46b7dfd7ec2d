//! sshd: its version, our drop-in, what is really in force, and what others have set.

use super::blind;
use crate::node::{
    doctor::{
        facts::{Directive, Effective, Facts, Revoked},
        finding::Finding,
    },
    sshd::DropIn,
};

/// From here on AuthorizedKeysCommand may stand where it likes.
const FIXED: (u32, u32) = (9, 4);
/// The oldest that is meant to work.
const OLDEST: (u32, u32) = (8, 0);

/// Who sets sshd's AuthorizedKeysCommand and its like; recognized by a word in the value.
const KNOWN: &[(&str, &str)] = &[
    ("eic_", "EC2 Instance Connect"),
    ("ec2-instance-connect", "EC2 Instance Connect"),
    ("google_authorized", "Google's OS Login"),
    ("userdbctl", "systemd's userdb"),
    ("sss_ssh", "SSSD"),
    ("opkssh", "opkssh"),
    ("aad_certhandler", "Azure's Entra login"),
];

/// The directive of which sshd takes the last value that it reads.
const LAST_WINS: &str = "fingerprinthash";

/// Directives that we set and that have one value only: the first that sshd reads, or the last.
const OURS: &[&str] = &[
    "trustedusercakeys",
    "authorizedprincipalsfile",
    "authorizedprincipalscommand",
    "authorizedprincipalscommanduser",
    "fingerprinthash",
];

/// As sshd_config(5) writes it.
fn written(directive: &str) -> &str {
    match directive {
        "trustedusercakeys" => "TrustedUserCAKeys",
        "authorizedprincipalsfile" => "AuthorizedPrincipalsFile",
        "authorizedprincipalscommand" => "AuthorizedPrincipalsCommand",
        "authorizedprincipalscommanduser" => "AuthorizedPrincipalsCommandUser",
        "authorizedkeyscommand" => "AuthorizedKeysCommand",
        "fingerprinthash" => "FingerprintHash",
        "hostcertificate" => "HostCertificate",
        "revokedkeys" => "RevokedKeys",
        other => other,
    }
}

/// `OpenSSH_9.2p1 Debian-2+deb12u10, …`
fn number(text: &str) -> Option<(u32, u32)> {
    let rest = &text[text.find("OpenSSH_")? + "OpenSSH_".len()..];
    let (major, rest) = rest.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn openssh(facts: &Facts) -> Option<(u32, u32)> {
    facts.sshd.version.as_ref().ok().and_then(|text| number(text))
}

pub(super) fn version(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "sshd-version";
    let text = match &facts.sshd.version {
        Ok(text) => text,
        Err(why) => return vec![blind(CHECK, "sshd cannot be asked", why, "name the right program with --sshd")],
    };
    vec![match number(text) {
        None => Finding::warning(
            CHECK,
            format!("this sshd is no OpenSSH that is known here: {text}"),
            "certgate needs OpenSSH 8.0 or later",
        ),
        Some((major, minor)) if (major, minor) < OLDEST => Finding::warning(
            CHECK,
            format!("OpenSSH {major}.{minor} is older than any that certgate was made for"),
            "update sshd to OpenSSH 8.0 or later",
        ),
        Some((major, minor)) => Finding::ok(CHECK, format!("OpenSSH {major}.{minor}")),
    }]
}

pub(super) fn accepted(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "sshd-config";
    let config = facts.sshd_config.display();
    vec![match &facts.sshd.accepted {
        Ok(()) => Finding::ok(CHECK, format!("sshd accepts {config}")),
        Err(why) => {
            let mend = "correct it until 'sshd -t' is silent: at its next start sshd would not come up";
            blind(CHECK, &format!("sshd does not accept {config}"), why, mend)
        }
    }]
}

pub(super) fn drop_in(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "drop-in";
    let path = facts.drop_in_path.display();
    let again = "join again with a new token ('node token' on the bastion), which writes it anew";
    let drop_in = match &facts.drop_in {
        Ok(drop_in) => drop_in,
        Err(why) => return vec![blind(CHECK, &format!("sshd's configuration of certgate, {path}"), why, again)],
    };
    let Some(wanted) = &drop_in.wanted else {
        let text = format!("{path} has no AuthorizedPrincipalsCommand that calls the helper, or no user for it");
        return vec![Finding::error(CHECK, text, again)];
    };
    let missing: Vec<String> = wanted
        .directives()
        .into_iter()
        .filter(|(name, value)| {
            !drop_in.lines.iter().any(|line| line.0 == name.to_ascii_lowercase() && line.1 == *value)
        })
        .map(|(name, value)| format!("'{name} {value}'"))
        .collect();
    if missing.is_empty() {
        vec![Finding::ok(CHECK, format!("{path} is as join wrote it"))]
    } else if let [list] = &missing[..]
        && list.starts_with("'RevokedKeys ")
    {
        // It was turned on in node.toml, which join does not look at.
        let text =
            format!("revoked_keys is on, but {path} does not say {list}: what is revoked only the helper refuses");
        let mend = format!("add the line to {path} when the agent has made the list, then reload sshd");
        vec![Finding::warning(CHECK, text, mend)]
    } else {
        vec![Finding::error(CHECK, format!("{path} does not say {}", missing.join(", ")), again)]
    }
}

/// Whether what the drop-in wants is what `sshd -T` says, for each login that was asked about.
pub(super) fn in_force(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "in-force";
    let effective = match &facts.sshd.effective {
        Ok(effective) => effective,
        Err(why) => {
            return vec![blind(CHECK, "what is in force cannot be read ('sshd -T')", why, "see what 'sshd -T' says")];
        }
    };
    let Ok(drop_in) = &facts.drop_in else { return vec![] };
    let Some(wanted) = &drop_in.wanted else { return vec![] };
    let said = |name: &str| drop_in.lines.iter().any(|line| line.0.eq_ignore_ascii_case(name));
    let found: Vec<Finding> = wanted
        .directives()
        .into_iter()
        // What the drop-in lacks is said of it above.
        .filter(|(name, _)| *name != "RevokedKeys" || said(name))
        .filter_map(|(name, value)| not_in_force(facts, effective, &name.to_ascii_lowercase(), &value, wanted))
        .map(|(text, mend)| Finding::error(CHECK, text, mend))
        .collect();
    if !found.is_empty() {
        return found;
    }
    let logins = effective.len();
    vec![Finding::ok(CHECK, format!("sshd uses all that certgate set (asked with 'sshd -T' for {logins} logins)"))]
}

fn not_in_force(
    facts: &Facts,
    effective: &[Effective],
    name: &str,
    value: &str,
    wanted: &DropIn,
) -> Option<(String, String)> {
    // HostCertificate may stand there several times; of the others sshd prints one.
    let wrong: Vec<&Effective> = effective.iter().filter(|login| !login.all(name).any(|v| v == value)).collect();
    let first = wrong.first()?;
    let found = first.get(name).unwrap_or("not set");
    let whom = if wrong.len() == effective.len() {
        String::new()
    } else {
        let logins: Vec<&str> = wrong.iter().map(|login| login.login.as_str()).collect();
        format!(" for {}", logins.join(", "))
    };
    if name == "authorizedprincipalscommand"
        && found == "none"
        && openssh(facts).is_some_and(|version| version < FIXED)
        && let Some(command) = first.set("authorizedkeyscommand")
    {
        return Some(dropped(facts, command, &whom));
    }
    let directive = written(name);
    let text = format!("sshd uses '{found}' as {directive}{whom}, not '{value}': {}", consequence(name, wanted));
    Some((text, culprit(facts, name, first)))
}

/// OpenSSH before 9.4 tests the wrong variable (bz3574).
fn dropped(facts: &Facts, command: &str, whom: &str) -> (String, String) {
    let at = directives(facts).iter().find(|d| d.name == "authorizedkeyscommand").map(place);
    let at = at.map_or_else(String::new, |at| format!(" in {at}"));
    let by = known(command).map_or_else(String::new, |who| format!(" of {who}"));
    let version = openssh(facts).map_or_else(String::new, |(major, minor)| format!(" {major}.{minor}"));
    (
        format!(
            "OpenSSH{version} drops AuthorizedPrincipalsCommand silently{whom}, because AuthorizedKeysCommand{by} \
             stands before it{at}: nobody is let in by certificate"
        ),
        "let certgate's file be read first (rename the other so that it sorts after it), or update sshd to OpenSSH 9.4 \
         or later; then reload sshd"
            .into(),
    )
}

fn consequence(directive: &str, wanted: &DropIn) -> String {
    match directive {
        "trustedusercakeys" => "certificates of certgate are not accepted".into(),
        "authorizedprincipalsfile" => "a file decides who is let in, beside certgate".into(),
        "authorizedprincipalscommand" => "certgate's helper is not asked, and nobody is let in by certificate".into(),
        "authorizedprincipalscommanduser" => {
            format!("the helper should run as {}, and may not reach its table otherwise", wanted.helper_user)
        }
        "revokedkeys" => "what is revoked only the helper refuses".into(),
        "fingerprinthash" => "the helper does not understand such fingerprints, and lets nobody in".into(),
        _ => "clients are asked about the host key, or refuse it".into(),
    }
}

/// What to do about a directive that something else has set.
fn culprit(facts: &Facts, name: &str, login: &Effective) -> String {
    let all = directives(facts);
    let others: Vec<&Directive> = all.iter().filter(|d| d.name == name && d.file != facts.drop_in_path).collect();
    let ours = all.iter().any(|d| d.file == facts.drop_in_path);
    if facts.sshd.directives.is_ok() && !ours {
        return format!(
            "put 'Include {}' at the top of {}, and reload sshd",
            facts.drop_in_path.display(),
            facts.sshd_config.display()
        );
    }
    // Of this one sshd takes the last (servconf.c, `sFingerprintHash`), of all others the first.
    let last = name == LAST_WINS;
    match if last { others.last() } else { others.first() } {
        Some(other) => {
            let by = known(&other.value).map_or_else(String::new, |who| format!(" (of {who})"));
            let matched = if other.matched { ", in a Match block" } else { "" };
            let order = if last { "last" } else { "first" };
            format!(
                "{} sets it{by}{matched}; take that away or let certgate's file be read {order}, and reload sshd",
                place(other)
            )
        }
        None => format!("look for {} in what 'sshd -T -C user={}' reads", written(name), login.login),
    }
}

fn directives(facts: &Facts) -> &[Directive] {
    facts.sshd.directives.as_deref().unwrap_or_default()
}

fn place(directive: &Directive) -> String {
    format!("{} line {}", directive.file.display(), directive.line)
}

fn known(value: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(word, _)| value.contains(word)).map(|(_, who)| *who)
}

/// Whatever else can keep a certificate from being looked at.
pub(super) fn logins(facts: &Facts) -> Vec<Finding> {
    let Ok(effective) = &facts.sshd.effective else { return vec![] };
    let mut found = vec![];
    let mut seen = std::collections::BTreeSet::new();
    for login in effective {
        for (key, finding) in obstacles(login) {
            if seen.insert(key) {
                found.push(finding);
            }
        }
    }
    found
}

fn obstacles(login: &Effective) -> Vec<(&'static str, Finding)> {
    const CHECK: &str = "certificate-login";
    let who = &login.login;
    let error = |text: String, mend: &str| Finding::error(CHECK, text, mend);
    let mut found = vec![];
    if login.get("pubkeyauthentication") == Some("no") {
        let text = format!("PubkeyAuthentication is 'no' (for {who}): nobody is let in by certificate");
        found.push(("pubkeyauthentication", error(text, "set it to 'yes', and reload sshd")));
    }
    if let Some(list) = login.get("casignaturealgorithms").filter(|list| !list.split(',').any(|a| a == "ssh-ed25519")) {
        let text =
            format!("CASignatureAlgorithms has no ssh-ed25519 (but {list}): certgate's certificates are refused");
        found.push(("casignaturealgorithms", error(text, "add ssh-ed25519 to it, and reload sshd")));
    }
    let accepted = login.get("pubkeyacceptedalgorithms").or_else(|| login.get("pubkeyacceptedkeytypes"));
    if accepted.is_some_and(|list| !list.contains("-cert-v01@openssh.com")) {
        let text = "PubkeyAcceptedAlgorithms has no kind of certificate: certificates are refused".to_owned();
        found.push(("pubkeyacceptedalgorithms", error(text, "add the '-cert-v01@openssh.com' kinds, and reload sshd")));
    }
    let methods: Vec<&str> = login.all("authenticationmethods").flat_map(str::split_whitespace).collect();
    if !methods.is_empty() && !methods.iter().any(|method| matches!(*method, "any" | "publickey")) {
        let text =
            format!("AuthenticationMethods (for {who}) is '{}': a certificate alone lets nobody in", methods.join(" "));
        found.push(("authenticationmethods", Finding::warning(CHECK, text, "add 'publickey' if that is not wanted")));
    }
    for name in ["AllowUsers", "AllowGroups", "DenyUsers", "DenyGroups"] {
        let directive = name.to_ascii_lowercase();
        if login.lines.iter().any(|line| line.0 == directive) {
            let text = format!("sshd has {name}: whom it leaves out is refused, whatever certgate says");
            found.push((name, Finding::hint(CHECK, text, "see that it fits the people of the cluster's project")));
        }
    }
    found
}

/// Others who claim what we set, or who let people in beside us.
pub(super) fn others(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "other-files";
    let all = match &facts.sshd.directives {
        Ok(all) => all,
        Err(why) => return vec![blind(CHECK, "sshd's configuration files", why, "see that root can read them")],
    };
    let mut found = vec![];
    for other in all.iter().filter(|d| d.file != facts.drop_in_path) {
        let (at, name, value) = (place(other), written(&other.name), &other.value);
        let by = known(value).map_or_else(String::new, |who| format!(", which is {who}"));
        let revoking = other.name == "revokedkeys" && ours_revokes(facts);
        if OURS.contains(&other.name.as_str()) || revoking {
            let text = format!("{at} sets {name} as well ('{value}'{by}): sshd takes one of the two");
            found.push(Finding::hint(CHECK, text, "take it away if it is not needed: the other has no effect"));
        } else if other.name == "authorizedkeyscommand" && value != "none" {
            let before = openssh(facts).is_some_and(|v| v < FIXED);
            let order =
                if before { "; this OpenSSH is older than 9.4, and it must stay behind certgate's file" } else { "" };
            let text = format!("{at} sets {name} ('{value}'{by}): it lets people in whatever certgate says{order}");
            found.push(Finding::hint(CHECK, text, "take it away if certgate is to be the only way in"));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok(CHECK, "no other file claims what certgate sets"));
    }
    found
}

/// Whether sshd's list of revoked keys is one of certgate's.
fn ours_revokes(facts: &Facts) -> bool {
    let wanted = facts.drop_in.as_ref().ok().and_then(|drop_in| drop_in.wanted.as_ref());
    wanted.is_some_and(|wanted| wanted.revoked_keys.is_some())
}

/// A file of revoked keys that sshd cannot use makes it refuse everybody.
pub(super) fn revoked_keys(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "revoked-keys";
    let Some((path, state)) = &facts.state.revoked else { return vec![] };
    let path = path.display();
    let signed = openssh(facts).is_some_and(|v| v >= FIXED);
    let mend = if ours_revokes(facts) {
        "restart the agent, which makes it again: systemctl restart certgate-node"
    } else {
        "put a good file in its place (ssh BASTION krl), by rename so that it is never absent"
    };
    vec![match state {
        Ok(Revoked::Fine) => Finding::ok(CHECK, format!("{path} can be read")),
        Ok(Revoked::Damaged) => {
            Finding::error(CHECK, format!("{path} is a damaged revocation list: sshd refuses every key with it"), mend)
        }
        Ok(Revoked::Signed) if signed => Finding::error(
            CHECK,
            format!("{path} is a revocation list with a signature: OpenSSH 9.4 and later refuse every key with it"),
            "put one without a signature in its place",
        ),
        Ok(Revoked::Signed) => Finding::warning(
            CHECK,
            format!("{path} is a revocation list with a signature: from OpenSSH 9.4 on sshd refuses every key with it"),
            "put one without a signature in its place before sshd is updated",
        ),
        Err(why) => blind(CHECK, &format!("sshd refuses every key, for RevokedKeys names {path}"), why, mend),
    }]
}
