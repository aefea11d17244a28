//! The RequestAuthentication part of the table to and from the wire.

use std::time::Duration;

use super::{WireError, list};
use crate::{
    policy::{ClaimHeader, TokenIssuer, TokenKeys, TokenPlace},
    wire::{
        milliseconds,
        squire::{self as wire, token_issuer::Discovery, token_issuer::Keys, token_place::Header, token_place::Place},
    },
};

pub(super) fn issuer(message: wire::TokenIssuer) -> Result<TokenIssuer, WireError> {
    let texts = |texts: Vec<String>| texts.into_iter().map(Into::into).collect();
    let keys = match message.keys.ok_or(WireError::Missing("token keys"))? {
        Keys::Inline(keys) => TokenKeys::Inline(keys.into()),
        Keys::Url(url) => TokenKeys::Url(url.into()),
        Keys::File(path) => TokenKeys::File(path.into()),
        Keys::Discovery(Discovery {}) => TokenKeys::Discovery,
    };
    let claim_header = |entry: wire::ClaimHeader| ClaimHeader {
        header: entry.header.into(),
        claim: entry.claim.into(),
    };
    Ok(TokenIssuer {
        issuer: message.issuer.into(),
        audiences: texts(message.audiences),
        keys,
        places: list(message.places, place)?,
        forward: message.forward,
        payload_header: (!message.payload_header.is_empty()).then(|| message.payload_header.into()),
        claim_headers: message.claim_headers.into_iter().map(claim_header).collect(),
        timeout: Duration::from_millis(message.timeout_ms),
        space_delimited: texts(message.space_delimited),
    })
}

pub(super) fn write(issuer: &TokenIssuer) -> wire::TokenIssuer {
    let texts = |texts: &[Box<str>]| texts.iter().map(ToString::to_string).collect();
    wire::TokenIssuer {
        issuer: issuer.issuer.to_string(),
        space_delimited: texts(&issuer.space_delimited),
        audiences: texts(&issuer.audiences),
        keys: Some(match &issuer.keys {
            TokenKeys::Inline(keys) => Keys::Inline(keys.to_string()),
            TokenKeys::Url(url) => Keys::Url(url.to_string()),
            TokenKeys::File(path) => Keys::File(path.to_string()),
            TokenKeys::Discovery => Keys::Discovery(Discovery {}),
        }),
        places: issuer.places.iter().map(write_place).collect(),
        forward: issuer.forward,
        payload_header: issuer.payload_header.as_deref().unwrap_or_default().to_owned(),
        claim_headers: issuer
            .claim_headers
            .iter()
            .map(|entry| wire::ClaimHeader {
                header: entry.header.to_string(),
                claim: entry.claim.to_string(),
            })
            .collect(),
        timeout_ms: milliseconds(issuer.timeout),
    }
}

fn place(message: wire::TokenPlace) -> Result<TokenPlace, WireError> {
    Ok(match message.place.ok_or(WireError::Missing("token place"))? {
        Place::Header(header) => TokenPlace::Header {
            name: header.name.into(),
            prefix: header.prefix.into(),
        },
        Place::Param(name) => TokenPlace::Param(name.into()),
        Place::Cookie(name) => TokenPlace::Cookie(name.into()),
    })
}

fn write_place(place: &TokenPlace) -> wire::TokenPlace {
    let place = match place {
        TokenPlace::Header { name, prefix } => Place::Header(Header {
            name: name.to_string(),
            prefix: prefix.to_string(),
        }),
        TokenPlace::Param(name) => Place::Param(name.to_string()),
        TokenPlace::Cookie(name) => Place::Cookie(name.to_string()),
    };
    wire::TokenPlace { place: Some(place) }
}
