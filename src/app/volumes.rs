//! Volumes.

use super::{
    core::{App, Asker, Decided},
    error::AppError,
    resources::{NewVolume, change_volume, create_volume, volume_named},
};
use crate::{
    domain::{Directory, MountPath, Mutation, ProjectPath, Size, Volume, VolumeName},
    policy::{Action, Caller, Denial, Grant, Reason},
    store::Ledger,
};
use std::sync::Arc;

impl App {
    /// Creates a volume in a project.
    ///
    /// # Errors
    /// Refused, the name or the place is taken, or not durable.
    pub async fn create_volume(
        self: &Arc<Self>,
        asker: &Asker,
        path: ProjectPath,
        new: NewVolume,
    ) -> Result<(), AppError> {
        let object = format!("{path} {}", new.name);
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, now| {
            let detail = format!("{} at {}", new.size, new.mount);
            let mutation = create_volume(ledger.directory, grant.project()?.0, new, now)?;
            Ok(Decided { detail, ..Decided::one(mutation, ()) })
        };
        self.change(asker, Action::VolumeCreate, Some(&path), object, decide).await?;
        Ok(())
    }

    /// A volume, before it is changed.
    ///
    /// # Errors
    /// The asker may not change it, or it is not there.
    pub async fn preview_volume_change(
        self: &Arc<Self>,
        asker: &Asker,
        path: &ProjectPath,
        name: &VolumeName,
    ) -> Result<Arc<Volume>, AppError> {
        let look = |directory: &Directory, _: &Caller, grant: &Grant| {
            volume_named(directory, grant.project()?.0, name).cloned()
        };
        self.preview(asker, Action::VolumeUpdate, Some(path), format!("{path} {name}"), look).await
    }

    /// Gives a volume another size and place, if it is still as `from` has it.
    ///
    /// # Errors
    /// Refused, somebody else has changed it meanwhile, the place is taken, or not durable.
    pub async fn change_volume(
        self: &Arc<Self>,
        asker: &Asker,
        path: ProjectPath,
        from: Arc<Volume>,
        size: Size,
        mount: MountPath,
    ) -> Result<(), AppError> {
        let object = format!("{path} {}", from.name);
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, _| {
            let project = grant.project()?.0;
            let volume = volume_named(ledger.directory, project, &from.name)?;
            if **volume != *from {
                let text = format!(
                    "somebody else has changed the volume {} meanwhile, to {} at {}; nothing was changed. Try again",
                    volume.name, volume.size, volume.mount
                );
                return Err(Denial::plain(Reason::Conflict, text));
            }
            let detail = format!("from {} at {} to {size} at {mount}", volume.size, volume.mount);
            Ok(match change_volume(ledger.directory, project, volume, size, mount)? {
                None => Decided::nothing(detail, ()),
                Some(mutation) => Decided { detail, ..Decided::one(mutation, ()) },
            })
        };
        self.change(asker, Action::VolumeUpdate, Some(&path), object, decide).await?;
        Ok(())
    }

    /// The volume that would be deleted.
    ///
    /// # Errors
    /// The asker may not delete it, or it is not there.
    pub async fn preview_volume_deletion(
        self: &Arc<Self>,
        asker: &Asker,
        path: &ProjectPath,
        name: &VolumeName,
    ) -> Result<Arc<Volume>, AppError> {
        let look = |directory: &Directory, _: &Caller, grant: &Grant| {
            volume_named(directory, grant.project()?.0, name).cloned()
        };
        self.preview(asker, Action::VolumeDelete, Some(path), format!("{path} {name}"), look).await
    }

    /// Deletes a volume.
    ///
    /// # Errors
    /// Refused, no such volume, or not durable.
    pub async fn delete_volume(
        self: &Arc<Self>,
        asker: &Asker,
        path: ProjectPath,
        name: VolumeName,
    ) -> Result<(), AppError> {
        let object = format!("{path} {name}");
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, now| {
            let volume = volume_named(ledger.directory, grant.project()?.0, &name)?.id;
            Ok(Decided::one(Mutation::VolumeDeleted { volume, at: now }, ()))
        };
        self.change(asker, Action::VolumeDelete, Some(&path), object, decide).await?;
        Ok(())
    }
}
