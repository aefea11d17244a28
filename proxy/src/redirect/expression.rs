//! Rules in the words of nf_tables: the expressions of `linux/netfilter/nf_tables.h`, as the kernel takes them and as it
//! gives them back. Written here because no kept library does: those in pure Rust know no `redir` (netlink-bindings,
//! netlink-packet-netfilter) or are under the GPL (rustables), the others need C's libnftnl or the nft program.

use super::{
    netlink::Attribute,
    options::Cidr,
    rules::{Action, Condition, Rule},
};

const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// Where verdicts go, and the one register values go through.
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_SKUID: u32 = 10;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;

const RETURN: i32 = -5;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: a port is given.
const PORT_GIVEN: u32 = 2;
/// Bytes of an interface's name (`IFNAMSIZ`).
const INTERFACE_NAME: usize = 16;

/// The list of expressions that makes a rule.
pub(super) fn expressions(rule: &Rule) -> Vec<Attribute> {
    let mut list: Vec<Attribute> = rule.conditions.iter().flat_map(condition).collect();
    list.extend(action(rule.action));
    list
}

fn condition(condition: &Condition) -> Vec<Attribute> {
    match condition {
        Condition::Tcp(is) => {
            let tcp = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
            vec![meta(META_L4PROTO), compare(if *is { EQUAL } else { NOT_EQUAL }, &[tcp])]
        }
        Condition::FromLoopback => vec![meta(META_IIFNAME), compare(EQUAL, &loopback())],
        Condition::ToLoopback => vec![meta(META_OIFNAME), compare(EQUAL, &loopback())],
        Condition::User(uid) => vec![meta(META_SKUID), compare(EQUAL, &uid.to_ne_bytes())],
        Condition::Port(ports) => {
            let mut list = vec![payload(TRANSPORT_HEADER, 2, 2)];
            if ports.first == ports.last {
                list.push(compare(EQUAL, &ports.first.to_be_bytes()));
            } else {
                list.push(compare(AT_LEAST, &ports.first.to_be_bytes()));
                list.push(compare(AT_MOST, &ports.last.to_be_bytes()));
            }
            list
        }
        Condition::Network(cidr) => network(cidr),
    }
}

fn network(cidr: &Cidr) -> Vec<Attribute> {
    let octets = cidr.octets();
    let (family, offset, length) = if octets.len() == 4 {
        (libc::NFPROTO_IPV4, 16, 4)
    } else {
        (libc::NFPROTO_IPV6, 24, 16)
    };
    let family = u8::try_from(family).unwrap_or_default();
    let mut list = vec![meta(META_NFPROTO), compare(EQUAL, &[family])];
    // Every address of the family: nothing more to ask, and a mask of zeros is no mask.
    if cidr.prefix > 0 {
        list.push(payload(NETWORK_HEADER, offset, length));
        if usize::from(cidr.prefix) < octets.len() * 8 {
            list.push(mask(cidr.mask()));
        }
        list.push(compare(EQUAL, &octets));
    }
    list
}

fn action(action: Action) -> Vec<Attribute> {
    match action {
        Action::Pass => {
            let code = Attribute::bytes(1, RETURN.to_be_bytes());
            let verdict = Attribute::nested(DATA_VERDICT, vec![code]);
            vec![immediate(VERDICT, verdict)]
        }
        Action::Redirect(port) => vec![
            immediate(REGISTER, Attribute::bytes(DATA_VALUE, port.to_be_bytes())),
            expression(
                "redir",
                vec![
                    Attribute::number(1, REGISTER),
                    Attribute::number(2, REGISTER),
                    Attribute::number(3, PORT_GIVEN),
                ],
            ),
        ],
    }
}

fn expression(name: &str, data: Vec<Attribute>) -> Attribute {
    let parts = vec![
        Attribute::text(EXPRESSION_NAME, name),
        Attribute::nested(EXPRESSION_DATA, data),
    ];
    Attribute::nested(LIST_ELEMENT, parts)
}

fn meta(key: u32) -> Attribute {
    expression("meta", vec![Attribute::number(1, REGISTER), Attribute::number(2, key)])
}

fn payload(base: u32, offset: u32, length: u32) -> Attribute {
    let numbers = [(1, REGISTER), (2, base), (3, offset), (4, length)];
    let data = numbers.map(|(kind, number)| Attribute::number(kind, number));
    expression("payload", data.to_vec())
}

fn compare(operator: u32, value: &[u8]) -> Attribute {
    let data = vec![
        Attribute::number(1, REGISTER),
        Attribute::number(2, operator),
        Attribute::nested(3, vec![Attribute::bytes(DATA_VALUE, value)]),
    ];
    expression("cmp", data)
}

/// Keeps the bits of the register that are set in `mask`.
fn mask(mask: Vec<u8>) -> Attribute {
    let length = u32::try_from(mask.len()).unwrap_or_default();
    let zeros = vec![0; mask.len()];
    let data = vec![
        Attribute::number(1, REGISTER),
        Attribute::number(2, REGISTER),
        Attribute::number(3, length),
        Attribute::number(6, 0),
        Attribute::nested(4, vec![Attribute::bytes(DATA_VALUE, mask)]),
        Attribute::nested(5, vec![Attribute::bytes(DATA_VALUE, zeros)]),
    ];
    expression("bitwise", data)
}

fn immediate(register: u32, data: Attribute) -> Attribute {
    expression(
        "immediate",
        vec![Attribute::number(1, register), Attribute::nested(2, vec![data])],
    )
}

fn loopback() -> [u8; INTERFACE_NAME] {
    let mut name = [0; INTERFACE_NAME];
    name[..2].copy_from_slice(b"lo");
    name
}
