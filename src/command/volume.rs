//! `volume …`.

use super::{
    Context, Stop,
    reply::{Reply, table},
};
use crate::domain::{MountPath, ProjectPath, Size, VolumeName};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the volumes of all your projects
    List,
    /// Create a volume in a project
    Create {
        /// In which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
        /// Its name
        name: VolumeName,
        /// How large it is, such as 500G or 10T (powers of 1024)
        #[arg(long)]
        size: Size,
        /// Where nodes mount it; /mnt/NAME if not said
        #[arg(long, value_name = "PATH")]
        mount: Option<MountPath>,
    },
    /// Delete a volume from the directory
    Delete {
        /// In which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
        /// Which
        name: VolumeName,
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::List => {
            let volumes = context.app.volumes(context.asker)?;
            let rows = volumes.iter().map(|volume| {
                vec![
                    volume.volume.clone(),
                    volume.project.to_string(),
                    volume.size.to_string(),
                    volume.mount.to_string(),
                    volume.created.for_people(),
                ]
            });
            let text = table(
                &["VOLUME", "PROJECT", "SIZE", "MOUNT", "SINCE"],
                rows.collect(),
                context.screen(),
                "No volumes yet.",
            );
            Ok(Reply::data(&volumes, text))
        }
        Command::Create { project, name, size, mount } => {
            let mount = match mount {
                Some(mount) => mount,
                None => format!("/mnt/{name}").parse().map_err(|error: &str| Stop::Refused(error.to_owned()))?,
            };
            context.app.create_volume(context.asker, project.clone(), name.clone(), size, mount.clone()).await?;
            let sentence = format!("created volume {name} in {project}: {size} at {mount}");
            let data = json!({ "volume": name, "project": project, "size": size, "mount": mount });
            Ok(Reply::done(&data, sentence))
        }
        Command::Delete { project, name, yes } => {
            context.app.preview_volume_deletion(context.asker, &project, &name).await?;
            context.confirm(yes, || format!("Delete the volume {name} of {project}?"))?;
            context.app.delete_volume(context.asker, project.clone(), name.clone()).await?;
            let sentence = format!("deleted volume {name} of {project}");
            Ok(Reply::done(&json!({ "volume": name, "project": project }), sentence))
        }
    }
}
