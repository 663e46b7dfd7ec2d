//! A place on a real disk, and what it costs there to make a write durable.

use super::{median, micros};
use rustix::fs::{fallocate, fdatasync, statfs};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    time::Instant,
};
use tempfile::TempDir;

/// Kinds of file systems that keep nothing (statfs(2)): measuring durability there would measure nothing.
const IN_MEMORY: &[(i64, &str)] = &[(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

/// A directory on disk, removed in the end. Beside what cargo builds: where the project is, unless one says otherwise.
pub fn place() -> TempDir {
    let parent = std::env::var_os("CERTGATE_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let dir = tempfile::Builder::new().prefix("bench").tempdir_in(&parent).unwrap();
    #[allow(clippy::useless_conversion, reason = "the type of f_type differs between architectures")]
    let kind = i64::from(statfs(dir.path()).unwrap().f_type);
    if let Some((_, name)) = IN_MEMORY.iter().find(|(magic, _)| *magic == kind) {
        panic!(
            "{} is a {name}, which keeps nothing: set CERTGATE_BENCH_DIR to a directory on a disk",
            parent.display()
        );
    }
    dir
}

/// One frame of SQLite's write-ahead log: a page, and 24 bytes before it (<https://www.sqlite.org/fileformat.html>, 4.2).
const FRAME: usize = 4096 + 24;

/// Writes and syncs as a commit does.
pub struct Sync {
    file: File,
    end: u64,
}

impl Sync {
    pub fn new(dir: &Path) -> Self {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(dir.join("sync")).unwrap();
        Self { file, end: 0 }
    }

    /// The median cost, in µs, of appending one frame to a file and making it durable.
    pub fn append(&mut self, times: usize) -> f64 {
        self.file.set_len(0).unwrap();
        self.end = 0;
        self.write(times)
    }

    /// The same where the file has its size already, as a write-ahead log has after its first checkpoint.
    pub fn overwrite(&mut self, times: usize) -> f64 {
        fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, (times * FRAME) as u64).unwrap();
        // Once before, so that no block is new.
        self.end = 0;
        self.file.write_all_at(&vec![0; times * FRAME], 0).unwrap();
        self.file.sync_all().unwrap();
        self.write(times)
    }

    fn write(&mut self, times: usize) -> f64 {
        let frame = [0x5a; FRAME];
        let costs: Vec<f64> = (0..times)
            .map(|_| {
                let begun = Instant::now();
                self.file.write_all_at(&frame, self.end).unwrap();
                fdatasync(&self.file).unwrap();
                self.end += FRAME as u64;
                micros(begun.elapsed())
            })
            .collect();
        median(&costs)
    }
}
