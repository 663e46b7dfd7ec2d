//! Grace periods: until when what somebody had open when they were removed from a project may stay open. Whoever ends or
//! keeps something open decides by this, so that all come to the same.

use super::Directory;
use crate::domain::{
    ids::{AccountId, ProjectId},
    model::{Account, AccountState, Departure},
    mutation::Touched,
    time::Timestamp,
};
use std::sync::Arc;

impl Directory {
    /// Until when what an account had open in a project when it was removed from it may stay open; none if not at all
    /// (any more). It is about nothing new, and only about people: a robot has nobody who could be warned.
    ///
    /// What was said at the removal is the longest; a grace period that was made shorter or taken away since then is
    /// shorter for them as well. A clock that was set back makes it no longer: then it is over.
    #[must_use]
    pub fn lingers(&self, account: AccountId, project: ProjectId, now: Timestamp) -> Option<Timestamp> {
        let departure = self.departure(account, project)?;
        let grace = self.project(project)?.limits.grace?;
        let account = self.account(account)?;
        let works = account.state == AccountState::Active && account.service().is_none();
        let until = departure.until?.min(departure.at.after(grace.duration()));
        (works && departure.at <= now && now < until).then_some(until)
    }

    /// Those who were removed from a project and may keep open what they had open, and until when.
    pub fn lingering(&self, project: ProjectId, now: Timestamp) -> impl Iterator<Item = (&Arc<Account>, Timestamp)> {
        self.graces_of(project)
            .filter_map(move |account| Some((self.account(account)?, self.lingers(account, project, now)?)))
    }

    fn graces_of(&self, project: ProjectId) -> impl Iterator<Item = AccountId> {
        let of_it = self.graces.range((project, AccountId(0))..).take_while(move |(p, _)| *p == project);
        of_it.map(|(_, account)| *account)
    }

    pub(super) fn touch_graces(&self, project: ProjectId, touched: &mut Touched) {
        touched.accounts.extend(self.graces_of(project));
        touched.clusters.extend(self.clusters_of(project).map(|cluster| cluster.id));
    }

    pub(super) fn depart(&mut self, departure: Departure) {
        let (account, project) = (departure.account, departure.project);
        if departure.until.is_some() {
            self.graces.insert((project, account));
        }
        self.departures.insert((account, project), Arc::new(departure));
    }
}
