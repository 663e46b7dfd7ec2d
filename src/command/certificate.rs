//! `certificate …`.

use super::{
    Context, Stop,
    reply::{Reply, table},
};
use crate::domain::Serial;
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List certificates that have not run out
    #[command(after_help = "certificate list\n\
                            certificate list --json")]
    List,
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
                let until = if certificate.revoked { "revoked".into() } else { certificate.until.to_string() };
                vec![
                    certificate.serial.to_string(),
                    certificate.account.clone(),
                    certificate.principals.join(" "),
                    certificate.source.clone(),
                    until,
                ]
            });
            let headers = ["SERIAL", "ACCOUNT", "PRINCIPALS", "FROM", "UNTIL"];
            let text = table(&headers, rows.collect(), context.screen(), "No live certificates.");
            Ok(Reply::data(&certificates, text))
        }
        Command::Revoke { serial } => {
            let version = context.app.revoke_certificate(context.asker, serial).await?;
            let data = json!({ "serial": serial, "version": version });
            Ok(Reply::done(&data, format!("revoked certificate {serial}")))
        }
    }
}
