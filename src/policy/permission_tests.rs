//! The permission table, written down a second time by hand: if the two differ, one of them is wrong.

use super::{
    Action, Caller, NEEDS, Place, Reason, authorize,
    test_world::{NOW, World},
};
use crate::domain::ProjectPath;
use Action as A;

/// For each action: operator, admin of the project, member of it, admin of another one, nobody in particular, service
/// account of the project.
const EXPECTED: &[(Action, [bool; 6])] = &[
    (A::Whoami, [true, true, true, true, true, true]),
    (A::CertificateIssue, [true, true, true, true, true, true]),
    (A::Config, [true, true, true, true, true, true]),
    (A::KeyList, [true, true, true, true, true, true]),
    (A::KeyAdd, [true, true, true, true, true, false]),
    (A::KeyRemove, [true, true, true, true, true, false]),
    (A::ProjectList, [true, true, true, true, true, true]),
    (A::ProjectShow, [true, true, true, false, false, true]),
    (A::ProjectCreate, [true, true, true, true, true, false]),
    (A::ProjectUpdate, [true, true, false, false, false, false]),
    (A::ProjectDelete, [true, true, false, false, false, false]),
    (A::MemberList, [true, true, true, false, false, true]),
    (A::MemberAdd, [true, true, false, false, false, false]),
    (A::MemberRemove, [true, true, false, false, false, false]),
    (A::MemberRole, [true, true, false, false, false, false]),
    (A::ClusterList, [true, true, true, true, true, true]),
    (A::ClusterShow, [true, true, true, false, false, true]),
    (A::ClusterCreate, [true, true, false, false, false, false]),
    (A::ClusterUpdate, [true, true, false, false, false, false]),
    (A::ClusterScale, [true, true, false, false, false, false]),
    (A::ClusterRetry, [true, true, false, false, false, false]),
    (A::ClusterDelete, [true, true, false, false, false, false]),
    (A::VolumeList, [true, true, true, true, true, true]),
    (A::VolumeShow, [true, true, true, false, false, true]),
    (A::VolumeCreate, [true, true, false, false, false, false]),
    (A::VolumeUpdate, [true, true, false, false, false, false]),
    (A::VolumeRetry, [true, true, false, false, false, false]),
    (A::VolumeDelete, [true, true, false, false, false, false]),
    (A::NodeList, [true, true, true, false, false, true]),
    (A::NodeShow, [true, true, true, false, false, true]),
    (A::NodeTokens, [true, true, false, false, false, false]),
    (A::NodeTokenRevoke, [true, true, false, false, false, false]),
    (A::NodeToken, [true, true, false, false, false, false]),
    (A::NodeRemove, [true, true, false, false, false, false]),
    (A::CertificateList, [true, true, true, true, true, true]),
    (A::CertificateShow, [true, true, true, true, true, true]),
    (A::CertificateRevoke, [true, true, true, true, true, false]),
    (A::SessionList, [true, true, true, true, true, true]),
    (A::SessionEnd, [true, true, true, true, true, false]),
    (A::ExplainOwn, [true, true, true, true, true, true]),
    (A::Explain, [true, true, false, false, false, false]),
    (A::ServiceList, [true, true, true, false, false, true]),
    (A::ServiceShow, [true, true, true, false, false, true]),
    (A::ServiceCreate, [true, true, false, false, false, false]),
    (A::ServiceUpdate, [true, true, false, false, false, false]),
    (A::ServiceKeyAdd, [true, true, false, false, false, false]),
    (A::ServiceKeyRemove, [true, true, false, false, false, false]),
    (A::ServiceDelete, [true, true, false, false, false, false]),
    (A::Reach, [true, true, true, false, false, true]),
    (A::Krl, [true, true, true, true, true, true]),
    (A::KrlCluster, [true, true, true, false, false, true]),
    (A::OrgCreate, [true, false, false, false, false, false]),
    (A::OrgList, [true, false, false, false, false, false]),
    (A::UserCreate, [true, false, false, false, false, false]),
    (A::UserList, [true, false, false, false, false, false]),
    (A::UserShow, [true, false, false, false, false, false]),
    (A::UserSuspend, [true, false, false, false, false, false]),
    (A::UserResume, [true, false, false, false, false, false]),
    (A::Apply, [true, false, false, false, false, false]),
    (A::Dump, [true, false, false, false, false, false]),
    (A::AuditList, [true, false, false, false, false, false]),
    (A::AuditVerify, [true, false, false, false, false, false]),
    (A::CaShow, [true, false, false, false, false, false]),
    (A::BackupCreate, [true, false, false, false, false, false]),
    (A::Status, [true, false, false, false, false, false]),
];

#[test]
fn the_table_is_what_was_meant_for_everyone_and_everything() {
    let world = World::with_service(None);
    let callers = [
        Caller::Operator { uid: 0 },
        world.caller("admin1"),
        world.caller("user1"),
        world.caller("admin2"),
        world.caller("user2"),
        world.caller("svc-ci"),
    ];
    let project: ProjectPath = "acme/ml".parse().unwrap();
    assert_eq!(EXPECTED.len(), NEEDS.len(), "an action is missing here");
    for (action, expected) in EXPECTED {
        for (caller, expected) in callers.iter().zip(expected) {
            let granted = authorize(&world.directory, caller, *action, &Some(&project).into(), NOW).is_ok();
            assert_eq!(granted, *expected, "{} for {}", action.as_str(), caller.actor());
        }
    }
}

#[test]
fn a_robot_is_told_that_it_changes_nothing_with_its_key_and_with_its_certificate() {
    let world = World::with_service(None);
    let with_key = world.identity("svc-ci");
    for (action, reason) in [(A::KeyAdd, Reason::ServiceAccount), (A::Explain, Reason::NotAdmin)] {
        let project: ProjectPath = "acme/ml".parse().unwrap();
        let caller = Caller::Account(with_key.clone());
        let denial = authorize(&world.directory, &caller, action, &Some(&project).into(), NOW).unwrap_err();
        assert_eq!(denial.reason, reason, "{}", action.as_str());
    }
    // Not the advice that a person with a certificate gets: another key helps a robot nothing.
    let caller = Caller::Account(world.identity_with_certificate("svc-ci", "svc-ci@acme/ml"));
    let denial = authorize(&world.directory, &caller, A::KeyAdd, &Place::Nowhere, NOW).unwrap_err();
    assert_eq!(denial.reason, Reason::ServiceAccount);
}

#[test]
fn what_is_not_yours_looks_like_what_does_not_exist() {
    let world = World::new();
    for user in ["user2", "admin2", "admin3"] {
        let answer = |path: &str| {
            let path: ProjectPath = path.parse().unwrap();
            let denial =
                authorize(&world.directory, &world.caller(user), A::MemberAdd, &Some(&path).into(), NOW).unwrap_err();
            (denial.reason, denial.user.replace(path.to_string().as_str(), "X"))
        };
        assert_eq!(answer("acme/ml"), answer("acme/none"), "{user}");
        assert_eq!(answer("acme/ml"), answer("none/none"), "{user}");
    }
}

#[test]
fn the_removed_are_told_when_and_by_whom_for_a_month() {
    let mut world = World::new();
    world.remove(21, 12, "admin1@acme.example");
    let project: ProjectPath = "acme/ml".parse().unwrap();
    let told = |days: u64| {
        let now = NOW.after(std::time::Duration::from_secs(days * 86_400));
        authorize(&world.directory, &world.caller("user1"), A::ProjectShow, &Some(&project).into(), now).unwrap_err()
    };
    assert_eq!(told(0).user, "removed from acme/ml at 08:00 UTC by admin1@acme.example");
    assert_eq!(told(1).user, "removed from acme/ml at 2027-01-15 08:00 UTC by admin1@acme.example");
    assert_eq!(told(32).reason, Reason::NotFound);
}
