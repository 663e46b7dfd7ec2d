//! A directory as a file that describes it. The same directory gives the same text.

use super::read::FORMAT;
use crate::domain::{
    Account, AccountId, AccountState, Cluster, Directory, ForceCommand, NodeCounts, Org, OrgId, OrgName, Project,
    ProjectPath, ServiceTerms, Volume, is_unseen,
};
use std::{collections::BTreeMap, fmt::Write, sync::Arc};

/// How much of it.
#[derive(Clone, Debug)]
pub enum Extent {
    /// Everything.
    All,
    /// An organization with its accounts and projects, and who else is in these.
    Org(OrgName),
    /// A project, and who is in it.
    Project(ProjectPath),
}

/// Describes a directory, or none if that organization or project is not there. What is written can be applied to an empty
/// directory: all that it refers to is in it.
#[must_use]
pub fn write(directory: &Directory, extent: &Extent) -> Option<String> {
    let (org, project) = match extent {
        Extent::All => (None, None),
        Extent::Org(name) => (Some(directory.org_named(name)?.id), None),
        Extent::Project(path) => (None, Some(directory.project_at(path)?.id)),
    };
    let all = org.is_none() && project.is_none();
    let projects: BTreeMap<ProjectPath, &Arc<Project>> = directory
        .projects()
        .filter(|each| all || Some(each.org) == org || Some(each.id) == project)
        .filter_map(|each| Some((directory.path_of_project(each)?, each)))
        .collect();
    let mut people: BTreeMap<AccountId, &Arc<Account>> =
        directory.accounts().filter(|each| all || Some(each.org) == org).map(|each| (each.id, each)).collect();
    for each in projects.values() {
        people.extend(directory.members_of(each.id).map(|(account, _)| (account.id, account)));
    }
    let mut people: Vec<&Arc<Account>> = people.into_values().filter(|each| each.service().is_none()).collect();
    people.sort_by(|a, b| a.email.cmp(&b.email));
    let mut orgs: BTreeMap<OrgId, &Arc<Org>> = BTreeMap::new();
    let named = directory.orgs().filter(|each| all || Some(each.id) == org);
    let referred = people.iter().map(|each| each.org).chain(projects.values().map(|each| each.org));
    orgs.extend(named.chain(referred.filter_map(|each| directory.org(each))).map(|each| (each.id, each)));
    let mut orgs: Vec<&Arc<Org>> = orgs.into_values().collect();
    orgs.sort_by(|a, b| a.name.cmp(&b.name));

    let mut text = format!(
        "# A certgate directory at version {}. 'certgate apply FILE' brings a directory to what is described here.\n\
         format = {FORMAT}\n",
        directory.version()
    );
    for org in orgs {
        table(&mut text, "[organizations]");
        field(&mut text, "name", org.name.as_str());
    }
    for account in people {
        write_account(&mut text, directory, account);
    }
    for (path, project) in projects {
        write_project(&mut text, directory, &path, project);
    }
    Some(text)
}

fn table(text: &mut String, name: &str) {
    text.push_str("\n[");
    text.push_str(name);
    text.push_str("]\n");
}

fn field(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str(" = ");
    quote(text, value);
    text.push('\n');
}

fn number(text: &mut String, name: &str, value: u32) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{name} = {value}");
}

fn write_account(text: &mut String, directory: &Directory, account: &Account) {
    table(text, "[accounts]");
    field(text, "email", account.email.as_str());
    field(text, "org", directory.org(account.org).map(|org| org.name.as_str()).unwrap_or_default());
    field(text, "user", account.user.as_str());
    number(text, "uid", account.uid.0);
    // Who is suspended later stays so when an older description is applied.
    if account.state == AccountState::Suspended {
        field(text, "state", account.state.as_str());
    }
    write_keys(text, directory, account);
}

fn write_keys(text: &mut String, directory: &Directory, account: &Account) {
    let keys: Vec<String> = directory.keys_of(account.id).map(|entry| format!("\"{}\"", entry.key)).collect();
    match keys.as_slice() {
        [] => text.push_str("keys = []\n"),
        [key] => text.push_str(&format!("keys = [{key}]\n")),
        keys => text.push_str(&format!("keys = [\n    {},\n]\n", keys.join(",\n    "))),
    }
}

fn write_project(text: &mut String, directory: &Directory, path: &ProjectPath, project: &Project) {
    table(text, "[projects]");
    field(text, "name", &path.to_string());
    number(text, "gid", project.gid.0);
    number(text, "admins_gid", project.admins_gid.0);
    field(text, "max_ttl", &project.limits.max_ttl.map(|ttl| ttl.to_string()).unwrap_or_default());
    field(text, "max_session", &project.limits.max_session.map(|ttl| ttl.to_string()).unwrap_or_default());
    field(text, "grace", &project.limits.grace.map(|grace| grace.to_string()).unwrap_or_default());
    let forbidden: Vec<String> = project.limits.forbidden.iter().map(|extension| format!("\"{extension}\"")).collect();
    let _ = writeln!(text, "forbidden = [{}]", forbidden.join(", "));
    table(text, "projects.members");
    let mut members: Vec<_> =
        directory.members_of(project.id).filter(|(account, _)| account.service().is_none()).collect();
    members.sort_by(|(a, _), (b, _)| a.email.cmp(&b.email));
    for (account, membership) in members {
        // An email has no character that would have to be escaped.
        field(text, &format!("\"{}\"", account.email), membership.role.as_str());
    }
    let mut services: Vec<_> = directory
        .members_of(project.id)
        .filter_map(|(account, _)| Some((account, account.service()?)))
        .filter(|(_, terms)| terms.project == project.id)
        .collect();
    services.sort_by(|(a, _), (b, _)| a.email.cmp(&b.email));
    for (account, terms) in services {
        write_service(text, directory, account, terms);
    }
    let mut clusters: Vec<&Arc<Cluster>> = directory.clusters_of(project.id).collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    for cluster in clusters {
        table(text, "[projects.clusters]");
        field(text, "name", cluster.name.as_str());
        field(text, "kind", cluster.kind.as_str());
        let NodeCounts { login, compute, controller } = cluster.wanted;
        let _ = writeln!(text, "nodes = {{ login = {login}, compute = {compute}, controller = {controller} }}");
        field(text, "configuration", cluster.document.text());
    }
    let mut volumes: Vec<&Arc<Volume>> = directory.volumes_of(project.id).collect();
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    for volume in volumes {
        table(text, "[projects.volumes]");
        field(text, "name", volume.name.as_str());
        field(text, "size", &volume.size.to_string());
        field(text, "mount", volume.mount.as_str());
    }
}

fn write_service(text: &mut String, directory: &Directory, account: &Account, terms: &ServiceTerms) {
    table(text, "[projects.services]");
    // NAME@PROJECT.ORG.service
    field(text, "name", account.email.as_str().split('@').next().unwrap_or_default());
    field(text, "user", account.user.as_str());
    number(text, "uid", account.uid.0);
    if account.state == AccountState::Suspended {
        field(text, "state", account.state.as_str());
    }
    let sources: Vec<String> = terms.sources.iter().map(|network| format!("\"{network}\"")).collect();
    let _ = writeln!(text, "source_address = [{}]", sources.join(", "));
    field(text, "force_command", terms.force_command.as_ref().map(ForceCommand::as_str).unwrap_or_default());
    field(text, "max_ttl", &terms.max_ttl.to_string());
    write_keys(text, directory, account);
}

/// A basic string (TOML 1.0), over several lines if it has any. What a terminal would not show as it is, or not at all, is
/// escaped here, so that nothing that shows it has to, and what is shown can be read back.
fn quote(text: &mut String, value: &str) {
    let lines = value.contains('\n');
    text.push_str(if lines { "\"\"\"\n" } else { "\"" });
    let mut quotes = 0;
    for c in value.chars() {
        quotes = if c == '"' { quotes + 1 } else { 0 };
        match c {
            '\\' => text.push_str("\\\\"),
            // Two in a row are plain in a string of several lines, but not before its end.
            '"' if !lines || quotes == 3 => {
                text.push_str("\\\"");
                quotes = 0;
            }
            '\n' => text.push('\n'),
            '\t' => text.push_str("\\t"),
            c if !is_unseen(c) => text.push(c),
            c => {
                let _ = write!(text, "\\U{:08x}", u32::from(c));
            }
        }
    }
    if quotes > 0 {
        // The last ones of the value would run into the end of the string.
        text.truncate(text.len() - quotes);
        text.push_str(&"\\\"".repeat(quotes));
    }
    text.push_str(if lines { "\"\"\"" } else { "\"" });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_back(value: &str) -> String {
        let mut text = "x = ".to_owned();
        quote(&mut text, value);
        let table: toml::Table = toml::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        table["x"].as_str().unwrap().to_owned()
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_back(plain in any::<String>(), hard in "[\"'\\\\\n\t a\u{ad}\u{e0041}]{0,12}") {
            prop_assert_eq!(read_back(&plain), plain.as_str());
            prop_assert_eq!(read_back(&hard), hard.as_str());
        }
    }
}
