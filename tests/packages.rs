//! The packages as dpkg and rpm see them, and what becomes of a machine on which they are installed, upgraded, removed and
//! purged (tests/packages/story.sh). Made by `scripts/package` of the programs that were built for the tests.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// Runs a command that has to succeed; what it says.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Makes the packages of a version in a directory.
fn packages(version: &str, programs: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/package");
    let made = run(Command::new(script).args(["--version", version, "--to"]).arg(to).env("CERTGATE_BIN", programs));
    assert_eq!(made.lines().count(), 4, "{made}");
}

/// What is in a .deb: mode and owner, and path.
fn contents(deb: &Path) -> Vec<(String, String)> {
    let listed = run(Command::new("dpkg-deb").arg("--contents").arg(deb));
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (format!("{} {}", words[0], words[1]), words[5].trim_start_matches('.').to_owned())
    };
    listed.lines().map(entry).collect()
}

#[test]
fn a_machine_is_as_it_was_when_the_packages_are_gone_and_an_upgrade_changes_nothing_that_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    packages("0.0.1", Path::new(env!("CARGO_BIN_EXE_certgated")).parent().unwrap(), &old);
    let (bastion, node) = (old.join("certgate_0.0.1_amd64.deb"), old.join("certgate-node_0.0.1_amd64.deb"));
    // The same again, without what a debugger needs: most of the time goes into taking that out.
    for deb in [&bastion, &node] {
        run(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(dir.path().join("tree")));
    }
    let programs = dir.path().join("tree/usr/bin");
    fs::rename(dir.path().join("tree/usr/lib/certgate/certgate-principals"), programs.join("certgate-principals"))
        .unwrap();
    packages("99.0", &programs, &new);

    let all: Vec<_> = [&bastion, &node].into_iter().flat_map(|deb| contents(deb)).collect();
    // Root's alone to change, and nothing that makes somebody else of who runs it.
    for (mode, path) in &all {
        assert!(
            ["drwxr-xr-x", "-rwxr-xr-x", "-rw-r--r--", "lrwxrwxrwx"].map(|m| format!("{m} root/root")).contains(mode),
            "{mode} {path}"
        );
    }
    let paths: BTreeSet<&str> = all.iter().map(|(_, path)| &**path).collect();
    for unit in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd")).unwrap() {
        let unit = unit.unwrap().file_name().into_string().unwrap();
        assert!(paths.contains(&*format!("/lib/systemd/system/{unit}")), "{unit} is in no package");
    }
    let kept = |deb: &Path| run(Command::new("dpkg-deb").args(["--info"]).arg(deb).arg("conffiles"));
    assert_eq!(kept(&bastion), "/etc/certgate/gateway.toml\n");
    let (mut rpm, file) = (Command::new("rpm"), old.join("certgate-0.0.1-1.x86_64.rpm"));
    let flags =
        run(rpm.args(["--query", "--queryformat", "[%{FILEFLAGS:fflags} %{FILENAMES}\n]", "--package"]).arg(file));
    // c: a configuration file, n: not replaced.
    assert!(flags.contains("cn /etc/certgate/gateway.toml\n"), "{flags}");

    let story = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packages/story.sh");
    let said = run(Command::new(story).args([&old, &new]));
    assert!(said.ends_with("\nthe end\n") && said.matches('✓').count() > 50 && !said.contains('✗'), "{said}");
}
