//! Which entries somebody wants to see. The meaning is here; stores may find them in a faster way, with the same answer.

use super::{Event, LOCAL, Outcome};
use crate::domain::{Actor, Email, Fingerprint, NodePath, Serial, SessionId, Timestamp};
use std::{net::IpAddr, str::FromStr};

/// What is not set does not filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// By whom, or from where.
    pub who: Option<Who>,
    /// Which actions.
    pub what: Option<What>,
    /// On what: the object, or one or several whole words of it.
    pub on: Option<String>,
    /// Whether it was done.
    pub outcome: Option<Outcome>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// About, or with, this certificate.
    pub certificate: Option<Serial>,
    /// About this session.
    pub session: Option<SessionId>,
}

/// Somebody, by one of the ways in which an event names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// An operator, by the user number: `uid:0`.
    Uid(u32),
    /// Whoever has proved this key: `SHA256:…`.
    Key(Fingerprint),
    /// Everybody who came from this address, or `local`.
    Source(String),
    /// All operators: `operator`.
    Operators,
    /// certgate itself: `certgate`.
    Authority,
    /// An account by its email, or a node by its name.
    Name(String),
}

impl FromStr for Who {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(uid) = text.strip_prefix("uid:") {
            return uid.parse().map(Self::Uid).map_err(|_| "an operator is written uid:NUMBER");
        }
        if text.starts_with("SHA256:") {
            return text.parse().map(Self::Key);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Source(address.to_string()));
        }
        Ok(match text {
            LOCAL => Self::Source(text.into()),
            "operator" => Self::Operators,
            "certgate" => Self::Authority,
            _ => {
                // Emails and names are kept in lower case.
                let name = text.to_ascii_lowercase();
                if name.parse::<Email>().is_err() && name.parse::<NodePath>().is_err() {
                    return Err(
                        "by whom is an email, a node's name, a key's SHA256:… fingerprint, an address, local, \
                                uid:NUMBER, operator or certgate",
                    );
                }
                Self::Name(name)
            }
        })
    }
}

/// An action such as `member.remove`, or all of a noun: `member`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct What(String);

impl What {
    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether an action is this one, or one of this noun.
    #[must_use]
    pub fn is(&self, action: &str) -> bool {
        action.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl FromStr for What {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fine = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'-');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(fine) {
            return Err("an action is written like member.remove, or member for all of them");
        }
        Ok(Self(text.trim_end_matches('.').to_owned()))
    }
}

impl Filter {
    /// Whether an event is wanted.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        self.who.as_ref().is_none_or(|who| is_by(event, who))
            && self.what.as_ref().is_none_or(|what| what.is(&event.action))
            && self.on.as_ref().is_none_or(|on| format!(" {} ", event.object).contains(&format!(" {on} ")))
            && self.outcome.is_none_or(|outcome| outcome == event.outcome)
            && self.since.is_none_or(|since| event.at >= since)
            && self.until.is_none_or(|until| event.at < until)
            && self.certificate.is_none_or(|serial| event.certificate == Some(serial))
            && self.session.as_ref().is_none_or(|session| event.session.as_ref() == Some(session))
    }
}

fn is_by(event: &Event, who: &Who) -> bool {
    match who {
        Who::Uid(wanted) => event.actor == Actor::Operator { uid: *wanted },
        Who::Key(key) => event.actor.key() == Some(*key),
        Who::Source(source) => event.source == *source,
        Who::Operators => matches!(event.actor, Actor::Operator { .. }),
        Who::Authority => event.actor == Actor::Authority,
        Who::Name(wanted) => match &event.actor {
            Actor::Account { email, .. } => email.as_str() == wanted,
            Actor::Node { name, .. } => name == wanted,
            Actor::Operator { .. } | Actor::Stranger { .. } | Actor::Authority => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AccountId, Holder};

    fn event() -> Event {
        let actor = Actor::Account {
            id: AccountId(2),
            email: "user1@acme.example".parse().unwrap(),
            kind: Holder::Person,
            key: Fingerprint::from_bytes([7; 32]),
        };
        Event {
            source: "2001:db8::7".into(),
            certificate: Some(Serial(7)),
            ..Event::new(Timestamp::from_secs(100), actor, "member.remove", "acme/ml user2@acme.example")
        }
    }

    fn wants(filter: Filter) -> bool {
        filter.wants(&event())
    }

    #[test]
    fn somebody_is_found_by_each_of_their_names() {
        let key = Fingerprint::from_bytes([7; 32]).to_string();
        for (who, found) in [
            ("user1@acme.example", true),
            ("User1@Acme.Example", true),
            ("user2@acme.example", false),
            (key.as_str(), true),
            ("2001:db8::7", true),
            ("2001:DB8:0::7", true),
            ("2001:db8::8", false),
            ("local", false),
            ("uid:0", false),
            ("operator", false),
            ("certgate", false),
        ] {
            let who = Some(who.parse().unwrap());
            assert_eq!(wants(Filter { who: who.clone(), ..Filter::default() }), found, "{who:?}");
        }
        let operator = Event::new(Timestamp::from_secs(1), Actor::Operator { uid: 1000 }, "org.create", "acme");
        for (who, found) in [("uid:1000", true), ("uid:0", false), ("operator", true), ("local", true)] {
            assert_eq!(
                Filter { who: Some(who.parse().unwrap()), ..Filter::default() }.wants(&operator),
                found,
                "{who}"
            );
        }
        assert!("uid:x".parse::<Who>().is_err() && "SHA256:x".parse::<Who>().is_err());
    }

    #[test]
    fn actions_are_found_by_noun_and_objects_by_word() {
        for (what, found) in
            [("member.remove", true), ("member", true), ("member.", true), ("mem", false), ("m", false)]
        {
            assert_eq!(wants(Filter { what: Some(what.parse().unwrap()), ..Filter::default() }), found, "{what}");
        }
        for (on, found) in [
            ("acme/ml", true),
            ("user2@acme.example", true),
            ("acme/ml user2@acme.example", true),
            ("acme", false),
            ("acme/m", false),
            ("", false),
        ] {
            assert_eq!(wants(Filter { on: Some(on.into()), ..Filter::default() }), found, "{on:?}");
        }
        for bad in ["", "Member", "a b", "x%", &"x".repeat(65)] {
            assert!(bad.parse::<What>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_rest_is_compared_as_it_is() {
        let at = |secs| Some(Timestamp::from_secs(secs));
        assert!(wants(Filter { since: at(100), until: at(101), ..Filter::default() }));
        assert!(!wants(Filter { since: at(101), ..Filter::default() }));
        assert!(!wants(Filter { until: at(100), ..Filter::default() }));
        assert!(!wants(Filter { outcome: Some(Outcome::Refused), ..Filter::default() }));
        assert!(wants(Filter { certificate: Some(Serial(7)), ..Filter::default() }));
        assert!(!wants(Filter { certificate: Some(Serial(8)), ..Filter::default() }));
        assert!(!wants(Filter { session: Some(SessionId::from_bits(1)), ..Filter::default() }));
    }
}
