//! Durations such as `250ms` and sizes such as `2MiB`: read and printed.

use std::time::Duration;

/// Unit and nanoseconds, largest first.
const TIME_UNITS: [(&str, u128); 5] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

/// Unit and bytes, largest first.
const SIZE_UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Why a text is no duration or size: what a message says after the text.
pub(super) type Refusal = &'static str;

/// Reads a decimal number with a unit; digits below a nanosecond are dropped.
pub(super) fn parse_duration(text: &str) -> Result<Duration, Refusal> {
    const WRONG: Refusal = "is not a duration; write a number with a unit, such as `250ms`, `5s`, `1m`, `2h` or `90d`";
    const TOO_LONG: Refusal = "is too long for a duration; write less";
    let (number, unit) = split_unit(text);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if !is_digits(whole) || !is_digits(fraction) {
        return Err(WRONG);
    }
    if unit.is_empty() {
        return Err("has no unit; append `ms`, `s`, `m`, `h` or `d`, as in `10s`");
    }
    let (_, unit) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or(WRONG)?;
    let whole: u128 = whole.parse().map_err(|_| TOO_LONG)?;
    let nanos = whole.checked_mul(*unit).and_then(|nanos| nanos.checked_add(fraction_of(*unit, fraction)));
    nanos.and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos).ok_or(TOO_LONG)
}

/// The shortest text that [`parse_duration`] reads back as `duration`.
pub(crate) fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if let Some((name, unit)) = TIME_UNITS.iter().find(|(_, unit)| nanos.is_multiple_of(*unit)) {
        return format!("{}{name}", nanos / unit);
    }
    let (millis, rest) = (nanos / 1_000_000, nanos % 1_000_000);
    format!("{millis}.{}ms", format!("{rest:06}").trim_end_matches('0'))
}

/// Reads a whole number of bytes, or one with a unit.
pub(super) fn parse_size(text: &str) -> Result<usize, Refusal> {
    let (number, unit) = split_unit(text);
    if !is_digits(number) {
        return Err("is not a size; write a whole number of bytes, or one with a unit, such as `64KiB` or `2MiB`");
    }
    let unit = match unit {
        "" => 1,
        unit => {
            SIZE_UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .ok_or("has an unknown unit; write `KiB`, `MiB` or `GiB`")?
                .1
        }
    };
    number.parse().ok().and_then(|number: usize| number.checked_mul(unit)).ok_or("is too large for a size; write less")
}

/// The shortest text that [`parse_size`] reads back as `bytes`.
pub(crate) fn format_size(bytes: usize) -> String {
    match SIZE_UNITS.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len()))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `0.fraction` of `unit`, rounded down. Twenty digits are more than any unit has nanoseconds.
fn fraction_of(unit: u128, fraction: &str) -> u128 {
    let (numerator, denominator) = fraction
        .bytes()
        .take(20)
        .fold((0, 1), |(numerator, denominator), byte| (numerator * 10 + u128::from(byte - b'0'), denominator * 10));
    unit * numerator / denominator
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_durations() {
        for (text, millis) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("1.5s", 1_500),
            ("1m", 60_000),
            ("0.25h", 900_000),
            ("90d", 90 * 24 * 3_600_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "5",
            "5 s",
            "-5s",
            "+5s",
            "5.s",
            ".5s",
            "5S",
            "5D",
            "5w",
            "1e3s",
            "1s5ms",
            "99999999999h",
            "999999d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_sizes() {
        for (text, bytes) in [("0", 0), ("100", 100), ("64KiB", 65_536), ("2MiB", 2 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "2MB", "2 MiB", "1.5MiB", "-1", "2mib", "99999999999999999999", "99999999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn durations_survive_printing(nanos in any::<u64>()) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn whole_durations_survive_printing(number in 0..10_000_u64, unit in 0..TIME_UNITS.len()) {
            let nanos = u128::from(number) * TIME_UNITS[unit].1;
            let duration = Duration::from_nanos(u64::try_from(nanos).expect("below 500 years"));
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn sizes_survive_printing(number in 0..5_000_usize, shift in 0..40_u32) {
            let bytes = number << shift;
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
