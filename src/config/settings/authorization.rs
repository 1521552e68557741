//! Rules that say for whom they are, and can fit somebody.

use crate::admission::AuthorizationSettings;
use crate::admission::authorize::{ANONYMOUS, Callers, Pattern, Rule};
use crate::config::file::{self, Names};
use crate::config::report::Report;
use crate::config::tree::item_path;
use crate::config::value::Kind;

/// The rules; none where the file has none, which is not the same as no rule.
pub(super) fn build(file: Option<file::Authorization>, report: &mut Report<'_>) -> Option<AuthorizationSettings> {
    let file = file?;
    let list = file.rules.unwrap_or_default().into_iter().map(Option::unwrap_or_default).enumerate();
    Some(AuthorizationSettings {
        rules: list.map(|(index, item)| rule(item, &item_path("authorization.rules", index), report)).collect(),
        completions: file.completions.map(|file::AllowCompletions { callers: names, namespaces }| {
            callers(names, namespaces, "authorization.completions", report)
        }),
        tell_forbidden: file.tell_forbidden.unwrap_or(false),
    })
}

fn rule(file: file::AllowRule, path: &str, report: &mut Report<'_>) -> Rule {
    Rule {
        callers: callers(file.callers, file.namespaces, path, report),
        endpoints: patterns(file.endpoints, &format!("{path}.endpoints"), report),
        services: patterns(file.services, &format!("{path}.services"), report),
        operations: patterns(file.operations, &format!("{path}.operations"), report),
    }
}

/// A rule for everybody should be meant.
fn callers(names: Names, namespaces: Names, path: &str, report: &mut Report<'_>) -> Callers {
    if names.is_none() && namespaces.is_none() {
        report.add(path, "does not say for whom it is; write `callers: ['*']` for every known caller");
    }
    let callers = Callers {
        names: patterns(names, &format!("{path}.callers"), report),
        namespaces: patterns(namespaces, &format!("{path}.namespaces"), report),
    };
    let only_anonymous = |names: &Vec<Pattern>| names.iter().all(|name| name.exact() == Some(ANONYMOUS));
    if callers.namespaces.is_some() && callers.names.as_ref().is_some_and(only_anonymous) {
        let message = "callers without a credential have no namespace, so this fits nobody; remove it";
        report.add(&format!("{path}.namespaces"), message);
    }
    callers
}

/// An empty list would fit nothing, while one that is left out fits everything: whoever empties one may mean either.
fn patterns<K: Kind<Value = Pattern>>(list: Names<K>, path: &str, report: &mut Report<'_>) -> Option<Vec<Pattern>> {
    let list = list?;
    if list.is_empty() {
        report.add(path, "fits no name; list some, write `['*']` for all, or remove the whole rule");
    }
    let mut known: Vec<Pattern> = Vec::new();
    for (index, item) in list.into_iter().enumerate() {
        let path = item_path(path, index);
        match item {
            None => report.add(&path, "is empty; remove it"),
            Some(item) if known.contains(&item.0) => {
                report.add_about(&path, "stands in this list already; remove it");
            }
            Some(item) => known.push(item.0),
        }
    }
    Some(known)
}
