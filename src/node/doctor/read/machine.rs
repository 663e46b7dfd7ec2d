//! The rest of the machine: processes, PAM, nsswitch, SELinux, accounts, the kernel's word on the clock.

use super::{blocking, run, text};
use crate::node::doctor::facts::{Blind, BundleFacts, MachineFacts, Seen, Selinux};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tokio::process::Command;

/// PAM files within PAM files.
const MAX_DEPTH: usize = 8;

/// All but the accounts. `paths` are the helper, the table and the CA file.
pub(super) async fn read(paths: Option<[PathBuf; 3]>) -> MachineFacts {
    let read = blocking(move || {
        Ok(MachineFacts {
            nsswitch: text(Path::new("/etc/nsswitch.conf")),
            pam: pam(),
            selinux: selinux(paths.as_ref()),
            slurmd: processes("slurmd").next().is_some(),
            agents: agents(),
            accounts: Ok(vec![]),
            synchronized: synchronized(),
        })
    });
    read.await.unwrap_or_else(|why| MachineFacts {
        nsswitch: Err(why.clone()),
        pam: Err(why.clone()),
        selinux: None,
        slurmd: false,
        agents: Err(why.clone()),
        accounts: Err(why),
        synchronized: None,
    })
}

/// The numbers that this machine has for some logins of the bundle, as sshd would ask for them.
pub(super) async fn accounts(bundle: Result<&BundleFacts, &Blind>) -> Seen<Vec<(String, Option<u32>)>> {
    let names: Vec<&str> = bundle.map_err(Clone::clone)?.logins.iter().map(|(name, _)| name.as_str()).collect();
    if names.is_empty() {
        return Ok(vec![]);
    }
    let output = match run(Command::new("getent").arg("passwd").args(&names)).await {
        Err(Blind::Missing(_)) => return Err(Blind::Denied("getent is not installed".into())),
        answer => answer?,
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |name: &str| {
        let line = said.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))?;
        line.split(':').nth(2)?.parse().ok()
    };
    Ok(names.iter().map(|name| ((*name).to_owned(), number(name))).collect())
}

/// sshd's PAM stack, with what it includes in its place.
fn pam() -> Seen<Vec<String>> {
    let mut lines = vec![];
    let main = Path::new("/etc/pam.d/sshd");
    stack(&text(main)?, 0, &mut lines);
    Ok(lines)
}

fn stack(content: &str, depth: usize, lines: &mut Vec<String>) {
    for line in content.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        let mut words = line.split_whitespace();
        let included = match (words.next(), words.next(), words.next()) {
            (Some("@include"), Some(name), _) | (Some(_), Some("include" | "substack"), Some(name)) => Some(name),
            _ => None,
        };
        match included {
            Some(name) if depth < MAX_DEPTH => {
                // One that is missing is PAM's to complain of.
                if let Ok(content) = text(&Path::new("/etc/pam.d").join(name)) {
                    stack(&content, depth + 1, lines);
                }
            }
            _ if line.is_empty() => {}
            _ => lines.push(line.to_owned()),
        }
    }
}

fn selinux(paths: Option<&[PathBuf; 3]>) -> Option<Selinux> {
    let enforcing = text(Path::new("/sys/fs/selinux/enforce")).ok()?.trim() == "1";
    let context = |index: usize| {
        let mut buffer = [0_u8; 256];
        let path = paths?.get(index)?;
        let length = rustix::fs::getxattr(path, "security.selinux", &mut buffer[..]).ok()?;
        Some(String::from_utf8_lossy(buffer.get(..length)?).into_owned())
    };
    Some(Selinux { enforcing, helper: context(0), table: context(1), user_ca: context(2) })
}

/// The processes of a name, as the kernel has it.
fn processes(name: &'static str) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(move |pid: &u32| {
        fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_ascii_end() == name.as_bytes())
    })
}

fn agents() -> Seen<Vec<u32>> {
    // Where others' processes are hidden, not even the first can be seen.
    if !Path::new("/proc/1/comm").exists() {
        return Err(Blind::Denied("others' processes are hidden".into()));
    }
    let runs = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).nth(1) == Some(b"run")
    };
    Ok(processes("certgate-node").filter(runs).collect())
}

/// Whether the kernel has been told that its clock is right; none if it does not say.
fn synchronized() -> Option<bool> {
    // SAFETY: a structure of plain numbers, for which all zeros is a value; with no bit in `modes` nothing is set.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: it points to a whole structure of that type.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    (answer >= 0).then_some(answer != libc::TIME_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pam_stack_is_its_lines_without_what_is_only_written_about() {
        let mut lines = vec![];
        stack(
            "# account x pam_slurm_adopt.so\n\naccount required pam_slurm_adopt.so # last\n@include no-such-file\n",
            0,
            &mut lines,
        );
        assert_eq!(lines, ["account required pam_slurm_adopt.so"]);
    }
}
