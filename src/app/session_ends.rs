//! Ending a session by hand: a forward through a gateway, or a session of a node's sshd that came past the gateways.

use super::{
    cluster_views::NODE_SILENT,
    core::{App, Asker, Decided, lock},
    error::AppError,
    node_sessions::{NodeSession, SessionName},
    protocol::Event,
};
use crate::{
    bundle::{Order, SignedOrder},
    domain::{AccountId, Directory, NodeId, NodePath, SessionId, Timestamp},
    policy::{Action, Caller, Denial, Grant, Reason},
    store::Ledger,
};
use std::{sync::Arc, time::Duration};

/// How long a node may take to end a session and say so.
const WAIT: Duration = Duration::from_secs(10);

impl App {
    /// Ends an open session: one's own, or anybody's as operator. It can be opened again. False if its node was told, but
    /// has not said within [`WAIT`] that it is over.
    ///
    /// # Errors
    /// Refused, or not open, or its node cannot be told.
    pub async fn end_session(self: &Arc<Self>, asker: &Asker, name: SessionName) -> Result<bool, AppError> {
        match name {
            SessionName::Forward(id) => self.end_forward(asker, id).await.map(|()| true),
            SessionName::OnNode { node, process, start } => self.end_on_node(asker, node, (process, start)).await,
        }
    }

    async fn end_forward(self: &Arc<Self>, asker: &Asker, id: SessionId) -> Result<(), AppError> {
        let session = lock(&self.sessions).get(&id).cloned();
        let told = id.clone();
        let decide = move |_: Ledger<'_>, caller: &Caller, _: &Grant, _| {
            let unknown = || Denial::not_found("open session", &told, format!("session {told} is not open"));
            let own = account_of(caller);
            let session = session.filter(|s| own.is_none_or(|own| own == s.credential.account)).ok_or_else(unknown)?;
            let detail = format!("to {}", session.path);
            Ok(Decided { mutations: vec![], certificate: None, detail, answer: caller.actor() })
        };
        let (by, _) = self.change(asker, Action::SessionEnd, None, id.clone(), decide).await?;
        lock(&self.sessions).remove(&id);
        lock(&self.hub).broadcast(&Event::End { session: id, reason: format!("ended by {by}") });
        Ok(())
    }

    async fn end_on_node(
        self: &Arc<Self>,
        asker: &Asker,
        path: NodePath,
        process: (u32, u64),
    ) -> Result<bool, AppError> {
        let name = SessionName::OnNode { node: path.clone(), process: process.0, start: process.1 };
        let (app, told) = (self.clone(), name.to_string());
        let decide = move |ledger: Ledger<'_>, caller: &Caller, _: &Grant, now| {
            let unknown = || Denial::not_found("open session", &told, format!("session {told} is not open"));
            let found = app.on_node(ledger.directory, account_of(caller), &path, process).ok_or_else(unknown)?;
            app.is_heard(found.0, &path, now)?;
            let serial =
                found.1.certificate.as_ref().map(|certificate| format!(", certificate {}", certificate.serial));
            let detail = format!("of {} on {path}{}", found.1.login, serial.unwrap_or_default());
            let by = caller.actor().to_string();
            let order =
                Order { node: path, process: process.0, start: process.1, login: found.1.login.to_string(), by };
            Ok(Decided { mutations: vec![], certificate: None, detail, answer: (found.0, order) })
        };
        let subject = format!("session {name}");
        let ((node, order), _) = self.change(asker, Action::SessionEnd, None, subject, decide).await?;
        let mut heard = self.heard.subscribe();
        // A name, two numbers and two words: there is no error case.
        if let Ok(order) = SignedOrder::sign(&order, &self.ca.bundle) {
            lock(&self.hub).broadcast(&Event::EndOnNode { node, order });
        }
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            heard.borrow_and_update();
            if !lock(&self.hub).sessions().any(|(id, session)| id == node && session.is(process)) {
                return Ok(true);
            }
            match tokio::time::timeout_at(deadline, heard.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(false),
            }
        }
    }

    /// A session of a node that somebody may end: `own`'s, or anybody's.
    fn on_node(
        &self,
        directory: &Directory,
        own: Option<AccountId>,
        path: &NodePath,
        process: (u32, u64),
    ) -> Option<(NodeId, NodeSession)> {
        let node = directory.node_at(path)?.id;
        let hub = lock(&self.hub);
        let (_, session) = hub.sessions().find(|(id, session)| *id == node && session.is(process))?;
        own.is_none_or(|own| session.is_shown_to(own, node, directory)).then(|| (node, session.clone()))
    }

    /// Who is not there cannot be told; saying so is better than waiting for it.
    fn is_heard(&self, node: NodeId, path: &NodePath, now: Timestamp) -> Result<(), Denial> {
        let heard = lock(&self.hub).node(node).map(|status| status.heard);
        match heard {
            Some(heard) if now.since(heard) <= NODE_SILENT => Ok(()),
            Some(heard) => Err(Denial::plain(
                Reason::Conflict,
                format!("{path} was last heard {}: it cannot be told to end a session", heard.near(now)),
            )),
            None => Err(Denial::plain(Reason::Conflict, format!("{path} has not been heard yet"))),
        }
    }
}

/// Whose things may be ended; an operator may end anybody's.
pub(super) fn account_of(caller: &Caller) -> Option<AccountId> {
    caller.identity().map(|identity| identity.account().id)
}
