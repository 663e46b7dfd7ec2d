//! Which accounts a machine should have: from what the bundle says, what is there of ours, and what others have there.
//! No I/O.

use super::{
    elsewhere::Elsewhere,
    record::{Group, Records, User},
};
use crate::{
    bundle::Bundle,
    domain::{Uid, UserName},
};
use std::collections::BTreeSet;

/// What a locked account starts: nothing.
const NO_SHELL: &str = "/usr/sbin/nologin";

/// How accounts are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Style {
    /// The directory that home directories are in.
    pub homes: String,
    /// Everybody's shell.
    pub shell: String,
}

/// The records that there should be, and a line for each user or group that there should be none for though the bundle
/// says so.
#[must_use]
pub fn plan(bundle: &Bundle, present: &Records, elsewhere: &Elsewhere, style: &Style) -> (Records, Vec<String>) {
    let mut planner =
        Planner { present, elsewhere, taken: BTreeSet::new(), wanted: Records::default(), skipped: vec![] };
    for group in &bundle.groups {
        planner.group(&group.name, group.gid);
    }
    let primary = bundle.groups.first().filter(|group| planner.wanted.groups.contains_key(&group.name));
    let primary = primary.map(|group| group.gid.0);
    for login in &bundle.logins {
        planner.user(&login.name, login.uid, primary, style);
    }
    for group in &bundle.groups {
        let Some(wanted) = planner.wanted.groups.get_mut(&group.name) else { continue };
        // Only of accounts that are ours: somebody else of the same name is somebody else.
        let members = group.members.iter().map(ToString::to_string);
        wanted.members = members.filter(|name| planner.wanted.users.contains_key(name)).collect();
    }
    planner.keep();
    (planner.wanted, planner.skipped)
}

struct Planner<'a> {
    present: &'a Records,
    elsewhere: &'a Elsewhere,
    /// Numbers that users of the bundle have.
    taken: BTreeSet<u32>,
    wanted: Records,
    skipped: Vec<String>,
}

impl Planner<'_> {
    fn group(&mut self, name: &str, gid: Uid) {
        let here = self.present.groups.get(name).map(|group| group.gid);
        match problem(here, gid, self.elsewhere.groups.problem(name, gid.0, here.is_some())) {
            Some(why) => self.skipped.push(format!("no group {name} ({gid}) here: {why}")),
            None => {
                let members = BTreeSet::new();
                self.wanted.groups.insert(name.to_owned(), Group { gid: gid.0, members });
            }
        }
    }

    fn user(&mut self, name: &UserName, uid: Uid, primary: Option<u32>, style: &Style) {
        let text = name.to_string();
        let here = self.present.users.get(&text).map(|user| user.uid);
        let other = self.elsewhere.users.problem(&text, uid.0, here.is_some());
        let other = other.or_else(|| {
            let other = self.present.users.iter().find(|(name, user)| user.uid == uid.0 && **name != text);
            other.map(|(name, _)| format!("{name} has this number here"))
        });
        let why = problem(here, uid, other).or_else(|| {
            primary.is_none().then(|| "the project's group, which would be its primary one, is not there".to_owned())
        });
        match why {
            Some(why) => self.skipped.push(format!("no account {name} ({uid}) here: {why}")),
            None => {
                self.taken.insert(uid.0);
                let home = format!("{}/{name}", style.homes.trim_end_matches('/'));
                self.wanted.users.insert(text, User { uid: uid.0, gid: primary, home, shell: style.shell.clone() });
            }
        }
    }

    /// Who is not in the bundle any more stays, locked, so that their files and jobs keep a name; a group that is not,
    /// without members. But not beside somebody else of that name or number.
    fn keep(&mut self) {
        for (name, user) in &self.present.users {
            let wanted = self.wanted.users.contains_key(name) || self.taken.contains(&user.uid);
            if !wanted && self.elsewhere.users.problem(name, user.uid, true).is_none() {
                let locked = User { gid: None, shell: NO_SHELL.into(), ..user.clone() };
                self.wanted.users.insert(name.clone(), locked);
            }
        }
        for (name, group) in &self.present.groups {
            let taken = self.wanted.groups.values().any(|wanted| wanted.gid == group.gid);
            let wanted = self.wanted.groups.contains_key(name) || taken;
            if !wanted && self.elsewhere.groups.problem(name, group.gid, true).is_none() {
                self.wanted.groups.insert(name.clone(), Group { gid: group.gid, members: BTreeSet::new() });
            }
        }
    }
}

/// Why there cannot be such a user or group.
fn problem(here: Option<u32>, number: Uid, elsewhere: Option<String>) -> Option<String> {
    // The authority gives out no others; a machine does not take its word for it that this one is not the system's.
    if !number.can_be_given() {
        return Some("that number is none that certgate gives out".into());
    }
    let other = here.filter(|here| *here != number.0);
    other.map(|here| format!("it has had the number {here} here")).or(elsewhere)
}

#[cfg(test)]
mod tests {
    use super::{super::elsewhere::Names, *};
    use crate::{
        bundle::{self, FORMAT, Login},
        domain::{Role, Timestamp, Version},
    };

    fn bundle(users: &[(&str, u32)]) -> Bundle {
        let login = |(name, uid): &(&str, u32)| Login {
            name: name.parse().unwrap(),
            uid: Uid(*uid),
            role: Role::Member,
            principals: vec![],
        };
        let group = |name: &str, gid, members: &[(&str, u32)]| bundle::Group {
            name: name.into(),
            gid: Uid(gid),
            members: members.iter().map(|(name, _)| name.parse().unwrap()).collect(),
        };
        Bundle {
            format: FORMAT,
            cluster: "h100.acme".parse().unwrap(),
            version: Version(5),
            issued: Timestamp::from_secs(1_800_000_000),
            logins: users.iter().map(login).collect(),
            groups: vec![group("ml", 200_000, users), group("ml-admins", 200_001, &users[..users.len().min(1)])],
            shared_logins: vec![],
            leaving: vec![],
            denied_serials: vec![],
            denied_keys: vec![],
            user_ca: vec![],
            host_ca: vec![],
        }
    }

    fn style() -> Style {
        Style { homes: "/home".into(), shell: "/bin/bash".into() }
    }

    fn planned(users: &[(&str, u32)], present: &Records, elsewhere: &Elsewhere) -> (Records, Vec<String>) {
        plan(&bundle(users), present, elsewhere, &style())
    }

    fn names(list: &[(&str, u32)]) -> Names {
        let mut names = Names::default();
        for (name, number) in list {
            names.add(name, *number, "files");
        }
        names
    }

    #[test]
    fn everybody_of_the_bundle_has_an_account_and_the_project_s_groups() {
        let (records, skipped) = planned(&[("a", 200_001), ("b", 200_002)], &Records::default(), &Elsewhere::default());
        assert_eq!(skipped, Vec::<String>::new());
        let user = |uid| User { uid, gid: Some(200_000), home: String::new(), shell: "/bin/bash".into() };
        assert_eq!(records.users["a"], User { home: "/home/a".into(), ..user(200_001) });
        assert_eq!(records.users["b"], User { home: "/home/b".into(), ..user(200_002) });
        let members = |name: &str| records.groups[name].members.iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!((members("ml"), members("ml-admins")), (vec!["a", "b"], vec!["a"]));
    }

    #[test]
    fn who_is_removed_stays_locked_without_a_group_and_comes_back_as_they_were() {
        let all = [("a", 200_001), ("b", 200_002)];
        let (before, _) = planned(&all, &Records::default(), &Elsewhere::default());
        let (without, skipped) = planned(&all[..1], &before, &Elsewhere::default());
        assert_eq!(skipped, Vec::<String>::new());
        let locked = &without.users["b"];
        assert_eq!((locked.uid, locked.gid, locked.home.as_str()), (200_002, None, "/home/b"));
        assert_eq!(locked.shell, NO_SHELL);
        assert!(!without.groups["ml"].members.contains("b"));
        assert_eq!(planned(&all, &without, &Elsewhere::default()).0, before);
        // Nobody at all: everybody is locked, the groups are empty.
        let mut farewell = bundle(&[]);
        farewell.groups.clear();
        let (nobody, _) = plan(&farewell, &before, &Elsewhere::default(), &style());
        assert!(nobody.users.values().all(|user| user.gid.is_none()) && nobody.users.len() == 2);
        assert!(nobody.groups.values().all(|group| group.members.is_empty()) && nobody.groups.len() == 2);
    }

    #[test]
    fn what_the_machine_has_from_elsewhere_is_never_touched() {
        let users = [("a", 200_001), ("b", 200_002), ("c", 200_003)];
        let elsewhere =
            Elsewhere { users: names(&[("a", 1000), ("other", 200_002)]), groups: names(&[("ml-admins", 50)]) };
        let (records, skipped) = planned(&users, &Records::default(), &elsewhere);
        assert_eq!(records.users.keys().collect::<Vec<_>>(), ["c"]);
        assert_eq!(records.groups.keys().collect::<Vec<_>>(), ["ml"]);
        // And somebody else of that name is not put into our group.
        assert_eq!(records.groups["ml"].members, ["c".to_owned()].into());
        assert_eq!(
            skipped,
            [
                "no group ml-admins (200001) here: 'files' has a group or user of that name",
                "no account a (200001) here: 'files' has a group or user of that name",
                "no account b (200002) here: 'files' has that number, as other",
            ]
        );
        // Also when they come later: ours gives way, of members and of the removed.
        let (before, _) = planned(&users, &Records::default(), &Elsewhere::default());
        let (after, _) = planned(&users[1..], &before, &elsewhere);
        assert_eq!(after.users.keys().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn a_number_or_name_that_was_somebody_else_s_is_not_taken_over() {
        let (before, _) = planned(&[("a", 200_001)], &Records::default(), &Elsewhere::default());
        let (after, skipped) = planned(&[("b", 200_001)], &before, &Elsewhere::default());
        assert_eq!(skipped, ["no account b (200001) here: a has this number here"]);
        assert_eq!(after.users.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(after.users["a"].gid, None);
        let (after, skipped) = planned(&[("a", 200_005)], &before, &Elsewhere::default());
        assert_eq!(skipped, ["no account a (200005) here: it has had the number 200001 here"]);
        assert_eq!((after.users["a"].uid, after.users["a"].gid), (200_001, None));
    }

    #[test]
    fn numbers_of_the_system_are_refused_whoever_says_so() {
        for uid in [0, 1, 999, 65534, u32::MAX] {
            let (records, skipped) = planned(&[("a", uid)], &Records::default(), &Elsewhere::default());
            assert!(records.users.is_empty(), "{uid}");
            assert!(skipped[0].contains("none that certgate gives out"), "{skipped:?}");
        }
    }

    #[test]
    fn nothing_new_is_made_while_nobody_can_say_what_there_is() {
        let (before, _) = planned(&[("a", 200_001), ("b", 200_002)], &Records::default(), &Elsewhere::default());
        let unknown = Elsewhere::unknown("getent does not answer");
        let (after, skipped) = planned(&[("a", 200_001), ("c", 200_003)], &before, &unknown);
        assert_eq!(skipped, ["no account c (200003) here: getent does not answer"]);
        assert_eq!(after.users.keys().collect::<Vec<_>>(), ["a", "b"]);
        // What is taken away is taken away all the same.
        assert_eq!((after.users["a"].gid, after.users["b"].gid), (Some(200_000), None));
    }
}
