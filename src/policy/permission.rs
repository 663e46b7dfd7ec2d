//! Which commands may be given by whom: the permission table of PRODUCT.md, as data.

use super::{
    denial::{Denial, Reason},
    identity::{Identity, Scope},
};
use crate::domain::{
    Account, Actor, Cluster, ClusterPath, Directory, Email, Project, ProjectPath, Role, ServiceTerms, Timestamp,
};
use std::sync::Arc;

/// Who gives a command.
#[derive(Clone, Debug)]
pub enum Caller {
    /// An operator on the bastion.
    Operator {
        /// The user number of the process at the other end of the socket.
        uid: u32,
    },
    /// An account.
    Account(Identity),
}

impl Caller {
    /// As the audit log has it.
    #[must_use]
    pub fn actor(&self) -> Actor {
        match self {
            Self::Operator { uid } => Actor::Operator { uid: *uid },
            Self::Account(identity) => identity.account().actor(identity.key()),
        }
    }

    /// The account, if it is one.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Operator { .. } => None,
            Self::Account(identity) => Some(identity),
        }
    }
}

/// What it takes to give a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To be an operator.
    Operator,
    /// To be an account, acting on itself (or an operator).
    Own,
    /// To be in the project (or an operator).
    Member,
    /// To be an admin of the project (or an operator).
    Admin,
}

macro_rules! actions {
    ($($variant:ident = $word:literal: $need:ident,)+) => {
        /// Everything that can be asked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Action {
            $(
                #[doc = concat!("`", $word, "`.")]
                $variant,
            )+
        }

        impl Action {
            /// The word for it, as in the audit log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// What it takes.
            #[must_use]
            pub const fn need(self) -> Need {
                match self { $(Self::$variant => Need::$need,)+ }
            }
        }

        /// The table, for those who want to read it as one.
        pub const NEEDS: &[(Action, Need)] = &[$((Action::$variant, Need::$need)),+];
    };
}

actions! {
    Whoami = "whoami": Own,
    CertificateIssue = "certificate.issue": Own,
    Config = "config": Own,
    KeyList = "key.list": Own,
    KeyAdd = "key.add": Own,
    KeyRemove = "key.remove": Own,
    ProjectList = "project.list": Own,
    ProjectShow = "project.show": Member,
    ProjectCreate = "project.create": Own,
    ProjectUpdate = "project.update": Admin,
    ProjectDelete = "project.delete": Admin,
    MemberList = "member.list": Member,
    MemberAdd = "member.add": Admin,
    MemberRemove = "member.remove": Admin,
    MemberRole = "member.role": Admin,
    ClusterList = "cluster.list": Own,
    ClusterShow = "cluster.show": Member,
    ClusterCreate = "cluster.create": Admin,
    ClusterUpdate = "cluster.update": Admin,
    ClusterScale = "cluster.scale": Admin,
    ClusterRetry = "cluster.retry": Admin,
    ClusterDelete = "cluster.delete": Admin,
    VolumeList = "volume.list": Own,
    VolumeShow = "volume.show": Member,
    VolumeCreate = "volume.create": Admin,
    VolumeUpdate = "volume.update": Admin,
    VolumeRetry = "volume.retry": Admin,
    VolumeDelete = "volume.delete": Admin,
    NodeList = "node.list": Member,
    NodeShow = "node.show": Member,
    NodeToken = "node.token": Admin,
    NodeTokens = "node.tokens": Admin,
    NodeTokenRevoke = "node.token.revoke": Admin,
    NodeRemove = "node.remove": Admin,
    CertificateList = "certificate.list": Own,
    CertificateShow = "certificate.show": Own,
    CertificateRevoke = "certificate.revoke": Own,
    SessionList = "session.list": Own,
    SessionEnd = "session.end": Own,
    ExplainOwn = "explain.own": Own,
    Explain = "explain": Admin,
    ServiceList = "service.list": Member,
    ServiceShow = "service.show": Member,
    ServiceCreate = "service.create": Admin,
    ServiceUpdate = "service.update": Admin,
    ServiceKeyAdd = "service.key.add": Admin,
    ServiceKeyRemove = "service.key.remove": Admin,
    ServiceDelete = "service.delete": Admin,
    Reach = "reach": Member,
    Krl = "krl": Own,
    KrlCluster = "krl.cluster": Member,
    OrgCreate = "org.create": Operator,
    OrgList = "org.list": Operator,
    UserCreate = "user.create": Operator,
    UserList = "user.list": Operator,
    UserShow = "user.show": Operator,
    UserSuspend = "user.suspend": Operator,
    UserResume = "user.resume": Operator,
    Apply = "apply": Operator,
    Dump = "dump": Operator,
    AuditList = "audit.list": Operator,
    AuditVerify = "audit.verify": Operator,
    CaShow = "ca.show": Operator,
    BackupCreate = "backup.create": Operator,
    Status = "status": Operator,
}

/// What an action is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// No project in particular.
    Nowhere,
    /// A project.
    Project(ProjectPath),
    /// A cluster. Its project decides, and is not named to those who may not know of it.
    Cluster(ClusterPath),
    /// A service account that was not deleted. The project that owns it decides.
    Service(Email),
}

impl From<Option<&ProjectPath>> for Place {
    fn from(project: Option<&ProjectPath>) -> Self {
        project.map_or(Self::Nowhere, |path| Self::Project(path.clone()))
    }
}

impl From<&ClusterPath> for Place {
    fn from(cluster: &ClusterPath) -> Self {
        Self::Cluster(cluster.clone())
    }
}

impl From<&Email> for Place {
    fn from(email: &Email) -> Self {
        Self::Service(email.clone())
    }
}

impl Place {
    fn find(&self, directory: &Directory) -> Result<Option<Found>, Denial> {
        match self {
            Self::Nowhere => Ok(None),
            Self::Project(path) => {
                let unknown = || self.unknown(format!("no project {path}"));
                let project = directory.project_at(path).ok_or_else(unknown)?.clone();
                Ok(Some(Found { project, path: path.clone(), cluster: None, service: None }))
            }
            Self::Cluster(path) => {
                let unknown = || self.unknown(format!("no cluster {path}"));
                let cluster = directory.cluster_at(path).ok_or_else(unknown)?.clone();
                let project = directory.project(cluster.project).ok_or_else(unknown)?.clone();
                let path = directory.path_of_project(&project).ok_or_else(unknown)?;
                Ok(Some(Found { project, path, cluster: Some(cluster), service: None }))
            }
            Self::Service(email) => {
                let unknown = || self.unknown(format!("no service account {email}"));
                let (account, terms) = directory.service_account(email).ok_or_else(unknown)?;
                let project = directory.project(terms.project).ok_or_else(unknown)?.clone();
                let path = directory.path_of_project(&project).ok_or_else(unknown)?;
                Ok(Some(Found { project, path, cluster: None, service: Some(account.clone()) }))
            }
        }
    }

    /// What somebody is told who was in what is not there any more; otherwise `stranger`.
    fn gone(
        &self,
        directory: &Directory,
        account: crate::domain::AccountId,
        now: Timestamp,
        stranger: Denial,
    ) -> Denial {
        match self {
            Self::Project(path) => match directory.gone_project_at(path) {
                Some(project) => Denial::not_in_project(directory, account, project, now, stranger),
                None => stranger,
            },
            Self::Cluster(path) => Denial::no_cluster(directory, account, path, now, stranger),
            Self::Nowhere | Self::Service(_) => stranger,
        }
    }

    /// The one answer to those who may not know whether it is there; why, for the operator.
    fn unknown(&self, why: String) -> Denial {
        match self {
            Self::Nowhere => Denial::plain(Reason::Invalid, why),
            Self::Project(path) => Denial::not_found("project", path, why),
            Self::Cluster(path) => Denial::not_found("cluster", path, why),
            Self::Service(email) => Denial::not_found("service account", email, why),
        }
    }
}

/// A place that is there.
#[derive(Clone, Debug)]
struct Found {
    project: Arc<Project>,
    path: ProjectPath,
    cluster: Option<Arc<Cluster>>,
    service: Option<Arc<Account>>,
}

/// That a caller may do one thing, to one project, cluster or service account if it is about one. Only [`authorize`] makes one.
#[derive(Clone, Debug)]
#[must_use]
pub struct Grant {
    found: Option<Found>,
    forced: bool,
}

impl Grant {
    /// The project.
    ///
    /// # Errors
    /// The action is about none; a defect, which ends as a refusal.
    pub fn project(&self) -> Result<(&Arc<Project>, &ProjectPath), Denial> {
        let none = || Denial::plain(Reason::Invalid, "this command is not about a project");
        self.found.as_ref().map(|found| (&found.project, &found.path)).ok_or_else(none)
    }

    /// The cluster.
    ///
    /// # Errors
    /// The action is about none; a defect, which ends as a refusal.
    pub fn cluster(&self) -> Result<&Arc<Cluster>, Denial> {
        let none = || Denial::plain(Reason::Invalid, "this command is not about a cluster");
        self.found.as_ref().and_then(|found| found.cluster.as_ref()).ok_or_else(none)
    }

    /// The service account, and what bounds it.
    ///
    /// # Errors
    /// The action is about none; a defect, which ends as a refusal.
    pub fn service(&self) -> Result<(&Arc<Account>, &ServiceTerms), Denial> {
        let none = || Denial::plain(Reason::Invalid, "this command is not about a service account");
        let account = self.found.as_ref().and_then(|found| found.service.as_ref()).ok_or_else(none)?;
        Ok((account, account.service().ok_or_else(none)?))
    }

    /// Whether it is an operator's, who may do what protects others from themselves.
    #[must_use]
    pub fn operator(&self) -> bool {
        self.forced
    }
}

/// Whether a caller may do something, to a project, cluster or service account if it is about one.
///
/// # Errors
/// The place is not there, or not theirs (which look alike), or the caller's role is too small.
pub fn authorize(
    directory: &Directory,
    caller: &Caller,
    action: Action,
    place: &Place,
    now: Timestamp,
) -> Result<Grant, Denial> {
    let identity = match caller {
        Caller::Operator { .. } => return Ok(Grant { found: place.find(directory)?, forced: true }),
        Caller::Account(identity) => identity,
    };
    match action.need() {
        Need::Operator => {
            let words = action.as_str().replace('.', " ");
            let text = format!("'{words}' is for operators, on the bastion itself");
            Err(Denial::plain(Reason::OperatorsOnly, text))
        }
        // Whatever a robot's key is stolen from, nobody gets keys, members or machines of their own into a project with it.
        // Here and below, before the place is looked for: what is there and what is not must look alike here too.
        _ if identity.account().service().is_some() && changes(action) => Err(Denial::plain(
            Reason::ServiceAccount,
            "you are a service account, which looks, connects and gets certificates, and changes nothing; a person who is an \
             admin of its project can",
        )),
        // A certificate is for nodes. One that was asked for with less must not become more by way of a command.
        _ if matches!(identity.scope(), Scope::Principals(_)) && changes(action) => Err(Denial::plain(
            Reason::OutOfScope,
            "you are connected with a certificate, which is for nodes; connect with your key to do this (ssh -o \
             CertificateFile=none -i KEYFILE …)",
        )),
        Need::Own => Ok(Grant { found: None, forced: false }),
        Need::Member | Need::Admin => {
            let nowhere = || place.unknown(format!("{} needs a project", action.as_str()));
            let account = identity.account();
            let gone = |stranger| place.gone(directory, account.id, now, stranger);
            let found = place.find(directory).map_err(gone)?.ok_or_else(nowhere)?;
            let Some(membership) = directory.membership(found.project.id, account.id) else {
                let stranger = place.unknown(format!("{} is not in {}", account.email, found.path));
                return Err(Denial::not_in_project(directory, account.id, found.project.id, now, stranger));
            };
            if action.need() == Need::Admin && membership.role != Role::Admin {
                let path = &found.path;
                return Err(Denial::plain(
                    Reason::NotAdmin,
                    format!("only an admin of {path} may do that; 'member list {path}' shows who is one"),
                ));
            }
            Ok(Grant { found: Some(found), forced: false })
        }
    }
}

/// Whether an action changes something. Exhaustive by listing what does not: a new action counts as a change until
/// somebody says otherwise.
fn changes(action: Action) -> bool {
    !matches!(
        action,
        Action::Whoami
            | Action::Config
            | Action::CertificateIssue
            | Action::KeyList
            | Action::ProjectList
            | Action::ProjectShow
            | Action::MemberList
            | Action::ClusterList
            | Action::ClusterShow
            | Action::VolumeList
            | Action::VolumeShow
            | Action::NodeList
            | Action::NodeShow
            | Action::NodeTokens
            | Action::CertificateList
            | Action::CertificateShow
            | Action::SessionList
            | Action::ExplainOwn
            | Action::Explain
            | Action::Reach
            | Action::Krl
            | Action::KrlCluster
            | Action::ServiceList
            | Action::ServiceShow
    )
}
