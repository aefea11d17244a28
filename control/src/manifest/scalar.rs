//! What a plain YAML scalar is, as Kubernetes' own tools read it (sigs.k8s.io/yaml: YAML 1.1 with a few of its surprises),
//! turned into JSON. One deliberate difference: a lone `y` or `n` stays text, as newer tools read it.

use serde_json::{Number, Value};

/// The JSON value of a plain (unquoted, untagged) scalar.
pub(super) fn plain(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Ok(Value::Bool(false)),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | "-.Inf" | "-.INF" | ".nan" | ".NaN" | ".NAN" => {
            return Err(format!("{text} cannot be written in JSON"));
        }
        _ => {}
    }
    let starts_like_a_number = text
        .bytes()
        .next()
        .is_some_and(|first| first.is_ascii_digit() || b"+-.".contains(&first));
    if !starts_like_a_number {
        return Ok(Value::String(text.to_owned()));
    }
    let digits = text.replace('_', "");
    Ok(integer(&digits)
        .or_else(|| float(&digits))
        .map_or_else(|| Value::String(text.to_owned()), Value::Number))
}

fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, digits.get(2..)?),
        [b'0', b'o' | b'O', ..] => (8, digits.get(2..)?),
        [b'0', b'b' | b'B', ..] => (2, digits.get(2..)?),
        [b'0', _, ..] => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_alphanumeric()) {
        return None;
    }
    let value = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        0_i64.checked_sub_unsigned(value).map(Number::from)
    } else {
        Some(Number::from(value))
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, by hand.
fn float(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let shaped = all_digits(whole)
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && all_digits(exponent));
    if !shaped {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    Number::from_f64(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_scalars_are_read_as_kubectl_reads_them() {
        for (text, expected) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("y", json!("y")),
            ("n", json!("n")),
            ("80", json!(80)),
            ("-1", json!(-1)),
            ("+1", json!(1)),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("017", json!(15)),
            ("0b11", json!(3)),
            ("08", json!(8.0)),
            ("1_000", json!(1000)),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("1e3", json!(1000.0)),
            ("1e", json!("1e")),
            ("-", json!("-")),
            (".", json!(".")),
            ("...x", json!("...x")),
            ("10.0.0.0/8", json!("10.0.0.0/8")),
            ("1.2.3.4", json!("1.2.3.4")),
            ("2024-01-01", json!("2024-01-01")),
            ("2024-01-01T00:00:00Z", json!("2024-01-01T00:00:00Z")),
            ("::1", json!("::1")),
            ("12:30", json!("12:30")),
            ("0x", json!("0x")),
        ] {
            assert_eq!(plain(text), Ok(expected), "{text}");
        }
        assert!(plain(".inf").is_err());
    }
}
