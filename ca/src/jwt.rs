//! JWT-SVIDs: the keys that sign them, how these follow one another, what a token says, and the gRPC door at which it is
//! asked for. It has nothing to do with certificates but that one proves who asks.

mod keys;
mod service;
mod token;

pub use keys::{JwtKeyError, JwtKeyRecord, JwtKeys, KEY_LIFE, LEAD, retired};
pub use service::{JwtIssuingService, JwtRefusal};
pub use token::{Audience, AudienceError, DEFAULT_JWT_TTL, MAX_JWT_TTL, SignedJwt, granted_jwt_ttl};

pub(crate) use keys::{first, next, rotated};
pub(crate) use token::sign;
