//! The rest of the machine: accounts, PAM, Slurm, SELinux.

use super::blind;
use crate::node::doctor::{
    facts::{Accounts, Facts, Role},
    finding::Finding,
};

/// Types that nothing which sshd runs or reads should have.
const MISPLACED: &[&str] = &["default_t", "unlabeled_t", "tmp_t", "user_tmp_t", "file_t"];
/// Types of programs that sshd may run.
const PROGRAMS: &[&str] = &["bin_t", "sshd_exec_t", "shell_exec_t", "usr_t"];

pub(super) fn accounts(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    found.extend(nsswitch(facts));
    found.extend(logins(facts));
    found
}

/// Accounts that are user records are seen by nss-systemd only.
fn nsswitch(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "nsswitch";
    if facts.accounts == Accounts::Site {
        return None;
    }
    let mend = "add 'systemd' to the passwd and group lines of /etc/nsswitch.conf (package libnss-systemd)";
    let text = match &facts.machine.nsswitch {
        Ok(text) => text,
        Err(why) => return Some(blind(CHECK, "/etc/nsswitch.conf", why, mend)),
    };
    let has = |database: &str| {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(database)?.strip_prefix(':'));
        line.is_some_and(|services| services.split_whitespace().any(|service| service == "systemd"))
    };
    let missing: Vec<&str> = ["passwd", "group"].into_iter().filter(|database| !has(database)).collect();
    let text = format!("nss-systemd is missing from {} in /etc/nsswitch.conf", missing.join(" and "));
    Some(match facts.accounts {
        _ if missing.is_empty() => Finding::ok(CHECK, "nss-systemd is asked for accounts and groups"),
        Accounts::Ours => Finding::error(CHECK, format!("{text}: the accounts of the bundle are not seen"), mend),
        _ => Finding::hint(CHECK, format!("{text}; that matters where certgate makes the accounts"), mend),
    })
}

/// Whether the people of the bundle are people here, with the same numbers.
fn logins(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "accounts";
    let (Ok(bundle), Ok(known)) = (&facts.state.bundle, &facts.machine.accounts) else {
        return match &facts.machine.accounts {
            Err(why) if facts.state.bundle.is_ok() => {
                let mend = "see 'getent passwd' and the services of /etc/nsswitch.conf: sshd waits for them too";
                vec![blind(CHECK, "the accounts of this machine cannot be asked for", why, mend)]
            }
            _ => vec![],
        };
    };
    let mut found = vec![];
    for (name, wanted) in &bundle.logins {
        match known.iter().find(|(login, _)| login == name).and_then(|(_, number)| *number) {
            Some(number) if number != *wanted => {
                let text = format!("{name} has user number {number} here, and {wanted} at the authority");
                let mend = "make them the same: on shared file systems the files would be somebody else's";
                found.push(Finding::warning(CHECK, text, mend));
            }
            Some(_) => {}
            None => {
                let text = format!("{name} may log in, but there is no such account on this machine");
                let mend = match facts.accounts {
                    Accounts::Ours => "see that the agent runs, and nsswitch",
                    _ => "make the account (LDAP, or with the number that 'user list' on the bastion shows)",
                };
                found.push(Finding::warning(CHECK, text, mend));
            }
        }
    }
    if found.is_empty() && !bundle.logins.is_empty() {
        let count = bundle.logins.len();
        found.push(Finding::ok(CHECK, format!("the {count} logins looked at have accounts with the right numbers")));
    }
    found
}

pub(super) fn system(facts: &Facts) -> Vec<Finding> {
    let mut found = pam(facts);
    found.extend(selinux(facts));
    found
}

fn pam(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "pam";
    let uses = facts.plain().and_then(|login| login.get("usepam"));
    let stack = match &facts.machine.pam {
        Ok(stack) => stack.as_slice(),
        Err(why) if uses == Some("yes") => {
            let mend = "put sshd's PAM configuration back: with UsePAM and without it sshd refuses everybody";
            return vec![blind(CHECK, "/etc/pam.d/sshd", why, mend)];
        }
        Err(_) => &[],
    };
    let has = |module: &str| stack.iter().any(|line| line.contains(module));
    let mut found = vec![];
    if uses == Some("no") {
        let adopt = has("pam_slurm_adopt");
        let text = "UsePAM is 'no': pam_mkhomedir makes no home directory, and no limits and no login session are set";
        let mend = "set 'UsePAM yes' in sshd's configuration, and reload sshd";
        if adopt {
            let text = format!("{text}, and pam_slurm_adopt is not asked: people are let in without a job");
            found.push(Finding::error(CHECK, text, mend));
        } else {
            found.push(Finding::hint(CHECK, text, mend));
        }
    } else {
        found.extend(slurm(facts, has("pam_slurm"), has("pam_slurm_adopt") && has("pam_systemd")));
        if uses == Some("yes") && found.is_empty() {
            found.push(Finding::ok(CHECK, "sshd uses PAM"));
        }
    }
    found
}

/// pam_slurm_adopt (or pam_slurm, its elder) lets in whoever has a job on the machine, and nobody else.
fn slurm(facts: &Facts, asked: bool, both: bool) -> Vec<Finding> {
    const CHECK: &str = "slurm";
    let (slurmd, role) = (facts.machine.slurmd, facts.role);
    let mut found = vec![];
    if asked && role == Some(Role::Login) {
        let text = "pam_slurm_adopt is asked on a login node, where nobody has a job: it lets nobody in";
        found.push(Finding::error(CHECK, text, "take it out of /etc/pam.d/sshd: it belongs on compute nodes"));
    } else if asked && !slurmd {
        let text =
            "pam_slurm_adopt is asked, but slurmd does not run, so that nobody has a job here: it lets nobody in";
        let mend = "on a login node take it out of /etc/pam.d/sshd; on a compute node start slurmd";
        found.push(Finding::error(CHECK, text, mend));
    } else if !asked && (role == Some(Role::Compute) || (slurmd && role.is_none())) {
        let text = "this is a compute node without pam_slurm_adopt: whoever may log in may do so without a job";
        found.push(Finding::hint(CHECK, text, "put pam_slurm_adopt last among the account lines of /etc/pam.d/sshd"));
    }
    if asked && both {
        let text = "pam_systemd is in the same stack as pam_slurm_adopt: it takes the session out of the job again";
        found.push(Finding::warning(CHECK, text, "take pam_systemd out of what /etc/pam.d/sshd includes"));
    }
    found
}

fn selinux(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "selinux";
    let Some(selinux) = &facts.machine.selinux else { return vec![] };
    let kind = |context: &Option<String>| {
        let parts = context.as_deref().and_then(|context| context.split(':').nth(2));
        parts.map(|kind| kind.trim_end_matches('\0').to_owned())
    };
    let mut found = vec![];
    let mut wrong = |what: &str, kind: &str, mend: String| {
        let text = format!("SELinux: {what} has the type {kind}, which sshd may not use");
        found.push(if selinux.enforcing {
            let look = format!("{mend}; see ausearch -m avc -ts recent");
            Finding::warning(CHECK, text, look)
        } else {
            Finding::hint(CHECK, format!("{text}; SELinux only warns now"), mend)
        });
    };
    if let Some(kind) = kind(&selinux.helper).filter(|kind| !PROGRAMS.contains(&kind.as_str())) {
        let mend = "semanage fcontext -a -t bin_t PATH-OF-THE-HELPER && restorecon -v PATH-OF-THE-HELPER".to_owned();
        wrong("the helper", &kind, mend);
    }
    for (what, context) in [("the access table", &selinux.table), ("the file of user CAs", &selinux.user_ca)] {
        let bad = |kind: &String| MISPLACED.contains(&kind.as_str()) || kind.ends_with("home_t");
        if let Some(kind) = kind(context).filter(bad) {
            wrong(what, &kind, "restorecon -Rv the state directory, which belongs below /var/lib".to_owned());
        }
    }
    if found.is_empty() {
        let mode = if selinux.enforcing { "enforcing" } else { "permissive" };
        found.push(Finding::ok(CHECK, format!("{mode}; the types of certgate's files are usual ones")));
    }
    found
}
