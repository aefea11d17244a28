//! Exit codes for what can go wrong with a CA: 78 when what is in the directory is wrong, 69 when something that must be
//! there is not.

use squire_ca::{
    authority::{CaError, IssueError},
    log::LogError,
    store::StoreError,
    token::TokenError,
};

use crate::exit::Failure;

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { .. }
            | StoreError::Locked { .. }
            | StoreError::ReadOnly(_)
            | StoreError::Api { .. }
            | StoreError::Silent { .. }
            | StoreError::Changed { .. }
            | StoreError::Follower(_)
            | StoreError::Moved { .. } => Self::unavailable(error),
            StoreError::NotInitialised(_)
            | StoreError::AlreadyInitialised { .. }
            | StoreError::OtherTrustDomain { .. }
            | StoreError::Permissions { .. }
            | StoreError::Damaged { .. }
            | StoreError::Sealed { .. }
            | StoreError::NoKey(_)
            | StoreError::State(_) => Self::configuration(error),
        }
    }
}

impl From<CaError> for Failure {
    fn from(error: CaError) -> Self {
        match error {
            CaError::Store(error) => error.into(),
            CaError::Log(error) => error.into(),
            CaError::State(_) | CaError::Hierarchy(_) => Self::configuration(error),
        }
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Fault(_) => Self::configuration(error),
            LogError::Store(_) | LogError::Closed => Self::unavailable(error),
        }
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Store(error) => error.into(),
            TokenError::NoPath(_) | TokenError::OtherTrustDomain { .. } => Self::usage(error),
            TokenError::Random => Self::unavailable(error),
        }
    }
}

impl From<IssueError> for Failure {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::NotOurs { .. } => Self::usage(error),
            IssueError::Revoked(_) => Self::denied(error),
            IssueError::Log(_) | IssueError::Stale { .. } | IssueError::Intermediate { .. } => Self::unavailable(error),
            IssueError::Sign(_) | IssueError::Own(_) => Self::configuration(error),
        }
    }
}
