//! `squire.v1.Traffic` to and from its domain types. Whatever is not exactly understood is an error here: a proxy refuses
//! such a message and keeps what it had.

mod read;
mod write;

use super::{BadPattern, HeaderEdits, filter};
use crate::workload::NameError;

/// Why a message says nothing about traffic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrafficError {
    /// A Service name that does not parse.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A regular expression.
    #[error(transparent)]
    Pattern(#[from] BadPattern),
    /// Not a field name.
    #[error("{0:?} is not the name of a header field")]
    HeaderName(String),
    /// A field that routes may not touch.
    #[error("the header field {0:?} belongs to the sidecar or to the framing of messages: a route cannot change it")]
    HeaderProtected(String),
    /// A value that would end its line.
    #[error("the value for the header field {0:?} holds control characters")]
    HeaderValue(String),
    /// A port outside 1..=65535.
    #[error("port {0} is not within 1..=65535")]
    Port(u32),
    /// A number out of its range.
    #[error("{field} cannot be {value}")]
    Range {
        /// The field.
        field: &'static str,
        /// The number in it.
        value: u64,
    },
    /// An empty or unknown alternative.
    #[error("unknown {0}; is the control plane newer than this proxy?")]
    Unknown(&'static str),
}

type Checked<T> = Result<T, TrafficError>;

impl HeaderEdits {
    /// Changes to header fields.
    ///
    /// # Errors
    /// When a name or value is none, or no route may change it.
    pub fn new<'a>(
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
        add: impl IntoIterator<Item = (&'a str, &'a str)>,
        remove: impl IntoIterator<Item = &'a str>,
    ) -> Checked<Self> {
        let field = |(name, value): (&str, &str)| Ok((filter::editable(name)?, filter::value(name, value)?));
        Ok(Self {
            set: set.into_iter().map(field).collect::<Checked<_>>()?,
            add: add.into_iter().map(field).collect::<Checked<_>>()?,
            remove: remove.into_iter().map(filter::editable).collect::<Checked<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests;
