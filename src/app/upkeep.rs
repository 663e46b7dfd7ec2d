//! What is due because time has passed, and not because somebody did something: sessions that have lasted as long as
//! their project lets them, or whose owner was removed and has had the time that the project gives for that, host certificates of gateways, gateways that are gone for good.

use super::{
    core::{App, lock},
    error::AppError,
    protocol::Event as GatewayEvent,
    sessions::Session,
};
use crate::{
    audit::Event,
    ca::sign_host,
    domain::{Actor, PublicKey, Timestamp},
    policy::{issue_gateway, overtime},
    store::Change,
};
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often it is looked. A gateway that has just connected has no host certificate until then.
const EVERY: Duration = Duration::from_secs(1);

/// When one could not be made.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// A gateway gets another certificate in the half of a day's life.
const CERTIFY_AFTER: Duration = Duration::from_secs(43_200);

impl App {
    /// Runs until `stop`.
    pub async fn keep_up(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.look_after(self.now()).await,
            }
        }
    }

    /// Whether decisions are made and answered: one that changes nothing passes the writer, a query the reader. A disk that
    /// is full changes nothing about either.
    pub async fn is_alive(&self) -> bool {
        let decided = self.store.transact(Box::new(|_| None)).await;
        decided.is_ok() && self.store.last_signed_head().await.is_ok()
    }

    /// Does what is due at this time.
    pub async fn look_after(self: &Arc<Self>, now: Timestamp) {
        self.end_overtime(now).await;
        self.forget_lost_gateways(now).await;
        let half = Duration::from_secs(u64::from(self.site.certificates.host_ttl.secs()) / 2).min(CERTIFY_AFTER);
        let due = lock(&self.hub).uncertified(half, now);
        for (gateway, host_key) in due {
            if let Err(error) = self.certify_gateway(&gateway, host_key, now).await {
                tracing::error!(%gateway, %error, "the gateway gets no host certificate; trying again in a minute");
                lock(&self.hub).not_certified(&gateway, now.before(half.saturating_sub(TRY_AGAIN)));
            }
        }
    }

    async fn end_overtime(self: &Arc<Self>, now: Timestamp) {
        let directory = self.directory();
        let over = {
            let sessions = lock(&self.sessions);
            // Of those who were removed, all of them: the time that they have may have become shorter.
            let over = |session: &&Session| {
                session.leaves.is_some() || overtime(&directory, session.node, session.since, now).is_some()
            };
            sessions.iter().filter(over).cloned().collect()
        };
        for (session, denial) in self.end_those_that_may_not_stay(&directory, over, now) {
            self.note(self.ended(&session, &denial, now)).await;
        }
    }

    async fn forget_lost_gateways(self: &Arc<Self>, now: Timestamp) {
        let with_sessions = lock(&self.sessions).iter().map(|session| session.gateway.clone()).collect();
        let lost = lock(&self.hub).lost(&with_sessions, now);
        for gateway in lost {
            let sessions = lock(&self.sessions).remove_gateway(&gateway, now);
            tracing::warn!(%gateway, sessions = sessions.len(), "a gateway is gone; what it had is over");
            for session in sessions {
                let detail = "the gateway is gone".into();
                self.note(Event { detail, ..self.session_event(&session, "session.close", now) }).await;
            }
        }
    }

    /// The host key is what the gateway says that it is, as it is for those who connect to it.
    async fn certify_gateway(
        self: &Arc<Self>,
        gateway: &str,
        host_key: PublicKey,
        now: Timestamp,
    ) -> Result<(), AppError> {
        let bastion = &self.site.bastion;
        let names = vec![bastion.host.clone(), bastion.alias()];
        let permit = issue_gateway(gateway, &host_key, names, &self.site.certificates, now);
        let until = permit.until();
        let event = Event::new(now, Actor::Authority, "host-certificate.issue", format!("gateway {gateway}"));
        let event = Event { detail: permit.to_string(), ..event };
        let decision = move |_: crate::store::Ledger<'_>| Some(Change { events: vec![event], ..Change::default() });
        self.store.transact(Box::new(decision)).await?;
        let waits = self.ca.host.waits();
        let certificate = self.sign(waits, move |ca, nonce| sign_host(&permit, ca.host.as_ref(), nonce)).await?;
        let mut hub = lock(&self.hub);
        hub.has_certificate(gateway, until);
        hub.tell(gateway, GatewayEvent::HostCertificate { certificate });
        Ok(())
    }
}
