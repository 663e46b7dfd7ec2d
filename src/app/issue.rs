//! Certificates: decide, record, sign, hand out, in this order.

use super::{
    core::{App, Asker, Decided, lock},
    error::AppError,
};
use crate::{
    ca::{CaKeys, SigningError, sign_host, sign_user},
    domain::{CertificateRecord, Node, Serial, Timestamp},
    policy::{Action, Caller, Denial, IssuePermit, IssueRequest, Reason, issue, issue_host},
    store::Change,
};
use std::sync::{Arc, Mutex};

/// A certificate, ready to be handed out.
#[derive(Clone, Debug)]
pub struct Issued {
    /// One line in OpenSSH's format, with the time of its end as comment (`certgate:SECONDS`).
    pub text: String,
    /// Its serial number.
    pub serial: Serial,
    /// Its principals.
    pub principals: Vec<String>,
    /// When it ends.
    pub until: Timestamp,
}

impl App {
    /// Issues a certificate for the account that asks. The record is durable before it is signed, so that a crash may
    /// lose a certificate that nobody received, never the record of one that somebody has.
    ///
    /// # Errors
    /// Refused, not durable, or not signed.
    pub async fn issue(self: &Arc<Self>, asker: &Asker, request: IssueRequest) -> Result<Issued, AppError> {
        let settings = self.site.certificates.clone();
        let source = asker.source();
        let app = self.clone();
        let decide = move |ledger: crate::store::Ledger<'_>, caller: &Caller, _: &_, now| {
            let identity = caller.identity().ok_or_else(|| {
                Denial::plain(
                    Reason::Invalid,
                    "certificates are for accounts: ask for one through the gateway, as 'ssh BASTION cert'",
                )
            })?;
            let permit = issue(ledger.directory, identity, &request, &settings, ledger.next_serial, now)?;
            let record = record(&permit, source, now);
            // Here, on the writer: whatever is decided after this, and takes back what was issued before, finds it.
            app.remember(record.clone(), now);
            let with = identity.certificate().map(|with| format!(" with certificate {with}")).unwrap_or_default();
            let detail = format!(
                "serial {} key {} until {} as {}{with}",
                record.serial,
                record.key,
                record.valid_before,
                record.principals.join(" ")
            );
            Ok(Decided { mutations: vec![], certificate: Some(record.clone()), detail, answer: (permit, record) })
        };
        let object = "certificate".to_owned();
        let ((permit, record), _) = self.change(asker, Action::CertificateIssue, None, object, decide).await?;
        let waits = self.ca.user.waits();
        let line = self.sign(waits, move |ca, nonce| sign_user(&permit, ca.user.as_ref(), nonce)).await?;
        let until = record.valid_before;
        Ok(Issued {
            text: format!("{line} certgate:{}", until.secs()),
            serial: record.serial,
            principals: record.principals,
            until,
        })
    }

    /// Before it is durable. If it never becomes that, nobody gets the certificate, and its serial goes to the next one,
    /// whose record takes this one's place.
    fn remember(&self, record: CertificateRecord, now: Timestamp) {
        let mut live = lock(&self.live);
        // Amortized: the ended ones are dropped when the map would have to grow anyway.
        if live.len() == live.capacity() {
            live.retain(|_, record| record.valid_before > now);
        }
        live.insert(record.serial, record);
    }

    /// Makes a host certificate for a node, with an entry in the audit log.
    pub(super) async fn host_certificate(self: &Arc<Self>, node: &Node) -> Result<String, AppError> {
        let (app, node) = (self.clone(), node.clone());
        let slot = Arc::new(Mutex::new(None));
        let filled = slot.clone();
        let decision = move |ledger: crate::store::Ledger<'_>| {
            let now = app.now();
            // Serials belong to user certificates, which can be revoked one by one; 0 is OpenSSH's 'none'.
            let decided = issue_host(ledger.directory, &node, &app.site.certificates, Serial(0), now);
            let decided = decided.and_then(|permit| app.no_bastion(permit.names()).map(|()| permit));
            let event = app.node_event(ledger.directory, &node, "host-certificate.issue", &decided, now);
            *lock(&filled) = Some(decided);
            Some(Change { events: vec![event], ..Change::default() })
        };
        self.store.transact(Box::new(decision)).await?;
        let permit = lock(&slot).take().ok_or(AppError::Defect("a decision was not made"))??;
        let waits = self.ca.host.waits();
        self.sign(waits, move |ca, nonce| sign_host(&permit, ca.host.as_ref(), nonce)).await
    }

    /// People trust the host CA for the bastion as well: no node may have its name, whatever its cluster is called.
    pub(super) fn no_bastion<'n>(&self, mut names: impl Iterator<Item = &'n str>) -> Result<(), Denial> {
        let bastion = &self.site.bastion;
        if names.any(|name| name.eq_ignore_ascii_case(&bastion.host) || name == bastion.alias()) {
            let text = format!("{} is the bastion's own name; no node can have it", bastion.host);
            return Err(Denial::plain(Reason::Conflict, text));
        }
        Ok(())
    }

    /// Signs on the spot with a key that is in memory: that takes the processor for a moment, and less than two changes
    /// of thread. A key source that waits is asked beside the async threads.
    pub(super) async fn sign(
        &self,
        waits: bool,
        sign: impl FnOnce(&CaKeys, [u8; 32]) -> Result<String, SigningError> + Send + 'static,
    ) -> Result<String, AppError> {
        let nonce = self.random()?;
        let line = if waits {
            let ca = self.ca.clone();
            let signed = tokio::task::spawn_blocking(move || sign(&ca, nonce)).await;
            signed.map_err(|_| AppError::Defect("signing panicked"))??
        } else {
            sign(&self.ca, nonce)?
        };
        Ok(line.trim_end().to_owned())
    }

    /// 32 random bytes.
    pub(super) fn random(&self) -> Result<[u8; 32], AppError> {
        let mut bytes = [0; 32];
        self.entropy.fill(&mut bytes)?;
        Ok(bytes)
    }
}

fn record(permit: &IssuePermit, source: String, now: Timestamp) -> CertificateRecord {
    CertificateRecord {
        serial: permit.serial,
        account: permit.account,
        key: permit.key.fingerprint(),
        principals: permit.principals.iter().map(ToString::to_string).collect(),
        valid_after: Timestamp::from_secs(permit.valid_after),
        valid_before: Timestamp::from_secs(permit.valid_before),
        source,
        issued: now,
    }
}
