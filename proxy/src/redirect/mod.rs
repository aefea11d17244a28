//! Interception: the rules in the kernel that lead a pod's TCP connections through its sidecar, written into the network
//! namespace this process is in, taken away again, and proved by connections of its own. Needs no program beside itself;
//! it touches no table but `inet squire`, and carries no traffic.

pub mod check;
pub mod command;
mod expression;
mod netlink;
pub mod options;
pub mod place;
mod rules;
mod table;

use std::io;

use self::{
    netlink::Netlink,
    options::Options,
    place::Place,
    table::{Found, look},
};

/// What writing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// There were no rules.
    New,
    /// There were others, or some were missing.
    Repaired,
    /// They were there already.
    Unchanged,
}

/// Why connections are not redirected.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// Not allowed to.
    #[error(
        "{what}: not permitted; this needs CAP_NET_ADMIN in the network namespace, and --check CAP_NET_RAW too \
             (in a pod: securityContext.capabilities.add of the container that runs this)"
    )]
    NoPrivilege {
        /// What was tried.
        what: String,
    },
    /// The kernel cannot.
    #[error(
        "{what}: {source}; this kernel lacks nf_tables with NAT for the inet family: Linux 5.2 or newer with \
             CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT and CONFIG_NFT_REDIR (modules nf_tables, nft_chain_nat, nft_redir) \
             is needed"
    )]
    NoNfTables {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel would not.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The check cannot make what it needs.
    #[error(
        "{what}: {source}; the check needs a kernel with veth interfaces and packet sockets (CONFIG_VETH, \
             CONFIG_PACKET)"
    )]
    NoCable {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Asked as one whom the rules let pass.
    #[error("this process runs as user {uid}, whose connections pass; run the check as another user")]
    Excluded {
        /// Who that is.
        uid: u32,
    },
    /// The rules would be for more than a pod.
    #[error(
        "this may not be a pod: {why}. Rules here would lead every TCP connection of the machine through one sidecar, \
             so nothing was written. A pod with hostNetwork cannot have its connections redirected: take the sidecar or \
             hostNetwork away. If the machine itself is the workload (a WorkloadEntry), say so: --whole-machine"
    )]
    NotAPod {
        /// What tells, or why nothing does.
        why: String,
    },
    /// The kernel took the rules and has others.
    #[error(
        "the rules were written, and the kernel shows others now: somebody else changes table inet squire at the \
             same time; stop that, and run this again"
    )]
    NotKept,
}

impl RedirectError {
    /// The process's exit code: 77 for missing privileges, 69 for what the kernel lacks, 78 outside a pod, 70
    /// otherwise.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Excluded { .. } => 2,
            Self::NoPrivilege { .. } => 77,
            Self::NoNfTables { .. } | Self::NoCable { .. } => 69,
            Self::Kernel { .. } | Self::NotKept => 70,
            Self::NotAPod { .. } => 78,
        }
    }
}

/// Writes the rules, unless they are there already; all at once, so that no connection meets half of them. Outside a pod
/// only for a `whole_machine`.
///
/// # Errors
/// When this is no pod, or when the kernel refuses or does not keep what it was given.
pub fn write(options: &Options, whole_machine: bool) -> Result<Written, RedirectError> {
    match Place::here() {
        _ if whole_machine => {}
        Place::Pod => {}
        Place::Machine(why) => {
            let why = format!("this network namespace is the machine's own ({why})");
            return Err(RedirectError::NotAPod { why });
        }
        Place::Unknown(why) => {
            let why = format!("whose network namespace this is cannot be told ({why})");
            return Err(RedirectError::NotAPod { why });
        }
    }
    let netlink = Netlink::open(libc::NETLINK_NETFILTER)?;
    let before = look(&netlink, options)?;
    if before == Found::Same {
        return Ok(Written::Unchanged);
    }
    table::replace(&netlink, options)?;
    match (look(&netlink, options)?, before) {
        (Found::Same, Found::Nothing) => Ok(Written::New),
        (Found::Same, _) => Ok(Written::Repaired),
        (Found::Nothing | Found::Altered, _) => Err(RedirectError::NotKept),
    }
}

/// Whether this process may look at rules at all.
fn allowed() -> Result<(), RedirectError> {
    let netlink = Netlink::open(libc::NETLINK_NETFILTER)?;
    look(&netlink, &Options::default()).map(drop)
}

/// Takes the rules away. True: there were some.
///
/// # Errors
/// When the kernel refuses.
pub fn undo() -> Result<bool, RedirectError> {
    let netlink = Netlink::open(libc::NETLINK_NETFILTER)?;
    let before = look(&netlink, &Options::default())?;
    if before == Found::Nothing {
        return Ok(false);
    }
    table::remove(&netlink)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::{netlink::Refused, *};

    #[test]
    fn what_the_kernel_refuses_says_what_to_do_and_has_an_exit_code_of_its_own() {
        for (number, code, says) in [
            (libc::EPERM, 77, "CAP_NET_ADMIN"),
            (libc::EPROTONOSUPPORT, 69, "nf_tables"),
            (libc::EOPNOTSUPP, 69, "CONFIG_NFT_REDIR"),
            (libc::ENOENT, 69, "nft_chain_nat"),
            (libc::ENOBUFS, 70, "os error"),
        ] {
            let error = RedirectError::from(Refused {
                what: "writing chain inbound".to_owned(),
                source: io::Error::from_raw_os_error(number),
            });
            let text = error.to_string();
            assert_eq!(error.exit_code(), code, "{text}");
            assert!(
                text.starts_with("writing chain inbound: ") && text.contains(says),
                "{text}"
            );
        }
    }
}
