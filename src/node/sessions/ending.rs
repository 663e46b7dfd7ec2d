//! Ends processes, and no others: each is held by a descriptor (pidfd_open(2)) that was taken while it was still the one
//! that was meant, so a number that is given out again in between reaches nobody.

use super::process::{ProcessId, ProcessTable};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// How long a connection may take to end when it is asked to; sshd does at once.
const CONNECTION_GRACE: Duration = Duration::from_secs(2);
/// How long what belongs to a session may take: programs save what they have.
const GRACE: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
pub const ROUND: Duration = Duration::from_millis(100);
/// After so long, what does not end cannot (it waits for a disk or a network that is away); it is said, and left.
const GIVE_UP: Duration = Duration::from_secs(60);

/// A process that is being ended.
#[derive(Debug)]
struct Target {
    descriptor: OwnedFd,
    /// Until when it may end by itself.
    until: Instant,
}

impl Target {
    /// Takes hold of a process, if it is still that one.
    fn hold(table: &impl ProcessTable, id: ProcessId, until: Instant) -> Option<Self> {
        let descriptor = pidfd_open(Pid::from_raw(id.pid)?, PidfdFlags::empty()).ok()?;
        // Asked after the descriptor was opened: if the number is still this process's, so is the descriptor.
        table.lives(id).then_some(Self { descriptor, until })
    }

    fn signal(&self, signal: Signal) {
        // It has ended meanwhile: that was wanted.
        let _ = pidfd_send_signal(&self.descriptor, signal);
    }

    fn has_ended(&self) -> bool {
        let mut descriptors = [PollFd::new(&self.descriptor, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut descriptors, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

/// A session that is being ended.
#[derive(Debug)]
pub struct Ending {
    begun: Instant,
    targets: Vec<Target>,
    held: HashSet<ProcessId>,
}

/// How an [`Ending`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All of it has ended.
    Done,
    /// Not yet.
    Going,
    /// So many processes don't end.
    Stuck(usize),
}

impl Ending {
    /// Asks a connection and what belongs to it to end.
    pub fn begin(table: &impl ProcessTable, connection: &[ProcessId], belongings: &[ProcessId], now: Instant) -> Self {
        let mut ending = Self { begun: now, targets: vec![], held: HashSet::new() };
        ending.ask(table, connection, now + CONNECTION_GRACE);
        ending.ask(table, belongings, now + GRACE);
        ending
    }

    fn ask(&mut self, table: &impl ProcessTable, ids: &[ProcessId], until: Instant) {
        for id in ids {
            if self.held.insert(*id)
                && let Some(target) = Target::hold(table, *id, until)
            {
                target.signal(Signal::TERM);
                // Whoever has stopped it must not have stopped this.
                target.signal(Signal::CONT);
                self.targets.push(target);
            }
        }
    }

    /// Looks how far it is, and kills what has not ended in time. `belongings` are what belongs to the session now:
    /// there may be more than before.
    pub fn advance(&mut self, table: &impl ProcessTable, belongings: &[ProcessId], now: Instant) -> Progress {
        self.ask(table, belongings, self.begun + GRACE);
        self.targets.retain(|target| !target.has_ended());
        if self.targets.is_empty() {
            return Progress::Done;
        }
        for target in self.targets.iter().filter(|target| target.until <= now) {
            target.signal(Signal::KILL);
        }
        if now >= self.begun + GIVE_UP { Progress::Stuck(self.targets.len()) } else { Progress::Going }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::sessions::proc_fs::ProcFs;
    use std::process::{Child, Command, Stdio};

    fn child(script: &str) -> (Child, ProcessId) {
        let mut command = Command::new("sh");
        let child = command
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let id = ProcFs::new().stat(i32::try_from(child.id()).unwrap()).unwrap().id;
        (child, id)
    }

    /// Waits until it has said something.
    fn ready(child: &mut Child) {
        use std::io::Read;
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn exactly_what_is_meant_is_ended_and_what_does_not_want_to_is_killed() {
        let table = ProcFs::new();
        let (mut willing, first) = child("exec sleep 1000");
        let (mut stubborn, second) = child("trap '' TERM; echo .; while :; do sleep 1; done");
        let (mut other, third) = child("exec sleep 1000");
        ready(&mut stubborn);
        let now = Instant::now();
        // The number of a process that has become another's.
        let mistaken = ProcessId { start: third.start + 1, ..third };
        let mut ending = Ending::begin(&table, &[first], &[second, mistaken], now);
        willing.wait().unwrap();
        assert_eq!(ending.advance(&table, &[], now), Progress::Going);
        assert_eq!(stubborn.try_wait().unwrap(), None, "it has time");
        assert_eq!(ending.advance(&table, &[], now + GRACE), Progress::Going);
        stubborn.wait().unwrap();
        assert_eq!(ending.advance(&table, &[], now + GRACE), Progress::Done);
        assert_eq!(other.try_wait().unwrap(), None);
        // What belongs to it and is found later is ended as well.
        let mut ending = Ending::begin(&table, &[], &[], now);
        assert_eq!(ending.advance(&table, &[third], now), Progress::Going);
        other.wait().unwrap();
        assert_eq!(ending.advance(&table, &[third], now), Progress::Done);
    }

    #[test]
    fn what_was_stopped_ends_too() {
        let (mut stopped, id) = child("kill -s STOP $$; exec sleep 1000");
        let mut ending = Ending::begin(&ProcFs::new(), &[id], &[], Instant::now());
        stopped.wait().unwrap();
        assert_eq!(ending.advance(&ProcFs::new(), &[], Instant::now()), Progress::Done);
    }
}
