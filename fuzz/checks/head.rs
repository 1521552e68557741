//! What holds for whatever comes on a connection of HTTP/1.1.

use nexus_gateway::server::strict::{Limits, Machine, Refusal};

const LIMITS: Limits = Limits { max_head: 512, max_headers: 8, max_uri: 128 };

pub(crate) fn check(input: &[u8]) {
    let whole = passed(input, input.len());
    for piece in [1, 2, 7] {
        assert_eq!(passed(input, piece), whole, "it does not matter in which pieces bytes come");
    }
    let (passes, refused) = whole;
    // What passes is good by itself, and what reads it after this finds as many requests.
    assert_eq!(passed(&input[..passes], passes.max(1)), (passes, None));
    if !matches!(refused, Some(Refusal::BadBody)) {
        read_on(&input[..passes]);
    }
}

/// How many bytes pass, and what is refused then, if they come in pieces of this size.
fn passed(input: &[u8], piece: usize) -> (usize, Option<Refusal>) {
    let mut machine = Machine::new(LIMITS);
    let (mut seen, mut passes) = (0, 0);
    for piece in input.chunks(piece.max(1)) {
        let scanned = machine.scan(piece);
        if let Some(count) = scanned.passes {
            assert!(count <= piece.len());
            passes = seen + count;
        }
        if scanned.refused.is_some() {
            assert!(machine.is_over());
            return (passes, scanned.refused);
        }
        if machine.is_over() {
            break;
        }
        seen += piece.len();
    }
    (passes, None)
}

/// Reads good requests as a plain reader would that trusts what it reads.
fn read_on(mut rest: &[u8]) {
    while !rest.is_empty() {
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("a head passes as a whole");
        let Ok(head) = std::str::from_utf8(&rest[..end]) else { return };
        let head = head.to_ascii_lowercase();
        rest = &rest[end + 4..];
        let header = |name: &str| {
            let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
            let values: Vec<_> = lines.filter(|(found, _)| *found == name).map(|(_, value)| value.trim()).collect();
            assert!(values.len() <= 1, "{name} is there once at most");
            values.first().map(|value| (*value).to_owned())
        };
        assert!(!(header("content-length").is_some() && header("transfer-encoding").is_some()));
        if let Some(length) = header("content-length") {
            let length: usize = length.parse().unwrap_or(usize::MAX);
            rest = &rest[length.min(rest.len())..];
        } else if header("transfer-encoding").is_some() {
            let Some(after) = after_chunks(rest) else { return };
            rest = after;
        }
    }
}

/// What follows the last chunk; none where that has not come.
fn after_chunks(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let digits = std::str::from_utf8(&rest[..end]).expect("a size is digits");
        let size = u64::from_str_radix(digits, 16).expect("a size is digits");
        let size = usize::try_from(size).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            // Trailers, if any, and an empty line.
            while !rest.starts_with(b"\r\n") {
                let end = rest.windows(2).position(|two| two == b"\r\n").expect("trailers pass as a whole");
                assert!(rest[..end].contains(&b':') && !rest[..end].contains(&b'\n'), "a trailer is a header");
                rest = &rest[end + 2..];
            }
            return Some(&rest[2..]);
        }
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}
