//! The steps themselves. Each of them may be done twice.

use super::{
    Stopped,
    answers::{Answers, First},
    files,
    machine::systemctl,
    plan::{AUTHORITY, GATEWAY, Plan, Standing},
    report::Report,
};
use crate::{
    app::{
        authority::Console,
        protocol::{AdminCommand, CommandAnswer, Output},
    },
    command::person,
};
use serde_json::Value;
use std::{
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

/// How long a service that has been started may take until it can be used.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is asked.
const EVERY: Duration = Duration::from_millis(200);

/// What was done so far.
struct Done {
    steps: Vec<String>,
    tell: bool,
}

impl Done {
    fn did(&mut self, step: String) {
        if self.tell {
            // A terminal that is gone has nobody to tell.
            let _ = writeln!(std::io::stderr(), "{step}");
        }
        self.steps.push(step);
    }

    /// A step has failed.
    fn stopped(&self, why: &str) -> Stopped {
        let done = if self.steps.is_empty() {
            "Nothing was changed.".into()
        } else {
            format!("Done so far: {}.", self.steps.join("; "))
        };
        let next = "When that is mended, run the same command again: it goes on from here.";
        Stopped { reason: "failed", message: format!("{why}\n{done}\n{next}"), exit: 1 }
    }
}

/// Does it all.
pub(super) async fn carry_out(
    authority: &impl Console,
    plan: &Plan,
    answers: &Answers,
    standing: Option<Standing>,
    json: bool,
) -> Result<Report, Stopped> {
    let mut done = Done { steps: Vec::new(), tell: !json };
    for file in &plan.files {
        let written = files::write(Path::new(file.path), &file.content);
        written.map_err(|error| done.stopped(&format!("{}: {error}", file.path)))?;
        done.did(format!("wrote {}", file.path));
    }
    if plan.start {
        start(authority, plan, &mut done).await?;
    } else if standing.is_none() && self::standing(authority).await.is_none() {
        return Ok(Report::not_started(answers, plan, done.steps));
    }
    if let Some(first) = &answers.first {
        first_account(authority, first, &mut done).await?;
    }
    let status = data(authority, &["status"]).await.map_err(|why| done.stopped(&why))?;
    Ok(Report::ready(answers, &status, done.steps))
}

async fn start(authority: &impl Console, plan: &Plan, done: &mut Done) -> Result<(), Stopped> {
    let control = async |done: &mut Done, words: &[&str], unit: &str| {
        let why = person::attended(systemctl(words)).await.err();
        why.map_or(Ok(()), |why| Err(done.stopped(&format!("{why}\nWhy: journalctl -u {unit} -e"))))
    };
    let wrote = |path: &str| plan.files.iter().any(|file| file.path == path);
    if wrote(files::SOCKET) {
        control(done, &["daemon-reload"], AUTHORITY).await?;
    }
    control(done, &["enable", AUTHORITY], AUTHORITY).await?;
    // One that runs already has read what stood there before.
    let verb = if wrote(files::AUTHORITY) { "restart" } else { "start" };
    control(done, &[verb, AUTHORITY], AUTHORITY).await?;
    wait(|| async { standing(authority).await.is_some() }, "the authority does not answer", AUTHORITY, done).await?;
    done.did(format!("started {AUTHORITY}"));
    let [socket, service] = GATEWAY;
    if wrote(files::GATEWAY) || wrote(files::SOCKET) {
        // A socket whose service runs cannot be moved.
        control(done, &["stop", service, socket], service).await?;
    }
    control(done, &["enable", "--now", socket, service], service).await?;
    let connected = || async {
        let status = data(authority, &["status"]).await.unwrap_or_default();
        status["gateways"].as_array().is_some_and(|gateways| !gateways.is_empty())
    };
    wait(connected, "the gateway does not connect to the authority", service, done).await?;
    done.did(format!("started {}", GATEWAY.join(" and ")));
    Ok(())
}

async fn wait<F: Future<Output = bool>>(
    mut holds: impl FnMut() -> F,
    otherwise: &str,
    unit: &str,
    done: &Done,
) -> Result<(), Stopped> {
    let give_up = Instant::now() + PATIENCE;
    let waited = async {
        while !holds().await {
            if Instant::now() > give_up {
                return false;
            }
            tokio::time::sleep(EVERY).await;
        }
        true
    };
    if person::attended(waited).await {
        return Ok(());
    }
    Err(done.stopped(&format!("{otherwise} after {} s\nWhy: journalctl -u {unit} -e", PATIENCE.as_secs())))
}

/// The organization and the account, as an operator would create them.
async fn first_account(authority: &impl Console, first: &First, done: &mut Done) -> Result<(), Stopped> {
    let First { org, email, user, key } = first;
    let there = standing(authority).await.ok_or_else(|| done.stopped("the authority does not answer"))?;
    if !there.orgs.contains(&org.to_string()) {
        command(authority, &["org", "create", org.as_str()]).await.map_err(|why| done.stopped(&why))?;
        done.did(format!("created the organization {org}"));
    }
    let email = email.to_string();
    if there.has(&email) {
        let account = data(authority, &["user", "show", &email]).await.map_err(|why| done.stopped(&why))?;
        let fingerprint = key.fingerprint().to_string();
        let keys = account["keys"].as_array().into_iter().flatten();
        let known = keys.into_iter().any(|known| known["fingerprint"] == *fingerprint);
        if account["org"] != org.as_str() || account["user"] != user.as_str() || !known {
            let why = format!("{email} is there already, with another organization, user name or key");
            return Err(done.stopped(&format!("{why}. See: certgate user show {email}")));
        }
        return Ok(());
    }
    let words = ["user", "create", &email, "--org", org.as_str(), "--name", user.as_str(), "--key", &key.to_string()];
    command(authority, &words).await.map_err(|why| done.stopped(&why))?;
    done.did(format!("created the account {email}"));
    Ok(())
}

/// Who is in the directory; none if the authority does not answer.
pub(super) async fn standing(authority: &impl Console) -> Option<Standing> {
    let names = |list: Value, field: &str| -> Vec<String> {
        let list = list.as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|entry| entry[field].as_str()).map(str::to_owned).collect()
    };
    let orgs = names(data(authority, &["org", "list"]).await.ok()?, "name");
    let accounts = names(data(authority, &["user", "list"]).await.ok()?, "email");
    Some(Standing { orgs, accounts })
}

/// What a command answers as data. That something needs attention is no failure of it.
async fn data(authority: &impl Console, words: &[&str]) -> Result<Value, String> {
    let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    let output = command_output(authority, &words).await?;
    let data: Value = serde_json::from_str(&output.stdout).map_err(|error| format!("{}: {error}", words.join(" ")))?;
    match data["error"]["message"].as_str() {
        Some(message) => Err(message.to_owned()),
        None => Ok(data),
    }
}

async fn command(authority: &impl Console, words: &[&str]) -> Result<(), String> {
    let output = command_output(authority, words).await?;
    if output.exit == 0 { Ok(()) } else { Err(output.stderr.trim_end().to_owned()) }
}

async fn command_output(authority: &impl Console, words: &[&str]) -> Result<Output, String> {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    let command = AdminCommand { words, terminal: None, inputs: Vec::new(), context: None };
    match authority.run(&command).await {
        Ok(CommandAnswer::Output(output)) => Ok(output),
        Ok(CommandAnswer::Input { .. }) => Err("the authority asked for more than was said".into()),
        Err(error) => Err(error.to_string()),
    }
}
