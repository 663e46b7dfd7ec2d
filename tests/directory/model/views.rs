//! What can be looked at: what the model says to everybody, and what certgate says, as lines that can be compared. The
//! order of a listing does not count; what is in it does, all of it.

use super::world::{Caller, Model, Reason, cluster_of};
use crate::authority_support::key;
use certgate::app::{App, AppError, Asker};
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc};

/// The lines of an answer, or why there is none.
pub type Seen = Result<BTreeSet<String>, String>;

impl Model {
    /// What it says to words that only look.
    pub fn says(&self, caller: Caller<'_>, words: &[&str]) -> Seen {
        self.known(caller)?;
        Ok(match words {
            ["whoami"] => match caller {
                None => ["operator".to_owned()].into(),
                Some(c) => {
                    let certificate = c.certificate.map_or("-".into(), |number| (number + 1).to_string());
                    let user = user(&c.email);
                    let mut lines = self.clusters_of(caller);
                    lines.insert(format!("{} {user} {} {certificate}", c.email, key(c.key).fingerprint()));
                    lines.extend(self.visible(caller).into_iter().map(|project| self.project(caller, project)));
                    lines
                }
            },
            ["project", "list"] => {
                self.visible(caller).into_iter().map(|project| self.project(caller, project)).collect()
            }
            ["project", "show", project] => {
                self.in_project(caller, project)?;
                [self.project(caller, project)].into()
            }
            ["member", "list", project] => {
                self.in_project(caller, project)?;
                let line = |(email, member): (&String, &super::world::Member)| {
                    let state = if self.people[email].suspended { "suspended" } else { "active" };
                    format!("{email} {} {state} {}", role(member.admin), member.by)
                };
                self.projects[*project].iter().map(line).collect()
            }
            ["cluster", "list"] => self.clusters_of(caller),
            ["volume", "list"] => {
                let visible = self.visible(caller);
                let theirs = self.volumes.iter().filter(|(project, _)| visible.contains(&project));
                theirs.map(|(project, volume)| format!("{volume} {project}")).collect()
            }
            ["node", "list", cluster] => {
                self.in_project(caller, &self.project_of(caller, cluster)?)?;
                let its = self.nodes.iter().filter(|(node, _)| cluster_of(node) == *cluster);
                its.map(|(node, is)| format!("{node} {}", if is.login { "login" } else { "compute" })).collect()
            }
            ["key", "list"] => {
                let owner = &caller.ok_or("invalid")?.email;
                self.keys
                    .iter()
                    .filter(|(_, of)| *of == owner)
                    .map(|(n, _)| key(*n).fingerprint().to_string())
                    .collect()
            }
            ["certificate", "list"] => {
                let own = |email: &str| caller.is_none_or(|c| c.email == email);
                let live = self.certificates.iter().zip(1..).filter(|(c, _)| c.ends > self.now && own(&c.email));
                live.map(|(c, serial)| {
                    let scopes: Vec<_> = c.scopes.iter().map(|scope| format!("{}@{scope}", user(&c.email))).collect();
                    let fingerprint = key(c.key).fingerprint();
                    format!("{serial} {} {fingerprint} {} {}", c.email, scopes.join(","), self.standing(c))
                })
                .collect()
            }
            ["session", "list"] => {
                let own = |email: &str| caller.is_none_or(|c| c.email == email);
                let open = self.sessions.iter().filter(|(_, session)| own(&session.connection.email));
                open.map(|(n, session)| format!("{n:032x} {} {}", session.connection.email, session.node)).collect()
            }
            ["org", "list"] => {
                self.is_operator(caller)?;
                self.orgs.clone()
            }
            ["user", "list"] => {
                self.is_operator(caller)?;
                let line = |(email, person): (&String, &super::world::Person)| {
                    let state = if person.suspended { "suspended" } else { "active" };
                    let keys = self.keys.values().filter(|owner| *owner == email).count();
                    let projects = self.projects.values().filter(|members| members.contains_key(email)).count();
                    format!("{email} {} {state} {keys} {projects}", person.org)
                };
                self.people.iter().map(line).collect()
            }
            ["reach", target] => self.reach(caller, target)?,
            ["explain", email, node] => {
                if caller.is_none_or(|c| c.email != *email) {
                    self.is_admin(caller, &self.project_of(caller, cluster_of(node))?)?;
                }
                [self.reaches(email, node).to_string()].into()
            }
            other => panic!("nothing is known of {other:?}"),
        })
    }

    fn project(&self, caller: Caller<'_>, project: &str) -> String {
        let members = &self.projects[project];
        let role = caller.and_then(|c| members.get(&c.email)).map_or("-", |member| role(member.admin));
        let clusters = self.clusters.values().filter(|of| *of == project).count();
        let volumes = self.volumes.iter().filter(|(of, _)| of == project).count();
        format!("{project} {role} {} {clusters} {volumes}", members.len())
    }

    fn clusters_of(&self, caller: Caller<'_>) -> BTreeSet<String> {
        let visible = self.visible(caller);
        let theirs = self.clusters.iter().filter(|(_, project)| visible.contains(project));
        theirs.map(|(cluster, project)| format!("{cluster} {project}")).collect()
    }

    fn reach(&self, caller: Caller<'_>, target: &str) -> Result<BTreeSet<String>, Reason> {
        let whole_cluster = target.matches('.').count() == 1;
        let cluster = if whole_cluster { target } else { cluster_of(target) };
        let project = self.project_of(caller, cluster)?;
        self.in_project(caller, &project)?;
        let nodes: Vec<&String> = self
            .nodes
            .keys()
            .filter(|node| if whole_cluster { cluster_of(node) == cluster } else { *node == target })
            .collect();
        if nodes.is_empty() && !whole_cluster {
            return Err("not-found");
        }
        let can =
            self.projects[&project].iter().filter(|(email, _)| nodes.iter().any(|node| self.reaches(email, node)));
        Ok(can.map(|(email, member)| format!("{email} {}", role(member.admin))).collect())
    }
}

fn role(admin: bool) -> &'static str {
    if admin { "admin" } else { "member" }
}

fn user(email: &str) -> &str {
    email.split_once('@').unwrap().0
}

/// What certgate's use cases say: what a command shows, before it is written.
pub fn told(app: &Arc<App>, asker: &Asker, words: &[&str]) -> Result<Value, AppError> {
    fn value<T: serde::Serialize>(view: T) -> Value {
        serde_json::to_value(view).unwrap()
    }
    Ok(match words {
        ["whoami"] => app.whoami(asker)?.map_or(serde_json::json!({ "operator": true }), value),
        ["project", "list"] => value(app.projects(asker)?),
        ["project", "show", project] => value(app.project(asker, &project.parse().unwrap())?),
        ["member", "list", project] => value(app.members(asker, &project.parse().unwrap())?),
        ["cluster", "list"] => value(app.clusters(asker)?),
        ["volume", "list"] => value(app.volumes(asker)?),
        ["node", "list", cluster] => value(app.nodes(asker, &cluster.parse().unwrap())?),
        ["key", "list"] => value(app.keys(asker, None)?),
        ["certificate", "list"] => value(app.certificates(asker)?),
        ["session", "list"] => value(app.sessions(asker)?),
        ["org", "list"] => value(app.orgs(asker)?),
        ["user", "list"] => value(app.users(asker)?),
        ["reach", target] => value(app.reach(asker, &target.parse().unwrap())?),
        ["explain", email, node] => value(app.explain(asker, &email.parse().unwrap(), &node.parse().unwrap())?),
        other => panic!("nothing is known of {other:?}"),
    })
}

/// What certgate has said, as lines like the model's.
pub fn lines(words: &[&str], said: &Value) -> BTreeSet<String> {
    let each = |list: &Value, names: &str| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|entry| fields(entry, names)).collect()
    };
    const PROJECT: &str = "project role members clusters volumes";
    match words {
        ["whoami"] if said["operator"] == true => ["operator".to_owned()].into(),
        ["whoami"] => {
            let mut lines = each(&said["projects"], PROJECT);
            lines.extend(each(&said["clusters"], "cluster project"));
            lines.insert(fields(said, "email user key certificate"));
            lines
        }
        ["project", "list"] => each(said, PROJECT),
        ["project", "show", _] => [fields(said, PROJECT)].into(),
        ["member", "list", _] => each(said, "email role state by"),
        ["cluster", "list"] => each(said, "cluster project"),
        ["volume", "list"] => each(said, "volume project"),
        ["node", "list", _] => each(said, "node role"),
        ["key", "list"] => each(said, "fingerprint"),
        ["certificate", "list"] => each(said, "serial account key principals state"),
        ["session", "list"] => each(said, "session account node"),
        ["org", "list"] => each(said, "name"),
        ["user", "list"] => each(said, "email org state keys projects"),
        ["reach", _] => each(said, "email role"),
        ["explain", ..] => [said["access"].to_string()].into(),
        other => panic!("nothing is known of {other:?}"),
    }
}

fn fields(entry: &Value, names: &str) -> String {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(|item| item.as_str().unwrap()).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    names.split(' ').map(|name| text(&entry[name])).collect::<Vec<_>>().join(" ")
}
