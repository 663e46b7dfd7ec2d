//! User and group records as systemd has them (systemd.io/USER_RECORD, GROUP_RECORD), as drop-in files that nss-systemd
//! reads. No I/O.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Says whose a record is: what has another word there, or none, is the site's.
pub const SERVICE: &str = "com.certgate.node";

/// What is only root's business. Not a password: `*` is none that anybody could enter, and not a lock either. Without it
/// the shadow entry is `!*`, which sshd takes for a locked account where it works without PAM.
const UNLOCKED: &str = "{\"privileged\": {\"hashedPassword\": [\"*\"]}}\n";

/// What is in the file that says who is a member of what: all is in its name, but systemd passes over an empty one (its
/// issue 37945).
const MEMBERSHIP: &str = "{}\n";

/// The primary group of who has lost everything here: `nobody`'s, as everywhere in Linux.
const NO_GROUP: u32 = 65534;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// The number of its primary group; none if it is locked: its files keep a name, and it has no rights.
    pub gid: Option<u32>,
    /// Its home directory.
    pub home: String,
    /// Its shell.
    pub shell: String,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub gid: u32,
    /// Its members, beside those whose primary group it is.
    pub members: BTreeSet<String>,
}

/// All of them, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Users.
    pub users: BTreeMap<String, User>,
    /// Groups.
    pub groups: BTreeMap<String, Group>,
}

/// What lies under a name in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A file with this content, for everybody.
    File(String),
    /// A file with this content, for root.
    Private(String),
    /// A symbolic link to this name beside it.
    Link(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserRecord {
    user_name: String,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    home_directory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    shell: Option<String>,
    disposition: String,
    locked: bool,
    service: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupRecord {
    group_name: String,
    gid: u32,
    disposition: String,
    service: String,
}

impl Records {
    /// The files that say so, by name. Membership is a file `USER:GROUP.membership`.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<String, Entry> {
        let mut entries = BTreeMap::new();
        for (name, user) in &self.users {
            let record = UserRecord {
                user_name: name.clone(),
                uid: user.uid,
                gid: user.gid.unwrap_or(NO_GROUP),
                home_directory: Some(user.home.clone()),
                shell: Some(user.shell.clone()),
                disposition: "regular".into(),
                locked: user.gid.is_none(),
                service: SERVICE.into(),
            };
            entries.insert(format!("{name}.user"), Entry::File(json(&record)));
            entries.insert(format!("{}.user", user.uid), Entry::Link(format!("{name}.user")));
            if user.gid.is_some() {
                let private = format!("{name}.user-privileged");
                entries.insert(format!("{}.user-privileged", user.uid), Entry::Link(private.clone()));
                entries.insert(private, Entry::Private(UNLOCKED.into()));
            }
        }
        for (name, group) in &self.groups {
            let record = GroupRecord {
                group_name: name.clone(),
                gid: group.gid,
                disposition: "regular".into(),
                service: SERVICE.into(),
            };
            entries.insert(format!("{name}.group"), Entry::File(json(&record)));
            entries.insert(format!("{}.group", group.gid), Entry::Link(format!("{name}.group")));
            for user in &group.members {
                entries.insert(format!("{user}:{name}.membership"), Entry::File(MEMBERSHIP.into()));
            }
        }
        entries
    }

    /// Takes up a record of ours that lies there; nothing else is taken up.
    pub fn take(&mut self, file: &str, content: &str) {
        if let Some(name) = file.strip_suffix(".user")
            && let Ok(record) = serde_json::from_str::<UserRecord>(content)
            && (record.service.as_str(), record.user_name.as_str()) == (SERVICE, name)
        {
            let user = User {
                uid: record.uid,
                gid: Some(record.gid).filter(|_| !record.locked),
                home: record.home_directory.unwrap_or_default(),
                shell: record.shell.unwrap_or_default(),
            };
            self.users.insert(name.to_owned(), user);
        } else if let Some(name) = file.strip_suffix(".group")
            && let Ok(record) = serde_json::from_str::<GroupRecord>(content)
            && (record.service.as_str(), record.group_name.as_str()) == (SERVICE, name)
        {
            self.groups.entry(name.to_owned()).or_insert(Group { gid: record.gid, members: BTreeSet::new() }).gid =
                record.gid;
        }
    }

    /// Takes up who is in a group of ours, by the name of a file. Groups first, see [`Records::take`].
    pub fn take_membership(&mut self, file: &str) {
        if let Some((user, group)) = file.strip_suffix(".membership").and_then(|name| name.split_once(':'))
            && let Some(group) = self.groups.get_mut(group)
        {
            group.members.insert(user.to_owned());
        }
    }
}

fn json(record: &impl Serialize) -> String {
    // A record of text and numbers: nothing in it that JSON has no form for.
    let mut text = serde_json::to_string_pretty(record).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Records {
        let user = |uid, gid| User { uid, gid, home: "/home/x".into(), shell: "/bin/sh".into() };
        Records {
            users: [("user1".into(), user(200_001, Some(200_000))), ("user2".into(), user(200_002, None))].into(),
            groups: [("ml".into(), Group { gid: 200_000, members: ["user1".into()].into() })].into(),
        }
    }

    #[test]
    fn what_was_written_is_taken_up_and_nothing_of_others_is() {
        let mut found = Records::default();
        for (name, entry) in records().entries() {
            if let Entry::File(content) = entry {
                found.take(&name, &content);
            }
        }
        found.take_membership("user1:ml.membership");
        assert_eq!(found, records());

        let mut others = Records::default();
        let text = json(&UserRecord {
            user_name: "user1".into(),
            uid: 200_001,
            gid: 200_000,
            home_directory: None,
            shell: None,
            disposition: "regular".into(),
            locked: false,
            service: SERVICE.into(),
        });
        others.take("user2.user", &text);
        others.take("user1.user", &text.replace(SERVICE, "org.example"));
        others.take("user1.user", &text.replace("\"service\"", "\"served\""));
        others.take("user1.user", "");
        others.take_membership("user1:ml.membership");
        assert_eq!(others, Records::default());
        others.take("user1.user", &text);
        assert_eq!(others.users.len(), 1);
    }

    #[test]
    fn the_locked_have_a_name_and_a_number_and_no_group() {
        let entries = records().entries();
        let Some(Entry::File(text)) = entries.get("user2.user") else { panic!("{entries:?}") };
        let record: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!((&record["locked"], &record["gid"]), (&true.into(), &65534.into()));
        assert_eq!(entries.get("200002.user"), Some(&Entry::Link("user2.user".into())));
        assert!(!entries.keys().any(|name| name.starts_with("user2:")));
    }
}
