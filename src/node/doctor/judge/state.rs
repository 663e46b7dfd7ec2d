//! What certgate keeps on the machine, and whom it talks to: the helper, the access table, the bundle, the agent, the
//! gateways, the clock, the host certificate.

use super::{blind, unsafe_step};
use crate::{
    domain::Timestamp,
    node::doctor::{
        facts::{Answer, Facts, Seen},
        finding::Finding,
    },
};
use std::time::Duration;

/// A certificate is valid from so many seconds before it was made.
const BACKDATED: u64 = 60;
/// The shortest life of a certificate that is usual, less a minute to use it.
const SHORT_LIFE: u64 = 240;
/// More than what an answer may take.
const UNHEALTHY_SECS: u64 = 10;

pub(super) fn config(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "config";
    let path = facts.config_path.display();
    let mend = "make the machine a node with 'certgate-node join TOKEN' (a token: 'node token' on the bastion)";
    vec![match &facts.config {
        Ok(config) => Finding::ok(CHECK, format!("{path}: this machine is {}", config.node)),
        Err(why) => blind(CHECK, "the node's configuration", why, mend),
    }]
}

pub(super) fn helper(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "helper";
    let put = "put certgate-principals of the same version there, owned by root, mode 0755";
    let chain = match &facts.state.helper_chain {
        Ok(chain) => chain,
        Err(why) => return vec![blind(CHECK, "the helper that sshd asks on every login", why, put)],
    };
    if let Some((text, mend)) = unsafe_step(chain) {
        return vec![Finding::error(CHECK, format!("{text}: sshd does not run the helper, and lets nobody in"), mend)];
    }
    let Some(file) = chain.first() else { return vec![] };
    let path = file.path.display();
    if file.directory || file.mode & 0o111 == 0 {
        return vec![Finding::error(CHECK, format!("{path} is not an executable file: nobody is let in"), put)];
    }
    vec![match &facts.state.helper_answers {
        Ok(()) => Finding::ok(CHECK, format!("{path} answers")),
        Err(why) => {
            let mend = "mend what it says; until then nobody is let in by certificate";
            blind(CHECK, &format!("{path} does not answer as sshd's user for it"), why, mend)
        }
    }]
}

pub(super) fn table(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "access-table";
    let restart = "start the agent (again), which makes it from the bundle: systemctl restart certgate-node";
    let chain = match &facts.state.table_chain {
        Ok(chain) => chain,
        Err(why) => return vec![blind(CHECK, "the access table", why, restart)],
    };
    if let Some((text, mend)) = unsafe_step(chain) {
        let text =
            format!("{text}: whoever can change the access table decides who is let in, and the helper may refuse it");
        return vec![Finding::error(CHECK, text, mend)];
    }
    let closed = chain.iter().find(|step| step.mode & if step.directory { 0o001 } else { 0o004 } == 0);
    if let Some(step) = closed {
        let (path, mode) = (step.path.display(), if step.directory { "o+x" } else { "o+r" });
        let text =
            format!("{path} is closed to the helper, which does not run as root: nobody is let in by certificate");
        return vec![Finding::error(CHECK, text, format!("chmod {mode} {path}"))];
    }
    let version = match &facts.state.table {
        Ok(version) => *version,
        Err(why) => return vec![blind(CHECK, "the access table", why, restart)],
    };
    match facts.state.bundle.as_ref().map(|bundle| bundle.version) {
        Ok(bundle) if bundle != version => vec![Finding::error(
            CHECK,
            format!("the access table has version {version}, the bundle beside it {bundle}: they should be the same"),
            restart,
        )],
        _ => vec![Finding::ok(CHECK, format!("version {version}, readable for the helper and writable for root only"))],
    }
}

pub(super) fn bundle(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "bundle";
    let agent = "see why the agent does not get the new one: journalctl -u certgate-node";
    let bundle = match &facts.state.bundle {
        Ok(bundle) => bundle,
        Err(why) => {
            let mend =
                "start the agent, which gets it from a gateway; if it says that the bundle is refused, join again";
            return vec![blind(CHECK, "the signed bundle", why, mend)];
        }
    };
    let mut found = vec![];
    if !bundle.same_user_ca {
        let text = "sshd's file of user CAs is not what the bundle says: the wrong certificates are let in, or none";
        found.push(Finding::error(CHECK, text, "start the agent again, which makes it anew"));
    }
    if !bundle.lets_in {
        let text = format!(
            "version {} lets nobody in: the node was removed from its cluster, or nobody is in the project",
            bundle.version
        );
        let mend = "see 'node list' on the bastion; a machine that should be a node joins again with a new token";
        found.push(Finding::error(CHECK, text, mend));
    }
    // A version that is higher is all right: what the authority names is the last one that touched the cluster, and a node
    // that joins gets the one that there is.
    if let Some(latest) = facts.latest.filter(|latest| *latest > bundle.version) {
        let text = format!(
            "this node has version {}, the authority {latest}: who was removed since is still let in here",
            bundle.version
        );
        found.push(Finding::error(CHECK, text, agent));
    }
    found.extend(age(facts, facts.now, agent));
    if found.is_empty() {
        let issued = bundle.issued.for_people();
        let known = if facts.latest.is_some() { ", the last one that there is" } else { "" };
        found.push(Finding::ok(CHECK, format!("version {} of {issued}{known}, genuine", bundle.version)));
    }
    found
}

/// How long ago the authority last confirmed the table.
fn age(facts: &Facts, now: Timestamp, mend: &str) -> Option<Finding> {
    const CHECK: &str = "bundle";
    let (confirmed, max_age) = (facts.state.confirmed?, facts.max_age?);
    let age = Duration::from_secs(now.secs().abs_diff(confirmed.secs()));
    let at = confirmed.for_people_at(now);
    if age > max_age {
        let text =
            format!("the authority last confirmed the access table at {at}: it is too old, and nobody is let in");
        Some(Finding::error(CHECK, text, mend))
    } else if age > max_age / 2 {
        let text = format!(
            "the authority last confirmed the access table at {at}: more than half of the time is over for which it is \
             believed"
        );
        Some(Finding::warning(CHECK, text, mend))
    } else {
        None
    }
}

/// Certificates live for minutes: a clock that is minutes wrong refuses them all.
pub(super) fn clock(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "clock";
    let mend = "set the clock, and let chrony or systemd-timesyncd keep it";
    let hint = (facts.machine.synchronized == Some(false)).then(|| {
        Finding::hint(
            CHECK,
            "the kernel does not know of anybody who keeps the clock right",
            "chrony or systemd-timesyncd",
        )
    });
    let now = facts.now;
    if let Some(authority) = facts.authority {
        let (off, ahead) = if now > authority { (now.since(authority), true) } else { (authority.since(now), false) };
        let (secs, word) = (off.as_secs(), if ahead { "ahead of" } else { "behind" });
        let text = format!("the clock is {secs} s {word} the authority's");
        let first = match secs {
            BACKDATED.. if !ahead => {
                Finding::error(CHECK, format!("{text}: new certificates are not valid yet here"), mend)
            }
            SHORT_LIFE.. => {
                Finding::error(CHECK, format!("{text}: certificates of five minutes have ended here"), mend)
            }
            UNHEALTHY_SECS.. => Finding::warning(CHECK, format!("{text}; from a minute on logins fail"), mend),
            _ => Finding::ok(CHECK, "the clock is the authority's"),
        };
        return std::iter::once(first).chain(hint).collect();
    }
    // What the authority has signed is not from the future.
    let issued = facts.state.bundle.as_ref().map(|bundle| bundle.issued.secs());
    let certified = facts.state.host_certificate.as_ref().map(|certificate| certificate.from + BACKDATED);
    let Some(bound) = issued.into_iter().chain(certified).max() else { return hint.into_iter().collect() };
    let behind = bound.saturating_sub(now.secs());
    let text = format!("the clock is at least {behind} s behind the authority's");
    let first = match behind {
        BACKDATED.. => Finding::error(CHECK, format!("{text}: new certificates are not valid yet here"), mend),
        UNHEALTHY_SECS.. => Finding::warning(CHECK, format!("{text}; from a minute on logins fail"), mend),
        _ => Finding::ok(CHECK, "the clock is not behind what the authority has signed"),
    };
    std::iter::once(first).chain(hint).collect()
}

pub(super) fn agent(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "agent";
    let start = "systemctl enable --now certgate-node (or run 'certgate-node run' in another way)";
    vec![match facts.machine.agents.as_deref() {
        Ok([one]) => Finding::ok(CHECK, format!("it runs, as process {one}")),
        Ok([]) => Finding::error(CHECK, "the agent does not run: who is removed is still let in here", start),
        Ok(many) => {
            let list: Vec<String> = many.iter().map(ToString::to_string).collect();
            let text = format!("{} agents run (processes {}), and push each other out", many.len(), list.join(", "));
            Finding::warning(CHECK, text, "stop all but the one of certgate-node.service")
        }
        Err(why) => blind(CHECK, "whether the agent runs cannot be seen", why, start),
    }]
}

pub(super) fn gateways(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "gateway";
    let reached = facts.gateways.iter().any(|(_, answer)| matches!(answer, Ok(Answer::Welcome(_) | Answer::Right)));
    let one = |(name, answer): &(String, Seen<Answer>)| match answer {
        Ok(Answer::Welcome(Some(_))) => {
            Finding::ok(CHECK, format!("{name} is the right one, accepts this node, and reaches the authority"))
        }
        Ok(Answer::Welcome(None)) => Finding::hint(
            CHECK,
            format!("{name} is the right one and accepts this node, but has no word of the authority for it"),
            "see 'certgate status' on the bastion, and whether the gateway is as new as this program",
        ),
        Ok(Answer::Right) => Finding::ok(CHECK, format!("{name} is the right one")),
        Ok(Answer::Refused) => Finding::error(
            CHECK,
            format!(
                "{name} does not accept this node's host key: it was removed, has a new key, or the authority is down"
            ),
            "see 'node list' on the bastion; a machine that should be a node joins again with a new token",
        ),
        Ok(Answer::Stranger(key)) => Finding::error(
            CHECK,
            format!("{name} has the host key {key}, which is not one of the gateway's: somebody may be in between"),
            "see 'config known-hosts' on the bastion; if the gateway has a new key, join again with a new token",
        ),
        Err(why) => {
            let mend = "see name, route and firewall from here to it, and whether the gateway runs";
            // The agent takes another: that is what several are for.
            if reached {
                Finding::warning(CHECK, format!("{name} cannot be reached: {}", why.why()), mend)
            } else {
                blind(CHECK, &format!("{name} cannot be reached, so removals do not arrive"), why, mend)
            }
        }
    };
    facts.gateways.iter().map(one).collect()
}

/// Whether the agent finds sshd, where gateways reach it through the agent.
pub(super) fn tunnel(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "tunnel";
    let Some((sshd, found)) = &facts.tunnel else { return vec![] };
    vec![match found {
        Ok(()) => Finding::ok(CHECK, format!("gateways reach sshd through the agent, which finds it at {sshd}")),
        Err(why) => {
            let mend = "set 'sshd_address' in node.toml to an address of this machine at which sshd listens, and restart \
                        the agent";
            blind(CHECK, &format!("the agent does not find sshd at {sshd}, so no gateway can reach it"), why, mend)
        }
    }]
}

pub(super) fn host_certificate(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "host-certificate";
    let agent = "start the agent, which gets a new one: systemctl restart certgate-node";
    let installed = match &facts.state.host_certificate {
        Ok(installed) => installed,
        Err(why) => return vec![blind(CHECK, "the host certificate", why, agent)],
    };
    let mut found = vec![];
    if facts.state.host_key.as_ref().is_ok_and(|key| *key != installed.key) {
        let text = "the host certificate is for another host key than the node has now";
        return vec![Finding::error(CHECK, text, "join again with a new token, if the host key was changed")];
    }
    let (now, until) = (facts.now.secs(), Timestamp::from_secs(installed.until));
    let left = installed.until.saturating_sub(now);
    if left == 0 {
        let text =
            format!("the host certificate ended {}: clients are asked about the host key", until.near(facts.now));
        found.push(Finding::error(CHECK, text, agent));
    } else if left < installed.until.saturating_sub(installed.from) / 4 {
        let text = format!("the host certificate ends {}, and should have been renewed by now", until.near(facts.now));
        found.push(Finding::warning(CHECK, text, agent));
    }
    found.extend(offered(facts, &installed.line));
    if found.is_empty() {
        let shown = if facts.sshd.offered.is_ok() { ", and sshd shows it" } else { "" };
        found.push(Finding::ok(CHECK, format!("valid until {}{shown}", until.for_people())));
    }
    found
}

/// Whether sshd shows the certificate that is installed: it reads it when it starts, and when it is told to reload.
fn offered(facts: &Facts, installed: &str) -> Option<Finding> {
    const CHECK: &str = "host-certificate";
    let offered = match &facts.sshd.offered {
        Ok(offered) => offered,
        Err(why) => {
            let mend = "start sshd, and see its log: journalctl -u ssh -u sshd";
            return Some(blind(CHECK, "sshd does not answer on this machine", why, mend));
        }
    };
    let address = &offered.address;
    let reload = "reload sshd: systemctl reload ssh (or sshd), and see that 'reload' in node.toml does it";
    match &offered.certificate {
        Some(shown) if shown.line == installed => None,
        Some(shown) if shown.until > facts.now.secs() => {
            let text = format!("sshd at {address} shows another host certificate than the one installed");
            Some(Finding::warning(CHECK, text, reload))
        }
        Some(_) => {
            let text =
                format!("sshd at {address} shows a host certificate that has ended, though a new one is installed");
            Some(Finding::error(CHECK, text, reload))
        }
        None => {
            let text = format!("sshd at {address} shows no host certificate: clients are asked about the host key");
            Some(Finding::error(CHECK, text, reload))
        }
    }
}
