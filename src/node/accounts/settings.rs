//! What node.toml says of accounts.

use super::elsewhere::sources;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Who makes the accounts of the people who may log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accounts {
    /// The site, by LDAP or by hand.
    #[default]
    None,
    /// The agent, as user records that nss-systemd reads.
    Userdb,
}

impl Accounts {
    /// What a machine gets that nobody has chosen for, and why: the agent makes accounts where nss-systemd reads them and
    /// nobody else but the machine's own files has any.
    #[must_use]
    pub fn fitting(nsswitch: &str) -> (Self, String) {
        for database in ["passwd", "group"] {
            let sources = sources(nsswitch, database);
            if !sources.iter().any(|source| source == "systemd") {
                let why = format!("'{database}' of nsswitch.conf does not name 'systemd' (nss-systemd)");
                return (Self::None, why);
            }
            if let Some(other) =
                sources.iter().find(|source| !["files", "compat", "systemd"].contains(&source.as_str()))
            {
                return (Self::None, format!("'{database}' of nsswitch.conf has them from '{other}'"));
            }
        }
        (Self::Userdb, "nss-systemd reads them, and no other source is configured".into())
    }
}

/// How the agent makes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserRecords {
    /// Where nss-systemd looks for records that stay.
    pub directory: PathBuf,
    /// The directory that home directories are in.
    pub homes: PathBuf,
    /// Whether the agent makes home directories; if not, pam_mkhomedir does on the first login, or the site.
    pub make_homes: bool,
    /// What is in a new one.
    pub skeleton: PathBuf,
    /// Everybody's shell.
    pub shell: String,
}

impl Default for UserRecords {
    fn default() -> Self {
        Self {
            directory: "/etc/userdb".into(),
            homes: "/home".into(),
            make_homes: true,
            skeleton: "/etc/skel".into(),
            shell: "/bin/bash".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_makes_accounts_where_nobody_else_does() {
        let fitting = |text: &str| Accounts::fitting(text).0;
        assert_eq!(fitting("passwd: files systemd\ngroup: files [SUCCESS=merge] systemd\n"), Accounts::Userdb);
        assert_eq!(fitting("passwd: files systemd sss\ngroup: files systemd\n"), Accounts::None);
        assert_eq!(fitting("passwd: files systemd\ngroup: files\n"), Accounts::None);
        assert_eq!(fitting(""), Accounts::None);
    }
}
