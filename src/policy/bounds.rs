//! What bounds a certificate, whoever asks for it: the site's settings, and for service accounts their terms.
//!
//! Restrictions come from here at every issue, never from what a connection came with, so that no second step loses one
//! (x/crypto/ssh CVE-2026-39828).

use super::denial::{Denial, Reason};
use crate::domain::{Account, AccountKind, Extension, ForceCommand, Limits, Networks, ProjectPath, ServiceTerms, Ttl};
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::BTreeSet;

/// The site's rules for certificates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CertificateSettings {
    /// How long a certificate lives unless less or more is asked for.
    pub ttl: Ttl,
    /// The longest that can be asked for.
    pub max_ttl: Ttl,
    /// How long a node's host certificate lives.
    pub host_ttl: Ttl,
    /// The addresses of the gateways as nodes see them: what everybody comes from who comes through a gateway. Service
    /// accounts need it, since their certificates are always bound to addresses.
    pub gateway_addresses: Option<Networks>,
    /// If any: from where certificates can be used (`source-address`), beside through the gateways. With nothing but
    /// the gateways' own addresses here a stolen key and certificate are useless except through a gateway.
    pub source_addresses: Vec<IpNet>,
    /// What sessions may do.
    pub extensions: Extensions,
}

impl Default for CertificateSettings {
    fn default() -> Self {
        let [ttl, max_ttl, host_ttl] = [const { ttl(300) }, const { ttl(3600) }, const { ttl(30 * 86_400) }];
        let (gateway_addresses, source_addresses) = (None, Vec::new());
        Self { ttl, max_ttl, host_ttl, gateway_addresses, source_addresses, extensions: Extensions::default() }
    }
}

const fn ttl(secs: u32) -> Ttl {
    match Ttl::from_secs(secs) {
        Some(ttl) => ttl,
        // Evaluated at compile time, for the constants above.
        None => unreachable!(),
    }
}

/// Extensions of user certificates (PROTOCOL.certkeys), each on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
// One switch for each of OpenSSH's extensions.
#[allow(clippy::struct_excessive_bools)]
pub struct Extensions {
    /// `permit-pty`.
    pub pty: bool,
    /// `permit-port-forwarding`.
    pub port_forwarding: bool,
    /// `permit-agent-forwarding`.
    pub agent_forwarding: bool,
    /// `permit-X11-forwarding`.
    pub x11_forwarding: bool,
    /// `permit-user-rc`.
    pub user_rc: bool,
}

impl Default for Extensions {
    fn default() -> Self {
        Self { pty: true, port_forwarding: true, agent_forwarding: true, x11_forwarding: false, user_rc: true }
    }
}

impl Extensions {
    /// Without those that a project forbids.
    fn without(self, forbidden: &BTreeSet<Extension>) -> Self {
        let on = |on: bool, extension| on && !forbidden.contains(&extension);
        Self {
            pty: on(self.pty, Extension::Pty),
            port_forwarding: on(self.port_forwarding, Extension::PortForwarding),
            agent_forwarding: on(self.agent_forwarding, Extension::AgentForwarding),
            x11_forwarding: on(self.x11_forwarding, Extension::X11Forwarding),
            user_rc: on(self.user_rc, Extension::UserRc),
        }
    }

    fn names(self) -> Vec<&'static str> {
        // In the order that PROTOCOL.certkeys demands: lexical.
        [
            ("permit-X11-forwarding", self.x11_forwarding),
            ("permit-agent-forwarding", self.agent_forwarding),
            ("permit-port-forwarding", self.port_forwarding),
            ("permit-pty", self.pty),
            ("permit-user-rc", self.user_rc),
        ]
        .into_iter()
        .filter_map(|(name, on)| on.then_some(name))
        .collect()
    }
}

/// What bounds the certificates of one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    default_ttl: Ttl,
    max_ttl: Ttl,
    /// The critical option `force-command`.
    pub(super) force_command: Option<ForceCommand>,
    /// The critical option `source-address`.
    pub(super) source_address: Option<String>,
    /// What sessions may do.
    extensions: Extensions,
    /// The project whose cap is the lowest, if that is lower than all others.
    shortest: Option<ProjectPath>,
}

impl Bounds {
    /// Of an account.
    ///
    /// # Errors
    /// A service account at a site that is not set up for them.
    pub(super) fn of(account: &Account, settings: &CertificateSettings) -> Result<Self, Denial> {
        match &account.kind {
            AccountKind::Person => Ok(Self::of_person(settings)),
            AccountKind::Service(terms) => Self::of_service(terms, settings),
        }
    }

    fn of_person(settings: &CertificateSettings) -> Self {
        let source_address = match settings.source_addresses.as_slice() {
            [] => None,
            sources => {
                let gateways = settings.gateway_addresses.iter().flat_map(Networks::iter);
                Some(list(sources.iter().chain(gateways)))
            }
        };
        Self {
            default_ttl: settings.ttl,
            max_ttl: settings.max_ttl,
            force_command: None,
            source_address,
            extensions: settings.extensions,
            shortest: None,
        }
    }

    /// A site that binds everybody to addresses binds a robot to those of its networks that lie in them.
    fn of_service(terms: &ServiceTerms, settings: &CertificateSettings) -> Result<Self, Denial> {
        let gateways = gateway_addresses(settings)?;
        let own: Vec<IpNet> = match settings.source_addresses.as_slice() {
            [] => terms.sources.iter().copied().collect(),
            sources => {
                terms.sources.iter().flat_map(|own| sources.iter().filter_map(|site| both(*own, *site))).collect()
            }
        };
        let bound = terms.force_command.is_some();
        // What automation needs: never another's agent, display or start-up file; beside a forced command, nothing.
        let extensions = Extensions {
            pty: settings.extensions.pty && !bound,
            port_forwarding: settings.extensions.port_forwarding && !bound,
            agent_forwarding: false,
            x11_forwarding: false,
            user_rc: false,
        };
        Ok(Self {
            default_ttl: settings.ttl,
            max_ttl: settings.max_ttl.min(terms.max_ttl),
            force_command: terms.force_command.clone(),
            source_address: Some(list(own.iter().chain(gateways.iter()))),
            extensions,
            shortest: None,
        })
    }

    /// Also within the limits of every project that the certificate is for.
    pub(super) fn within<'a>(mut self, projects: impl IntoIterator<Item = (ProjectPath, &'a Limits)>) -> Self {
        for (path, limits) in projects {
            self.extensions = self.extensions.without(&limits.forbidden);
            if let Some(cap) = limits.max_ttl.filter(|cap| *cap < self.max_ttl) {
                self.max_ttl = cap;
                self.shortest = Some(path);
            }
        }
        self
    }

    /// In the order that PROTOCOL.certkeys demands.
    pub(super) fn extensions(&self) -> Vec<&'static str> {
        self.extensions.names()
    }

    /// For how long, if so much or nothing in particular is asked for.
    ///
    /// # Errors
    /// More than the cap.
    pub(super) fn ttl(&self, wanted: Option<Ttl>) -> Result<Ttl, Denial> {
        match wanted {
            None => Ok(self.default_ttl.min(self.max_ttl)),
            Some(ttl) if ttl <= self.max_ttl => Ok(ttl),
            Some(ttl) => {
                let whose = match &self.shortest {
                    Some(project) => format!("certificates for {project}"),
                    None => "your certificates".into(),
                };
                let text = format!("{whose} live {0} at most; ask for {0} or less, not {ttl}", self.max_ttl);
                Err(Denial::plain(Reason::Invalid, text))
            }
        }
    }
}

/// The gateways' addresses. Through a gateway a node's sshd sees these, so a certificate without them would be good for
/// nothing there: no service account is made, and none gets a certificate, where they are not known.
///
/// # Errors
/// They are not set.
pub fn gateway_addresses(settings: &CertificateSettings) -> Result<&Networks, Denial> {
    settings.gateway_addresses.as_ref().ok_or_else(|| {
        Denial::told(
            Reason::NotSetUp,
            "service accounts need gateway_addresses in the section [certificates] of authority.toml: the addresses of the \
             gateways as nodes see them",
            "service accounts are not set up at this bastion; ask the people who run it",
        )
    })
}

/// What lies in both: of two networks one contains the other, or they have nothing in common.
fn both(a: IpNet, b: IpNet) -> Option<IpNet> {
    match (a.contains(&b), b.contains(&a)) {
        (true, _) => Some(b),
        (false, true) => Some(a),
        (false, false) => None,
    }
}

/// As PROTOCOL.certkeys has it: separated by commas; here in order, and nothing twice.
fn list<'a>(networks: impl Iterator<Item = &'a IpNet>) -> String {
    let networks = IpNet::aggregate(&networks.copied().collect::<Vec<_>>());
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::test_world::World;

    fn settings() -> CertificateSettings {
        CertificateSettings {
            gateway_addresses: Some("198.51.100.1".parse().unwrap()),
            ..CertificateSettings::default()
        }
    }

    fn bounds(user: &str, command: Option<&str>, settings: &CertificateSettings) -> Result<Bounds, Denial> {
        let world = World::with_service(command);
        Bounds::of(world.directory.account(world.id(user)).unwrap(), settings)
    }

    #[test]
    fn a_robot_is_bound_to_its_networks_and_the_gateways() {
        let of = |settings: &CertificateSettings| bounds("svc-ci", None, settings).unwrap().source_address.unwrap();
        assert_eq!(of(&settings()), "192.0.2.0/24,198.51.100.1/32");
        // Where the site binds everybody, what is not in both is left out.
        let site = |sources: &[&str]| CertificateSettings {
            source_addresses: sources.iter().map(|text| text.parse().unwrap()).collect(),
            ..settings()
        };
        assert_eq!(of(&site(&["192.0.0.0/16"])), "192.0.2.0/24,198.51.100.1/32");
        assert_eq!(of(&site(&["192.0.2.64/26", "203.0.113.0/24"])), "192.0.2.64/26,198.51.100.1/32");
        assert_eq!(of(&site(&["203.0.113.0/24"])), "198.51.100.1/32");
        let person = |settings: &CertificateSettings| bounds("user1", None, settings).unwrap().source_address;
        assert_eq!(person(&settings()), None);
        assert_eq!(person(&site(&["203.0.113.0/24"])).unwrap(), "198.51.100.1/32,203.0.113.0/24");
    }

    #[test]
    fn without_the_gateways_addresses_a_robot_gets_nothing_and_a_person_all() {
        let unset = CertificateSettings::default();
        let denial = bounds("svc-ci", None, &unset).unwrap_err();
        assert_eq!(denial.reason, Reason::NotSetUp);
        assert!(denial.operator.contains("gateway_addresses") && !denial.user.contains("gateway_addresses"));
        assert!(bounds("user1", None, &unset).is_ok());
    }

    #[test]
    fn a_robot_has_the_extensions_that_automation_needs() {
        let all = Extensions { x11_forwarding: true, ..Extensions::default() };
        let all = CertificateSettings { extensions: all, ..settings() };
        let of = |command, settings: &CertificateSettings| bounds("svc-ci", command, settings).unwrap().extensions();
        assert_eq!(of(None, &all), ["permit-port-forwarding", "permit-pty"]);
        assert!(of(Some("id"), &all).is_empty());
        let none = Extensions { pty: false, port_forwarding: false, ..Extensions::default() };
        assert!(of(None, &CertificateSettings { extensions: none, ..settings() }).is_empty());
    }

    #[test]
    fn the_shorter_of_two_caps_holds() {
        let ask = |settings: &CertificateSettings, wanted: Option<&str>| {
            bounds("svc-ci", None, settings).unwrap().ttl(wanted.map(|text| text.parse().unwrap()))
        };
        let ttl = |text: &str| text.parse::<Ttl>().unwrap();
        // Its own cap is ten minutes.
        assert_eq!(ask(&settings(), None), Ok(ttl("5m")));
        assert_eq!(ask(&settings(), Some("10m")), Ok(ttl("10m")));
        assert_eq!(ask(&settings(), Some("11m")).unwrap_err().reason, Reason::Invalid);
        let long = CertificateSettings { ttl: ttl("30m"), ..settings() };
        assert_eq!(ask(&long, None), Ok(ttl("10m")));
        let short = CertificateSettings { max_ttl: ttl("2m"), ..settings() };
        assert_eq!(ask(&short, None), Ok(ttl("2m")));
        assert_eq!(ask(&short, Some("3m")).unwrap_err().reason, Reason::Invalid);
    }
}
