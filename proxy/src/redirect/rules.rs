//! The rules, as conditions and what follows from them: which new connections are redirected and which pass. A pure
//! function of the options; what nf_tables calls all this is `expression.rs`'s.

use std::net::IpAddr;

use super::options::{Cidr, Options, Ports};

/// One chain: where in the kernel it looks at new connections, and its rules in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Hook,
    pub(super) rules: Vec<Rule>,
}

/// Where a chain looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// At what comes from outside, before it is routed.
    Prerouting,
    /// At what processes here send.
    Output,
}

/// Connections that meet all conditions are dealt with so; the others are the next rule's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
}

/// What a rule asks of a connection's first packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// TCP, or anything else.
    Tcp(bool),
    /// It arrived over loopback.
    FromLoopback,
    /// It leaves over loopback: to 127.0.0.0/8, ::1, or an address of the pod itself.
    ToLoopback,
    /// A process of this user sends it.
    User(u32),
    /// It goes to one of these ports.
    Port(Ports),
    /// It goes to this network.
    Network(Cidr),
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// It goes where it was going.
    Pass,
    /// It goes to this port here.
    Redirect(u16),
}

/// Both chains.
pub(super) fn chains(options: &Options) -> [Chain; 2] {
    [outbound(options), inbound(options)]
}

fn outbound(options: &Options) -> Chain {
    let users = std::iter::once(&options.proxy_uid).chain(&options.exclude_uids);
    let mut passes = vec![Condition::Tcp(false), Condition::ToLoopback];
    passes.extend(users.map(|uid| Condition::User(*uid)));
    passes.extend(
        options
            .exclude_outbound_ports
            .iter()
            .map(|ports| Condition::Port(*ports)),
    );
    passes.extend(
        options
            .exclude_outbound_cidrs
            .iter()
            .map(|cidr| Condition::Network(*cidr)),
    );
    chain("outbound", Hook::Output, passes, options.outbound_port)
}

fn inbound(options: &Options) -> Chain {
    let admin = Ports::from(options.admin_port);
    let ports = std::iter::once(&admin).chain(&options.exclude_inbound_ports);
    let mut passes = vec![Condition::Tcp(false), Condition::FromLoopback];
    passes.extend(ports.map(|ports| Condition::Port(*ports)));
    chain("inbound", Hook::Prerouting, passes, options.inbound_port)
}

fn chain(name: &'static str, hook: Hook, passes: Vec<Condition>, to: u16) -> Chain {
    let rule = |condition, action| {
        // nf_tables reads ports and addresses as bytes: the condition before has to say whose.
        let conditions = match &condition {
            Condition::Port(_) => vec![Condition::Tcp(true), condition],
            _ => vec![condition],
        };
        Rule { conditions, action }
    };
    let passes = passes.into_iter().map(|condition| rule(condition, Action::Pass));
    let last = rule(Condition::Tcp(true), Action::Redirect(to));
    Chain {
        name,
        hook,
        rules: passes.chain([last]).collect(),
    }
}

impl Cidr {
    /// Its address as it stands in a packet.
    pub(super) fn octets(&self) -> Vec<u8> {
        match self.address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        }
    }

    /// Ones where the prefix is.
    pub(super) fn mask(&self) -> Vec<u8> {
        let bits = |index: usize| {
            let before = u32::try_from(index * 8).unwrap_or(u32::MAX);
            let ones = u32::from(self.prefix).saturating_sub(before).min(8);
            u8::MAX.checked_shl(8 - ones).unwrap_or(0)
        };
        (0..self.octets().len()).map(bits).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sidecar_loopback_and_what_is_not_tcp_pass_and_the_rest_is_redirected() {
        let [outbound, inbound] = chains(&Options::default());
        let actions = |chain: &Chain| chain.rules.iter().map(|rule| rule.action).collect::<Vec<_>>();
        assert_eq!(
            actions(&outbound),
            [Action::Pass, Action::Pass, Action::Pass, Action::Redirect(15001)]
        );
        assert_eq!(outbound.rules[2].conditions, [Condition::User(2102)]);
        assert_eq!(actions(&inbound).last(), Some(&Action::Redirect(15006)));
        assert_eq!(inbound.rules[0].conditions, [Condition::Tcp(false)]);
    }

    #[test]
    fn masks_have_a_one_for_each_bit_of_the_prefix() {
        for (address, prefix, mask) in [
            ("10.0.0.0", 8, vec![255, 0, 0, 0]),
            ("0.0.0.0", 0, vec![0; 4]),
            ("10.1.2.128", 25, vec![255, 255, 255, 128]),
            ("10.1.2.3", 32, vec![255; 4]),
        ] {
            let cidr = Cidr {
                address: address.parse().unwrap(),
                prefix,
            };
            assert_eq!(cidr.mask(), mask, "{address}/{prefix}");
        }
        let six = Cidr {
            address: "fd00::".parse().unwrap(),
            prefix: 33,
        };
        assert_eq!(six.mask()[..6], [255, 255, 255, 255, 128, 0]);
    }
}
