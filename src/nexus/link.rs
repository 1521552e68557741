//! `Nexus-Link` headers: `<url>; type="a.B"`, any number of them, split on every comma.
//!
//! A Temporal server answers 400 to a start with a link it cannot read, so the gateway does the same before
//! anything is sent. The rules are those of Temporal's own reader, which is laxer than RFC 8288 in places and
//! stricter in others: the type is required and holds letters, digits, `_`, `.` and `/` only.

/// Whether one header line holds well-formed links only.
pub fn is_valid(line: &str) -> bool {
    line.split(',').all(is_valid_link)
}

fn is_valid_link(link: &str) -> bool {
    let Some(rest) = link.trim().strip_prefix('<') else { return false };
    let Some((url, parameters)) = rest.split_once('>') else { return false };
    if !is_valid_url(url.trim()) {
        return false;
    }
    let mut parameters = parameters.split(';');
    if parameters.next().is_none_or(|before| !before.trim().is_empty()) {
        return false;
    }
    let mut typed = false;
    for parameter in parameters {
        match type_of(parameter.trim()) {
            Parameter::Bad => return false,
            Parameter::Type => typed = true,
            Parameter::Other => {}
        }
    }
    typed
}

enum Parameter {
    Type,
    Other,
    Bad,
}

fn type_of(parameter: &str) -> Parameter {
    let Some((key, value)) = parameter.split_once('=') else { return Parameter::Bad };
    let value = value.trim();
    let value = match (value.strip_prefix('"'), value.ends_with('"')) {
        (Some(open), true) if !open.is_empty() => &open[..open.len() - 1],
        (None, false) => value,
        _ => return Parameter::Bad,
    };
    if key.trim() != "type" {
        return Parameter::Other;
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/');
    if !value.is_empty() && value.bytes().all(allowed) { Parameter::Type } else { Parameter::Bad }
}

/// What Go's `url.Parse` and `url.ParseQuery` refuse, as far as it can stand in a header.
fn is_valid_url(url: &str) -> bool {
    // Go looks for control characters before the fragment only, and for broken escapes everywhere.
    let well_escaped = super::path::well_escaped(url.as_bytes());
    let (url, _fragment) = url.split_once('#').unwrap_or((url, ""));
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    !path.is_empty()
        && !path.starts_with(':')
        && url.bytes().all(|b| !b.is_ascii_control())
        && well_escaped
        && !query.contains(';')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn links_of_temporal_pass() {
        let event = "<temporal:///namespaces/default/workflows/wf%20id/run/history?eventID=5&eventType=NexusOperationScheduled&\
                     referenceType=EventReference>; type=\"temporal.api.common.v1.Link.WorkflowEvent\"";
        assert!(is_valid(event));
        assert!(is_valid(&format!("{event}, {event}")));
        assert!(is_valid("<http://a/b>; rel=x; type=a.B"));
    }

    #[test]
    fn what_temporal_refuses_is_refused() {
        for bad in [
            "",
            "http://a",
            "<http://a",
            "<>; type=\"a.B\"",
            "<http://a>",
            "<http://a>;",
            "<http://a>; type",
            "<http://a>; type=\"a.B",
            "<http://a>; type=\"\"",
            "<http://a>; type=\"",
            "<http://a>; type=\"a B\"",
            "<http://a>; rel=\"x\"",
            "<http://a>x; type=\"a.B\"",
            "<http://a?%zz>; type=\"a.B\"",
            "<http://a?x;y>; type=\"a.B\"",
            "<http://a#%zz>; type=\"a.B\"",
            "<http://a>; type=\"a.B\",",
            "<http://a,b>; type=\"a.B\"",
        ] {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(line in "[<>;=\", a-zA-Z:/%?#.\\pL]{0,60}") {
            let _ = is_valid(&line);
        }
    }
}
