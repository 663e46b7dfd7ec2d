//! One call of the site's program: no shell, nothing of our environment, a process group of its own that ends with the
//! call, and bounds on time and on what is read.

use super::{
    answer::{Ended, outcome},
    config::Config,
};
use crate::app::protocol::provisioner::Outcome;
use rustix::{
    io::retry_on_intr,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};
use std::{
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Where the program finds others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most that is read of standard output, in bytes.
const MAX_STDOUT: usize = 64 * 1024;

/// The end of standard error that is kept, in bytes.
const KEPT_STDERR: usize = 4 * 1024;

/// Between the request to end and the end.
const GRACE: Duration = Duration::from_secs(5);

/// How long what was printed may take to arrive when the program has ended: something that has left its process group
/// may hold the pipes open.
const DRAIN: Duration = Duration::from_secs(2);

/// Calls the program. None: it was ended because this process is to stop; nothing is known of what it has done.
pub(super) async fn call(config: &Config, input: &str, stop: &CancellationToken) -> Option<Outcome> {
    let failed = |reason: String| Some(Outcome::Failed { reason });
    let program = &config.executable;
    if let Err(problem) = check(program) {
        return failed(problem);
    }
    let child = Command::new(program)
        .env_clear()
        .envs([("PATH", PATH), ("LANG", "C.UTF-8")])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    match child {
        Ok(child) => match attend(child, input.as_bytes(), config.timeout, stop).await {
            Ok(outcome) => outcome,
            Err(error) => failed(format!("{}: {error}", program.display())),
        },
        Err(error) => failed(format!("{} cannot be run: {error}", program.display())),
    }
}

/// How a call was ended, or not.
enum End {
    Exited,
    TimedOut,
    TooMuch,
    Stopped,
}

async fn attend(
    mut child: Child,
    input: &[u8],
    limit: Duration,
    stop: &CancellationToken,
) -> io::Result<Option<Outcome>> {
    let mut group = Group::of(&child)?;
    let (stdin, input) = (child.stdin.take(), input.to_vec());
    let writing = tokio::spawn(async move {
        if let Some(mut stdin) = stdin {
            // It need not read all of it, or any.
            let _ = stdin.write_all(&input).await;
        }
    });
    let too_much = CancellationToken::new();
    let printed = Reading::begin(child.stdout.take(), MAX_STDOUT, Some(too_much.clone()));
    let complained = Reading::begin(child.stderr.take(), KEPT_STDERR, None);
    let end = tokio::select! {
        () = stop.cancelled() => End::Stopped,
        () = group.exited() => End::Exited,
        () = too_much.cancelled() => End::TooMuch,
        () = tokio::time::sleep(limit) => End::TimedOut,
    };
    if !matches!(end, End::Exited) {
        group.signal(Signal::TERM);
        let _ = timeout(GRACE, group.exited()).await;
    }
    // Also what it has left behind. It has not been waited for yet, so that its number is nobody else's.
    group.signal(Signal::KILL);
    let status = child.wait().await?;
    writing.abort();
    let (printed, complained) = tokio::join!(printed.end(), complained.end());
    let ended = match end {
        End::Stopped => return Ok(None),
        End::TimedOut => Ended::TimedOut,
        // Perhaps it has ended before all was read.
        End::TooMuch => Ended::TooMuch,
        End::Exited if too_much.is_cancelled() => Ended::TooMuch,
        End::Exited => Ended::Exited(status),
    };
    Ok(Some(outcome(&ended, &printed, &complained)))
}

/// The processes of a call.
struct Group {
    leader: Pid,
    exit: JoinHandle<()>,
}

impl Group {
    fn of(child: &Child) -> io::Result<Self> {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let leader = pid.ok_or_else(|| io::Error::other("it has no process number"))?;
        // Without waiting for it in waitid's sense: until that is done its number is nobody else's, and neither is its
        // group's. An error would be that there is nothing to wait for.
        let exit = tokio::task::spawn_blocking(move || {
            let _ = retry_on_intr(|| waitid(WaitId::Pid(leader), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
        });
        Ok(Self { leader, exit })
    }

    /// Waits until the leader has ended.
    async fn exited(&mut self) {
        if !self.exit.is_finished() {
            let _ = (&mut self.exit).await;
        }
    }

    fn signal(&self, signal: Signal) {
        // It fails where nobody is left.
        let _ = kill_process_group(self.leader, signal);
    }
}

/// What is read of a pipe while a call lasts.
struct Reading {
    kept: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Reading {
    /// Keeps the first `limit` bytes and says when there are more, or the last ones if nobody wants to know.
    fn begin(
        pipe: Option<impl AsyncRead + Unpin + Send + 'static>,
        limit: usize,
        over: Option<CancellationToken>,
    ) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let shared = kept.clone();
        let task = tokio::spawn(async move {
            let (Some(mut pipe), mut buffer) = (pipe, [0; 4096]) else { return };
            loop {
                let read = match pipe.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(read) => read,
                };
                let mut kept = shared.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..read]);
                if kept.len() > limit {
                    if let Some(over) = over {
                        over.cancel();
                        return;
                    }
                    let surplus = kept.len() - limit;
                    kept.drain(..surplus);
                }
            }
        });
        Self { kept, task }
    }

    /// What was read. Whatever still has the pipe open has left the call's process group, and is waited for no longer.
    async fn end(mut self) -> Vec<u8> {
        if timeout(DRAIN, &mut self.task).await.is_err() {
            self.task.abort();
        }
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a program is one to run: a file that only root or this user can change, in directories of which the same is
/// true (as OpenSSH's safe_path, misc.c).
fn check(program: &Path) -> Result<(), String> {
    let problem = |path: &Path, what: &str| Err(format!("{}: {what}", path.display()));
    let own = rustix::process::geteuid().as_raw();
    for path in program.ancestors() {
        let meta = match path.metadata() {
            Ok(meta) => meta,
            Err(error) => return problem(path, &error.to_string()),
        };
        let sticky = meta.is_dir() && meta.mode() & 0o1000 != 0;
        if ![0, own].contains(&meta.uid()) {
            return problem(path, "belongs to somebody else; it is not run");
        }
        if meta.mode() & 0o022 != 0 && !sticky {
            return problem(path, "can be changed by others; it is not run");
        }
        if path == program && !meta.is_file() {
            return problem(path, "is not a file");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn a_program_that_others_can_change_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let (inner, program) = (dir.path().join("d"), dir.path().join("d/hook"));
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        fs::create_dir(&inner).unwrap();
        assert!(check(&program).unwrap_err().contains("No such file"));
        fs::write(&program, "").unwrap();
        mode(&inner, 0o755);
        mode(&program, 0o755);
        assert_eq!(check(&program), Ok(()));
        assert!(check(&inner).unwrap_err().contains("is not a file"));
        for (path, bad, good) in [(&program, 0o775, 0o755), (&program, 0o757, 0o755), (&inner, 0o777, 0o755)] {
            mode(path, bad);
            assert!(check(&program).unwrap_err().ends_with("can be changed by others; it is not run"));
            mode(path, good);
        }
        assert_eq!(check(&program), Ok(()));
    }
}
