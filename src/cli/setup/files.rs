//! The files of a bastion's configuration: what is shipped, with the answers in place and every comment kept. What somebody
//! has changed is never replaced: either it says what is wanted, or it is said what it says.

use super::answers::Answers;
use ipnet::IpNet;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};
use toml::{Table, Value};

/// The authority's configuration.
pub(super) const AUTHORITY: &str = "/etc/certgate/authority.toml";
/// The gateway's.
pub(super) const GATEWAY: &str = "/etc/certgate/gateway.toml";
/// Where systemd listens for it, if not where its unit says.
pub(super) const SOCKET: &str = "/etc/systemd/system/certgate-gateway.socket.d/setup.conf";

/// The user that the gateway runs as.
pub(super) const GATEWAY_USER: &str = "certgate-gateway";

const SHIPPED_AUTHORITY: &str = include_str!("../../../config/authority.toml");
const SHIPPED_GATEWAY: &str = include_str!("../../../config/gateway.toml");

/// A file that has to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ToWrite {
    pub(super) path: &'static str,
    pub(super) content: String,
}

/// What is there.
#[derive(Clone, Debug, Default)]
pub(super) struct Present {
    pub(super) authority: Option<String>,
    pub(super) gateway: Option<String>,
    pub(super) socket: Option<String>,
}

/// What has to be written for these answers.
///
/// # Errors
/// Somebody has changed a file, and it says something else.
pub(super) fn to_write(present: &Present, answers: &Answers) -> Result<Vec<ToWrite>, String> {
    let mut files = Vec::new();
    match present.authority.as_deref() {
        Some(text) if text != SHIPPED_AUTHORITY => agrees(text, answers)?,
        _ => files.push(ToWrite { path: AUTHORITY, content: authority_toml(answers) }),
    }
    match present.gateway.as_deref() {
        Some(text) if listens(text)? == answers.listen => {}
        Some(text) if text != SHIPPED_GATEWAY => {
            let wanted = list(&answers.listen);
            return Err(changed(GATEWAY, "listen", &list(&listens(text)?), &wanted));
        }
        _ => files.push(ToWrite { path: GATEWAY, content: gateway_toml(answers) }),
    }
    let socket = socket_drop_in(&answers.listen);
    match (present.socket.as_deref(), usual(&answers.listen)) {
        (None, true) => {}
        (Some(text), _) if text == socket => {}
        (None, false) => files.push(ToWrite { path: SOCKET, content: socket }),
        (Some(_), _) => {
            let wanted = list(&answers.listen);
            return Err(format!("{SOCKET} does not listen on {wanted}: change it, or remove it and run setup again"));
        }
    }
    Ok(files)
}

/// Whether systemd's unit, as it is shipped, listens there.
pub(super) fn usual(listen: &[SocketAddr]) -> bool {
    listens(SHIPPED_GATEWAY).is_ok_and(|shipped| shipped == listen)
}

/// authority.toml for these answers.
pub(crate) fn authority_toml(answers: &Answers) -> String {
    let text = set(SHIPPED_AUTHORITY, "host", &Value::from(answers.host.as_str()).to_string());
    let text = set(&text, "port", &answers.port.to_string());
    let text = set(&text, "gateway_user", &Value::from(GATEWAY_USER).to_string());
    if answers.node_networks.is_empty() { text } else { set(&text, "node_networks", &list(&answers.node_networks)) }
}

/// gateway.toml for these answers.
pub(crate) fn gateway_toml(answers: &Answers) -> String {
    if usual(&answers.listen) { SHIPPED_GATEWAY.into() } else { set(SHIPPED_GATEWAY, "listen", &list(&answers.listen)) }
}

fn socket_drop_in(listen: &[SocketAddr]) -> String {
    let listen: Vec<String> = listen.iter().map(|address| format!("ListenStream={address}\n")).collect();
    format!(
        "# Written by 'certgate setup': where the gateway listens, instead of at port 22.\n[Socket]\nListenStream=\n{}",
        listen.concat()
    )
}

/// The text with a setting that is in it, or stands there as a comment.
fn set(text: &str, name: &str, value: &str) -> String {
    let mut found = false;
    let lines = text.lines().map(|line| {
        let setting = line.strip_prefix("# ").unwrap_or(line);
        let its = setting.strip_prefix(name).is_some_and(|rest| rest.starts_with(" = "));
        if its && !std::mem::replace(&mut found, true) { format!("{name} = {value}\n") } else { format!("{line}\n") }
    });
    lines.collect()
}

/// As TOML.
fn list<T: ToString>(values: &[T]) -> String {
    Value::Array(values.iter().map(|value| Value::from(value.to_string())).collect()).to_string()
}

/// Where a gateway.toml says that the gateway listens.
pub(super) fn listens(text: &str) -> Result<Vec<SocketAddr>, String> {
    let table: Table = text.parse().map_err(|error| format!("{GATEWAY}: {error}"))?;
    let listen = table.get("listen").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    listen.map(|address| address.parse().map_err(|_| format!("{GATEWAY}: listen: {address:?}"))).collect()
}

/// What an authority.toml says of the bastion that somebody has written.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) node_networks: Vec<IpNet>,
    pub(super) state_dir: Option<String>,
    gateway_user: bool,
}

/// What it says; nothing if it is as it is shipped.
pub(super) fn said(text: &str) -> Result<Said, String> {
    if text == SHIPPED_AUTHORITY {
        return Ok(Said::default());
    }
    let table: Table = text.parse().map_err(|error| format!("{AUTHORITY}: {error}"))?;
    let bastion = table.get("bastion").and_then(Value::as_table);
    let networks = table.get("node_networks").and_then(Value::as_array).into_iter().flatten();
    Ok(Said {
        host: bastion.and_then(|bastion| bastion.get("host")?.as_str()).map(str::to_owned),
        port: bastion.map_or(Some(22), |bastion| bastion.get("port").map_or(Some(22), port)),
        node_networks: networks.filter_map(|network| network.as_str()?.parse().ok()).collect(),
        state_dir: table.get("state_dir").and_then(Value::as_str).map(str::to_owned),
        gateway_user: table.contains_key("gateway_user"),
    })
}

fn port(value: &Value) -> Option<u16> {
    u16::try_from(value.as_integer()?).ok()
}

/// Whether an authority.toml that somebody has written says what the answers say.
fn agrees(text: &str, answers: &Answers) -> Result<(), String> {
    let said = said(text)?;
    let host = said.host.unwrap_or_default();
    if host != answers.host {
        return Err(changed(AUTHORITY, "host", &host, &answers.host));
    }
    if said.port != Some(answers.port) {
        let port = said.port.unwrap_or_default().to_string();
        return Err(changed(AUTHORITY, "port", &port, &answers.port.to_string()));
    }
    if !answers.node_networks.is_empty() && said.node_networks != answers.node_networks {
        return Err(changed(AUTHORITY, "node_networks", &list(&said.node_networks), &list(&answers.node_networks)));
    }
    if !said.gateway_user {
        let line = "gateway_user is not set, so that the gateway could ask nothing; put into it: gateway_user";
        return Err(format!("{AUTHORITY}: {line} = \"{GATEWAY_USER}\""));
    }
    Ok(())
}

fn changed(path: &str, name: &str, is: &str, wanted: &str) -> String {
    format!(
        "somebody has changed {path}, and {name} is {is} there, not {wanted}: change it there, or run setup with what it \
         says. It is not written over"
    )
}

/// Replaces a file whole or not at all; everybody may read it.
pub(super) fn write(path: &Path, content: &str) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".new");
    let beside = directory.join(beside);
    // What a run that was interrupted has left.
    let _ = fs::remove_file(&beside);
    let written = write_new(&beside, content).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.and_then(|()| File::open(directory)?.sync_all())
}

fn write_new(path: &Path, content: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn answers(port: u16) -> Answers {
        let listen = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
        Answers {
            host: "bastion.acme.example".into(),
            port,
            listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
            node_networks: vec![],
            first: None,
        }
    }

    /// The lines of the second that are not in the first.
    fn new_lines(shipped: &str, written: &str) -> Vec<String> {
        assert_eq!(shipped.lines().count(), written.lines().count(), "nothing is added, nothing lost");
        let pairs = shipped.lines().zip(written.lines());
        pairs.filter(|(before, after)| before != after).map(|(_, after)| after.to_owned()).collect()
    }

    #[test]
    fn only_what_was_answered_differs_from_what_is_shipped() {
        let mut answers = answers(22);
        assert_eq!(
            new_lines(SHIPPED_AUTHORITY, &authority_toml(&answers)),
            ["gateway_user = \"certgate-gateway\"", "host = \"bastion.acme.example\""]
        );
        assert_eq!(gateway_toml(&answers), SHIPPED_GATEWAY);
        answers.port = 2022;
        answers.node_networks = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        answers.listen = vec!["192.0.2.7:2022".parse().unwrap()];
        assert_eq!(
            new_lines(SHIPPED_AUTHORITY, &authority_toml(&answers)),
            [
                "gateway_user = \"certgate-gateway\"",
                "node_networks = [\"10.0.0.0/8\", \"2001:db8::/32\"]",
                "host = \"bastion.acme.example\"",
                "port = 2022"
            ]
        );
        assert_eq!(new_lines(SHIPPED_GATEWAY, &gateway_toml(&answers)), ["listen = [\"192.0.2.7:2022\"]"]);
    }

    #[test]
    fn on_a_fresh_machine_everything_is_written_and_again_nothing() {
        let answers = answers(2022);
        let files = to_write(&Present::default(), &answers).unwrap();
        assert_eq!(files.iter().map(|file| file.path).collect::<Vec<_>>(), [AUTHORITY, GATEWAY, SOCKET]);
        assert!(files[2].content.ends_with("ListenStream=\nListenStream=0.0.0.0:2022\nListenStream=[::]:2022\n"));
        let [authority, gateway, socket] = [0, 1, 2].map(|index: usize| Some(files[index].content.clone()));
        let present = Present { authority, gateway, socket };
        assert_eq!(to_write(&present, &answers).unwrap(), []);
        // As the package has it, which is as good as none.
        let packaged = Present { gateway: Some(SHIPPED_GATEWAY.into()), ..Present::default() };
        assert_eq!(to_write(&packaged, &answers).unwrap(), files);
        let usual = super::tests::answers(22);
        assert_eq!(to_write(&packaged, &usual).unwrap().len(), 1);
    }

    #[test]
    fn what_somebody_has_changed_is_kept_if_it_agrees_and_refused_if_not() {
        let usual = answers(22);
        let edited = authority_toml(&usual).replace("# ttl = \"5m\"", "ttl = \"3m\"");
        let gateway = SHIPPED_GATEWAY.replace("name = \"gw1\"", "name = \"gw7\"");
        let present = Present { authority: Some(edited.clone()), gateway: Some(gateway.clone()), socket: None };
        assert_eq!(to_write(&present, &usual).unwrap(), []);

        let refused = |present: &Present, answers: &Answers| to_write(present, answers).unwrap_err();
        let other = Answers { host: "b2.acme.example".into(), ..answers(22) };
        let said = refused(&present, &other);
        assert!(said.contains("host is bastion.acme.example there, not b2.acme.example"), "{said}");
        let said = refused(&present, &answers(2022));
        assert!(said.contains("port is 22 there, not 2022"), "{said}");
        let said = refused(&Present { authority: None, ..present.clone() }, &answers(2022));
        assert!(said.contains(GATEWAY) && said.contains("[\"0.0.0.0:2022\", \"[::]:2022\"]"), "{said}");
        let networks = Answers { node_networks: vec!["10.0.0.0/8".parse().unwrap()], ..answers(22) };
        assert!(refused(&present, &networks).contains("node_networks is [] there, not [\"10.0.0.0/8\"]"));
        let nobody = Some(edited.replace("gateway_user = \"certgate-gateway\"", ""));
        assert!(refused(&Present { authority: nobody, ..present.clone() }, &usual).contains("gateway_user is not set"));
        let broken = Some("host = ".to_owned());
        assert!(refused(&Present { authority: broken, ..present.clone() }, &usual).contains(AUTHORITY));
        let socket = Some("[Socket]\nListenStream=1.2.3.4:22\n".to_owned());
        assert!(refused(&Present { socket, ..present }, &usual).contains(SOCKET));
    }

    #[test]
    fn a_file_is_written_whole_with_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/certgate/authority.toml");
        write(&path, "one\n").unwrap();
        write(&path, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::create_dir(dir.path().join("taken")).unwrap();
        assert!(write(&dir.path().join("taken"), "x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
    }
}
