//! The helper, from exec to exit: sshd waits for it on every login. The real program, linked statically as it is shipped,
//! beside programs that do nothing; and how many instructions it takes for a few logins and for many.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that meets an error has failed")]

mod support;

use certgate::{
    bundle::{Bundle, DeniedKey, DeniedSerial, FORMAT, Login, compile},
    domain::{Fingerprint, Role, Serial, Timestamp, Uid, Version},
    node::helper::notice::SOCKET,
};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Instant,
};
use support::{
    Numbers, ROUNDS, median, micros, progress, quantile,
    report::{Mark, Unit, note, row},
};
use tempfile::TempDir;

/// Runs of each program, each round, in turn.
const RUNS: usize = 500;
/// How many logins the access tables have.
const SIZES: [u32; 3] = [10, 1_000, 100_000];
/// The logins whose instructions are counted.
const COUNTED: usize = 5;

const CA: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk8sJwgtvJwSAGHSLkJL7gTrZgcoLYZQ+9yCxGwBZ1R";

fn main() {
    if support::asked_for() {
        bench();
    }
}

fn bench() {
    assert!(rustix::process::geteuid().is_root(), "the helper believes root's files only: run this as root");
    let dir = tempfile::tempdir().unwrap();
    progress("linking the programs ...");
    assert!(!is_static(&std::env::current_exe().unwrap()), "this program has a loader");
    let helper = helper(dir.path());
    let in_c = nothing_in_c(dir.path());
    let in_rust = nothing_in_rust(dir.path());
    let tables: Vec<Table> = SIZES.iter().map(|size| Table::new(*size)).collect();

    let mut numbers = Numbers(7);
    let mut all: Vec<(String, Vec<f64>)> = Vec::new();
    let mut medians = vec![Vec::new(); 2 + SIZES.len()];
    for round in 1..=ROUNDS {
        let mut costs = vec![Vec::with_capacity(RUNS); medians.len()];
        for _ in 0..RUNS {
            costs[0].push(cost(Command::new(&in_c)));
            costs[1].push(cost(Command::new(&in_rust)));
            for (table, costs) in tables.iter().zip(&mut costs[2..]) {
                costs.push(cost(table.ask(&helper, table.somebody(&mut numbers))));
            }
        }
        for (of, costs) in medians.iter_mut().zip(&costs) {
            of.push(median(costs));
        }
        progress(&format!(
            "round {round} of {ROUNDS}: nothing {:.0} µs, helper {:.0} µs",
            medians[0][round - 1],
            medians[4][round - 1]
        ));
        for (what, costs) in ["a static program that does nothing", "the helper"].iter().zip([&costs[0], &costs[4]]) {
            all.push(((*what).to_owned(), costs.clone()));
        }
    }
    let of = |what: &str| -> Vec<f64> {
        all.iter().filter(|(name, _)| name == what).flat_map(|(_, costs)| costs.iter().copied()).collect()
    };
    // Each round by itself: what disturbs one disturbs all programs of it.
    let ratio = |of: usize, to: usize| -> f64 {
        median(&medians[of].iter().zip(&medians[to]).map(|(of, to)| of / to).collect::<Vec<_>>())
    };
    row("a static program that does nothing (C)", median(&medians[0]), Unit::Micros, Mark::None);
    row("  99 of 100", quantile(&of("a static program that does nothing"), 0.99), Unit::Micros, Mark::None);
    row("  the same in Rust", median(&medians[1]), Unit::Micros, Mark::None);
    for (size, costs) in SIZES.iter().zip(&medians[2..]) {
        row(&format!("the helper, {size} logins in the table"), median(costs), Unit::Micros, Mark::None);
    }
    row("  99 of 100", quantile(&of("the helper"), 0.99), Unit::Micros, Mark::None);
    row("  beside the program in C", ratio(4, 0), Unit::Times, Mark::AtMost(1.3));
    row("  beside the program in Rust", ratio(4, 1), Unit::Times, Mark::None);

    progress("counting instructions ...");
    let counted: Vec<f64> = tables.iter().map(|table| table.instructions(&helper)).collect();
    for (size, counted) in SIZES.iter().zip(&counted) {
        row(&format!("instructions, {size} logins"), *counted, Unit::Count, Mark::None);
    }
    row("  100,000 beside 10", counted[2] / counted[0], Unit::Times, Mark::AtMost(1.1));
    row("  a program in C that does nothing", instructions(Command::new(&in_c)), Unit::Count, Mark::None);
    row("  the same in Rust", instructions(Command::new(&in_rust)), Unit::Count, Mark::None);
    note(&format!(
        "From before the process is made until it was waited for: medians of {ROUNDS} rounds of {RUNS} runs of each program, \
         in turn; each run asks for another login. Somebody listens where the agent does. Instructions, in user mode, by \
         valgrind, means of {COUNTED} logins. The helper is linked as scripts/build does (static), without link-time optimization."
    ));
}

/// The helper as it is shipped: static.
fn helper(to: &Path) -> PathBuf {
    // Where cargo put the other one. That one is put back in the end, since cargo takes it for what it built.
    let usual = Path::new(env!("CARGO_BIN_EXE_certgate-principals"));
    let linked = to.join("usual");
    fs::copy(usual, &linked).unwrap();
    // As scripts/build does, but with what is compiled already for the benchmarks: their profile (Cargo.toml) under the name
    // of the release's. With its own name cargo would make a test of the helper.
    succeeds(
        Command::new(env!("CARGO"))
            .args(["rustc", "--release", "--locked", "--quiet", "--bin", "certgate-principals"])
            .args(["--", "-C", "target-feature=+crt-static"])
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only")
            .current_dir(env!("CARGO_MANIFEST_DIR")),
    );
    let helper = to.join("certgate-principals");
    fs::copy(usual, &helper).unwrap();
    // Replaced, not written over: another one may be running.
    let put_back = usual.with_extension("usual");
    fs::copy(linked, &put_back).and_then(|_| fs::rename(&put_back, usual)).unwrap_or_else(|error| {
        panic!("{} is static now ({error}): remove it", usual.display());
    });
    assert!(is_static(&helper), "{} is dynamic, as sshd never runs it", helper.display());
    helper
}

/// Whether a program needs no loader (elf(5)): none of its segments names one.
fn is_static(program: &Path) -> bool {
    const PT_INTERP: [u8; 4] = 3_u32.to_le_bytes();
    let bytes = fs::read(program).unwrap();
    assert_eq!(bytes[..6], *b"\x7fELF\x02\x01", "not a program for 64 bits, little end first");
    let number = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let start = usize::try_from(u64::from_le_bytes(bytes[32..40].try_into().unwrap())).unwrap();
    let mut segments = bytes[start..].chunks_exact(number(54)).take(number(56));
    segments.all(|segment| segment[..4] != PT_INTERP)
}

fn nothing_in_c(to: &Path) -> PathBuf {
    let (source, program) = (to.join("nothing.c"), to.join("nothing-c"));
    fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    succeeds(Command::new("cc").args(["-O2", "-static", "-o"]).arg(&program).arg(&source));
    program
}

fn nothing_in_rust(to: &Path) -> PathBuf {
    let (source, program) = (to.join("nothing.rs"), to.join("nothing-rust"));
    fs::write(&source, "fn main() {}\n").unwrap();
    succeeds(Command::new("rustc").args(["-O", "-C", "target-feature=+crt-static", "-o"]).arg(&program).arg(&source));
    program
}

fn succeeds(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// From before the process is made until it was waited for, in µs.
fn cost(mut command: Command) -> f64 {
    command.stdin(Stdio::null()).stdout(Stdio::null()).env_clear();
    let begun = Instant::now();
    let status = command.status().unwrap();
    let cost = micros(begun.elapsed());
    assert!(status.success(), "{status}");
    cost
}

/// How many instructions it takes.
fn instructions(command: Command) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(command.get_program())
        .args(command.get_args())
        .output()
        .unwrap_or_else(|error| panic!("valgrind: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let counted = said.lines().find_map(|line| line.split_once("Collected : ")).unwrap_or_else(|| panic!("{said}")).1;
    counted.trim().parse().unwrap()
}

/// An access table as the agent leaves it, with somebody who listens beside it.
struct Table {
    size: u32,
    dir: TempDir,
}

impl Table {
    fn new(size: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let until = Timestamp::from_secs(1_795_000_300);
        let login = |number: u32| Login {
            name: name(number).parse().unwrap(),
            uid: Uid(10_000 + number),
            role: Role::Member,
            principals: vec![format!("{}@acme/ml", name(number)), format!("{}@acme/ml/h100", name(number))],
        };
        // As many denials as a busy day leaves, whatever the table's size.
        let bundle = Bundle {
            format: FORMAT,
            cluster: "h100.acme".parse().unwrap(),
            version: Version(7),
            issued: Timestamp::from_secs(1_795_000_000),
            logins: (0..size).map(login).collect(),
            groups: vec![],
            shared_logins: vec![],
            leaving: vec![],
            denied_serials: (1..=100).map(|n| DeniedSerial { serial: Serial(1_000_000 + n), until }).collect(),
            denied_keys: (1..=100).map(|n| DeniedKey { key: Fingerprint::from_bytes([n; 32]), until }).collect(),
            user_ca: vec![CA.parse().unwrap()],
            host_ca: vec![],
        };
        let path = dir.path().join("access.table");
        fs::write(&path, compile(&bundle).unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let agent = UnixDatagram::bind(dir.path().join(SOCKET)).unwrap();
        thread::spawn(move || while agent.recv(&mut [0; 256]).is_ok() {});
        Self { size, dir }
    }

    fn somebody(&self, numbers: &mut Numbers) -> u32 {
        u32::try_from(numbers.below(u64::from(self.size))).unwrap()
    }

    fn ask(&self, helper: &Path, number: u32) -> Command {
        let name = name(number);
        let mut command = Command::new(helper);
        command.arg("--table").arg(self.dir.path().join("access.table"));
        command.args([&name, "1", &Fingerprint::from_bytes([0xee; 32]).to_string()]);
        let ca: certgate::domain::PublicKey = CA.parse().unwrap();
        command.args([&ca.fingerprint().to_string(), &name]);
        command
    }

    /// Of an answer that lets somebody in.
    fn instructions(&self, helper: &Path) -> f64 {
        let mut numbers = Numbers(11);
        let counted: Vec<f64> = (0..COUNTED)
            .map(|_| {
                let who = self.somebody(&mut numbers);
                let answer = self.ask(helper, who).output().unwrap();
                let expected = format!("{0}@acme/ml\n{0}@acme/ml/h100\n", name(who));
                assert_eq!(String::from_utf8(answer.stdout).unwrap(), expected);
                instructions(self.ask(helper, who))
            })
            .collect();
        counted.iter().sum::<f64>() / COUNTED as f64
    }
}

fn name(number: u32) -> String {
    format!("user{number:06}")
}
