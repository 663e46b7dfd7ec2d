//! What has to be known to set up a bastion: from the command line, from what is there already, and from whoever sits at
//! the terminal.

use crate::{
    command::setup::{Setup, host},
    domain::{Email, OrgName, PublicKey, UserName},
};
use ipnet::IpNet;
use std::{
    fmt::Display,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

/// How often somebody may get an answer wrong.
const TRIES: usize = 5;

/// No file with a public key is longer, in bytes.
const KEY_FILE: u64 = 64 * 1024;

/// Everything that has to be known.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    /// How people and nodes reach the machine.
    pub(crate) host: String,
    /// At which port.
    pub(crate) port: u16,
    /// Where the gateway listens.
    pub(crate) listen: Vec<SocketAddr>,
    /// Where nodes may be; everywhere if there are none.
    pub(crate) node_networks: Vec<IpNet>,
    /// The first user; none if the directory was restored.
    pub(crate) first: Option<First>,
}

/// The first organization and its first account.
#[derive(Clone, Debug)]
pub(crate) struct First {
    pub(crate) org: OrgName,
    pub(crate) email: Email,
    pub(crate) user: UserName,
    pub(crate) key: PublicKey,
}

/// What is known of the machine before anybody is asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// What it calls itself, which may be how others call it.
    pub(super) name: Option<String>,
    /// What an authority.toml says that somebody has written.
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    /// What a gateway.toml says that is not as it is shipped.
    pub(super) listen: Option<Vec<SocketAddr>>,
    /// Whether it has IPv6.
    pub(super) v6: bool,
}

/// Asks somebody: the question, and what they have typed.
pub(super) type Ask<'a> = &'a mut dyn FnMut(&str) -> Result<String, String>;

/// Why there are no answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoAnswers {
    /// These options are missing, and there is nobody to ask.
    Missing(Vec<&'static str>),
    /// One of them cannot be used, or nobody answers.
    Wrong(String),
}

impl From<String> for NoAnswers {
    fn from(problem: String) -> Self {
        Self::Wrong(problem)
    }
}

/// Completes what was said on the command line. Without anybody to ask, what is missing is an error.
pub(super) fn complete(given: &Setup, known: &Known, mut ask: Option<Ask<'_>>) -> Result<Answers, NoAnswers> {
    let mut missing = Vec::new();
    let suggested = known.host.clone().or_else(|| known.name.clone());
    let name = match (&given.host, &mut ask) {
        (Some(host), _) => Some(host.clone()),
        (None, Some(ask)) => {
            Some(asked(ask, "Name or address by which people and nodes reach this machine", suggested, host)?)
        }
        (None, None) => required(known.host.clone(), "--host", &mut missing),
    };
    let port = match (given.port, &mut ask) {
        (Some(port), _) => port,
        (None, Some(ask)) => asked(ask, "Port at which they do", Some(known.port.unwrap_or(22)), port)?,
        (None, None) => known.port.unwrap_or(22),
    };
    let listen = match (&given.listen, &known.listen) {
        (given, _) if !given.is_empty() => given.clone(),
        (_, Some(listen)) if given.port.is_none() && known.port.is_none_or(|known| known == port) => listen.clone(),
        _ => everywhere(port, known.v6),
    };
    let first = if given.restored { None } else { first(given, &mut ask, &mut missing)? };
    let node_networks = given.node_networks.clone();
    match name {
        Some(host) if missing.is_empty() => Ok(Answers { host, port, listen, node_networks, first }),
        _ => Err(NoAnswers::Missing(missing)),
    }
}

/// A port of every address.
fn everywhere(port: u16, v6: bool) -> Vec<SocketAddr> {
    let four = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let six = v6.then(|| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
    std::iter::once(four).chain(six).collect()
}

fn first(
    given: &Setup,
    ask: &mut Option<Ask<'_>>,
    missing: &mut Vec<&'static str>,
) -> Result<Option<First>, NoAnswers> {
    let org = match (&given.org, &mut *ask) {
        (None, Some(ask)) => Some(asked(ask, "Name of the first organization, such as acme", None, parsed)?),
        (org, _) => required(org.clone(), "--org", missing),
    };
    let email = match (&given.email, &mut *ask) {
        (None, Some(ask)) => Some(asked(ask, "Email of the first user", None, parsed)?),
        (email, _) => required(email.clone(), "--email", missing),
    };
    let before_the_at = email.as_ref().and_then(|email| email.to_string().split('@').next()?.parse::<UserName>().ok());
    let user = match (&given.user, &mut *ask) {
        (None, Some(ask)) => Some(asked(ask, "Their user name on every node", before_the_at, parsed)?),
        // Without an email it is said already that one is needed.
        (None, None) if email.is_none() => None,
        (user, _) => required(user.clone().or(before_the_at), "--user", missing),
    };
    let key = match (&given.key, &mut *ask) {
        (Some(text), _) => Some(key(text).map_err(|problem| format!("--key: {problem}"))?),
        (None, Some(ask)) => {
            Some(asked(ask, "Their public key: the name of the .pub file, or the line in it", None, key)?)
        }
        (None, None) => required(None, "--key", missing),
    };
    Ok(org.zip(email).zip(user).zip(key).map(|(((org, email), user), key)| First { org, email, user, key }))
}

fn required<T>(value: Option<T>, option: &'static str, missing: &mut Vec<&'static str>) -> Option<T> {
    if value.is_none() {
        missing.push(option);
    }
    value
}

fn asked<T: Clone + Display>(
    ask: &mut Ask<'_>,
    question: &str,
    usual: Option<T>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, String> {
    let mut wrong = String::new();
    for _ in 0..TRIES {
        let suggestion = usual.as_ref().map(|usual| format!(" [{usual}]")).unwrap_or_default();
        let typed = ask(&format!("{wrong}{question}{suggestion}: "))?;
        match (typed.trim(), &usual) {
            ("", Some(usual)) => return Ok(usual.clone()),
            ("", None) => wrong = String::new(),
            (typed, _) => match parse(typed) {
                Ok(value) => return Ok(value),
                Err(problem) => wrong = format!("{problem}\n"),
            },
        }
    }
    Err("that was no answer; nothing was changed".into())
}

fn parsed<T: std::str::FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| "a port is a number from 1 to 65535".into())
}

/// A public key, or that of a file. What was given is never repeated: it may be a private key.
fn key(text: &str) -> Result<PublicKey, String> {
    let line = text.trim();
    if line.contains(' ') {
        return parsed(line);
    }
    let read = || -> io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(Path::new(line))?.take(KEY_FILE).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|error| format!("the file cannot be read: {error}")).and_then(|text| parsed(text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILM+hvqVBQLyBkxNzuHmXMvo6vRIFqgiUj1mL0BHkPc me@laptop";

    fn given() -> Setup {
        Setup {
            host: Some("bastion.acme.example".into()),
            org: Some("acme".parse().unwrap()),
            email: Some("admin1@acme.example".parse().unwrap()),
            key: Some(KEY.into()),
            ..Setup::default()
        }
    }

    fn addresses(answers: &Answers) -> Vec<String> {
        answers.listen.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_given_is_enough_and_the_rest_follows_from_it() {
        let known = Known { v6: true, ..Known::default() };
        let answers = complete(&given(), &known, None).unwrap();
        let first = answers.first.as_ref().unwrap();
        assert_eq!((answers.host.as_str(), answers.port, first.user.as_str()), ("bastion.acme.example", 22, "admin1"));
        assert_eq!(addresses(&answers), ["0.0.0.0:22", "[::]:22"]);
        assert_eq!(first.key, KEY.parse().unwrap());
        let answers = complete(&Setup { port: Some(2022), ..given() }, &Known::default(), None).unwrap();
        assert_eq!(addresses(&answers), ["0.0.0.0:2022"], "a machine without IPv6");
        let listen = vec!["192.0.2.7:22".parse().unwrap()];
        let answers = complete(&Setup { listen, port: Some(2022), ..given() }, &known, None).unwrap();
        assert_eq!((addresses(&answers), answers.port), (vec!["192.0.2.7:22".to_owned()], 2022), "behind NAT");
    }

    #[test]
    fn without_anybody_to_ask_all_that_is_missing_is_named_at_once() {
        let missing = |given: &Setup| match complete(given, &Known::default(), None) {
            Err(NoAnswers::Missing(options)) => options,
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(&Setup::default()), ["--host", "--org", "--email", "--key"]);
        // What stands before the @ is no name that a node can have.
        let email = Some("Ann.Other+x@acme.example".parse().unwrap());
        assert_eq!(missing(&Setup { email, ..given() }), ["--user"]);
        assert_eq!(missing(&Setup { restored: true, ..Setup::default() }), ["--host"]);
        let known = Known { host: Some("b.acme.example".into()), port: Some(2022), ..Known::default() };
        let answers = complete(&Setup { restored: true, ..Setup::default() }, &known, None).unwrap();
        assert_eq!((answers.host.as_str(), answers.port), ("b.acme.example", 2022));
        assert!(answers.first.is_none());
    }

    #[test]
    fn somebody_is_asked_for_what_is_missing_until_it_can_be_used() {
        let mut typed =
            ["", "Bastion!", "b.acme.example", "", "acme", "admin1", "admin1@acme.example", "", KEY].into_iter();
        let mut asked = Vec::new();
        let mut ask = |question: &str| {
            asked.push(question.to_owned());
            typed.next().map(str::to_owned).ok_or_else(|| "nobody is there".to_owned())
        };
        let answers = complete(&Setup::default(), &Known::default(), Some(&mut ask)).unwrap();
        let first = answers.first.unwrap();
        let told = (answers.host.as_str(), answers.port, first.org.as_str(), first.user.as_str());
        assert_eq!(told, ("b.acme.example", 22, "acme", "admin1"));
        assert!(asked[2].starts_with("a host name is made of ") && asked[2].contains("\nName or address"), "{asked:?}");
        assert_eq!(asked[3], "Port at which they do [22]: ");
        assert!(asked.contains(&"Their user name on every node [admin1]: ".to_owned()), "{asked:?}");
        assert_eq!(typed.next(), None, "everything was asked for");

        let mut nobody = |_: &str| Err("nobody is there".to_owned());
        let refused = complete(&Setup::default(), &Known::default(), Some(&mut nobody)).unwrap_err();
        assert_eq!(refused, NoAnswers::Wrong("nobody is there".into()));
        let mut stubborn = |_: &str| Ok("?".to_owned());
        assert!(complete(&Setup::default(), &Known::default(), Some(&mut stubborn)).is_err());
    }

    #[test]
    fn a_key_is_a_line_or_a_file_and_never_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.pub");
        std::fs::write(&file, format!("{KEY}\n")).unwrap();
        assert_eq!(key(file.to_str().unwrap()), key(KEY));
        std::fs::write(&file, "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1\n").unwrap();
        for bad in [file.to_str().unwrap(), "/nonexistent", "ssh-ed25519 secret", "secret"] {
            let problem = key(bad).unwrap_err();
            assert!(!problem.contains("b3Blb") && !problem.contains("secret"), "{problem}");
        }
    }
}
