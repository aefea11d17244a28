//! The table `inet squire`: read, written and removed as one transaction of nf_tables. Other tables are never touched.

use super::{
    RedirectError,
    expression::expressions,
    netlink::{APPEND, Attribute, Batch, CREATE, Netlink, Refused, agree, attribute, number, text},
    options::Options,
    rules::{Chain, Hook, chains},
};

/// The name of our table.
pub(super) const TABLE: &str = "squire";

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const GET_TABLE: u16 = NEW_TABLE + 1;
const DELETE_TABLE: u16 = NEW_TABLE + 2;
const NEW_CHAIN: u16 = NEW_TABLE + 3;
const GET_CHAIN: u16 = NEW_TABLE + 4;
const NEW_RULE: u16 = NEW_TABLE + 6;
const GET_RULE: u16 = NEW_TABLE + 7;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;

/// `NF_IP_PRI_NAT_DST`: where destinations are rewritten.
const PRIORITY: i32 = -100;
const ACCEPT: u32 = 1;
/// Bytes of `struct nfgenmsg`, which begins every message.
const GENERIC: usize = 4;

/// What is in the kernel, measured by what should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no table of ours.
    Nothing,
    /// There is one, and it is not as it should be.
    Altered,
    /// As it should be.
    Same,
}

/// Looks what is there.
pub(super) fn look(netlink: &Netlink, options: &Options) -> Result<Found, RedirectError> {
    let ask = |what, kind| netlink.dump(what, kind, &header(libc::NFPROTO_INET), &[]);
    let tables = ask("listing tables", GET_TABLE)?;
    let ours = |body: &&Vec<u8>| text(attributes(body), TABLE_NAME) == Some(TABLE);
    let Some(table) = tables.iter().find(ours) else {
        return Ok(Found::Nothing);
    };
    let (found, rules) = (ask("listing chains", GET_CHAIN)?, ask("listing rules", GET_RULE)?);
    let expected = chains(options);
    let asleep = number(attributes(table), TABLE_FLAGS).is_some_and(|flags| flags != 0);
    let of_ours = found
        .iter()
        .filter(|body| text(attributes(body), CHAIN_TABLE) == Some(TABLE));
    let same = !asleep
        && of_ours.count() == expected.len()
        && expected
            .iter()
            .all(|chain| is_there(chain, &found) && has_its_rules(chain, &rules));
    Ok(if same { Found::Same } else { Found::Altered })
}

fn is_there(chain: &Chain, found: &[Vec<u8>]) -> bool {
    found.iter().map(|body| attributes(body)).any(|body| {
        text(body, CHAIN_TABLE) == Some(TABLE)
            && text(body, CHAIN_NAME) == Some(chain.name)
            && text(body, CHAIN_TYPE) == Some("nat")
            && number(body, CHAIN_POLICY) == Some(ACCEPT)
            && attribute(body, CHAIN_HOOK).is_some_and(|bytes| agree(&hook(chain.hook), bytes))
    })
}

fn has_its_rules(chain: &Chain, found: &[Vec<u8>]) -> bool {
    let ours = |body: &&[u8]| text(body, RULE_TABLE) == Some(TABLE) && text(body, RULE_CHAIN) == Some(chain.name);
    let found: Vec<_> = found.iter().map(|body| attributes(body)).filter(ours).collect();
    let same = |(rule, body): (_, &&[u8])| {
        let bytes = attribute(body, RULE_EXPRESSIONS);
        bytes.is_some_and(|bytes| agree(&expressions(rule), bytes))
    };
    found.len() == chain.rules.len() && chain.rules.iter().zip(&found).all(same)
}

/// Puts the whole table in the place of whatever is there: all of it, or nothing.
pub(super) fn replace(netlink: &Netlink, options: &Options) -> Result<(), RedirectError> {
    let mut batch = begin();
    clear(&mut batch);
    batch.message("writing table squire", NEW_TABLE, CREATE, &inet(), &[table()]);
    for chain in chains(options) {
        let name = Attribute::text(CHAIN_NAME, chain.name);
        let parts = [
            Attribute::text(CHAIN_TABLE, TABLE),
            name,
            Attribute::nested(CHAIN_HOOK, hook(chain.hook)),
            Attribute::number(CHAIN_POLICY, ACCEPT),
            Attribute::text(CHAIN_TYPE, "nat"),
        ];
        let what = format!("writing chain {}", chain.name);
        batch.message(&what, NEW_CHAIN, CREATE, &inet(), &parts);
        for (index, rule) in chain.rules.iter().enumerate() {
            let parts = [
                Attribute::text(RULE_TABLE, TABLE),
                Attribute::text(RULE_CHAIN, chain.name),
                Attribute::nested(RULE_EXPRESSIONS, expressions(rule)),
            ];
            let what = format!("writing rule {} of chain {}", index + 1, chain.name);
            batch.message(&what, NEW_RULE, CREATE | APPEND, &inet(), &parts);
        }
    }
    commit(netlink, batch)
}

/// Takes the table away, if there is one.
pub(super) fn remove(netlink: &Netlink) -> Result<(), RedirectError> {
    let mut batch = begin();
    clear(&mut batch);
    commit(netlink, batch)
}

/// A table that is not there cannot be deleted, and one that is there can be made once more: so both, in this order.
fn clear(batch: &mut Batch) {
    batch.message("making table squire", NEW_TABLE, CREATE, &inet(), &[table()]);
    batch.message("removing table squire", DELETE_TABLE, 0, &inet(), &[table()]);
}

fn begin() -> Batch {
    let mut batch = Batch::default();
    batch.message("opening a transaction", BATCH_BEGIN, 0, &boundary(), &[]);
    batch
}

fn commit(netlink: &Netlink, mut batch: Batch) -> Result<(), RedirectError> {
    batch.message("committing", BATCH_END, 0, &boundary(), &[]);
    Ok(netlink.send(&batch)?)
}

fn table() -> Attribute {
    Attribute::text(TABLE_NAME, TABLE)
}

fn hook(hook: Hook) -> Vec<Attribute> {
    let number = match hook {
        Hook::Prerouting => libc::NF_INET_PRE_ROUTING,
        Hook::Output => libc::NF_INET_LOCAL_OUT,
    };
    vec![
        Attribute::bytes(1, number.to_be_bytes()),
        Attribute::bytes(2, PRIORITY.to_be_bytes()),
    ]
}

fn inet() -> [u8; GENERIC] {
    header(libc::NFPROTO_INET)
}

/// `struct nfgenmsg`: family, version 0, resource 0.
fn header(family: i32) -> [u8; GENERIC] {
    [u8::try_from(family).unwrap_or_default(), 0, 0, 0]
}

/// What begins and ends a transaction names the subsystem as its resource.
fn boundary() -> [u8; GENERIC] {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    [0, 0, high, low]
}

/// What follows the fixed header.
fn attributes(body: &[u8]) -> &[u8] {
    body.get(GENERIC..).unwrap_or_default()
}

impl From<Refused> for RedirectError {
    fn from(Refused { what, source }: Refused) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NoPrivilege { what },
            // Neither the subsystem, nor the family, nor the kind of chain or expression.
            Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::ENOENT) => {
                Self::NoNfTables { what, source }
            }
            _ => Self::Kernel { what, source },
        }
    }
}
