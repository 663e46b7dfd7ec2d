//! The key revocation list: for sshds that do not run our helper.

use super::{
    core::{App, Asker, lock},
    error::AppError,
};
use crate::{
    domain::ClusterPath,
    krl::Krl,
    policy::{Action, Place, Revoked, revoked},
};

impl App {
    /// What sshds have to refuse: all of them, or those of one cluster, whose list is complete only for it.
    ///
    /// # Errors
    /// Refused, or the asker cannot know of such a cluster.
    pub fn krl(&self, asker: &Asker, at: Option<&ClusterPath>) -> Result<Krl, AppError> {
        let (action, place) = match at {
            Some(at) => (Action::KrlCluster, Place::from(at)),
            None => (Action::Krl, Place::Nowhere),
        };
        let now = self.now();
        self.view(asker, action, place, |directory, _, grant| {
            let cluster = at.map(|_| grant.cluster()).transpose()?;
            let Revoked { serials, keys } =
                revoked(directory, lock(&self.live).values(), cluster.map(|cluster| &**cluster), now);
            let whose = at.map_or_else(|| self.site.bastion.host.clone(), ToString::to_string);
            Ok(Krl {
                version: directory.version().0,
                generated: now,
                comment: format!("certgate {whose}"),
                authorities: vec![self.ca.user.public_key().clone()],
                serials,
                keys,
            })
        })
    }
}
