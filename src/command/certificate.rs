//! `certificate …`.

use super::{
    Context, Stop,
    audit::short,
    reply::{Reply, table},
    text::Text,
};
use crate::{
    app::{CertificateDetail, CertificateSession, CertificateState, Match},
    domain::{NodePath, Serial},
};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List certificates that have not run out
    #[command(after_help = "certificate list\n\
                            certificate list --json")]
    List,
    /// Show everything about one, also after it has run out: whose it is, how it came about, what was opened with it
    #[command(after_help = "certificate show 7\n\
                            certificate show 7 --node login-0.h100.acme")]
    Show {
        /// Its serial number; or sshd's log line on a node, in quotes ('Accepted publickey … ID user1 (serial 7) CA …')
        #[arg(value_parser = serial)]
        serial: Serial,
        /// Only sessions to this node
        #[arg(long, value_name = "NODE.CLUSTER.ORG")]
        node: Option<NodePath>,
    },
    /// Revoke a certificate; what is open with it ends
    #[command(after_help = "certificate revoke 4711")]
    Revoke {
        /// Its serial number
        #[arg(value_parser = |text: &str| text.parse().map(Serial))]
        serial: Serial,
    },
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::List => {
            let certificates = context.app.certificates(context.asker)?;
            let rows = certificates.iter().map(|certificate| {
                let until = match certificate.state {
                    CertificateState::Live => certificate.until.exactly(),
                    state => state.to_string(),
                };
                vec![
                    certificate.serial.to_string(),
                    certificate.account.clone(),
                    short(certificate.key),
                    certificate.principals.join(" "),
                    certificate.source.clone(),
                    until,
                ]
            });
            let headers = ["SERIAL", "ACCOUNT", "KEY", "PRINCIPALS", "FROM", "UNTIL"];
            let text = table(&headers, rows.collect(), context.screen(), "No live certificates.");
            Ok(Reply::data(&certificates, text))
        }
        Command::Show { serial, node } => {
            let detail = context.app.certificate(context.asker, serial, node.as_ref()).await?;
            Ok(show(context, &detail))
        }
        Command::Revoke { serial } => {
            let version = context.app.revoke_certificate(context.asker, serial).await?;
            let data = json!({ "serial": serial, "version": version });
            Ok(Reply::done(&data, format!("revoked certificate {serial}")))
        }
    }
}

/// A number, or a line of sshd's that has one.
fn serial(text: &str) -> Result<Serial, String> {
    const FORM: &str = "a serial number, or sshd's log line with '(serial NUMBER)' in it";
    // The last one: what stands before it (the key ID) was chosen by whoever made the certificate.
    let number = text.rsplit_once("(serial ").map_or(Some(text), |(_, rest)| rest.split_once(')').map(|(n, _)| n));
    number.and_then(|number| number.trim().parse().ok()).map(Serial).ok_or_else(|| FORM.into())
}

fn show(context: &Context<'_>, detail: &CertificateDetail) -> Reply {
    let unknown = || "unknown".to_owned();
    let account = detail.account.as_ref().map_or_else(unknown, ToString::to_string);
    let user = detail.user.as_ref().map_or_else(unknown, ToString::to_string);
    let state = match (&detail.state, &detail.revoked) {
        (_, Some(revoked)) => format!("revoked at {} by {}", revoked.at.exactly(), revoked.by),
        (CertificateState::Refused, None) => {
            "refused: its account is suspended, its key was removed, or it is in none of these projects any more".into()
        }
        (state, None) => state.to_string(),
    };
    let connection = detail.connection.as_ref().map(|id| format!(", connection {id}")).unwrap_or_default();
    let entry = detail.entry.map(|entry| format!(", audit entry {entry}")).unwrap_or_default();
    let mut text = Text::default();
    for (name, value) in [
        ("serial", detail.serial.to_string()),
        ("state", state),
        ("account", account),
        ("user", user),
        ("key", detail.key.to_string()),
        ("principals", detail.principals.join(" ")),
        ("valid", format!("{} to {}", detail.valid_after.exactly(), detail.valid_before.exactly())),
        ("issued", format!("{} to {}{connection}{entry}", detail.issued.exactly(), detail.source)),
    ] {
        text.push(format!("{name:<12}{value}\n"));
    }
    let headers = ["SESSION", "NODE", "FROM", "CONNECTION", "OPENED", "ENDED", "MATCH"];
    let rows = detail.sessions.iter().map(row).collect();
    text.push("\n");
    text.push(table(&headers, rows, context.screen(), "No session that could have used it is on record."));
    let reply = Reply::data(detail, text);
    let reply = match detail.sessions.iter().any(|session| session.by == Match::Key) {
        true => reply.note(
            "match 'key': the connection was made with the certificate's key while it was valid, to a node that it is for; \
             match 'certificate': it was made with the certificate itself",
        ),
        false => reply,
    };
    if detail.more_sessions { reply.note("there may be more sessions than are shown") } else { reply }
}

fn row(session: &CertificateSession) -> Vec<String> {
    let ended = match (session.open, session.ended) {
        (true, _) => "open".into(),
        (false, Some(at)) => at.exactly(),
        (false, None) => "not reported".into(),
    };
    vec![
        session.session.to_string(),
        session.node.clone(),
        session.source.clone(),
        session.connection.clone().unwrap_or_default(),
        session.opened.exactly(),
        ended,
        match session.by {
            Match::Certificate => "certificate".into(),
            Match::Key => "key".into(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_sshd_s_log_leads_to_the_serial() {
        let line = "Nov 25 12:00:00 login-0 sshd[123]: Accepted publickey for user1 from 192.0.2.1 port 40112 ssh2: \
                    ED25519-CERT SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU ID user1 (serial 7) CA ED25519 \
                    SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
        assert_eq!(serial(line), Ok(Serial(7)));
        assert_eq!(serial("7"), Ok(Serial(7)));
        assert_eq!(serial("(serial 7)"), Ok(Serial(7)));
        assert_eq!(serial("ID x (serial 1) y (serial 8) CA"), Ok(Serial(8)));
        for bad in ["", "x", "-1", "(serial", "(serial )", "(serial 7", "18446744073709551616"] {
            assert!(serial(bad).is_err(), "{bad}");
        }
    }
}
