//! What belongs to a session beside its connection, and what does not.

use super::{super::process::Snapshot, *};

fn belongs(registry: &mut Registry, machine: &Machine, monitor: i32) -> BTreeSet<i32> {
    registry.belongings(machine, &Snapshot::of(machine).unwrap(), machine.id(monitor)).iter().map(|id| id.pid).collect()
}

#[test]
fn what_a_login_has_begun_is_known_by_the_kernels_number_of_the_login() {
    let mut machine = Machine::new();
    let mut registry = registry(true);
    let monitor = machine.connect("user1");
    let carrier = machine.admit(monitor, 1001, Some(7));
    let shell = machine.shell(carrier);
    let daemon = machine.add(shell, 1001, "tmux");
    machine.setsid(daemon);
    machine.processes.get_mut(&daemon).unwrap().0.parent = 1;
    let sudo = machine.add(shell, 0, "sudo");
    // A service that she has started by hand, and one more sshd: both root's, and on their own.
    let service = machine.add(1, 0, "nginx");
    let sshd = machine.add(1, 0, "sshd");
    for pid in [service, sshd] {
        machine.edit(pid).login_session = Some(7);
    }
    let through_it = machine.add(sshd, 0, "sshd");
    let another = machine.connect("user1");
    let another_carrier = machine.admit(another, 1001, Some(8));
    let another_shell = machine.shell(another_carrier);
    let cron = machine.add(1, 1001, "cron-job");
    registry.sweep(&machine, &machine);
    let all = belongs(&mut registry, &machine, monitor);
    assert_eq!(all, [shell, daemon, sudo].into());
    for spared in [service, sshd, through_it, another, another_carrier, another_shell, cron, carrier, monitor, 1] {
        assert!(!all.contains(&spared));
    }
    // The connection ends; what it has left is known still, and forgotten when it is gone.
    [sudo, shell, carrier, monitor].into_iter().for_each(|pid| machine.end(pid));
    let id = *registry.sessions().keys().next().unwrap();
    assert!(registry.has_ended(&machine) && registry.sweep(&machine, &machine));
    assert_eq!(registry.sessions()[&id].state, State::Left);
    registry.set_access(access(&[], &[], &[]), machine.ticks);
    assert!(registry.lost().contains(&(id, Lost::Login)));
    let left = registry.belongings(&machine, &Snapshot::of(&machine).unwrap(), id);
    assert_eq!(left, [machine.id(daemon)]);
    machine.end(daemon);
    assert!(registry.sweep(&machine, &machine));
    assert!(!registry.sessions().contains_key(&id));
}

#[test]
fn where_the_kernel_does_not_number_logins_what_was_seen_is_remembered() {
    let mut machine = Machine::new();
    let mut registry = registry(true);
    let monitor = machine.connect("user1");
    let carrier = machine.admit(monitor, 1001, None);
    let shell = machine.shell(carrier);
    let job = machine.add(shell, 1001, "train");
    machine.setsid(job);
    registry.sweep(&machine, &machine);
    // The shell ends, the job is the first process's; it goes on starting others.
    machine.end(shell);
    let part = machine.add(job, 1001, "worker");
    let cron = machine.add(1, 1001, "cron-job");
    registry.sweep(&machine, &machine);
    machine.end(job);
    assert_eq!(belongs(&mut registry, &machine, monitor), [part].into());
    assert!(machine.lives(machine.id(cron)));
    // Logged out, and removed later: still.
    [carrier, monitor].into_iter().for_each(|pid| machine.end(pid));
    registry.sweep(&machine, &machine);
    assert_eq!(registry.sessions().values().map(|session| session.state).collect::<Vec<_>>(), [State::Left]);
    // Who only disconnects does not care.
    let known = registry.sessions().clone();
    let mut registry = Registry::new(None, false, known, machine.ticks);
    registry.sweep(&machine, &machine);
    assert_eq!(registry.sessions().len(), 0);
}

#[test]
fn a_scope_of_the_login_is_its_own_and_the_listeners_is_not() {
    let mut machine = Machine::new();
    let scope = "/user.slice/user-1001.slice/session-3.scope";
    let mut registry = registry(true);
    let monitor = machine.connect("user1");
    machine.edit(monitor).cgroups = vec!["/".into(), scope.into()];
    let carrier = machine.admit(monitor, 1001, None);
    let inside = machine.add(1, 1001, "tmux");
    machine.edit(inside).cgroups = vec![format!("{scope}/below")];
    let beside = machine.add(1, 1001, "tmux");
    machine.edit(beside).cgroups = vec![format!("{scope}2")];
    registry.sweep(&machine, &machine);
    assert_eq!(belongs(&mut registry, &machine, monitor), [inside].into());
    // An admin has started sshd by hand, in their own session: that is everybody's.
    machine.edit(LISTENER).cgroups = vec![scope.into()];
    machine.edit(LISTENER).login_session = Some(3);
    let other = machine.connect("user2");
    let other_carrier = machine.admit(other, 1002, Some(3));
    let other_shell = machine.shell(other_carrier);
    registry.sweep(&machine, &machine);
    assert_eq!(belongs(&mut registry, &machine, other), [other_shell].into());
    assert_eq!(belongs(&mut registry, &machine, monitor), [inside].into());
    assert_ne!(carrier, other_carrier);
}

#[test]
fn what_slurm_runs_is_never_ended() {
    let mut machine = Machine::new();
    let mut registry = registry(true);
    let monitor = machine.connect("user1");
    let carrier = machine.admit(monitor, 1001, Some(7));
    let shell = machine.shell(carrier);
    // Started by hand from the session, so all of it carries the number of this login.
    let slurmd = machine.add(shell, 0, "slurmd");
    let step = machine.add(slurmd, 0, "slurmstepd");
    let task = machine.add(step, 1001, "train");
    let adopted: Vec<i32> = [
        "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0",
        "/slurm/uid_1001/job_7",
        "/slurm_node1/uid_1001/job_7/step_extern",
    ]
    .map(|cgroup| {
        let pid = machine.add(shell, 1001, "train");
        machine.edit(pid).cgroups = vec!["/".into(), cgroup.into()];
        pid
    })
    .into();
    // Names that anybody can give.
    let pretended = machine.add(shell, 1001, "slurmstepd");
    let below = machine.add(pretended, 1001, "train");
    let cgroup = "/user.slice/user-1001.slice/user@1001.service/app.slice/slurm.scope";
    machine.edit(below).cgroups = vec![cgroup.into()];
    let sudo = machine.add(shell, 0, "sudo");
    machine.processes.get_mut(&sudo).unwrap().0.command = "slurmstepd".into();
    let through_sudo = machine.add(sudo, 1001, "train");
    registry.sweep(&machine, &machine);
    let all = belongs(&mut registry, &machine, monitor);
    assert_eq!(all, [shell, pretended, below, sudo, through_sudo].into());
    for spared in [&[slurmd, step, task][..], &adopted].concat() {
        assert!(!all.contains(&spared));
    }
}

#[test]
fn there_is_an_end_to_what_is_remembered() {
    let mut machine = Machine::new();
    let mut registry = registry(false);
    let monitors: Vec<i32> = (0..super::super::registry::MAX_SESSIONS + 1).map(|_| machine.connect("user1")).collect();
    let heard: Vec<_> =
        monitors.iter().map(|monitor| registry.hear(&machine, *monitor, "user1", claim("user1", 1))).collect();
    assert!(heard[..monitors.len() - 1].iter().all(Result::is_ok));
    assert_eq!(heard[monitors.len() - 1], Err(Ignored::Full));
    // The same one once more takes no room.
    assert_eq!(registry.hear(&machine, monitors[0], "user1", claim("user1", 2)), Ok(()));
}
