//! The whole story on real `ssh`, `sshd`, `scp`, `sftp`, `rsync` and `ssh-keygen`: `scripts/demo` plays it on machines of
//! its own, with the programs that were built for the tests, and counts its checks.
#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    process::{Command, Stdio},
};

/// Plays a script with the programs that were built for the tests: every check holds, as many as are printed and none of
/// them a cross, and no chapter is left out. A story that stops early is no success.
fn plays(script: &str, chapters: usize) {
    let programs = Path::new(env!("CARGO_BIN_EXE_certgated")).parent().unwrap();
    let played = Command::new(format!("scripts/{script}"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CERTGATE_BIN", programs)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&played.stdout);
    let whole = || format!("{said}\n{}", String::from_utf8_lossy(&played.stderr));
    assert!(played.status.success(), "{}", whole());
    let passed = said.matches('✓').count();
    assert_eq!(said.lines().last(), Some(&*format!("{script}: {passed} checks passed, 0 failed")), "{}", whole());
    for chapter in 1..=chapters {
        assert!(said.contains(&format!("\n{chapter}. ")) || said.starts_with(&format!("{chapter}. ")), "{}", whole());
    }
}

#[test]
fn the_story_is_played_and_every_check_holds() {
    plays("demo", 8);
}

#[test]
fn a_gateway_is_upgraded_under_load_and_nobody_notices() {
    plays("upgrade", 6);
}
