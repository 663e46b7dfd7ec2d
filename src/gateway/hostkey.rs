//! The host key's file: made once, never replaced, readable by its owner alone.

use rustix::fs::{FileType, Mode, OFlags, fstat, fsync, open, rename, unlink};
use ssh_key::{LineEnding, PrivateKey, private::Ed25519Keypair};
use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
};
use thiserror::Error;
use zeroize::Zeroizing;

/// Why there is no host key.
#[derive(Debug, Error)]
pub enum HostKeyError {
    /// Reading or writing failed.
    #[error("{path}: {what}")]
    File {
        /// The file.
        path: PathBuf,
        /// What failed.
        what: String,
    },
    /// Others could read it, so it is no secret any more.
    #[error(
        "{path}: mode {mode:o} lets others read the host key; it must be 0600. If nobody else could read it: chmod 600 {path}"
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no key that can be used.
    #[error("the host key cannot be used: {0}")]
    Unusable(String),
}

/// Larger files are no ed25519 key.
const MAX_BYTES: u64 = 64 * 1024;

/// Reads the host key, or makes an ed25519 key from `seed` (32 random bytes) if there is no file yet. A file that is
/// not regular, or that others may read, is refused, not repaired.
///
/// # Errors
/// The file cannot be read or written, or must not be used.
pub fn load_or_make_host_key(path: &Path, seed: impl FnOnce() -> [u8; 32]) -> Result<PrivateKey, HostKeyError> {
    let failed = |what: std::io::Error| HostKeyError::File { path: path.to_owned(), what: what.to_string() };
    match open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK, Mode::empty()) {
        Ok(fd) => read(path, File::from(fd)),
        Err(rustix::io::Errno::NOENT) => {
            let seed = Zeroizing::new(seed());
            let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
            write(path, &key).map_err(failed)?;
            Ok(key)
        }
        Err(e) => Err(failed(e.into())),
    }
}

fn read(path: &Path, file: File) -> Result<PrivateKey, HostKeyError> {
    let failed = |what: String| HostKeyError::File { path: path.to_owned(), what };
    // The descriptor is checked, not the name: nothing can be swapped in between.
    let stat = fstat(&file).map_err(|e| failed(e.to_string()))?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(failed("not a regular file".into()));
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        return Err(HostKeyError::Mode { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(|e| failed(e.to_string()))?;
    let key = PrivateKey::from_openssh(text.as_str()).map_err(|e| failed(e.to_string()))?;
    if key.is_encrypted() {
        return Err(failed("the key has a passphrase; a host key must have none".into()));
    }
    if key.algorithm() != ssh_key::Algorithm::Ed25519 {
        return Err(failed(format!("the key is {}; a gateway's host key is ssh-ed25519", key.algorithm())));
    }
    Ok(key)
}

fn write(path: &Path, key: &PrivateKey) -> std::io::Result<()> {
    let text = key.to_openssh(LineEnding::LF).map_err(std::io::Error::other)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = folder.join(name);
    // What a crash left behind was never in use.
    let _ = unlink(&temporary);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(open(&temporary, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    rename(&temporary, path)?;
    let folder = open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    fsync(folder)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_host_key_is_made_once_and_refused_when_others_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let made = load_or_make_host_key(&path, || [3; 32]).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        let again = load_or_make_host_key(&path, || panic!("the key is there")).unwrap();
        assert_eq!(made.public_key(), again.public_key());

        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(load_or_make_host_key(&link, || [4; 32]).is_err());
        assert!(load_or_make_host_key(dir.path(), || [4; 32]).is_err());

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load_or_make_host_key(&path, || [4; 32]), Err(HostKeyError::Mode { mode: 0o640, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "damaged").unwrap();
        assert!(load_or_make_host_key(&path, || panic!("never a new key over an old file")).is_err());
    }
}
