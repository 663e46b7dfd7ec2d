//! Volumes.

use super::{
    core::{App, Asker, Decided},
    error::AppError,
    resources::{NewVolume, create_volume, volume_named},
};
use crate::{
    domain::{Directory, Mutation, ProjectPath, Volume, VolumeName},
    policy::{Action, Caller, Grant},
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
