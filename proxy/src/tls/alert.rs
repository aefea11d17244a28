//! TLS alert numbers (RFC 8446 §6) and their names. No logic.

/// Alert level of a warning.
pub(crate) const WARNING: u8 = 1;
/// The peer sends nothing more.
pub(crate) const CLOSE_NOTIFY: u8 = 0;
/// The peer cancelled; close_notify follows.
pub(crate) const USER_CANCELED: u8 = 90;

/// The standard's name of an alert.
pub(crate) fn name(description: u8) -> &'static str {
    match description {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => "unknown alert",
    }
}
