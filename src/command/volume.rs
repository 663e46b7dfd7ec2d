//! `volume …`.

use super::{
    Context, Stop,
    cluster::{request, state},
    reply::{Reply, table},
    table::Cell,
};
use crate::{
    app::{NewVolume, VolumeView},
    domain::{MountPath, ProjectPath, Size, VolumeName},
};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the volumes of all your projects
    #[command(after_help = "volume list")]
    List,
    /// Show all about a volume
    #[command(after_help = "volume show acme/ml-training training-data")]
    Show {
        /// In which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
        /// Which
        name: VolumeName,
    },
    /// Create a volume in a project
    #[command(after_help = "volume create acme/ml-training training-data --size 10T")]
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
    /// Give a volume another size or place; what is not named stays
    #[command(after_help = "volume update acme/ml-training training-data --size 20T")]
    Update {
        /// In which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
        /// Which
        name: VolumeName,
        /// How large it is to be, such as 500G or 10T (powers of 1024)
        #[arg(long, required_unless_present = "mount")]
        size: Option<Size>,
        /// Where nodes are to mount it
        #[arg(long, value_name = "PATH")]
        mount: Option<MountPath>,
        /// Without asking, also when it becomes smaller or moves
        #[arg(long)]
        yes: bool,
    },
    /// Ask the site's machinery about a volume again, now
    #[command(after_help = "volume retry acme/ml-training training-data")]
    Retry {
        /// In which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
        /// Which
        name: VolumeName,
    },
    /// Delete a volume
    #[command(after_help = "volume delete acme/ml-training training-data")]
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
                let cells = [
                    volume.volume.to_string(),
                    volume.project.to_string(),
                    volume.size.to_string(),
                    volume.mount.to_string(),
                    volume.created.for_people(),
                ];
                let [name, project, size, mount, created] = cells.map(Cell::from);
                vec![name, project, size, mount, state(&volume.state), created]
            });
            let headers = ["VOLUME", "PROJECT", "SIZE", "MOUNT", "STATE", "SINCE"];
            let text = table(&headers, rows.collect(), context.screen(), "No volumes yet.");
            Ok(Reply::data(&volumes, text))
        }
        Command::Show { project, name } => {
            let details = context.app.volume(context.asker, &project, &name)?;
            let VolumeView { volume, project, size, mount, state, created } = &details.view;
            let created = created.for_people();
            let text = format!("{volume}, a volume of {project}: {size} at {mount}, since {created}\nState: {state}\n");
            let request = request(details.request.as_ref(), context.app.now());
            Ok(Reply::data(&details, text + &request))
        }
        Command::Create { project, name, size, mount } => {
            let mount = match mount {
                Some(mount) => mount,
                None => format!("/mnt/{name}").parse().map_err(|error: &str| Stop::Refused(error.to_owned()))?,
            };
            let new = NewVolume { name: name.clone(), size, mount: mount.clone() };
            context.app.create_volume(context.asker, project.clone(), new).await?;
            let sentence = format!("created volume {name} in {project}: {size} at {mount}");
            let data = json!({ "volume": name, "project": project, "size": size, "mount": mount });
            Ok(Reply::done(&data, sentence))
        }
        Command::Update { project, name, size, mount, yes } => {
            let from = context.app.preview_volume_change(context.asker, &project, &name).await?;
            let (size, mount) = (size.unwrap_or(from.size), mount.unwrap_or_else(|| from.mount.clone()));
            let changed = format!("{} at {} → {size} at {mount}", from.size, from.mount);
            let data = json!({ "volume": name, "project": project, "size": size, "mount": mount });
            if (size, &mount) == (from.size, &from.mount) {
                return Ok(Reply::done(&data, format!("the volume {name} of {project} is {size} at {mount} already")));
            }
            if size < from.size || mount != from.mount {
                context.confirm(yes, || format!("Change the volume {name} of {project}? {changed}."))?;
            }
            context.app.change_volume(context.asker, project.clone(), from, size, mount).await?;
            Ok(Reply::done(&data, format!("changed volume {name} of {project}: {changed}")))
        }
        Command::Retry { project, name } => {
            context.app.retry_volume(context.asker, &project, name.clone()).await?;
            let sentence = format!("the site's machinery is asked about volume {name} of {project} again");
            Ok(Reply::done(&json!({ "volume": name, "project": project }), sentence))
        }
        Command::Delete { project, name, yes } => {
            let volume = context.app.preview_volume_deletion(context.asker, &project, &name).await?;
            context.confirm(yes, || {
                format!("Delete the volume {name} of {project}, {} at {}?", volume.size, volume.mount)
            })?;
            context.app.delete_volume(context.asker, project.clone(), name.clone()).await?;
            let sentence = format!("deleted volume {name} of {project}");
            Ok(Reply::done(&json!({ "volume": name, "project": project }), sentence))
        }
    }
}
