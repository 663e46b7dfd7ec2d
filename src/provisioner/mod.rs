//! The provisioner: asks the authority what the site's machinery is to do, runs the site's program for it, and reports.
//! It decides nothing and keeps nothing: when it is ended, whatever was not reported is asked for again.

mod answer;
mod call;
mod config;

pub use config::{Config, ConfigError, RawConfig};

use crate::app::{
    authority::{Authority, Unreachable},
    protocol::provisioner::{NextAnswer, NextRequest, NextTasks, Outcome, Report, ReportTask, Task},
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    task::{Id, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// How long one question waits for something to do: less than a client waits for an answer.
const WAIT_SECS: u16 = 3;

/// Between two tries while the authority is away, or has another provisioner.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs until `stop`. Calls that last then are ended, and not reported. `instance` distinguishes this process from others.
pub async fn run<A: Authority>(authority: Arc<A>, config: Config, instance: String, stop: CancellationToken) {
    let config = Arc::new(config);
    let mut calls: JoinSet<Option<Outcome>> = JoinSet::new();
    let mut running = HashMap::new();
    let mut told = Told::default();
    let mut asking = Box::pin(ask(&*authority, request(&instance, &running, &config)));
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // Before the answer to a question that did not know of it.
            Some(called) = calls.join_next_with_id(), if !calls.is_empty() => {
                let (id, outcome) = match called {
                    Ok((id, outcome)) => (id, outcome),
                    Err(error) => {
                        let reason = "certgate made a mistake; please report it".to_owned();
                        tracing::error!(%error, "{reason}");
                        (error.id(), Some(Outcome::Failed { reason }))
                    }
                };
                if let (Some(task), Some(outcome)) = (running.get(&id), outcome) {
                    report(&*authority, task, outcome, &stop).await;
                    running.remove(&id);
                }
            }
            answer = &mut asking => {
                for task in told.tasks(answer).await {
                    tracing::info!(job = task.job, name = %task.name, action = %task.action, "the program is called");
                    let (config, stop, input) = (config.clone(), stop.clone(), task.input.clone());
                    let call = calls.spawn(async move { call::call(&config, &input, &stop).await });
                    running.insert(call.id(), task);
                }
                asking = Box::pin(ask(&*authority, request(&instance, &running, &config)));
            }
        }
    }
    // Each of them ends itself, and what it has begun.
    while calls.join_next().await.is_some() {}
}

fn request(instance: &str, running: &HashMap<Id, Task>, config: &Config) -> NextRequest {
    let room = usize::from(config.parallel).saturating_sub(running.len());
    NextRequest {
        instance: instance.to_owned(),
        running: running.values().map(|task| task.resource).collect(),
        room: u16::try_from(room).unwrap_or(config.parallel),
        wait_secs: WAIT_SECS,
    }
}

async fn ask<A: Authority>(authority: &A, request: NextRequest) -> Result<NextAnswer, Unreachable> {
    authority.call::<NextTasks>(request).await
}

/// What was last said about the authority: each trouble is worth one line, not one every second.
#[derive(Default)]
struct Told(Option<String>);

impl Told {
    /// What there is to do; waits where there will be nothing soon.
    async fn tasks(&mut self, answer: Result<NextAnswer, Unreachable>) -> Vec<Task> {
        let trouble = match answer {
            Ok(NextAnswer::Tasks(tasks)) => {
                if self.0.take().is_some() {
                    tracing::info!("the authority answers again");
                }
                return tasks;
            }
            Ok(NextAnswer::Another) => "another provisioner is connected to this authority; this one waits".to_owned(),
            Err(error) => error.to_string(),
        };
        if self.0.as_ref() != Some(&trouble) {
            tracing::warn!("{trouble}");
            self.0 = Some(trouble);
        }
        sleep(AGAIN).await;
        Vec::new()
    }
}

/// Reports until it is taken: nobody else knows it. While this waits nothing new is begun, and nothing new could be asked
/// for.
async fn report<A: Authority>(authority: &A, task: &Task, outcome: Outcome, stop: &CancellationToken) {
    tracing::info!(job = task.job, name = %task.name, ?outcome, "the call has ended");
    let report = Report { job: task.job, resource: task.resource, outcome };
    while let Err(error) = authority.call::<ReportTask>(report.clone()).await {
        tracing::warn!(job = task.job, %error, "what became of a call could not be reported yet");
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(AGAIN) => {}
        }
    }
}
