//! What the benchmarks share: a place on a real disk, an authority's process on it, the clock, and the rows of the table.

// Each benchmark uses its own part of this.
#![allow(dead_code)]
// Rows are what a benchmark is run for; and one that meets an error has failed.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

pub mod authority;
pub mod client;
pub mod disk;
pub mod gateway;
pub mod jump;
pub mod report;
pub mod sshd;
pub mod world;

use std::time::{Duration, Instant};

/// Whether it is `cargo bench` that runs this, and not a test runner that looks for tests in every target: measuring
/// takes a quiet machine and minutes, so it is done only when it was asked for.
pub fn asked_for() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Whether a part of a benchmark is to be run: all are, but when words are given by hand, as in
/// `cargo bench --bench forward -- chacha20`, those that have one in their names.
pub fn wanted(name: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).peekable();
    words.peek().is_none() || words.any(|word| name.contains(&word))
}

/// Rounds of what is measured, each beside its peers: medians of these are what is reported.
pub const ROUNDS: usize = 7;

/// Says on standard error how far it is.
pub fn progress(what: &str) {
    use std::io::Write;
    // Nobody reading is no reason to stop.
    let _ = writeln!(std::io::stderr(), "  {what}");
}

/// The value in the middle, of a number of measurements.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that a share of the measurements does not exceed (nearest rank).
pub fn quantile(values: &[f64], share: f64) -> f64 {
    assert!(!values.is_empty(), "nothing was measured");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[rank]
}

/// How long something takes, in seconds, and what it gives.
pub fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begun = Instant::now();
    let given = work();
    (begun.elapsed().as_secs_f64(), given)
}

/// The unit of times in `/proc` (`USER_HZ`): part of the kernel's interface, and not its real clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// The processor time, in seconds, that a process has used: its own code and the kernel's for it (proc(5), `stat`).
pub fn cpu_seconds(pid: u32) -> f64 {
    ticks(pid, 11..13)
}

/// The same with that of its children, and of theirs, that have ended and were waited for.
pub fn cpu_seconds_with_children(pid: u32) -> f64 {
    ticks(pid, 11..15)
}

fn ticks(pid: u32, fields: std::ops::Range<usize>) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, in parentheses, may hold anything.
    let all: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u32 = all[fields].iter().map(|field| field.parse::<u32>().unwrap()).sum();
    f64::from(ticks) / TICKS_PER_SECOND
}

/// Memory of a process in MB (10^6 bytes): resident, and its proportional share (proc(5), `smaps_rollup`).
pub fn memory(pid: u32) -> (f64, f64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let kib = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (kib("Rss:") * 1024.0 / 1e6, kib("Pss:") * 1024.0 / 1e6)
}

/// The most that a process ever had in memory, in MB (RSS; VmHWM of proc_pid_status(5)).
pub fn peak_memory(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
}

/// Numbers that look random and are the same in every run (splitmix64).
#[derive(Clone, Debug)]
pub struct Numbers(pub u64);

impl Numbers {
    /// The next one.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next one below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next().to_le_bytes()[0])
    }
}

/// In microseconds.
pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
