//! A no, with its reason in two voices.

use crate::domain::{AccountId, ClusterPath, Deletion, Directory, Email, ProjectId, ProjectPath, Timestamp};
use std::{fmt, time::Duration};
use thiserror::Error;

/// For how long somebody who was removed is told when and by whom; after that they are a stranger like any other.
const DEPARTURE_TOLD: Duration = Duration::from_secs(31 * 86_400);

/// Whether somebody is still told that they were removed, or that what they were in was deleted.
#[must_use]
pub fn is_told(at: Timestamp, now: Timestamp) -> bool {
    now.since(at) < DEPARTURE_TOLD
}

/// Why something was refused: one word for the audit log and for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The key is registered for nobody.
    UnknownKey,
    /// The key belongs to somebody else than the connection says.
    ForeignKey,
    /// The account is suspended.
    Suspended,
    /// No such account.
    NoAccount,
    /// It does not exist, or is not theirs: the same to them.
    NotFound,
    /// They were removed from the project.
    Removed,
    /// They are in the project but not an admin of it.
    NotAdmin,
    /// Only an operator may.
    OperatorsOnly,
    /// A service account changes nothing.
    ServiceAccount,
    /// A service account, from an address that is in none of its networks.
    Source,
    /// A setting is missing that the site has to make first.
    NotSetUp,
    /// The certificate in hand does not cover it.
    OutOfScope,
    /// Not the SSH port of the node.
    WrongPort,
    /// No node of the cluster can be reached.
    NoNode,
    /// It is so already, or exists already, or was used already.
    Conflict,
    /// What was asked for makes no sense or is too much.
    Invalid,
    /// The certificate is not one of this authority.
    CertificateAuthority,
    /// The certificate is a host's.
    CertificateType,
    /// The certificate certifies a certificate, or its CA is one.
    CertificateNested,
    /// The certificate's signature is of an algorithm that the CA does not use, or wrong.
    CertificateSignature,
    /// Not yet valid, or no longer.
    CertificateValidity,
    /// No principal, or one that is not the account's.
    CertificatePrincipals,
    /// A critical option that is not known here.
    CertificateOption,
    /// Used from an address that it is not for.
    CertificateSource,
    /// Revoked.
    CertificateRevoked,
    /// Not in the record of what was issued, or not as it is recorded.
    CertificateRecord,
    /// The certificate cannot be read.
    CertificateFormat,
    /// The session has lasted as long as the project lets one.
    SessionTime,
    /// A join token that is used, expired or for another node.
    Token,
    /// A join token that was never given out.
    UnknownToken,
}

impl Reason {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown-key",
            Self::ForeignKey => "foreign-key",
            Self::Suspended => "suspended",
            Self::NoAccount => "no-account",
            Self::NotFound => "not-found",
            Self::Removed => "removed",
            Self::NotAdmin => "not-admin",
            Self::OperatorsOnly => "operators-only",
            Self::ServiceAccount => "service-account",
            Self::Source => "source",
            Self::NotSetUp => "not-set-up",
            Self::OutOfScope => "out-of-scope",
            Self::WrongPort => "wrong-port",
            Self::NoNode => "no-node",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::CertificateAuthority => "certificate-authority",
            Self::CertificateType => "certificate-type",
            Self::CertificateNested => "certificate-nested",
            Self::CertificateSignature => "certificate-signature",
            Self::CertificateValidity => "certificate-validity",
            Self::CertificatePrincipals => "certificate-principals",
            Self::CertificateOption => "certificate-option",
            Self::CertificateSource => "certificate-source",
            Self::CertificateRevoked => "certificate-revoked",
            Self::CertificateRecord => "certificate-record",
            Self::CertificateFormat => "certificate-format",
            Self::SessionTime => "session-time",
            Self::Token => "token",
            Self::UnknownToken => "unknown-token",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A no. `Display` is the voice for the one refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{user}")]
pub struct Denial {
    /// One word.
    pub reason: Reason,
    /// Everything, for operators and the audit log.
    pub operator: String,
    /// What the one refused is told: what concerns them, and what they can do; nothing about others.
    pub user: String,
}

impl Denial {
    /// With the same words for both.
    #[must_use]
    pub fn plain(reason: Reason, text: impl Into<String>) -> Self {
        let user = text.into();
        Self { reason, operator: user.clone(), user }
    }

    /// With different words for the operator and the one refused.
    #[must_use]
    pub fn told(reason: Reason, operator: impl Into<String>, user: impl Into<String>) -> Self {
        Self { reason, operator: operator.into(), user: user.into() }
    }

    /// The one answer for what does not exist and for what is not theirs.
    #[must_use]
    pub fn not_found(what: &str, name: &dyn fmt::Display, operator: impl Into<String>) -> Self {
        Self::told(Reason::NotFound, operator, format!("no such {what}: {name}"))
    }

    /// What somebody is told about a project that they are not in: when and by whom they were removed or it was deleted,
    /// if that is so and not too long ago; otherwise `stranger`.
    #[must_use]
    pub fn not_in_project(
        directory: &Directory,
        account: AccountId,
        project: ProjectId,
        now: Timestamp,
        stranger: Self,
    ) -> Self {
        let Some(departure) = directory.departure(account, project).filter(|departure| is_told(departure.at, now))
        else {
            return stranger;
        };
        if let Some((path, deletion)) = directory.gone_project(project) {
            return match departure.at == deletion.at {
                true => Self::deleted("project", &path, deletion, now),
                false => Self::removed(&path, departure.at, &departure.by, now),
            };
        }
        let Some(path) = directory.project(project).and_then(|project| directory.path_of_project(project)) else {
            return stranger;
        };
        Self::removed(&path, departure.at, &departure.by, now)
    }

    /// What somebody is told about a cluster that is not there: when and by whom it was deleted, if they are in its
    /// project and it is not too long ago; what [`Self::not_in_project`] says, if they are not; otherwise `stranger`.
    #[must_use]
    pub fn no_cluster(
        directory: &Directory,
        account: AccountId,
        path: &ClusterPath,
        now: Timestamp,
        stranger: Self,
    ) -> Self {
        match directory.gone_cluster_at(path) {
            None => stranger,
            Some(deletion) if directory.membership(deletion.project, account).is_none() => {
                Self::not_in_project(directory, account, deletion.project, now, stranger)
            }
            Some(deletion) if is_told(deletion.at, now) => Self::deleted("cluster", path, deletion, now),
            Some(_) => stranger,
        }
    }

    /// `project acme/ml-training was deleted at 12:03 UTC by admin1@acme.example`.
    fn deleted(what: &str, path: &dyn fmt::Display, Deletion { at, by, .. }: &Deletion, now: Timestamp) -> Self {
        Self::plain(Reason::Removed, format!("{what} {path} was deleted at {} by {by}", at.for_people_at(now)))
    }

    /// `removed from acme/ml-training at 12:03 UTC by admin1@acme.example`.
    #[must_use]
    pub fn removed(project: &ProjectPath, at: Timestamp, by: &crate::domain::Actor, now: Timestamp) -> Self {
        Self::plain(Reason::Removed, format!("removed from {project} at {} by {by}", at.for_people_at(now)))
    }

    /// A suspended account.
    #[must_use]
    pub fn suspended(email: &Email) -> Self {
        Self::told(
            Reason::Suspended,
            format!("account {email} is suspended"),
            "your account is suspended; ask the people who run this bastion",
        )
    }
}
