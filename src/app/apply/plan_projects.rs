//! Projects: who is in them, and what belongs to them.

use super::{
    fields::At,
    plan::{Planner, Sign},
    read::{DescribedProject, MaxTtl},
};
use crate::{
    app::{
        core::Decided,
        projects::{
            NewProject, RemoveHow, account_with_key, add_member, create_project, limit_project, remove_member, set_role,
        },
    },
    domain::{Account, Email, Project, ProjectPath, Role},
    policy::Action,
};
use std::{collections::BTreeMap, sync::Arc};

/// How a project is called where a difference is shown.
const PROJECT: &str = "project";

/// Who shall be in a project.
struct Members<'f> {
    /// The line where the list begins.
    line: usize,
    /// Each with the line that says so.
    roles: BTreeMap<&'f Email, (Role, usize)>,
    /// Whether all of it could be understood.
    whole: bool,
}

impl<'f> Members<'f> {
    fn of(project: &'f DescribedProject) -> Option<Self> {
        let At { line, value: list } = project.members.get()?;
        let roles = list.items.iter().map(|(email, role)| (&email.value, (role.value, email.line))).collect();
        Some(Self { line: *line, roles, whole: list.whole })
    }

    fn name_an_admin(&self) -> bool {
        self.roles.values().any(|(role, _)| *role == Role::Admin)
    }
}

impl Planner<'_> {
    pub(super) fn project(&mut self, described: &DescribedProject) {
        let path = &described.path.value;
        let members = Members::of(described);
        let known = self.directory.project_at(path).cloned();
        let project = match &known {
            None => self.new_project(described, members.as_ref()),
            Some(project) => self.project_as_described(described, project).then(|| project.clone()),
        };
        let Some(project) = project else {
            // What is wrong with these by themselves is told now, not after the rest was mended.
            described.services.iter().for_each(|service| drop(self.new_service(service)));
            described.clusters.iter().for_each(|cluster| drop(self.new_cluster(cluster)));
            described.volumes.iter().for_each(|volume| drop(self.new_volume(volume)));
            return;
        };
        if let Some(members) = &members {
            self.members(&project, path, members);
        }
        self.services(described, &project);
        self.limits(described, &project);
        self.clusters(described, &project);
        self.volumes(described, &project);
    }

    fn new_project(&mut self, described: &DescribedProject, members: Option<&Members<'_>>) -> Option<Arc<Project>> {
        let DescribedProject { line, path, gid, admins_gid, .. } = described;
        if described.members.is_nothing() {
            self.problems.add(*line, format!("{} is new: it needs `members`, and an admin among them", path.value));
        }
        let (gid, admins_gid, members) = (gid.get(), admins_gid.get(), members?);
        let Some(org) = self.directory.org_named(&path.value.org).cloned() else {
            self.problems.add(path.line, format!("there is no organization {}", path.value.org));
            return None;
        };
        let mut admins = members.roles.iter().filter(|(_, (role, _))| *role == Role::Admin);
        if members.whole && !members.name_an_admin() {
            self.problems.add(members.line, format!("{} would have no admin", path.value));
        }
        let Some(first) = admins.find_map(|(email, _)| account_with_key(&self.directory, email).ok()) else {
            for (email, (_, line)) in &members.roles {
                if let Err(denial) = account_with_key(&self.directory, email)
                    && !self.has_failed(email)
                {
                    self.problems.add(*line, denial.operator);
                }
            }
            return None;
        };
        let number_line = gid.or(admins_gid).map(|number| number.line);
        let name_is_free = !self.directory.project_name_taken(org.id, &path.value.project);
        let line = number_line.filter(|_| name_is_free).unwrap_or(path.line);
        let [new_gid, new_admins_gid] = self.gids(gid.map(|gid| gid.value), admins_gid.map(|gid| gid.value));
        let new = NewProject { path: path.value.clone(), gid: Some(new_gid), admins_gid: Some(new_admins_gid) };
        let name = path.value.to_string();
        let decided = create_project(&self.directory, &org, new, &first, self.how.by.clone(), self.how.now);
        self.step(line, (Action::ProjectCreate, Sign::Add), name.clone(), decided)?;
        self.difference.section(Sign::Add, PROJECT, &name);
        for (what, number) in [("gid", gid), ("admins_gid", admins_gid)] {
            if let Some(number) = number {
                self.difference.entry(PROJECT, &name, Sign::Add, what, number.value.to_string());
            }
        }
        let value = format!("{} as {}", first.email, Role::Admin);
        self.difference.entry(PROJECT, &name, Sign::Add, "member", value);
        self.directory.project_at(&path.value).cloned()
    }

    /// Whether what can never be changed is as it is.
    fn project_as_described(&mut self, described: &DescribedProject, project: &Project) -> bool {
        let before = self.problems.count();
        let path = &described.path.value;
        for (what, described, number) in [
            ("group number", &described.gid, project.gid),
            ("number of the admins' group", &described.admins_gid, project.admins_gid),
        ] {
            if let Some(described) = described.get().filter(|described| described.value != number) {
                let text = format!("the {what} of {path} is {number}, which cannot be changed");
                self.problems.add(described.line, text);
            }
        }
        self.problems.count() == before
    }

    /// Brings what a project allows to what is described; what is not described stays.
    fn limits(&mut self, described: &DescribedProject, project: &Project) {
        let mut limits = project.limits.clone();
        let mut line = described.line;
        if let Some(At { line: there, value: MaxTtl(ttl) }) = described.max_ttl.get() {
            (line, limits.max_ttl) = (*there, *ttl);
        }
        if let Some(At { line: there, value: MaxTtl(longest) }) = described.max_session.get() {
            (line, limits.max_session) = (*there, *longest);
        }
        if let Some(At { line: there, value: MaxTtl(grace) }) = described.grace.get() {
            (line, limits.grace) = (*there, *grace);
        }
        if let Some(At { line: there, value: list }) = described.forbidden.get() {
            // A list that could not be understood in whole would allow something by mistake.
            if !list.whole {
                return;
            }
            (line, limits.forbidden) = (*there, list.items.iter().map(|extension| extension.value).collect());
        }
        let (name, detail) = (described.path.value.to_string(), limits.to_string());
        let Some(mutation) = limit_project(project, limits) else { return };
        let decided = Ok(Decided { detail: detail.clone(), ..Decided::one(mutation, ()) });
        if self.step(line, (Action::ProjectUpdate, Sign::Change), name.clone(), decided).is_some() {
            self.difference.entry(PROJECT, &name, Sign::Change, "limits", format!("{} → {detail}", project.limits));
        }
    }

    /// The members of a project are exactly those that are listed. Whoever comes and whoever becomes an admin is first, so
    /// that there is an admin whenever another one goes.
    fn members(&mut self, project: &Arc<Project>, path: &ProjectPath, listed: &Members<'_>) {
        let (by, now) = (self.how.by.clone(), self.how.now);
        let admin = |role: Role| role == Role::Admin;
        let has_admin = self.directory.members_of(project.id).any(|(_, membership)| admin(membership.role));
        if has_admin && listed.whole && !listed.name_an_admin() {
            self.problems.add(listed.line, format!("{path} would have no admin"));
            return;
        }
        for (email, (role, line)) in &listed.roles {
            let account = self.directory.account_with_email(email).cloned();
            let membership = account.as_ref().and_then(|account| self.directory.membership(project.id, account.id));
            match membership.map(|membership| membership.role) {
                _ if self.has_failed(email) => {}
                _ if account.as_ref().is_some_and(|account| account.service().is_some()) => {
                    let text = format!("{email} is a service account, which is in its project without being listed");
                    self.problems.add(*line, text);
                }
                None => {
                    let decided = add_member(&self.directory, (project, path), email, *role, by.clone(), now);
                    let (what, object) = ((Action::MemberAdd, Sign::Add), format!("{path} {email}"));
                    if self.step(*line, what, object, decided).is_some() {
                        self.member(path, Sign::Add, format!("{email} as {role}"));
                    }
                }
                Some(Role::Member) if admin(*role) => self.role((project, path), email, *role, *line),
                Some(_) => {}
            }
        }
        // What is not known of the list must not end anybody's access, nor be told as if it did.
        if !listed.whole || listed.roles.keys().any(|email| self.has_failed(email)) {
            return;
        }
        let present: Vec<(Arc<Account>, Role)> = self
            .directory
            .members_of(project.id)
            .filter(|(account, _)| account.service().is_none())
            .map(|(account, membership)| (account.clone(), membership.role))
            .collect();
        for (account, role) in &present {
            if let Some((listed, line)) = listed.roles.get(&account.email)
                && listed != role
            {
                self.role((project, path), &account.email, *listed, *line);
            }
        }
        for (account, role) in present {
            let email = &account.email;
            if listed.roles.contains_key(email) {
                continue;
            }
            let decided = remove_member(&self.directory, (project, path), email, RemoveHow::default(), by.clone(), now);
            let (what, object) = ((Action::MemberRemove, Sign::Remove), format!("{path} {email}"));
            if self.step(listed.line, what, object, decided).is_some() {
                self.member(path, Sign::Remove, format!("{email} (was {role})"));
            }
        }
    }

    fn role(&mut self, (project, path): (&Arc<Project>, &ProjectPath), email: &Email, role: Role, line: usize) {
        let decided = set_role(&self.directory, (project, path), email, role, false);
        let (what, object) = ((Action::MemberRole, Sign::Change), format!("{path} {email}"));
        if self.step(line, what, object, decided).is_some() {
            let former = if role == Role::Admin { Role::Member } else { Role::Admin };
            self.member(path, Sign::Change, format!("{email}: {former} → {role}"));
        }
    }

    fn member(&mut self, path: &ProjectPath, sign: Sign, value: String) {
        self.difference.entry(PROJECT, &path.to_string(), sign, "member", value);
    }
}
