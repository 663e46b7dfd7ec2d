//! A directory described is that directory: whatever commands have made of it, its description changes nothing, and makes
//! the same one out of an empty one.

use super::{
    OPERATOR, answer, applied, apply,
    authority_support::{World, key},
    dump, nothing_to_do, without_version,
};
use certgate::domain::Role;
use proptest::prelude::*;

/// Which command, and numbers to choose with.
type Choice = (u8, u8, u8, u8);

/// Texts that are hard to quote.
const DOCUMENTS: [&str; 6] = [
    "",
    "description = \"H100\"\n",
    "# é 漢 \"\"\" ''' \\ \\\" \tx\n\n",
    "# no end of line, and a quote\"",
    "\n\n# two\"\"",
    "# \u{a0}\u{fffd} …\nimage = 'a\\b'\n",
];

/// A command as an operator types it, and what is on its standard input. Names come from few, so that they clash.
fn command((kind, a, b, c): Choice) -> (String, Option<String>) {
    let (org, user) = (b % 2, a % 6);
    // Mostly somebody's own.
    let number = if c % 16 == 0 { a % 12 } else { user * 2 + c % 2 } + 20;
    let project = format!("org{org}/p{}", c % 3);
    let cluster = format!("c{}", a % 3);
    let email = format!("u{user}@acme.example");
    let role = ["member", "admin"][usize::from(c / 4 % 2)];
    let force = if c % 5 == 0 { " --force" } else { "" };
    let robot = format!("s{}@p{}.org{org}.service", a % 2, c % 3);
    let line = match kind % 22 {
        0 => format!("org create org{org}"),
        1 | 2 if c % 4 == 0 => format!("user create {email} --org org{org} --name u{user}"),
        1 | 2 => format!("user create {email} --org org{org} --name u{user} --key '{}'", key(number)),
        3 => return (format!("key add --account {email}"), Some(key(number).to_string())),
        4 => format!("key remove {} --account {email} --yes", key(number).fingerprint()),
        5 | 6 => format!("project create {project} --admin {email}"),
        7 | 8 => format!("member add {project} {email} --role {role}"),
        9 => format!("member remove {project} {email} --yes{force}"),
        10 => format!("member role {project} {email} {role}{force}"),
        11 => {
            let kind = ["slurm", "kubernetes"][usize::from(c / 8 % 2)];
            format!("cluster create {project} {cluster} --kind {kind}")
        }
        12 => {
            let document = DOCUMENTS[usize::from(c) % DOCUMENTS.len()];
            return (format!("cluster update {cluster}.org{org} - --yes"), Some(document.to_owned()));
        }
        13 => format!("cluster scale {cluster}.org{org} --compute {c} --login {}", a % 4),
        14 if c < 64 => format!("cluster delete {cluster}.org{org} --yes"),
        14 | 15 => format!("volume create {project} v{} --size {}G --mount /mnt/{}", a % 3, u16::from(c) + 1, c % 4),
        16 if c < 96 => format!("volume delete {project} v{} --yes", a % 3),
        16 if c < 128 => format!("project delete {project} --yes"),
        16 => format!("user resume {email}"),
        17 => format!("user suspend {email}"),
        18 | 19 => {
            let command = if c % 2 == 0 { "--force-command 'rsync --server . \\\\ \"x\"'" } else { "" };
            let key = key(b % 4 + 60);
            format!("service create {project} s{} --source-address 192.0.2.{b} --key '{key}' {command}", a % 2)
        }
        20 if c < 32 => format!("service delete {robot} --yes"),
        20 => return (format!("service key add {robot}"), Some(key(b % 4 + 60).to_string())),
        _ if c % 2 == 0 => format!("service update {robot} --max-ttl {}m --no-force-command", a % 30 + 1),
        _ => format!("service update {robot} --source-address 192.0.2.{b},198.51.100.{c}"),
    };
    (line, None)
}

/// A world that these commands made; those that were refused have changed nothing.
async fn made_by(choices: &[Choice]) -> World {
    let world = World::new().await;
    for choice in [(0, 0, 0, 0), (0, 0, 1, 0), (1, 0, 0, 1), (1, 1, 1, 1), (5, 0, 0, 0)].iter().chain(choices) {
        let (line, input) = command(*choice);
        world.answer(&OPERATOR, &line, None, input.as_deref()).await;
    }
    world
}

/// Gives a key to whoever is in a project without one, and an admin to every project: commands can take both away, but
/// nobody is added, and no project is made, without.
async fn mend(world: &World) {
    let directory = world.app.directory();
    let mut number = 100;
    for account in directory.accounts().filter(|account| directory.keys_of(account.id).next().is_none()) {
        let line = match account.service() {
            Some(_) if directory.projects_of(account.id).next().is_none() => continue,
            Some(_) => format!("service key add {}", account.email),
            None => format!("key add --account {}", account.email),
        };
        let added = world.answer(&OPERATOR, &line, None, Some(&key(number).to_string())).await;
        assert_eq!(super::output(added).exit, 0);
        number += 1;
    }
    for project in directory.projects() {
        let path = directory.path_of_project(project).unwrap();
        let mut members = directory.members_of(project.id);
        if members.any(|(_, membership)| membership.role == Role::Admin) {
            continue;
        }
        // Never a service account.
        match directory.members_of(project.id).find(|(account, _)| account.service().is_none()) {
            Some((account, _)) => world.operator(&format!("member role {path} {} admin", account.email)).await,
            None => world.operator(&format!("member add {path} u0@acme.example --role admin")).await,
        };
    }
}

/// So that it fits a directory that has given these numbers to others.
fn without_numbers(described: &str) -> String {
    let number = |line: &&str| ["uid = ", "gid = ", "admins_gid = "].iter().any(|name| line.starts_with(name));
    described.lines().filter(|line| !number(line)).map(|line| format!("{line}\n")).collect()
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_directory_described_is_that_directory(choices in prop::collection::vec(any::<Choice>(), 0..80)) {
        block_on(async {
            let world = made_by(&choices).await;
            nothing_to_do(&world, &dump(&world, &[]).await).await;

            mend(&world).await;
            let orgs: Vec<String> = world.app.directory().orgs().map(|org| org.name.to_string()).collect();
            let directory = world.app.directory();
            let projects = directory.projects().map(|project| directory.path_of_project(project).unwrap().to_string());
            let mut extents: Vec<Vec<String>> = vec![vec![]];
            extents.extend(orgs.into_iter().map(|org| vec!["--org".into(), org]));
            extents.extend(projects.map(|project| vec!["--project".into(), project]));
            for extent in &extents {
                let extent: Vec<&str> = extent.iter().map(String::as_str).collect();
                let described = dump(&world, &extent).await;
                nothing_to_do(&world, &described).await;
                let empty = World::new().await;
                applied(&empty, &described).await;
                // The same people, numbers, keys, projects, members, clusters and volumes.
                assert_eq!(without_version(&dump(&empty, &[]).await), without_version(&described));
                nothing_to_do(&empty, &described).await;
            }
        });
    }

    #[test]
    fn any_description_applies_as_a_whole_or_not_at_all(
        here in prop::collection::vec(any::<Choice>(), 0..40),
        there in prop::collection::vec(any::<Choice>(), 0..40),
        prune: bool,
    ) {
        block_on(async {
            let world = made_by(&here).await;
            let other = made_by(&there).await;
            let described = without_numbers(&dump(&other, &[]).await);
            let before = dump(&world, &[]).await;
            let flags: &[&str] = if prune { &["--yes", "--prune"] } else { &["--yes"] };
            let output = apply(&world, &described, flags).await;
            if output.exit == 1 {
                assert!(output.stderr.ends_with("nothing was changed\n"), "{}", output.stderr);
                assert_eq!(dump(&world, &[]).await, before);
                return;
            }
            let again = apply(&world, &described, flags).await;
            assert_eq!(again.stderr, "nothing to do: the directory is as described\n");
            let directory = other.app.directory();
            for project in directory.projects() {
                let path = directory.path_of_project(project).unwrap().to_string();
                let here = dump(&world, &["--project", &path]).await;
                let there = dump(&other, &["--project", &path]).await;
                let members_and_rest = |text: &str| text.split_once("[projects.members]").unwrap().1.trim().to_owned();
                let here = members_and_rest(&without_numbers(&here));
                let there = members_and_rest(&without_numbers(&there));
                let members = |text: &str| text.split("\n\n").next().unwrap().to_owned();
                assert_eq!(members(&here), members(&there));
                if prune {
                    assert_eq!(here, there);
                }
            }
        });
    }
}

#[tokio::test]
async fn random_commands_reach_everything_that_is_described() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let choices = prop::collection::vec(any::<Choice>(), 80);
    let mut all = String::new();
    for _ in 0..12 {
        let world = made_by(&choices.new_tree(&mut runner).unwrap().current()).await;
        all.push_str(&dump(&world, &[]).await);
    }
    for part in
        ["[[accounts]]", "state = \"suspended\"", "keys = [\n", "keys = []", "\" = \"admin\"", "\" = \"member\""]
            .into_iter()
            .chain([
                "[[projects.services]]",
                "force_command = \"rsync",
                "force_command = \"\"",
                "[[projects.clusters]]",
                "kubernetes",
                "configuration = \"\"\"",
                "[[projects.volumes]]",
                "compute = 1",
            ])
    {
        assert!(all.contains(part), "{part}");
    }
}

#[tokio::test]
async fn some_descriptions_fit_another_directory_and_some_do_not() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let choices = prop::collection::vec(any::<Choice>(), 0..40);
    let mut accepted = 0;
    let mut last = World::new().await;
    for _ in 0..16 {
        let world = made_by(&choices.new_tree(&mut runner).unwrap().current()).await;
        let described = without_numbers(&dump(&world, &[]).await);
        accepted += usize::from(apply(&last, &described, &["--yes"]).await.exit == 0);
        last = world;
    }
    assert!((3..14).contains(&accepted), "{accepted} of 16");
}

#[tokio::test]
async fn a_part_is_described_with_all_that_it_refers_to() {
    let world = World::story().await;
    world.operator("org create other").await;
    let line = format!("user create guest@other.example --org other --name guest --key '{}'", key(9));
    world.operator(&line).await;
    world.operator("member add acme/ml guest@other.example").await;
    let keys = |n: u8| key(n).to_string();
    let account = |email: &str, org: &str, user: &str, uid: u32, n: u8| {
        format!(
            "[[accounts]]\nemail = \"{email}\"\norg = \"{org}\"\nuser = \"{user}\"\nuid = {uid}\nkeys = [\"{}\"]\n\n",
            keys(n)
        )
    };
    let (admin1, user1, user2, guest) = (
        account("admin1@acme.example", "acme", "admin1", 200_000, 1),
        account("user1@acme.example", "acme", "user1", 200_001, 2),
        account("user2@acme.example", "acme", "user2", 200_002, 3),
        account("guest@other.example", "other", "guest", 200_003, 9),
    );
    let project = "[[projects]]\nname = \"acme/ml\"\ngid = 200000\nadmins_gid = 200001\nmax_ttl = \"\"\nmax_session = \"\"\ngrace = \"\"\nforbidden = []\n\n[projects.members]\n\
        \"admin1@acme.example\" = \"admin\"\n\"guest@other.example\" = \"member\"\n\"user1@acme.example\" = \"member\"\n\n\
        [[projects.clusters]]\nname = \"h100\"\nkind = \"slurm\"\nnodes = { login = 0, compute = 0, controller = 0 }\n\
        configuration = \"\"\n";
    let orgs = "format = 1\n\n[[organizations]]\nname = \"acme\"\n\n[[organizations]]\nname = \"other\"\n\n";
    let version = world.app.directory().version();
    let header = format!(
        "# A certgate directory at version {version}. 'certgate apply FILE' brings a directory to what is described here.\n"
    );
    assert_eq!(dump(&world, &["--project", "acme/ml"]).await, format!("{header}{orgs}{admin1}{guest}{user1}{project}"));
    assert_eq!(dump(&world, &["--org", "acme"]).await, format!("{header}{orgs}{admin1}{guest}{user1}{user2}{project}"));
    let other = "format = 1\n\n[[organizations]]\nname = \"other\"\n\n";
    assert_eq!(dump(&world, &["--org", "other"]).await, format!("{header}{other}{}\n", guest.trim_end()));
    for (flags, told) in [
        (["--org", "none"], "there is no organization none\n"),
        (["--project", "acme/none"], "there is no project acme/none\n"),
    ] {
        let output = super::output(answer(&world, &["dump", flags[0], flags[1]], None, &[], None).await);
        assert_eq!((output.exit, output.stderr.as_str()), (1, told));
    }
}
