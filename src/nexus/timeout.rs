//! The `Request-Timeout` header.

use std::time::Duration;

/// Reads a `Request-Timeout`: `^(\d+(?:\.\d+)?)(ms|s|m)$`, the form that Temporal accepts. None where it is
/// anything else. Values beyond what fits are as good as for ever and saturate.
pub fn parse(value: &str) -> Option<Duration> {
    let (number, unit) = if let Some(number) = value.strip_suffix("ms") {
        (number, 1e-3)
    } else if let Some(number) = value.strip_suffix('s') {
        (number, 1.0)
    } else {
        (value.strip_suffix('m')?, 60.0)
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let well_formed = match number.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(number),
    };
    if !well_formed {
        return None;
    }
    let seconds = number.parse::<f64>().ok()? * unit;
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// Writes a `Request-Timeout` in whole milliseconds, as Temporal callers do, rounded to the nearest and at least
/// one: `0ms` would mean no limit at all to a Temporal server.
pub fn format(timeout: Duration) -> String {
    let millis = (timeout.as_micros() + 500) / 1000;
    format!("{}ms", millis.max(1))
}

/// Reads an `Operation-Timeout`, which callers up to Temporal 1.30 write as Go does: `1h2m3.5s`, `39.996143338s`. None
/// where it cannot be read: nothing depends on it but how long a callback can be relayed.
pub fn parse_operation(value: &str) -> Option<Duration> {
    let mut rest = value;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit = rest[number..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |length| number + length);
        let seconds = match &rest[number..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(rest[..number].parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = &rest[unit..];
    }
    (!value.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_three_units() {
        assert_eq!(parse("9999ms"), Some(Duration::from_millis(9999)));
        assert_eq!(parse("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(parse("2m"), Some(Duration::from_secs(120)));
        assert_eq!(parse("0ms"), Some(Duration::ZERO));
        assert_eq!(parse(&format!("{}m", "9".repeat(400))), Some(Duration::MAX));
    }

    #[test]
    fn operations_have_the_times_of_go_as_well() {
        for (text, millis) in [("9999ms", 9_999), ("1h2m3.5s", 3_723_500), ("1m30s", 90_000), ("39.996143338s", 39_996)]
        {
            assert_eq!(parse_operation(text).map(|time| time.as_millis()), Some(millis), "{text}");
        }
        for bad in ["", "s", "5", "5d", "-1s", "1h-2m", "1.2.3s", "nonsense"] {
            assert_eq!(parse_operation(bad), None, "{bad}");
        }
    }

    #[test]
    fn nothing_else() {
        for bad in [
            "", "10", "ms", "s", ".5s", "5.s", "1e3s", "-1s", "+1s", " 1s", "1s ", "1h", "1m30s", "1,5s", "infs",
            "1.2.3s",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn written_in_milliseconds() {
        assert_eq!(format(Duration::from_micros(9_998_951)), "9999ms");
        assert_eq!(format(Duration::from_millis(1)), "1ms");
        assert_eq!(format(Duration::ZERO), "1ms");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(millis in 1u64..100_000_000) {
            let timeout = Duration::from_millis(millis);
            let back = parse(&format(timeout)).unwrap();
            prop_assert!(back.abs_diff(timeout) < Duration::from_micros(1));
        }

        #[test]
        fn never_panics(text in ".{0,30}") {
            let _ = parse(&text);
        }
    }
}
