//! What each fuzz target does with its bytes, and what must hold. Shared by the fuzz targets (nightly) and by the smoke test
//! in `control/tests/fuzz_smoke.rs` (stable), so that what is fuzzed is what is tested.

use prost::Message as _;
use squire_control::{
    manifest::Manifest,
    policy::{check::check, eval::Evaluator},
};
use squire_mesh::{
    policy::{
        Table,
        path::{PathNormalization, normalize},
    },
    spiffe::SpiffeId,
    wire::squire as wire,
};

/// Any text is read or refused with problems; whatever was read can be checked, and refers to lines that exist.
pub fn manifest(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let manifest = Manifest::parse("fuzz", &text);
    let lines = text.lines().count() + 1;
    for problem in check(&manifest).problems {
        assert!(problem.line <= lines, "{problem}: there are {lines} lines");
        assert!(!problem.message.is_empty());
    }
}

/// An ID that parses reads the same again, and is what it says.
pub fn spiffe_id(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.as_str().parse::<SpiffeId>().as_ref(), Ok(&id));
    assert_eq!(id.as_str(), format!("spiffe://{}{}", id.trust_domain(), id.path()));
    assert!(id.as_str().len() <= 2048);
}

/// A normalised path has no dot segments, no fragment, and begins with a slash.
pub fn path(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for mode in [
        PathNormalization::None,
        PathNormalization::Base,
        PathNormalization::MergeSlashes,
        PathNormalization::DecodeAndMergeSlashes,
    ] {
        let Ok(target) = normalize(mode, &text) else { continue };
        assert!(!target.contains('#'));
        if mode == PathNormalization::None {
            continue;
        }
        let path = target.split('?').next().unwrap_or_default();
        assert!(path.starts_with('/'));
        assert!(
            !path.split('/').any(|segment| segment == "." || segment == ".."),
            "{text:?} became {path:?}"
        );
        assert!(mode == PathNormalization::Base || !path.contains("//"));
    }
}

/// A message is a table or refused; a table survives the wire.
pub fn wire_policy(bytes: &[u8]) {
    let Ok(message) = wire::Policy::decode(bytes) else {
        return;
    };
    let Ok(table) = Table::try_from(message) else { return };
    let again = Table::try_from(wire::Policy::from(&table));
    assert_eq!(again.as_ref(), Ok(&table));
}

/// A line is answered, whatever it is, and the answer is JSON.
pub fn eval_line(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let answer = Evaluator::per_line().line(&text);
    assert!(serde_json::to_string(&answer).is_ok());
}
