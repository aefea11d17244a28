//! Kubernetes quantities (`250m`, `64Mi`, `1.5G`), read only to see whether they are some and which is larger.

use std::str::FromStr;

/// An amount, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity(u128);

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity; write such as 100m, 0.5, 64Mi or 1G")]
pub(crate) struct QuantityError(String);

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text).map(Self).ok_or_else(|| QuantityError(text.to_owned()))
    }
}

fn read(text: &str) -> Option<u128> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || whole.len() > 15 || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let times: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    let whole = whole.parse::<u128>().ok()? * times;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = match fraction {
        "" => 0,
        digits => digits.parse::<u128>().ok()? * times / scale,
    };
    Some(whole + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_compare_whatever_their_suffix() {
        let quantity = |text: &str| text.parse::<Quantity>().unwrap();
        for (smaller, larger) in [
            ("1m", "2m"),
            ("999m", "1"),
            ("0.5", "501m"),
            ("1M", "1Mi"),
            ("1023Mi", "1Gi"),
            ("1.5k", "2Ki"),
        ] {
            assert!(quantity(smaller) < quantity(larger), "{smaller} < {larger}");
        }
        assert_eq!(quantity("0.1"), quantity("100m"));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "",
            "m",
            "-1",
            "1.2.3",
            "10 Mi",
            "1mi",
            "much",
            ".5",
            "1e3x",
            "9999999999999999",
        ] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }
}
