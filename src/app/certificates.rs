//! From a certificate's serial number to everything: whose it is, how it came about, and what was opened with it.

use super::{
    core::{App, Asker, lock},
    error::AppError,
    sessions::Session,
};
use crate::{
    audit::{Entry, Filter, Outcome, What, Who},
    domain::{
        CertificateRecord, ClusterPath, Directory, Email, Fingerprint, NodePath, Principal, Serial, SessionId,
        Timestamp, UserName,
    },
    policy::{Action, Denial, is_accepted},
    store::{AuditQuery, StoreError},
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// Sessions of one certificate that are shown; whoever has opened more has opened too many to look at.
const MAX_SESSIONS: usize = 200;

/// Entries of the audit log that are looked at for the sessions of one certificate's lifetime.
const SCAN: u64 = 2_000_000;

/// Whether a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is.
    Live,
    /// It has run out.
    Ended,
    /// It was revoked.
    Revoked,
    /// It is refused everywhere by now: its account is suspended, its key was removed, or it is for projects that the account
    /// is in no longer.
    Refused,
}

/// One word.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Live => "live",
            Self::Ended => "ended",
            Self::Revoked => "revoked",
            Self::Refused => "refused",
        })
    }
}

impl State {
    /// Of a certificate.
    pub(super) fn of(directory: &Directory, record: &CertificateRecord, now: Timestamp) -> Self {
        if directory.denied_serial(record.serial).is_some() {
            Self::Revoked
        } else if record.valid_before <= now {
            Self::Ended
        } else if is_accepted(directory, record) {
            Self::Live
        } else {
            Self::Refused
        }
    }
}

/// Everything about a certificate.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateDetail {
    /// Its serial number.
    pub serial: Serial,
    /// Whose it is.
    pub account: Option<Email>,
    /// The POSIX user name, which is its key ID.
    pub user: Option<UserName>,
    /// The key that it certifies.
    pub key: Fingerprint,
    /// Its principals.
    pub principals: Vec<String>,
    /// Valid from (inclusive).
    pub valid_after: Timestamp,
    /// Valid until (exclusive).
    pub valid_before: Timestamp,
    /// When it was issued.
    pub issued: Timestamp,
    /// From where it was asked for.
    pub source: String,
    /// The gateway connection over which it was asked for.
    pub connection: Option<String>,
    /// The entry of the audit log that says so.
    pub entry: Option<u64>,
    /// Whether it is good.
    pub state: State,
    /// When it was revoked, and by whom.
    pub revoked: Option<Revocation>,
    /// What was opened with it, or by the same account with the same key while it was valid; the oldest first.
    pub sessions: Vec<CertificateSession>,
    /// Whether there may be more of those than are shown.
    pub more_sessions: bool,
}

/// That a certificate was revoked.
#[derive(Clone, Debug, Serialize)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: String,
}

/// A session that may be the one in which a certificate was used.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateSession {
    /// Its name.
    pub session: SessionId,
    /// Where it goes.
    pub node: String,
    /// From where.
    pub source: String,
    /// The gateway connection.
    pub connection: Option<String>,
    /// Since when.
    pub opened: Timestamp,
    /// Until when; none if it is open, or if its end was never reported.
    pub ended: Option<Timestamp>,
    /// Whether it is open.
    pub open: bool,
    /// What makes it one of this certificate.
    #[serde(rename = "match")]
    pub by: Match,
}

/// What connects a session with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Match {
    /// The gateway connection was authenticated with it.
    Certificate,
    /// The gateway connection was authenticated with the key that it certifies, while it was valid, and went to a node that
    /// it is for: the certificate was used inside, between client and node, where no gateway sees it.
    Key,
}

impl App {
    /// Everything about a certificate, also after it has ended: one's own, or anybody's as operator. Another's looks like
    /// one that was never issued. `node` leaves only sessions to that node.
    ///
    /// # Errors
    /// Refused, none of that number, or the store cannot be read.
    pub async fn certificate(
        &self,
        asker: &Asker,
        serial: Serial,
        node: Option<&NodePath>,
    ) -> Result<CertificateDetail, AppError> {
        let own = self.view(asker, Action::CertificateShow, None, |_, caller, _| {
            Ok(caller.identity().map(|identity| identity.account().id))
        })?;
        let record = self.store.certificate(serial).await?.filter(|r| own.is_none_or(|own| own == r.account));
        let record = record
            .ok_or_else(|| Denial::not_found("certificate", &serial, format!("no certificate {serial} was issued")))?;
        let directory = self.directory();
        let about = self.entries(Filter { certificate: Some(serial), ..Filter::default() }).await?.0;
        let issued = about.iter().find(|entry| is_done(entry, "certificate.issue"));
        // By itself: behind any number of sessions.
        let revoke = Filter { certificate: Some(serial), what: "certificate.revoke".parse().ok(), ..Filter::default() };
        let revokes = self.entries(revoke).await?.0;
        let revoked = revokes.iter().find(|entry| is_done(entry, "certificate.revoke"));
        let revoked = revoked.map(|e| Revocation { at: e.event.at, by: e.event.actor.to_string() });
        let (mut sessions, more_sessions) = self.sessions_of(&directory, &record, &about).await?;
        sessions.retain(|session| node.is_none_or(|node| session.node == node.to_string()));
        let account = directory.account(record.account);
        let state = State::of(&directory, &record, self.now());
        Ok(CertificateDetail {
            serial,
            account: account.map(|account| account.email.clone()),
            user: account.map(|account| account.user.clone()),
            key: record.key,
            valid_after: record.valid_after,
            valid_before: record.valid_before,
            issued: record.issued,
            source: record.source,
            connection: issued.and_then(|entry| entry.event.connection.clone()),
            entry: issued.map(|entry| entry.seq),
            state,
            principals: record.principals,
            revoked,
            sessions,
            more_sessions,
        })
    }

    async fn entries(&self, filter: Filter) -> Result<(Vec<Entry>, bool), StoreError> {
        let query = AuditQuery { limit: MAX_SESSIONS * 4, filter, scan: SCAN, ..AuditQuery::default() };
        let page = self.store.audit(query).await?;
        Ok((page.entries, page.more.is_some()))
    }

    async fn sessions_of(
        &self,
        directory: &Directory,
        record: &CertificateRecord,
        about: &[Entry],
    ) -> Result<(Vec<CertificateSession>, bool), StoreError> {
        let mut found = BTreeMap::new();
        let presented = about.iter().filter(|entry| is_done(entry, OPEN));
        found.extend(presented.filter_map(|entry| opened(entry, Match::Certificate)));
        let with_key = Filter {
            who: Some(Who::Key(record.key)),
            what: OPEN.parse::<What>().ok(),
            outcome: Some(Outcome::Done),
            since: Some(record.valid_after),
            until: Some(record.valid_before),
            ..Filter::default()
        };
        let (entries, mut more) = self.entries(with_key).await?;
        for entry in entries.iter().filter(|entry| is_for(directory, record, &entry.event.object)) {
            let Some((id, session)) = opened(entry, Match::Key) else { continue };
            found.entry(id).or_insert(session);
        }
        // What is open now may not be in the log: opening does not wait for it.
        for session in lock(&self.sessions).iter() {
            let by = match session.credential.certificate {
                _ if session.credential.account != record.account || session.credential.key != record.key => continue,
                Some(serial) if serial == record.serial => Match::Certificate,
                _ if session.since < record.valid_after || session.since >= record.valid_before => continue,
                _ if !is_for(directory, record, &session.path.to_string()) => continue,
                _ => Match::Key,
            };
            found.entry(session.id.clone()).or_insert_with(|| live(session, by)).open = true;
        }
        let mut sessions: Vec<_> = found.into_values().collect();
        sessions.sort_by(|a, b| (a.opened, &a.session).cmp(&(b.opened, &b.session)));
        more |= sessions.len() > MAX_SESSIONS;
        sessions.truncate(MAX_SESSIONS);
        for session in sessions.iter_mut().filter(|session| !session.open) {
            let about = self.entries(Filter { session: Some(session.session.clone()), ..Filter::default() }).await?.0;
            let end = about.iter().find(|entry| is_done(entry, "session.close") || is_done(entry, "session.end"));
            session.ended = end.map(|entry| entry.event.at);
        }
        Ok((sessions, more))
    }
}

const OPEN: &str = "session.open";

fn is_done(entry: &Entry, action: &str) -> bool {
    entry.event.action == action && entry.event.outcome == Outcome::Done
}

fn opened(entry: &Entry, by: Match) -> Option<(SessionId, CertificateSession)> {
    let event = &entry.event;
    let session = event.session.clone()?;
    let opened = CertificateSession {
        session: session.clone(),
        node: event.object.clone(),
        source: event.source.clone(),
        connection: event.connection.clone(),
        opened: event.at,
        ended: None,
        open: false,
        by,
    };
    Some((session, opened))
}

fn live(session: &Session, by: Match) -> CertificateSession {
    CertificateSession {
        session: session.id.clone(),
        node: session.path.to_string(),
        source: session.peer.to_string(),
        connection: Some(session.connection.clone()),
        opened: session.since,
        ended: None,
        open: true,
        by,
    }
}

/// Whether a certificate is good for a node, as far as its principals and what is left of the node tell.
fn is_for(directory: &Directory, record: &CertificateRecord, node: &str) -> bool {
    let Ok(node) = node.parse::<NodePath>() else { return false };
    let at = ClusterPath { cluster: node.cluster.clone(), org: node.org.clone() };
    // None if the cluster was deleted since.
    let project = directory.cluster_at(&at).and_then(|cluster| directory.project(cluster.project));
    record.principals.iter().filter_map(|principal| principal.parse::<Principal>().ok()).any(|principal| {
        principal.org == node.org
            && principal.cluster.is_none_or(|cluster| cluster == node.cluster)
            && project.is_none_or(|project| project.name == principal.project)
    })
}
