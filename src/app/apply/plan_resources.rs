//! Clusters and volumes of a project.

use super::{
    fields::Said,
    plan::{Planner, Sign},
    read::{DescribedCluster, DescribedProject, DescribedVolume},
};
use crate::{
    app::{
        core::Decided,
        resources::{
            NewCluster, NewVolume, change_volume, configure_cluster, create_cluster, create_volume, scale_cluster,
        },
    },
    domain::{Cluster, ClusterKind, ClusterPath, Document, Mutation, Project, Volume},
    policy::{Action, Denial},
};
use std::{collections::BTreeSet, sync::Arc};

/// How they are called where a difference is shown.
const CLUSTER: &str = "cluster";
const VOLUME: &str = "volume";

fn decided(mutation: Result<Mutation, Denial>, detail: String) -> Result<Decided<()>, Denial> {
    mutation.map(|mutation| Decided { detail, ..Decided::one(mutation, ()) })
}

impl Planner<'_> {
    pub(super) fn clusters(&mut self, described: &DescribedProject, project: &Project) {
        for cluster in &described.clusters {
            let org = described.path.value.org.clone();
            let path = ClusterPath { cluster: cluster.name.value.clone(), org };
            match self.directory.cluster_at(&path).cloned() {
                None => self.create(described, cluster, &path, project),
                Some(known) if known.project == project.id => self.bring(cluster, &path, &known),
                Some(known) => {
                    let other = self.directory.project(known.project);
                    let other = other.and_then(|other| self.directory.path_of_project(other));
                    let other = other.map(|path| path.to_string()).unwrap_or_default();
                    let text = format!("{path} belongs to {other}; a cluster cannot be moved to another project");
                    self.problems.add(cluster.name.line, text);
                }
            }
        }
        if !self.how.prune {
            return;
        }
        let listed: BTreeSet<_> = described.clusters.iter().map(|cluster| &cluster.name.value).collect();
        let gone: Vec<Arc<Cluster>> =
            self.directory.clusters_of(project.id).filter(|c| !listed.contains(&c.name)).cloned().collect();
        for cluster in gone {
            let name = format!("{}.{}", cluster.name, described.path.value.org);
            let deleted = Mutation::ClusterDeleted { cluster: cluster.id, at: self.how.now, by: self.how.by.clone() };
            let what = (Action::ClusterDelete, Sign::Remove);
            if self.step(described.line, what, name.clone(), Ok(Decided::one(deleted, ()))).is_some() {
                self.difference.section(Sign::Remove, CLUSTER, &name);
            }
        }
    }

    /// A cluster that is new, if what is said of it is enough.
    pub(super) fn new_cluster(&mut self, described: &DescribedCluster) -> Option<NewCluster> {
        let DescribedCluster { line, name, kind, nodes, .. } = described;
        if kind.is_nothing() {
            self.problems.add(*line, format!("the cluster {} is new: it needs a `kind`", name.value));
        }
        let kind = kind.get()?;
        let document = self.document(described, kind.value)?;
        let wanted = nodes.get().map(|nodes| nodes.value).unwrap_or_default();
        Some(NewCluster { name: name.value.clone(), kind: kind.value, document: document.unwrap_or_default(), wanted })
    }

    /// The configuration, if one is described; nothing at all if it does not fit.
    fn document(&mut self, described: &DescribedCluster, kind: ClusterKind) -> Option<Option<Document>> {
        let Some(configuration) = described.configuration.get() else { return Some(None) };
        match Document::parse(&configuration.value, kind) {
            Ok(document) => Some(Some(document)),
            Err(error) => {
                self.problems.add(configuration.line, error.to_string());
                None
            }
        }
    }

    fn create(&mut self, project: &DescribedProject, described: &DescribedCluster, path: &ClusterPath, into: &Project) {
        let Some(new) = self.new_cluster(described) else { return };
        let (kind, wanted) = (new.kind, new.wanted);
        let text: Arc<str> = new.document.text().into();
        let mutation = create_cluster(&self.directory, into, new, self.how.now);
        let decided = decided(mutation, format!("{kind}, wanted: {wanted}"));
        let (what, object) = ((Action::ClusterCreate, Sign::Add), format!("{} {path}", project.path.value));
        if self.step(described.name.line, what, object, decided).is_none() {
            return;
        }
        let name = path.to_string();
        self.difference.section(Sign::Add, CLUSTER, &name);
        for (what, value) in [("project", project.path.value.to_string()), ("kind", kind.to_string())] {
            self.difference.entry(CLUSTER, &name, Sign::Add, what, value);
        }
        if wanted.total() > 0 {
            self.difference.entry(CLUSTER, &name, Sign::Add, "nodes", wanted.to_string());
        }
        if !text.is_empty() {
            self.difference.document(CLUSTER, &name, Arc::from(""), text);
        }
    }

    /// Brings a cluster to what is described; what is not described stays.
    fn bring(&mut self, described: &DescribedCluster, path: &ClusterPath, cluster: &Cluster) {
        let name = path.to_string();
        if let Some(kind) = described.kind.get().filter(|kind| kind.value != cluster.kind) {
            let text = format!("the kind of {path} is {}, which cannot be changed", cluster.kind);
            self.problems.add(kind.line, text);
            return;
        }
        let line = described.configuration.get().map_or(described.line, |configuration| configuration.line);
        if let Some(Some(document)) = self.document(described, cluster.kind) {
            let (before, after) = (Arc::from(cluster.document.text()), Arc::from(document.text()));
            let mutation = configure_cluster(&self.directory, cluster, document, self.how.now).transpose();
            let detail = format!("revision {}", cluster.revision + 1);
            let what = (Action::ClusterUpdate, Sign::Change);
            if let Some(mutation) = mutation
                && self.step(line, what, name.clone(), decided(mutation, detail)).is_some()
            {
                self.difference.document(CLUSTER, &name, before, after);
            }
        }
        let Some(nodes) = described.nodes.get() else { return };
        if let Some(mutation) = scale_cluster(cluster, nodes.value) {
            let (from, to) = (cluster.wanted, nodes.value);
            let decided = decided(Ok(mutation), format!("from {from} to {to}"));
            if self.step(nodes.line, (Action::ClusterScale, Sign::Change), name.clone(), decided).is_some() {
                self.difference.entry(CLUSTER, &name, Sign::Change, "nodes", format!("{from} → {to}"));
            }
        }
    }

    pub(super) fn volumes(&mut self, described: &DescribedProject, project: &Project) {
        let path = &described.path.value;
        let object = |volume: &crate::domain::VolumeName| format!("{path} {volume}");
        // What goes is first: it gives its place free.
        let listed: BTreeSet<_> = described.volumes.iter().map(|volume| &volume.name.value).collect();
        let gone = |volume: &&Arc<Volume>| self.how.prune && !listed.contains(&volume.name);
        let gone: Vec<Arc<Volume>> = self.directory.volumes_of(project.id).filter(gone).cloned().collect();
        for volume in gone {
            let name = object(&volume.name);
            let deleted = Mutation::VolumeDeleted { volume: volume.id, at: self.how.now };
            let what = (Action::VolumeDelete, Sign::Remove);
            if self.step(described.line, what, name.clone(), Ok(Decided::one(deleted, ()))).is_some() {
                self.difference.section(Sign::Remove, VOLUME, &name);
            }
        }
        for volume in &described.volumes {
            let name = object(&volume.name.value);
            if let Some(known) = self.directory.volume_named(project.id, &volume.name.value).cloned() {
                self.change_volume(volume, &known, project, &name);
                continue;
            }
            let Some(new) = self.new_volume(volume) else { continue };
            let (size, mount) = (new.size, new.mount.to_string());
            let line = volume.mount.get().map_or(volume.line, |mount| mount.line);
            let decided =
                decided(create_volume(&self.directory, project, new, self.how.now), format!("{size} at {mount}"));
            if self.step(line, (Action::VolumeCreate, Sign::Add), name.clone(), decided).is_some() {
                self.difference.section(Sign::Add, VOLUME, &name);
                self.difference.entry(VOLUME, &name, Sign::Add, "size", size.to_string());
                self.difference.entry(VOLUME, &name, Sign::Add, "mount", mount);
            }
        }
    }

    /// A volume that is new, if what is said of it is enough.
    pub(super) fn new_volume(&mut self, described: &DescribedVolume) -> Option<NewVolume> {
        let DescribedVolume { line, name, size, mount } = described;
        if size.is_nothing() {
            self.problems.add(*line, format!("the volume {} is new: it needs a `size`", name.value));
        }
        let size = size.get()?;
        let mount = match mount {
            Said::This(mount) => mount.value.clone(),
            // As the command has it.
            Said::Nothing => format!("/mnt/{}", name.value).parse().ok()?,
            Said::Nonsense => return None,
        };
        Some(NewVolume { name: name.value.clone(), size: size.value, mount })
    }

    /// Brings a volume to what is described; what is not described stays.
    fn change_volume(&mut self, described: &DescribedVolume, volume: &Volume, project: &Project, name: &str) {
        let size = described.size.get().map_or(volume.size, |size| size.value);
        let mount = described.mount.get().map_or_else(|| volume.mount.clone(), |mount| mount.value.clone());
        let line = described.mount.get().map_or(described.line, |mount| mount.line);
        let detail = format!("from {} at {} to {size} at {mount}", volume.size, volume.mount);
        let changed = change_volume(&self.directory, project, volume, size, mount.clone()).transpose();
        let what = (Action::VolumeUpdate, Sign::Change);
        let Some(changed) = changed else { return };
        if self.step(line, what, name.to_owned(), decided(changed, detail)).is_none() {
            return;
        }
        if size != volume.size {
            self.difference.entry(VOLUME, name, Sign::Change, "size", format!("{} → {size}", volume.size));
        }
        if mount != volume.mount {
            self.difference.entry(VOLUME, name, Sign::Change, "mount", format!("{} → {mount}", volume.mount));
        }
    }
}
