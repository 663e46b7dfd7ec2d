//! What there is to say at the end: to the operator, and to the first user.

use super::{
    answers::{Answers, First},
    plan::{AUTHORITY, GATEWAY, Plan},
};
use crate::app::protocol::Output;
use serde_json::{Value, json};
use std::fmt::Write;

/// The end of a setup.
#[derive(Debug)]
pub(super) struct Report {
    text: String,
    data: Value,
}

impl Report {
    /// The bastion works.
    pub(super) fn ready(answers: &Answers, status: &Value, done: Vec<String>) -> Self {
        let ssh = way_in(answers);
        let gateways = status["gateways"].as_array().cloned().unwrap_or_default();
        let mut host_keys: Vec<&str> = gateways.iter().filter_map(|gateway| gateway["host_key"].as_str()).collect();
        host_keys.dedup();
        let next = next(answers);
        let mut text = String::from("\nThe bastion is ready.\n");
        if let Some(First { email, .. }) = &answers.first {
            // Into a String, which takes everything.
            let _ = write!(
                text,
                "\nTell {email}:\n  {ssh}\nThe first time ssh shows the bastion's host key; it has to be\n  {}\nThen, once, so \
                 that clusters are reached by their names:\n  {ssh} config > ~/.ssh/certgate.conf && echo 'Include \
                 certgate.conf' >> ~/.ssh/config\n",
                host_keys.join("\n  ")
            );
        } else {
            let _ = writeln!(text, "\nIts host key is\n  {}", host_keys.join("\n  "));
        }
        text.push_str("\nNext, here:\n");
        text.push_str(&lines(&next));
        let data = json!({
            "state": "ready",
            "bastion": { "host": answers.host, "port": answers.port },
            "ssh": ssh,
            "host_keys": host_keys,
            "account": answers.first.as_ref().map(|first| first.email.to_string()),
            "done": done,
            "next": commands(&next),
        });
        Self { text, data }
    }

    /// The configuration is there, and something else has to start the services.
    pub(super) fn not_started(answers: &Answers, plan: &Plan, done: Vec<String>) -> Self {
        let mut next: Vec<(String, &'static str)> = if plan.systemd {
            vec![(format!("systemctl enable --now {AUTHORITY} {}", GATEWAY.join(" ")), "")]
        } else {
            vec![
                ("certgated authority".into(), "as certgate-authority; /run/certgate has to be its own"),
                ("certgated gateway".into(), "as certgate-gateway, with CAP_NET_BIND_SERVICE for ports below 1024"),
            ]
        };
        if answers.first.is_some() {
            next.push(("certgate setup --no-start".into(), "again, as before: makes the organization and the account"));
        }
        let text = format!("\nThe configuration is there; nothing was started.\n\nNext:\n{}", lines(&next));
        let data = json!({
            "state": "configured",
            "bastion": { "host": answers.host, "port": answers.port },
            "ssh": way_in(answers),
            "host_keys": [],
            "account": null,
            "done": done,
            "next": commands(&next),
        });
        Self { text, data }
    }

    /// As it is written.
    pub(super) fn output(self, json: bool) -> Output {
        let stdout = if json { format!("{:#}\n", self.data) } else { self.text };
        Output { stdout, ..Output::default() }
    }
}

/// How people call it.
fn way_in(answers: &Answers) -> String {
    match answers.port {
        22 => format!("ssh {}", answers.host),
        port => format!("ssh -p {port} {}", answers.host),
    }
}

/// What an operator does next, each with a word on what it is for.
fn next(answers: &Answers) -> Vec<(String, &'static str)> {
    let mut next = Vec::new();
    if let Some(First { org, email, .. }) = &answers.first {
        next = vec![
            (format!("certgate project create {org}/PROJECT --admin {email}"), "who is in it, gets in"),
            (format!("certgate cluster create {org}/PROJECT CLUSTER"), ""),
            (format!("certgate node token NODE.CLUSTER.{org} --role login"), "then, there: certgate-node join TOKEN"),
        ];
    }
    next.push(("certgate status".into(), "what needs attention"));
    next
}

fn lines(next: &[(String, &'static str)]) -> String {
    let width = next.iter().map(|(command, _)| command.len()).max().unwrap_or_default();
    let line =
        |(command, what): &(String, &'static str)| format!("  {command:<width$}  {what}").trim_end().to_owned() + "\n";
    next.iter().map(line).collect()
}

fn commands<'a>(next: &'a [(String, &'static str)]) -> Vec<&'a str> {
    next.iter().map(|(command, _)| command.as_str()).collect()
}
