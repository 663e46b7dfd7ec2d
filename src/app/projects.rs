//! Projects and who is in them.

use super::{
    accounts::{account_named, in_range},
    core::{App, Asker, Decided},
    error::AppError,
    services::{keys_of_services, retired_with_project},
    view_types::ProjectView,
    views::project_view,
};
use crate::{
    domain::{
        Account, AccountState, Actor, Departure, Directory, Email, Extension, Grace, Limits, Membership, Mutation,
        Node, Org, Project, ProjectId, ProjectPath, Role, Timestamp, Ttl, Uid, Version,
    },
    policy::{Action, Caller, Denial, Grant, Reason},
    store::Ledger,
};
use std::{collections::BTreeSet, sync::Arc};

/// What goes with something that is deleted, beside what its lists show.
#[derive(Clone, Copy, Debug)]
pub struct Going {
    /// Nodes.
    pub nodes: usize,
    /// Open sessions on them.
    pub sessions: usize,
}

impl App {
    /// Creates a project. Its first admin is whoever creates it, or whom an operator names.
    ///
    /// # Errors
    /// Refused, the name was used before, or not durable.
    pub async fn create_project(
        self: &Arc<Self>,
        asker: &Asker,
        path: ProjectPath,
        admin: Option<Email>,
    ) -> Result<(), AppError> {
        let object = path.to_string();
        let decide = move |ledger: Ledger<'_>, caller: &Caller, _: &_, now| {
            let directory = ledger.directory;
            // Before anything is looked for, so that this says nothing of what is there.
            if caller.identity().is_some() && admin.is_some() {
                let text = "--admin is for operators; who creates a project is its first admin";
                return Err(Denial::plain(Reason::OperatorsOnly, text));
            }
            let unknown = || Denial::not_found("organization", &path.org, format!("no organization {}", path.org));
            let org = directory.org_named(&path.org).ok_or_else(unknown)?;
            let account = match (caller.identity(), &admin) {
                (None, None) => {
                    return Err(Denial::plain(Reason::Invalid, "name the project's first admin: --admin EMAIL"));
                }
                (None, Some(email)) => account_with_key(directory, email)?,
                // In another organization nobody learns which names are taken.
                (Some(identity), _) if identity.account().org != org.id => return Err(unknown()),
                (Some(identity), _) => identity.account().clone(),
            };
            let new = NewProject { path, gid: None, admins_gid: None };
            create_project(directory, org, new, &account, caller.actor(), now)
        };
        self.change(asker, Action::ProjectCreate, None, object, decide).await?;
        Ok(())
    }

    /// Changes what a project allows less than the site; says what that is then. It holds for certificates from then on.
    ///
    /// # Errors
    /// Refused, or not durable.
    pub async fn limit_project(
        self: &Arc<Self>,
        asker: &Asker,
        path: ProjectPath,
        change: LimitsChange,
    ) -> Result<(Limits, Version), AppError> {
        let object = path.to_string();
        let decide = move |_: Ledger<'_>, _: &Caller, grant: &Grant, _| {
            let project = grant.project()?.0;
            let limits = change.made_to(&project.limits);
            let detail = limits.to_string();
            Ok(match limit_project(project, limits.clone()) {
                None => Decided::nothing(detail, limits),
                Some(mutation) => Decided { detail, ..Decided::one(mutation, limits) },
            })
        };
        self.change(asker, Action::ProjectUpdate, Some(&path), object, decide).await
    }

    /// What the deletion of a project will take with it.
    ///
    /// # Errors
    /// The asker may not delete it.
    pub async fn preview_project_deletion(
        self: &Arc<Self>,
        asker: &Asker,
        path: &ProjectPath,
    ) -> Result<(ProjectView, Going), AppError> {
        let look = |directory: &Directory, caller: &Caller, grant: &Grant| {
            let (project, path) = grant.project()?;
            let clusters: BTreeSet<_> = directory.clusters_of(project.id).map(|cluster| cluster.id).collect();
            let going = Going {
                nodes: clusters.iter().map(|cluster| directory.nodes_of(*cluster).count()).sum(),
                sessions: self.sessions_on(directory, None, |node| clusters.contains(&node.cluster)),
            };
            Ok((project_view(directory, caller, project, path.clone()), going))
        };
        self.preview(asker, Action::ProjectDelete, Some(path), path.to_string(), look).await
    }

    /// Deletes a project with its clusters, nodes and volumes. Its name and theirs stay taken.
    ///
    /// # Errors
    /// Refused, or not durable.
    pub async fn delete_project(self: &Arc<Self>, asker: &Asker, path: ProjectPath) -> Result<Version, AppError> {
        let object = path.to_string();
        let app = self.clone();
        let decide = move |ledger: Ledger<'_>, caller: &Caller, grant: &Grant, now| {
            let (project, by) = (grant.project()?.0, caller.actor());
            let denied_until = app.last_certificate_on(&keys_of_services(ledger.directory, project), now);
            let mut mutations = retired_with_project(ledger.directory, project, denied_until, &by, now);
            mutations.push(Mutation::ProjectDeleted { project: project.id, at: now, by });
            Ok(Decided { mutations, certificate: None, detail: String::new(), answer: () })
        };
        Ok(self.change(asker, Action::ProjectDelete, Some(&path), object, decide).await?.1)
    }

    /// Adds a member.
    ///
    /// # Errors
    /// Refused, no such account, no key, a member already, or not durable.
    pub async fn add_member(
        self: &Arc<Self>,
        asker: &Asker,
        path: ProjectPath,
        email: Email,
        role: Role,
    ) -> Result<Version, AppError> {
        let object = format!("{path} {email}");
        let decide = move |ledger: Ledger<'_>, caller: &Caller, grant: &Grant, now| {
            let (project, path) = grant.project()?;
            add_member(ledger.directory, (project, path), &email, role, caller.actor(), now)
        };
        Ok(self.change(asker, Action::MemberAdd, Some(&path), object, decide).await?.1)
    }

    /// What the removal of a member will end.
    ///
    /// # Errors
    /// The asker may not remove them, or it would be refused for another reason.
    pub async fn preview_removal(
        self: &Arc<Self>,
        asker: &Asker,
        path: &ProjectPath,
        email: &Email,
        how: RemoveHow,
    ) -> Result<Removal, AppError> {
        let look = |directory: &Directory, _: &Caller, grant: &Grant| {
            let (project, path) = grant.project()?;
            let membership = removable(directory, (project, path), email, forced(how.force, grant)?)?;
            let is_there = |node: &Node| {
                directory.cluster(node.cluster).is_some_and(|cluster| cluster.project == membership.project)
            };
            let open = self.sessions_on(directory, Some(membership.account), is_there);
            Ok(Removal { open, grace: project.limits.grace.filter(|_| !how.now) })
        };
        self.preview(asker, Action::MemberRemove, Some(path), format!("{path} {email}"), look).await
    }

    /// Removes a member. When this returns nothing is issued or opened any more; what is open is being ended, or, if the
    /// project has a grace period, will have ended at the time that is returned.
    ///
    /// # Errors
    /// Refused, not a member, the last admin, or not durable.
    pub async fn remove_member(
        self: &Arc<Self>,
        asker: &Asker,
        path: ProjectPath,
        email: Email,
        how: RemoveHow,
    ) -> Result<(Option<Timestamp>, Version), AppError> {
        let object = format!("{path} {email}");
        let decide = move |ledger: Ledger<'_>, caller: &Caller, grant: &Grant, now| {
            let (project, path) = grant.project()?;
            let how = RemoveHow { force: forced(how.force, grant)?, ..how };
            remove_member(ledger.directory, (project, path), &email, how, caller.actor(), now)
        };
        self.change(asker, Action::MemberRemove, Some(&path), object, decide).await
    }

    /// Gives a member another role.
    ///
    /// # Errors
    /// Refused, not a member, that role already, the last admin, or not durable.
    pub async fn set_role(
        self: &Arc<Self>,
        asker: &Asker,
        path: ProjectPath,
        email: Email,
        role: Role,
        force: bool,
    ) -> Result<Version, AppError> {
        let object = format!("{path} {email}");
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, _| {
            let (project, path) = grant.project()?;
            set_role(ledger.directory, (project, path), &email, role, forced(force, grant)?)
        };
        Ok(self.change(asker, Action::MemberRole, Some(&path), object, decide).await?.1)
    }
}

/// How a member is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoveHow {
    /// Also the last admin: only an operator can say so.
    pub force: bool,
    /// Without the project's grace period.
    pub now: bool,
}

/// What the removal of a member ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// How many open sessions.
    pub open: usize,
    /// After which time; at once if none.
    pub grace: Option<Grace>,
}

/// What is to be different about what a project allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitsChange {
    /// The longest that a certificate for it lives; as long as the site lets it if none.
    pub max_ttl: Option<Option<Ttl>>,
    /// The longest that a session through a gateway lasts; as long as people like if none.
    pub max_session: Option<Option<Ttl>>,
    /// How long what a person has open may stay open after they were removed; not at all if none.
    pub grace: Option<Option<Grace>>,
    /// What no certificate for it allows.
    pub forbid: BTreeSet<Extension>,
    /// What they allow again, if the site does.
    pub allow: BTreeSet<Extension>,
}

impl LimitsChange {
    fn made_to(&self, former: &Limits) -> Limits {
        let forbidden = former.forbidden.union(&self.forbid).filter(|extension| !self.allow.contains(extension));
        Limits {
            max_ttl: self.max_ttl.unwrap_or(former.max_ttl),
            forbidden: forbidden.copied().collect(),
            max_session: self.max_session.unwrap_or(former.max_session),
            grace: self.grace.unwrap_or(former.grace),
        }
    }
}

/// Other limits of a project; none if they are so already.
pub(super) fn limit_project(project: &Project, limits: Limits) -> Option<Mutation> {
    (project.limits != limits).then_some(Mutation::ProjectLimited { project: project.id, limits })
}

/// Whether a project's last admin may go: only an operator can say so.
fn forced(force: bool, grant: &Grant) -> Result<bool, Denial> {
    if force && !grant.operator() {
        return Err(Denial::plain(Reason::OperatorsOnly, "--force is for operators, on the bastion itself"));
    }
    Ok(force)
}

/// A project to be.
#[derive(Clone, Debug)]
pub(super) struct NewProject {
    /// Its name.
    pub(super) path: ProjectPath,
    /// Its group's number; the next one if not said.
    pub(super) gid: Option<Uid>,
    /// The number of its admins' group; the next one if not said.
    pub(super) admins_gid: Option<Uid>,
}

/// A project with its first admin.
pub(super) fn create_project(
    directory: &Directory,
    org: &Org,
    new: NewProject,
    admin: &Account,
    by: Actor,
    now: Timestamp,
) -> Result<Decided<()>, Denial> {
    let NewProject { path, gid, admins_gid } = new;
    if directory.project_name_taken(org.id, &path.project) {
        let text = format!("{path} is or was a project; names are never given out twice");
        return Err(Denial::plain(Reason::Conflict, text));
    }
    let (gid, admins_gid) = new_gids(directory, gid, admins_gid)?;
    let id = ProjectId(directory.counters().id);
    let project =
        Project { id, org: org.id, name: path.project, gid, admins_gid, limits: Limits::default(), created: now };
    let membership = Membership { project: id, account: admin.id, role: Role::Admin, since: now, by };
    let detail = format!("first admin {}", admin.email);
    let mutations = vec![Mutation::ProjectCreated(project), Mutation::MemberAdded(membership)];
    Ok(Decided { mutations, certificate: None, detail, answer: () })
}

/// The group numbers of a new project: the next ones, or those that were chosen, so that file systems that know them from
/// elsewhere keep their groups.
fn new_gids(directory: &Directory, gid: Option<Uid>, admins_gid: Option<Uid>) -> Result<(Uid, Uid), Denial> {
    let mut next = directory.counters().gid;
    let mut choose = |chosen: Option<Uid>| {
        chosen.unwrap_or_else(|| {
            next = Uid(next.0 + 1);
            Uid(next.0 - 1)
        })
    };
    let (gid, admins_gid) = (choose(gid), choose(admins_gid));
    for number in [gid, admins_gid] {
        if directory.gid_taken(number) {
            let text = format!("the group number {number} is or was a project's; numbers are never given out twice");
            return Err(Denial::plain(Reason::Conflict, text));
        }
        in_range("group", number)?;
    }
    if gid == admins_gid {
        return Err(Denial::plain(Reason::Conflict, format!("the group number {gid} would be given out twice")));
    }
    Ok((gid, admins_gid))
}

/// A member. The account must exist and have a key.
pub(super) fn add_member(
    directory: &Directory,
    (project, path): (&Arc<Project>, &ProjectPath),
    email: &Email,
    role: Role,
    by: Actor,
    now: Timestamp,
) -> Result<Decided<()>, Denial> {
    let account = account_with_key(directory, email)?;
    if let Some(membership) = directory.membership(project.id, account.id) {
        let text = format!(
            "{email} is in {path} already, as {}; to change that: member role {path} {email} ROLE",
            membership.role
        );
        return Err(Denial::plain(Reason::Conflict, text));
    }
    let membership = Membership { project: project.id, account: account.id, role, since: now, by };
    let mutation = Mutation::MemberAdded(membership);
    Ok(Decided { detail: format!("as {role}"), ..Decided::one(mutation, ()) })
}

/// Removes a member; the last admin only if it is forced. Until when what they have open may stay open is decided here, once.
pub(super) fn remove_member(
    directory: &Directory,
    (project, path): (&Arc<Project>, &ProjectPath),
    email: &Email,
    how: RemoveHow,
    by: Actor,
    now: Timestamp,
) -> Result<Decided<Option<Timestamp>>, Denial> {
    let membership = removable(directory, (project, path), email, how.force)?;
    let until = project.limits.grace.filter(|_| !how.now).map(|grace| now.after(grace.duration()));
    let departure = Departure { project: project.id, account: membership.account, at: now, by, until };
    let ends = match (until, project.limits.grace) {
        (Some(until), _) => format!("; what is open ends at {until}"),
        (None, Some(_)) => "; what is open ends at once".into(),
        (None, None) => String::new(),
    };
    let detail = format!("was {}{ends}", membership.role);
    Ok(Decided { detail, ..Decided::one(Mutation::MemberRemoved(departure), until) })
}

/// Gives a member another role; takes it from the last admin only if that is forced.
pub(super) fn set_role(
    directory: &Directory,
    (project, path): (&Arc<Project>, &ProjectPath),
    email: &Email,
    role: Role,
    forced: bool,
) -> Result<Decided<()>, Denial> {
    let membership = member_named(directory, project.id, path, email)?;
    person(email, "is a member, never an admin")?;
    if membership.role == role {
        return Err(Denial::plain(Reason::Conflict, format!("{email} is {role} of {path} already")));
    }
    keep_an_admin(directory, membership, path, forced)?;
    let mutation = Mutation::RoleSet { project: project.id, account: membership.account, role };
    Ok(Decided { detail: format!("from {} to {role}", membership.role), ..Decided::one(mutation, ()) })
}

/// An account that can be added: it must exist and have a key, and the error says which of the two is missing.
pub(super) fn account_with_key(directory: &Directory, email: &Email) -> Result<Arc<Account>, Denial> {
    person(email, "belongs to the project that it was made for; others make their own: service create")?;
    let account = account_named(directory, email)?;
    if directory.keys_of(account.id).next().is_none() {
        let text = format!(
            "{email} has an account but no SSH key; an operator can add one: key add --account {email} < KEY.pub"
        );
        return Err(Denial::plain(Reason::Invalid, text));
    }
    Ok(account.clone())
}

/// Refuses what is done with persons only. The name tells: whether there is such a service account is not said.
fn person(email: &Email, but: &str) -> Result<(), Denial> {
    if email.is_service() {
        return Err(Denial::plain(Reason::ServiceAccount, format!("a service account {but}")));
    }
    Ok(())
}

fn member_named<'d>(
    directory: &'d Directory,
    project: ProjectId,
    path: &ProjectPath,
    email: &Email,
) -> Result<&'d Arc<Membership>, Denial> {
    directory.account_with_email(email).and_then(|account| directory.membership(project, account.id)).ok_or_else(|| {
        Denial::plain(Reason::NotFound, format!("{email} is not in {path}; 'member list {path}' shows who is"))
    })
}

/// The membership, if it may be ended.
fn removable<'d>(
    directory: &'d Directory,
    (project, path): (&Arc<Project>, &ProjectPath),
    email: &Email,
    forced: bool,
) -> Result<&'d Arc<Membership>, Denial> {
    let membership = member_named(directory, project.id, path, email)?;
    person(email, &format!("is in {path} as long as it lives; to delete it: service delete {email}"))?;
    keep_an_admin(directory, membership, path, forced)?;
    Ok(membership)
}

fn keep_an_admin(
    directory: &Directory,
    membership: &Membership,
    path: &ProjectPath,
    forced: bool,
) -> Result<(), Denial> {
    let is_admin = |membership: &Membership| membership.role == Role::Admin;
    // Who is suspended or has no key can do nothing for the project.
    let others = directory.members_of(membership.project).any(|(account, other)| {
        account.id != membership.account
            && is_admin(other)
            && account.state == AccountState::Active
            && directory.keys_of(account.id).next().is_some()
    });
    if !is_admin(membership) || others || forced {
        return Ok(());
    }
    let text = format!(
        "that is the last admin of {path} who can act, and a project keeps at least one; make somebody else admin first: \
         member role {path} EMAIL admin"
    );
    Err(Denial::plain(Reason::Conflict, text))
}
