//! From facts to findings: no file, no clock, no network here.

mod machine;
mod sshd;
mod state;
#[cfg(test)]
mod tests;

use super::{
    facts::{Blind, Chain, Facts},
    finding::Finding,
};

/// What is to be said of a machine, in the order in which one would look.
pub(crate) fn judge(facts: &Facts) -> Vec<Finding> {
    let checks: [fn(&Facts) -> Vec<Finding>; 18] = [
        state::config,
        sshd::version,
        sshd::accepted,
        sshd::drop_in,
        sshd::in_force,
        sshd::logins,
        sshd::others,
        state::helper,
        state::table,
        state::bundle,
        state::clock,
        state::agent,
        state::gateways,
        state::tunnel,
        state::host_certificate,
        sshd::revoked_keys,
        machine::accounts,
        machine::system,
    ];
    checks.iter().flat_map(|check| check(facts)).collect()
}

/// What cannot be looked at: because of who asks, or because it is broken, which is as bad as said.
fn blind(check: &'static str, what: &str, why: &Blind, mend: &str) -> Finding {
    match why {
        Blind::Denied(why) => Finding::unseen(check, format!("{what}: {why}")),
        Blind::Missing(why) | Blind::Failed(why) => Finding::error(check, format!("{what}: {why}"), mend),
    }
}

/// sshd's rule for what it runs (misc.c, `safe_path`), which is the helper's rule for what it reads: it and all
/// directories above it are root's, and nobody else can write to them. The first that is not, what is wrong, the mend.
fn unsafe_step(chain: &Chain) -> Option<(String, String)> {
    chain.iter().find_map(|step| {
        let path = step.path.display();
        if step.owner != 0 {
            Some((format!("{path} belongs to user {}, not to root", step.owner), format!("chown root:root {path}")))
        } else if step.mode & 0o022 != 0 {
            let text = format!("others than root can write to {path} (mode {:04o})", step.mode & 0o7777);
            Some((text, format!("chmod go-w {path}")))
        } else {
            None
        }
    })
}
