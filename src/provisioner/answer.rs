//! What the site's program has said, as an answer. Everything that is not one is a failure with a reason.

use crate::app::protocol::provisioner::Outcome;
use serde::Deserialize;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How a call ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// It took too long.
    TimedOut,
    /// It printed more than is read.
    TooMuch,
}

/// The answer as it is printed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Printed {
    state: State,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    retry_after: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Ready,
    Pending,
    Failed,
}

/// What a call came to. `stderr` is the end of what was printed there.
pub(super) fn outcome(ended: &Ended, stdout: &[u8], stderr: &[u8]) -> Outcome {
    let failed = |reason: String| Outcome::Failed { reason };
    let status = match ended {
        Ended::TimedOut => return failed(with(last_line(stderr), "it did not answer in time")),
        Ended::TooMuch => return failed("it printed too much on standard output".into()),
        Ended::Exited(status) => status,
    };
    if !status.success() {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => "ended".into(),
        };
        return failed(with(last_line(stderr), &how));
    }
    match serde_json::from_slice(stdout) {
        Ok(Printed { state: State::Ready, .. }) => Outcome::Ready,
        Ok(Printed { state: State::Pending, retry_after, .. }) => Outcome::Pending { retry_after },
        Ok(Printed { state: State::Failed, reason, .. }) => {
            failed(reason.or_else(|| last_line(stderr)).unwrap_or_else(|| "it gave no reason".into()))
        }
        Err(_) if stdout.is_empty() => failed("it printed no answer on standard output".into()),
        Err(error) => failed(format!("what it printed on standard output is no answer: {error}")),
    }
}

fn with(reason: Option<String>, how: &str) -> String {
    reason.map_or_else(|| how.to_owned(), |reason| format!("{reason} ({how})"))
}

fn last_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32, stdout: &str, stderr: &str) -> Outcome {
        outcome(&Ended::Exited(ExitStatus::from_raw(code << 8)), stdout.as_bytes(), stderr.as_bytes())
    }

    #[test]
    fn an_answer_is_one_json_object_and_nothing_else() {
        assert_eq!(exited(0, " {\"state\": \"ready\"}\n", "warning"), Outcome::Ready);
        assert_eq!(exited(0, r#"{"state":"pending"}"#, ""), Outcome::Pending { retry_after: None });
        let pending = Outcome::Pending { retry_after: Some(30) };
        assert_eq!(exited(0, r#"{"state":"pending","retry_after":30}"#, ""), pending);
        for (stdout, reason) in [
            (r#"{"state":"failed","reason":"no quota"}"#, "no quota"),
            (r#"{"state":"failed"}"#, "last"),
            ("", "it printed no answer on standard output"),
            ("ready", "is no answer"),
            (r#"{"state":"ready"} {"state":"ready"}"#, "is no answer"),
            (r#"{"state":"ready","retryAfter":3}"#, "unknown field `retryAfter`"),
            (r#"{"state":"pending","retry_after":-1}"#, "is no answer"),
            (r#"{"state":"done"}"#, "unknown variant `done`"),
            ("\u{0}\u{1b}[2J", "is no answer"),
        ] {
            let Outcome::Failed { reason: told } = exited(0, stdout, "first\nlast\n\n") else { panic!("{stdout}") };
            assert!(told.contains(reason), "{stdout}: {told}");
        }
    }

    #[test]
    fn a_failure_is_told_in_the_last_line_of_standard_error() {
        let told = |ended: &Ended, stderr: &[u8]| match outcome(ended, br#"{"state":"ready"}"#, stderr) {
            Outcome::Failed { reason } => reason,
            other => panic!("{other:?}"),
        };
        let exit = |code: i32| Ended::Exited(ExitStatus::from_raw(code));
        assert_eq!(told(&exit(3 << 8), b"trying\nno quota\n"), "no quota (exit status 3)");
        assert_eq!(told(&exit(3 << 8), b"\xff\n"), "\u{fffd} (exit status 3)");
        assert_eq!(told(&exit(9), b""), "ended by signal 9");
        assert_eq!(told(&Ended::TimedOut, b"waiting for nodes"), "waiting for nodes (it did not answer in time)");
        assert_eq!(told(&Ended::TooMuch, b""), "it printed too much on standard output");
    }
}
