//! Files on a node: read after the descriptor was checked, replaced whole or not at all.

use crate::domain::Timestamp;
use std::{
    fs::{self, File, FileTimes, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use thiserror::Error;

/// A file could not be used.
#[derive(Debug, Error)]
#[error("{}: {why}", .path.display())]
pub struct FileError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub why: io::Error,
}

impl FileError {
    fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        move |why| Self { path: path.to_owned(), why }
    }

    /// There is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.why.kind() == io::ErrorKind::NotFound
    }
}

/// Who may read a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everybody: sshd's helper does not run as root.
    Public,
    /// The owner.
    Private,
}

impl Mode {
    fn bits(self) -> u32 {
        match self {
            Self::Public => 0o644,
            Self::Private => 0o600,
        }
    }
}

/// Reads a file that only its owner, which must be who we are, can have written.
///
/// # Errors
/// It is missing, no regular file, somebody else's, writable by others, or longer than `limit` bytes.
pub fn read(path: &Path, limit: usize) -> Result<Vec<u8>, FileError> {
    read_checked(path, limit).map_err(FileError::at(path))
}

fn read_checked(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to somebody else"));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(io::Error::other("others than its owner can write to it"));
    }
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit { Err(io::Error::other("too long")) } else { Ok(bytes) }
}

/// New content for a file, on disk beside it under another name. Dropped without [`Staged::commit`], it is gone.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    temporary: Option<PathBuf>,
}

impl Staged {
    /// Writes the content and brings it to the disk: a full disk is noticed here, while the old file is still there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(path: &Path, content: &[u8], mode: Mode) -> Result<Self, FileError> {
        Self::write(path, content, mode, true)
    }

    fn write(path: &Path, content: &[u8], mode: Mode, synchronize: bool) -> Result<Self, FileError> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".new");
        let temporary = path.with_file_name(name);
        // What a crash has left. Only one program writes here, and only its user can.
        let _ = fs::remove_file(&temporary);
        let staged = Self { path: path.to_owned(), temporary: Some(temporary.clone()) };
        write_new(&temporary, content, mode, synchronize).map_err(FileError::at(path))?;
        Ok(staged)
    }

    /// Lets it be as old as this.
    ///
    /// # Errors
    /// The file system does not let it.
    pub fn dated(self, at: Timestamp) -> Result<Self, FileError> {
        if let Some(temporary) = &self.temporary {
            set_modified(temporary, at)?;
        }
        Ok(self)
    }

    /// Puts it in the file's place.
    ///
    /// # Errors
    /// The directory does not let it; the old file is there still.
    pub fn commit(mut self) -> Result<(), FileError> {
        let Some(temporary) = self.temporary.take() else { return Ok(()) };
        let moved = fs::rename(&temporary, &self.path).and_then(|()| sync_directory(&self.path));
        if moved.is_err() {
            self.temporary = Some(temporary);
        }
        moved.map_err(FileError::at(&self.path))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing more can be done about a file that does not go; the next one written takes its place.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn write_new(path: &Path, content: &[u8], mode: Mode, synchronize: bool) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    file.write_all(content)?;
    // Whatever the umask is.
    file.set_permissions(fs::Permissions::from_mode(mode.bits()))?;
    if synchronize { file.sync_all() } else { Ok(()) }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// When a file was last modified, in whole seconds; none if it is missing.
#[must_use]
pub fn modified(path: &Path) -> Option<Timestamp> {
    let secs = fs::symlink_metadata(path).ok()?.mtime();
    Some(Timestamp::from_secs(u64::try_from(secs).unwrap_or(0)))
}

/// Says when a file was last modified, in whole seconds. Takes no room on the disk.
///
/// # Errors
/// It is missing, not a regular file, or the file system does not let it.
pub fn set_modified(path: &Path, at: Timestamp) -> Result<(), FileError> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let time: SystemTime = UNIX_EPOCH + Duration::from_secs(at.secs());
    let set = || {
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        file.set_times(FileTimes::new().set_modified(time))
    };
    set().map_err(FileError::at(path))
}

/// Replaces a file whole.
///
/// # Errors
/// It cannot be written or moved into place; the old file is there still.
pub fn replace(path: &Path, content: &[u8], mode: Mode) -> Result<(), FileError> {
    Staged::new(path, content, mode)?.commit()
}

/// Replaces a file whole, as far as this start of the machine is concerned: what is written may be lost, or be half
/// there, after the next one. For what is worth nothing then.
///
/// # Errors
/// It cannot be written or moved into place; the old file is there still.
pub fn replace_unsynchronized(path: &Path, content: &[u8], mode: Mode) -> Result<(), FileError> {
    let staged = Staged::write(path, content, mode, false)?;
    let temporary = staged.temporary.as_deref().unwrap_or(path);
    fs::rename(temporary, path).map_err(FileError::at(path))
}

/// Makes a directory, with those above it, that everybody may look into and only its owner may change, whatever the
/// umask is. One that is there already stays as it is.
///
/// # Errors
/// It cannot be made.
pub fn make_directory(path: &Path) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    let made = fs::create_dir_all(path).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
    made.map_err(FileError::at(path))
}

/// Removes a file that may be missing.
///
/// # Errors
/// It is there and stays.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::at(path)(error)),
        _ => sync_directory(path).map_err(FileError::at(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        replace(&path, b"one", Mode::Private).unwrap();
        replace(&path, b"two", Mode::Public).unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        drop(Staged::new(&path, b"three", Mode::Public).unwrap());
        assert_eq!(read(&path, 3).unwrap(), b"two");
        replace_unsynchronized(&path, b"six", Mode::Private).unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"six");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_could_have_written_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        replace(&path, b"one", Mode::Public).unwrap();
        assert!(read(&path, 2).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        assert!(read(&path, 3).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read(&link, 3).is_err());
        assert!(read(dir.path(), 3).is_err());
    }
}
