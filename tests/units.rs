//! The units, as systemd reads them: nothing in them is unknown to it, and each is fenced in as far as docs/units.md says.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Command};

/// Exposure in tenths, as `systemd-analyze security` counts it: what is left is explained in docs/units.md.
const EXPOSURE: [(&str, &str); 4] = [
    ("certgate-authority.service", "4"),
    ("certgate-gateway.service", "14"),
    ("certgate-node.service", "28"),
    ("certgate-provisioner.service", "14"),
];

fn units() -> Vec<String> {
    let dir = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd")).unwrap();
    dir.map(|unit| unit.unwrap().file_name().into_string().unwrap()).collect()
}

fn analyze(arguments: &[&str], dir: &Path, units: &[String]) -> (bool, String) {
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).args(units.iter().map(|unit| dir.join(unit)));
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn systemd_understands_every_line_of_every_unit() {
    let dir = tempfile::tempdir().unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_certgated")).parent().unwrap();
    let copy = |change: &dyn Fn(String) -> String| {
        for unit in units() {
            let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(&unit)).unwrap();
            // They are installed elsewhere.
            let text = text.replace("=/usr/bin/certgate", &format!("={}/certgate", programs.display()));
            fs::write(dir.path().join(unit), change(text)).unwrap();
        }
    };
    copy(&|text| text);
    let verify = || analyze(&["verify", "--man=no"], dir.path(), &units());
    assert_eq!(verify(), (true, String::new()));
    // It would have been seen.
    copy(&|text| text.replace("NoNewPrivileges=", "NoNewPrivilege="));
    assert!(verify().1.contains("NoNewPrivilege"), "{:?}", verify());
}

#[test]
fn each_service_is_fenced_in_as_far_as_is_said() {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd"));
    let mut services: Vec<_> = units().into_iter().filter(|unit| unit.ends_with(".service")).collect();
    services.sort();
    assert_eq!(services, EXPOSURE.map(|(unit, _)| unit));
    let told = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/units.md")).unwrap();
    for (unit, most) in EXPOSURE {
        let threshold = format!("--threshold={most}");
        let judged = analyze(&["security", "--offline=yes", "--no-pager", &threshold], dir, &[unit.to_owned()]);
        assert!(judged.0, "{}", judged.1);
        let (whole, tenth) = (most.parse::<u32>().unwrap() / 10, most.parse::<u32>().unwrap() % 10);
        assert!(
            told.contains(&format!("| `{unit}` | {whole}.{tenth} |")),
            "docs/units.md does not say {most} of {unit}"
        );
    }
}
