//! `certgate setup`: makes a bastion of a machine that has the package. Everything is looked at before anything is changed,
//! and every step may be done twice: after a failure the same command goes on.

pub(crate) mod answers;
pub(crate) mod files;
mod machine;
mod plan;
mod report;
mod steps;

use crate::{
    app::{authority::Console, protocol::Output},
    command::setup::Setup,
};
use answers::{Answers, Known, NoAnswers};
use machine::Machine;
use plan::{Plan, Standing};
use std::io::{self, BufRead, Write};

/// Why there is no bastion.
#[derive(Debug)]
pub(super) struct Stopped {
    reason: &'static str,
    message: String,
    exit: u8,
}

impl Stopped {
    /// Before anything was changed.
    fn before(message: impl Into<String>) -> Self {
        Self { reason: "refused", message: format!("{}\nNothing was changed.", message.into()), exit: 1 }
    }
}

/// Sets it up. `person`: whether somebody sits there to be asked.
pub(super) async fn run(authority: &impl Console, given: &Setup, person: bool, json: bool) -> Output {
    match set_up(authority, given, person && !json, json).await {
        Ok(report) => report.output(json),
        Err(Stopped { reason, message, exit }) => super::failed(reason, &message, exit, json),
    }
}

async fn set_up(authority: &impl Console, given: &Setup, person: bool, json: bool) -> Result<report::Report, Stopped> {
    let machine = Machine::look().map_err(Stopped::before)?;
    plan::fit(&machine, given).map_err(Stopped::before)?;
    let standing = if machine.state == machine::State::Directory { steps::standing(authority).await } else { None };
    plan::not_in_use(standing.as_ref(), given).map_err(Stopped::before)?;
    let answers = answer(given, &machine, person)?;
    if !given.no_start {
        let ours = machine::systemctl(&["is-active", "--quiet", "certgate-gateway.socket"]).await.is_ok();
        plan::room(&answers, machine::taken, ours).map_err(Stopped::before)?;
    }
    let plan = Plan::of(&machine, &answers, given).map_err(Stopped::before)?;
    if !json {
        // A terminal that is gone has nobody to tell.
        let _ = io::stderr().write_all(plan.text(&answers, &machine).as_bytes());
    }
    agreed(given, person)?;
    steps::carry_out(authority, &plan, &answers, standing, json).await
}

fn answer(given: &Setup, machine: &Machine, person: bool) -> Result<Answers, Stopped> {
    let listen = machine.present.gateway.as_deref().map(files::listens).transpose().map_err(Stopped::before)?;
    let known = Known {
        name: machine.name.clone(),
        host: machine.said.host.clone(),
        port: machine.said.port.filter(|_| machine.said.host.is_some()),
        listen: listen.filter(|listen| !files::usual(listen)),
        v6: machine.v6,
    };
    let mut typed = |question: &str| typed(question);
    let ask: Option<answers::Ask<'_>> = if person { Some(&mut typed) } else { None };
    answers::complete(given, &known, ask).map_err(|error| match error {
        NoAnswers::Wrong(problem) => Stopped::before(problem),
        NoAnswers::Missing(options) => Stopped {
            reason: "usage",
            message: format!(
                "missing: {}; there is no terminal to ask at. See: certgate setup --help",
                options.join(" ")
            ),
            exit: 2,
        },
    })
}

/// A question to the one at the terminal.
fn typed(question: &str) -> Result<String, String> {
    let mut error = io::stderr();
    error.write_all(question.as_bytes()).and_then(|()| error.flush()).map_err(|error| error.to_string())?;
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line) {
        Ok(0) => Err("there was no answer".into()),
        Ok(_) => Ok(line),
        Err(error) => Err(format!("standard input: {error}")),
    }
}

fn agreed(given: &Setup, person: bool) -> Result<(), Stopped> {
    if given.yes {
        return Ok(());
    }
    if !person {
        return Err(Stopped::before("this needs a yes: add --yes, or run it without --json at a terminal"));
    }
    match typed("Do that? [y/N] ").map_err(Stopped::before)?.trim() {
        "y" | "Y" | "yes" | "Yes" | "YES" => Ok(()),
        _ => Err(Stopped::before("not confirmed")),
    }
}

/// Who is in the directory already.
impl Standing {
    fn has(&self, email: &str) -> bool {
        self.accounts.iter().any(|account| account == email)
    }
}
