//! Writing an archive: beside, then under its name, on disk before that.

use super::{ArchiveError, FORMAT, Header, Line, failed, name};
use crate::{
    audit::{Entry, Head, SignedHead},
    domain::PublicKey,
};
use serde::Serialize;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A file that is being written.
pub struct Writer {
    out: BufWriter<File>,
    dir: PathBuf,
    part: PathBuf,
    first: u64,
    last: u64,
}

impl Writer {
    /// Begins a file with the entries after a signed head, or from the first one on. What an earlier attempt has left is
    /// written over.
    ///
    /// # Errors
    /// The directory cannot be made, or the file not be written.
    pub fn new(dir: &Path, key: &PublicKey, start: Option<&SignedHead>) -> Result<Self, ArchiveError> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(dir)(error)),
            _ => {}
        }
        let part = dir.join("audit.part");
        let _ = fs::remove_file(&part);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(failed(&part))?;
        let after = start.map_or(Head::EMPTY, |start| start.head);
        let (out, dir) = (BufWriter::new(file), dir.to_owned());
        let mut writer = Self { out, dir, part, first: after.seq + 1, last: after.seq };
        let signed = start.map(ToString::to_string);
        writer.line(&Header { format: FORMAT, key: key.clone(), after, signed })?;
        Ok(writer)
    }

    /// A signed head, before the entries that it is for.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn signed_head(&mut self, signed: &SignedHead) -> Result<(), ArchiveError> {
        self.line(&Line::Signed { signed: signed.to_string() })
    }

    /// The next entry.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn entry(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        self.last = entry.seq;
        self.line(entry)
    }

    /// Gives it its name, when all of it is on disk.
    ///
    /// # Errors
    /// It cannot be written, or there is a file of that name.
    pub fn finish(self) -> Result<PathBuf, ArchiveError> {
        let Self { out, dir, part, first, last } = self;
        let file = out.into_inner().map_err(|error| failed(&part)(error.into_error()))?;
        file.sync_all().map_err(failed(&part))?;
        let path = dir.join(name(first, last));
        // A link, which never takes the place of another file.
        fs::hard_link(&part, &path).and_then(|()| fs::remove_file(&part)).map_err(failed(&path))?;
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(failed(&dir))?;
        Ok(path)
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), ArchiveError> {
        let written = serde_json::to_writer(&mut self.out, line).map_err(io::Error::from);
        written.and_then(|()| self.out.write_all(b"\n")).map_err(failed(&self.part))
    }
}
