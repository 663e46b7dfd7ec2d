//! The whole story on real `ssh`, `sshd`, `scp`, `sftp`, `rsync` and `ssh-keygen`: `scripts/demo` plays it on machines of
//! its own, with the programs that were built for the tests, and counts its checks.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    path::Path,
    process::{Command, Stdio},
};

#[test]
fn the_story_is_played_and_every_check_holds() {
    let programs = Path::new(env!("CARGO_BIN_EXE_certgated")).parent().unwrap();
    let played = Command::new("scripts/demo")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CERTGATE_BIN", programs)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&played.stdout);
    let last = said.lines().last().unwrap_or_default();
    let whole = || format!("{said}\n{}", String::from_utf8_lossy(&played.stderr));
    assert!(played.status.success(), "{}", whole());
    let words: Vec<&str> = last.split(' ').collect();
    let ["demo:", passed, "checks", "passed,", "0", "failed"] = words[..] else { panic!("{}", whole()) };
    // As many as are printed, and none of them a cross: a story that stops early is no success.
    assert_eq!(passed.parse(), Ok(said.matches('✓').count()), "{}", whole());
    for point in 1..=8 {
        assert!(said.contains(&format!("\n{point}. ")) || said.starts_with(&format!("{point}. ")), "{}", whole());
    }
}

#[test]
fn a_gateway_is_upgraded_under_load_and_nobody_notices() {
    let programs = Path::new(env!("CARGO_BIN_EXE_certgated")).parent().unwrap();
    let played = Command::new("scripts/upgrade")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CERTGATE_BIN", programs)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&played.stdout);
    let whole = || format!("{said}\n{}", String::from_utf8_lossy(&played.stderr));
    assert!(played.status.success(), "{}", whole());
    let passed = said.matches('✓').count();
    assert_eq!(said.lines().last(), Some(&*format!("upgrade: {passed} checks passed, 0 failed")), "{}", whole());
    assert!(said.contains("\n6. "), "{}", whole());
}
