//! Principals: what a certificate says its holder may be taken for.

use super::names::{ClusterName, NameError, OrgName, ProjectName, UserName};
use std::{collections::BTreeSet, fmt, str::FromStr};
use thiserror::Error;

/// OpenSSH's limit of principals in a certificate (`SSHKEY_CERT_MAX_PRINCIPALS`, sshkey.c).
pub const MAX_PRINCIPALS: usize = 256;

/// `USER@ORG/PROJECT`, every cluster of the project, or `USER@ORG/PROJECT/CLUSTER`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    /// Whose it is.
    pub user: UserName,
    /// The project's organization.
    pub org: OrgName,
    /// The project.
    pub project: ProjectName,
    /// Only this cluster of the project, if any.
    pub cluster: Option<ClusterName>,
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}/{}", self.user, self.org, self.project)?;
        match &self.cluster {
            Some(cluster) => write!(f, "/{cluster}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Principal {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let form = || NameError::Form { what: "a principal", form: "USER@ORG/PROJECT or USER@ORG/PROJECT/CLUSTER" };
        let (user, rest) = text.split_once('@').ok_or_else(form)?;
        let mut parts = rest.split('/');
        let principal = Self {
            user: user.parse()?,
            org: parts.next().ok_or_else(form)?.parse()?,
            project: parts.next().ok_or_else(form)?.parse()?,
            cluster: parts.next().map(str::parse).transpose()?,
        };
        if parts.next().is_some() { Err(form()) } else { Ok(principal) }
    }
}

/// Why a list of principals cannot be in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PrincipalsError {
    /// A certificate without principals once meant 'everybody' (CVE-2024-7594).
    #[error("no principal")]
    Empty,
    /// More than OpenSSH reads.
    #[error("more than {MAX_PRINCIPALS} principals")]
    TooMany,
}

/// The principals of one certificate: at least one, at most [`MAX_PRINCIPALS`], in order, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principals(Vec<Principal>);

impl Principals {
    /// From any number of principals.
    ///
    /// # Errors
    /// None at all, or more than OpenSSH reads.
    pub fn new(principals: impl IntoIterator<Item = Principal>) -> Result<Self, PrincipalsError> {
        let sorted: BTreeSet<Principal> = principals.into_iter().collect();
        match sorted.len() {
            0 => Err(PrincipalsError::Empty),
            n if n > MAX_PRINCIPALS => Err(PrincipalsError::TooMany),
            _ => Ok(Self(sorted.into_iter().collect())),
        }
    }

    /// In order, each once.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Principal> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_principal_cannot_be_expressed() {
        assert_eq!(Principals::new([]), Err(PrincipalsError::Empty));
    }

    #[test]
    fn openssh_limit_is_kept() {
        let many = |n: usize| (0..n).map(|i| format!("u@o/p{i}").parse::<Principal>().unwrap());
        assert!(Principals::new(many(256)).is_ok());
        assert_eq!(Principals::new(many(257)), Err(PrincipalsError::TooMany));
    }

    #[test]
    fn a_comma_cannot_make_two_principals_of_one() {
        // OpenBao GHSA-59w7-v8rr-pr4p, OpenSSH CVE-2026-35414.
        for bad in ["user1,root@acme/ml", "user1@acme,x/ml", "user1@acme/ml,root", "user1@acme/ml/c,d", "user1", "@a/b"]
        {
            assert!(bad.parse::<Principal>().is_err(), "{bad}");
        }
    }
}
