//! Ends processes, and no others: each is held by a descriptor (pidfd_open(2)) that was taken while it was still the one
//! that was meant, so a number that is given out again in between reaches nobody.

use super::process::{ProcessId, ProcessTable};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

/// How long a connection may take to end when it is asked to; sshd does at once.
const CONNECTION_GRACE: Duration = Duration::from_secs(2);
/// How long what belongs to a session may take: programs save what they have.
const GRACE: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
pub const ROUND: Duration = Duration::from_millis(100);
/// After so long, what does not end cannot (it waits for a disk or a network that is away); it is said, and tried anew.
const GIVE_UP: Duration = Duration::from_secs(60);

/// The most processes that are held at a time, by all endings together: each takes a descriptor, and somebody who has
/// left thousands of processes must not use up what the agent may have. The others' turn comes as these end.
pub const MAX_HELD: usize = 512;

/// A process that is being ended.
#[derive(Debug)]
struct Target {
    descriptor: OwnedFd,
    /// Until when it may end by itself.
    until: Instant,
}

/// What came of taking hold of a process.
enum Hold {
    Held(Target),
    /// There is no such process any more.
    Gone,
    /// It may be there: the kernel did not say.
    Failed(Errno),
}

impl Target {
    /// Takes hold of a process, if it is still that one.
    fn hold(table: &impl ProcessTable, id: ProcessId, until: Instant) -> Hold {
        let Some(pid) = Pid::from_raw(id.pid) else { return Hold::Gone };
        Self::of(pidfd_open(pid, PidfdFlags::empty()), || table.lives(id), until)
    }

    fn of(opened: Result<OwnedFd, Errno>, lives: impl FnOnce() -> bool, until: Instant) -> Hold {
        match opened {
            // Asked after the descriptor was opened: if the number is still this process's, so is the descriptor.
            Ok(descriptor) if lives() => Hold::Held(Self { descriptor, until }),
            Ok(_) | Err(Errno::SRCH) => Hold::Gone,
            Err(error) => Hold::Failed(error),
        }
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
    /// Those that could not be held yet, and until when they may end by themselves.
    waiting: BTreeMap<ProcessId, Instant>,
    /// Why the last of them could not.
    failure: Option<Errno>,
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
    /// Asks a connection and what belongs to it to end, as far as `room` lets them be held.
    pub fn begin(
        table: &impl ProcessTable,
        connection: &[ProcessId],
        belongings: &[ProcessId],
        now: Instant,
        room: usize,
    ) -> Self {
        let (held, waiting) = (HashSet::new(), BTreeMap::new());
        let mut ending = Self { begun: now, targets: vec![], held, waiting, failure: None };
        ending.want(connection, now + CONNECTION_GRACE);
        ending.ask(table, room);
        ending.want(belongings, now + GRACE);
        ending.ask(table, room.saturating_sub(ending.targets.len()));
        ending
    }

    /// How many processes it holds.
    #[must_use]
    pub fn holds(&self) -> usize {
        self.targets.len()
    }

    /// Why not all of them can be held, if the kernel refuses it.
    #[must_use]
    pub fn failure(&self) -> Option<Errno> {
        self.failure.filter(|_| !self.waiting.is_empty())
    }

    fn want(&mut self, ids: &[ProcessId], until: Instant) {
        for id in ids.iter().filter(|id| !self.held.contains(id)) {
            self.waiting.entry(*id).or_insert(until);
        }
    }

    fn ask(&mut self, table: &impl ProcessTable, room: usize) {
        let mut room = room;
        let Self { targets, held, waiting, failure, .. } = self;
        waiting.retain(|id, until| {
            if room == 0 {
                return true;
            }
            match Target::hold(table, *id, *until) {
                Hold::Held(target) => {
                    target.signal(Signal::TERM);
                    // Whoever has stopped it must not have stopped this.
                    target.signal(Signal::CONT);
                    targets.push(target);
                    room -= 1;
                }
                Hold::Gone => {}
                Hold::Failed(error) => {
                    *failure = Some(error);
                    return true;
                }
            }
            held.insert(*id);
            false
        });
    }

    /// Looks how far it is, and kills what has not ended in time. `belongings` are what belongs to the session now:
    /// there may be more than before. `room` is for how many more.
    pub fn advance(
        &mut self,
        table: &impl ProcessTable,
        belongings: &[ProcessId],
        now: Instant,
        room: usize,
    ) -> Progress {
        self.targets.retain(|target| !target.has_ended());
        self.want(belongings, self.begun + GRACE);
        self.ask(table, room);
        if self.targets.is_empty() && self.waiting.is_empty() {
            return Progress::Done;
        }
        for target in self.targets.iter().filter(|target| target.until <= now) {
            target.signal(Signal::KILL);
        }
        if now >= self.begun + GIVE_UP {
            Progress::Stuck(self.targets.len() + self.waiting.len())
        } else {
            Progress::Going
        }
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
        let mut ending = Ending::begin(&table, &[first], &[second, mistaken], now, MAX_HELD);
        willing.wait().unwrap();
        assert_eq!(ending.advance(&table, &[], now, MAX_HELD), Progress::Going);
        assert_eq!(stubborn.try_wait().unwrap(), None, "it has time");
        assert_eq!(ending.advance(&table, &[], now + GRACE, MAX_HELD), Progress::Going);
        stubborn.wait().unwrap();
        assert_eq!(ending.advance(&table, &[], now + GRACE, MAX_HELD), Progress::Done);
        assert_eq!(other.try_wait().unwrap(), None);
        // What belongs to it and is found later is ended as well.
        let mut ending = Ending::begin(&table, &[], &[], now, MAX_HELD);
        assert_eq!(ending.advance(&table, &[third], now, MAX_HELD), Progress::Going);
        other.wait().unwrap();
        assert_eq!(ending.advance(&table, &[third], now, MAX_HELD), Progress::Done);
    }

    #[test]
    fn what_was_stopped_ends_too() {
        let (mut stopped, id) = child("kill -s STOP $$; exec sleep 1000");
        let mut ending = Ending::begin(&ProcFs::new(), &[id], &[], Instant::now(), MAX_HELD);
        stopped.wait().unwrap();
        assert_eq!(ending.advance(&ProcFs::new(), &[], Instant::now(), MAX_HELD), Progress::Done);
    }

    #[test]
    fn what_cannot_be_held_has_not_ended_and_its_turn_comes() {
        let table = ProcFs::new();
        let (mut one, first) = child("exec sleep 1000");
        let (mut two, second) = child("exec sleep 1000");
        let now = Instant::now();
        let mut ending = Ending::begin(&table, &[first, second], &[], now, 1);
        assert_eq!(ending.holds(), 1);
        one.wait().unwrap();
        assert_eq!(two.try_wait().unwrap(), None);
        assert_eq!(ending.advance(&table, &[], now, 0), Progress::Going);
        assert_eq!(ending.advance(&table, &[], now + GIVE_UP, 0), Progress::Stuck(1));
        assert_eq!(two.try_wait().unwrap(), None);
        assert_eq!(ending.advance(&table, &[], now, 1), Progress::Going);
        two.wait().unwrap();
        assert_eq!(ending.advance(&table, &[], now, 1), Progress::Done);
    }

    #[test]
    fn a_kernel_that_gives_no_descriptor_has_not_said_that_the_process_is_gone() {
        let (mut other, id) = child("exec sleep 1000");
        let pid = Pid::from_raw(id.pid).unwrap();
        let until = Instant::now();
        // Too old for it, forbidden, none left, no memory.
        for error in [Errno::NOSYS, Errno::PERM, Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert!(matches!(Target::of(Err(error), || true, until), Hold::Failed(said) if said == error));
        }
        assert!(matches!(Target::of(Err(Errno::SRCH), || true, until), Hold::Gone));
        let open = || pidfd_open(pid, PidfdFlags::empty());
        assert!(matches!(Target::of(open(), || false, until), Hold::Gone), "it is another one");
        assert!(matches!(Target::of(open(), || true, until), Hold::Held(_)));
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
