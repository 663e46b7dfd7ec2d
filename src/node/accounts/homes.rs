//! Home directories, made with the accounts.

use super::UserRecords;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown, symlink},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// The most that a skeleton can have, in files and directories; what goes further is a mistake, not a skeleton.
const MAX_ENTRIES: usize = 1000;

/// How deep it can go.
const MAX_DEPTH: usize = 16;

/// A home directory could not be made.
#[derive(Debug, Error)]
pub enum HomeError {
    /// Something could not be made or read.
    #[error("{}: {why}", .path.display())]
    File {
        /// What.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// Others could put something in the way.
    #[error("{}: it does not belong to root, or others can write to it; no home directory is made there", .0.display())]
    Open(PathBuf),
    /// The skeleton is none.
    #[error("{}: more than {MAX_ENTRIES} files, or deeper than {MAX_DEPTH}: not a skeleton of a home directory", .0.display())]
    Skeleton(PathBuf),
}

fn at(path: &Path) -> impl Fn(io::Error) -> HomeError {
    move |why| HomeError::File { path: path.to_owned(), why }
}

/// Makes a home directory with the skeleton in it, for its owner only. False if something is there already, whatever it
/// is. It appears whole or not at all: also when it is made twice at once, or on a file system that several machines share.
///
/// # Errors
/// It cannot be made; nothing is left in its place.
pub fn make_home(settings: &UserRecords, name: &str, uid: u32, gid: u32) -> Result<bool, HomeError> {
    let home = settings.homes.join(name);
    if fs::symlink_metadata(&home).is_ok() {
        return Ok(false);
    }
    // What anybody could write to could have a link of theirs where we write as root.
    let above = fs::symlink_metadata(&settings.homes).map_err(at(&settings.homes))?;
    if !above.is_dir() || above.uid() != 0 || above.mode() & 0o022 != 0 {
        return Err(HomeError::Open(settings.homes.clone()));
    }
    let temporary = settings.homes.join(format!(".{name}.{}.new", std::process::id()));
    match fs::remove_dir_all(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&temporary)(error)),
        _ => {}
    }
    let made = fill(settings, &temporary, uid, gid).and_then(|()| place(&temporary, &home));
    if !matches!(made, Ok(true)) {
        // Nothing more can be done about what does not go; the next one begins with it.
        let _ = fs::remove_dir_all(&temporary);
    }
    made
}

fn fill(settings: &UserRecords, temporary: &Path, uid: u32, gid: u32) -> Result<(), HomeError> {
    fs::DirBuilder::new().mode(0o700).create(temporary).map_err(at(temporary))?;
    if settings.skeleton.is_dir() {
        let mut left = MAX_ENTRIES;
        copy(settings, &settings.skeleton, temporary, (uid, gid), MAX_DEPTH, &mut left)?;
    }
    // Last: until here nobody but root can come into it.
    fs::set_permissions(temporary, fs::Permissions::from_mode(0o700)).map_err(at(temporary))?;
    lchown(temporary, Some(uid), Some(gid)).map_err(at(temporary))
}

fn copy(
    settings: &UserRecords,
    from: &Path,
    to: &Path,
    owner: (u32, u32),
    depth: usize,
    left: &mut usize,
) -> Result<(), HomeError> {
    let too_large = || HomeError::Skeleton(settings.skeleton.clone());
    let depth = depth.checked_sub(1).ok_or_else(too_large)?;
    for entry in fs::read_dir(from).map_err(at(from))? {
        *left = left.checked_sub(1).ok_or_else(too_large)?;
        let from = entry.map_err(at(from))?.path();
        let to = to.join(from.file_name().unwrap_or_default());
        let meta = fs::symlink_metadata(&from).map_err(at(&from))?;
        if meta.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(&to).map_err(at(&to))?;
            copy(settings, &from, &to, owner, depth, left)?;
        } else if meta.is_symlink() {
            symlink(fs::read_link(&from).map_err(at(&from))?, &to).map_err(at(&to))?;
        } else if meta.is_file() {
            fs::copy(&from, &to).map_err(at(&to))?;
        } else {
            // A socket or a device is nothing that one has at home.
            continue;
        }
        if !meta.is_symlink() {
            // Never with somebody else's rights (set-user-ID and its like).
            fs::set_permissions(&to, fs::Permissions::from_mode(meta.mode() & 0o777)).map_err(at(&to))?;
        }
        lchown(&to, Some(owner.0), Some(owner.1)).map_err(at(&to))?;
    }
    Ok(())
}

/// False if somebody else was first.
fn place(temporary: &Path, home: &Path) -> Result<bool, HomeError> {
    match renameat_with(CWD, temporary, CWD, home, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        // A file system that cannot say 'only if there is none' (NFS): a directory takes the place of an empty one only.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => match fs::rename(temporary, home) {
            Ok(()) => Ok(true),
            Err(_) if fs::symlink_metadata(home).is_ok() => Ok(false),
            Err(error) => Err(at(home)(error)),
        },
        Err(error) => Err(at(home)(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path) -> UserRecords {
        fs::create_dir_all(dir.join("skel/.config")).unwrap();
        fs::create_dir(dir.join("home")).unwrap();
        fs::write(dir.join("skel/.profile"), "umask 027\n").unwrap();
        fs::write(dir.join("skel/.config/x"), "x").unwrap();
        fs::set_permissions(dir.join("skel/.config/x"), fs::Permissions::from_mode(0o4755)).unwrap();
        symlink(".profile", dir.join("skel/.bash_profile")).unwrap();
        UserRecords { homes: dir.join("home"), skeleton: dir.join("skel"), ..UserRecords::default() }
    }

    /// Tests that give files away want root.
    fn owner() -> (u32, u32) {
        if rustix::process::geteuid().is_root() { (200_001, 200_000) } else { panic!("run the tests as root") }
    }

    #[test]
    fn a_home_is_made_whole_once_and_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let (uid, gid) = owner();
        assert!(make_home(&settings, "user1", uid, gid).unwrap());
        let home = dir.path().join("home/user1");
        let meta = |path: &str| fs::symlink_metadata(home.join(path)).unwrap();
        assert_eq!(fs::metadata(&home).unwrap().mode() & 0o7777, 0o700);
        for path in [".", ".profile", ".config", ".config/x", ".bash_profile"] {
            assert_eq!((meta(path).uid(), meta(path).gid()), (uid, gid), "{path}");
        }
        assert_eq!(meta(".config/x").mode() & 0o7777, 0o755);
        assert_eq!(fs::read_to_string(home.join(".bash_profile")).unwrap(), "umask 027\n");
        // What is there stays, and nothing lies about.
        fs::write(home.join("work"), "mine").unwrap();
        assert!(!make_home(&settings, "user1", uid, gid).unwrap());
        assert!(home.join("work").exists());
        assert_eq!(fs::read_dir(dir.path().join("home")).unwrap().count(), 1);
    }

    #[test]
    fn where_others_could_meddle_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let (uid, gid) = owner();
        // A link that somebody has laid in the way is something that is there.
        symlink("/etc", dir.path().join("home/user1")).unwrap();
        assert!(!make_home(&settings, "user1", uid, gid).unwrap());
        fs::set_permissions(&settings.homes, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(matches!(make_home(&settings, "user2", uid, gid), Err(HomeError::Open(_))));
        fs::set_permissions(&settings.homes, fs::Permissions::from_mode(0o755)).unwrap();
        let link = UserRecords { homes: dir.path().join("link"), ..settings.clone() };
        symlink("home", &link.homes).unwrap();
        assert!(matches!(make_home(&link, "user2", uid, gid), Err(HomeError::Open(_))));
    }

    #[test]
    fn a_skeleton_without_end_is_refused_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        for n in 0..MAX_ENTRIES {
            fs::write(settings.skeleton.join(n.to_string()), "").unwrap();
        }
        let (uid, gid) = owner();
        assert!(matches!(make_home(&settings, "user1", uid, gid), Err(HomeError::Skeleton(_))));
        assert_eq!(fs::read_dir(&settings.homes).unwrap().count(), 0);
    }
}
