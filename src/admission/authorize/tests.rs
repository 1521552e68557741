//! Rules by example, and for random ones the decision equals what the words of the configuration say.

use proptest::prelude::*;

use super::*;

fn patterns(texts: &[&str]) -> Option<Vec<Pattern>> {
    (!texts.is_empty()).then(|| texts.iter().map(|text| Pattern::new(text).unwrap()).collect())
}

fn rule(callers: &[&str], endpoints: &[&str], operations: &[&str]) -> Rule {
    Rule {
        callers: Callers { names: patterns(callers), namespaces: None },
        endpoints: patterns(endpoints),
        services: None,
        operations: patterns(operations),
    }
}

fn of(rules: Vec<Rule>) -> Authorization {
    Authorization::new(Some(&AuthorizationSettings { rules, ..AuthorizationSettings::default() }), true)
}

fn known(name: &str) -> Who<'_> {
    Who { name: Some(name), namespace: None }
}

fn asked<'a>(endpoint: &'a str, operation: &'a str) -> Asked<'a> {
    Asked { endpoint, service: "Svc", operation }
}

fn decided(authorization: &Authorization, who: Who<'_>, endpoint: &str, operation: &str) -> Result<String, Denied> {
    let authorized = authorization.decide(who, asked(endpoint, operation));
    authorized.map(|authorized| authorized.rule().map(ToString::to_string).unwrap_or_default())
}

#[test]
fn the_first_rule_that_fits_allows_and_is_named() {
    let rules = of(vec![
        rule(&["orders"], &["pay"], &["quote"]),
        rule(&["team-*"], &["pay", "ship-*"], &[]),
        rule(&["orders"], &["pay"], &["quote", "charge"]),
    ]);
    let allowed = |index| Ok(format!("authorization.rules[{index}]"));
    assert_eq!(decided(&rules, known("orders"), "pay", "quote"), allowed(0));
    assert_eq!(decided(&rules, known("orders"), "pay", "charge"), allowed(2));
    assert_eq!(decided(&rules, known("team-a"), "ship-eu", "anything"), allowed(1));
    assert_eq!(decided(&rules, known("orders"), "pay", "refund"), Err(Denied::Forbidden));
    assert_eq!(decided(&rules, known("orders"), "ship-eu", "quote"), Err(Denied::Hidden));
    assert_eq!(decided(&rules, known("others"), "pay", "quote"), Err(Denied::Hidden));
}

#[test]
fn namespaces_are_those_of_callers_that_have_one() {
    let prod = Callers { names: None, namespaces: patterns(&["prod-*"]) };
    let rules = of(vec![Rule { callers: prod, ..Rule::default() }]);
    let from = |namespace| Who { name: Some("orders"), namespace };
    assert!(decided(&rules, from(Some("prod-eu")), "pay", "quote").is_ok());
    assert!(decided(&rules, from(Some("test")), "pay", "quote").is_err());
    assert!(decided(&rules, from(None), "pay", "quote").is_err());
    assert!(decided(&rules, NOBODY, "pay", "quote").is_err());
}

#[test]
fn who_shows_no_credential_is_let_in_by_name_only() {
    let everyone = of(vec![rule(&["*"], &[], &[]), rule(&["anonymou?"], &[], &[]), rule(&[], &[], &[])]);
    assert_eq!((everyone.admits(NOBODY), everyone.admits(known("x"))), (Err(Denied::Unauthenticated), Ok(())));
    assert_eq!(decided(&everyone, NOBODY, "pay", "quote"), Err(Denied::Unauthenticated));
    let anonymous = of(vec![rule(&["anonymous"], &["public"], &[])]);
    assert_eq!((anonymous.admits(NOBODY), anonymous.shows(NOBODY, "public")), (Ok(()), Ok(())));
    assert_eq!(anonymous.shows(NOBODY, "pay"), Err(Denied::Hidden));
    assert!(decided(&anonymous, NOBODY, "public", "quote").is_ok());
    assert_eq!(decided(&anonymous, known("anonymous"), "public", "quote"), Err(Denied::Hidden));
}

#[test]
fn without_rules_everybody_may_until_callers_are_authenticated() {
    let open = Authorization::new(None, false);
    assert!(!open.decides() && open.admits(NOBODY).is_ok() && open.shows(NOBODY, "pay").is_ok());
    assert_eq!(decided(&open, NOBODY, "pay", "quote"), Ok(String::new()));
    let closed = Authorization::new(None, true);
    assert!(closed.decides());
    assert_eq!(closed.admits(NOBODY), Err(Denied::Unauthenticated));
    assert_eq!(closed.shows(known("orders"), "pay"), Err(Denied::Hidden));
    assert_eq!(decided(&closed, known("orders"), "pay", "quote"), Err(Denied::Hidden));
    let empty = Authorization::new(Some(&AuthorizationSettings::default()), false);
    assert_eq!(decided(&empty, NOBODY, "pay", "quote"), Err(Denied::Unauthenticated));
}

#[test]
fn nothing_is_hidden_where_the_rules_say_so() {
    let rules = vec![rule(&["orders"], &["pay"], &[])];
    let settings = AuthorizationSettings { rules, tell_forbidden: true, ..AuthorizationSettings::default() };
    let told = Authorization::new(Some(&settings), true);
    assert_eq!(told.shows(known("orders"), "other"), Err(Denied::Forbidden));
    assert_eq!(decided(&told, known("x"), "pay", "quote"), Err(Denied::Forbidden));
    assert_eq!(decided(&told, NOBODY, "pay", "quote"), Err(Denied::Unauthenticated));
}

#[test]
fn completions_have_rules_of_their_own() {
    let may = |authorization: &Authorization, who, way| authorization.decide_completion(who, way).is_some();
    let (sealed, home) = (Completion::Sealed, Completion::Home);
    let open = Authorization::new(None, false);
    assert!(may(&open, NOBODY, sealed) && may(&open, NOBODY, home));
    // A seal is proof enough.
    let default = of(vec![rule(&["*"], &[], &[])]);
    assert!(may(&default, NOBODY, sealed) && !may(&default, NOBODY, home) && !may(&default, known("x"), home));
    let completions = Some(Callers { names: patterns(&["handlers"]), namespaces: None });
    let settings = AuthorizationSettings { completions, ..AuthorizationSettings::default() };
    let named = Authorization::new(Some(&settings), true);
    for way in [sealed, home] {
        assert!(may(&named, known("handlers"), way) && !may(&named, known("x"), way) && !may(&named, NOBODY, way));
    }
    let authorized = named.decide_completion(known("handlers"), home).unwrap();
    assert_eq!(authorized.rule().map(|rule| &**rule), Some("authorization.completions"));
}

/// Names from few letters, so that rules often fit.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab]{1,2}", 1 => Just(ANONYMOUS.to_owned())]
}

type Texts = Option<Vec<String>>;

fn texts() -> impl Strategy<Value = Texts> {
    let text =
        prop_oneof![3 => "[ab]{1,2}", 2 => "[ab]\\*", 1 => Just("*".to_owned()), 1 => Just(ANONYMOUS.to_owned())];
    prop::option::of(prop::collection::vec(text, 0..3))
}

/// What the configuration's words say: a list that is left out fits all, one that is there fits what one of its items
/// fits; who has no name is fitted by the word `anonymous` alone.
fn says(texts: &Texts, name: &str) -> bool {
    let fits = |text: &String| match text.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => text == name,
    };
    texts.as_ref().is_none_or(|texts| texts.iter().any(fits))
}

fn says_of_callers(texts: &Texts, name: Option<&str>) -> bool {
    let listed = texts.as_ref().is_some_and(|texts| texts.iter().any(|text| text == ANONYMOUS));
    let others = texts.as_ref().map(|texts| texts.iter().filter(|text| *text != ANONYMOUS).cloned().collect());
    name.map_or(listed, |name| says(&others, name))
}

fn says_of_namespaces(texts: &Texts, namespace: Option<&str>) -> bool {
    texts.is_none() || namespace.is_some_and(|namespace| says(texts, namespace))
}

fn compiled(texts: &Texts) -> Option<Vec<Pattern>> {
    texts.as_ref().map(|texts| texts.iter().map(|text| Pattern::new(text).unwrap()).collect())
}

proptest! {
    /// No rule, no entry; and no entry but by a rule.
    #[test]
    fn decisions_are_what_the_rules_say(
        written in prop::collection::vec((texts(), texts(), texts(), texts(), texts()), 0..4),
        caller in prop::option::of(name()), namespace in prop::option::of(name()),
        endpoint in name(), service in name(), operation in name(),
    ) {
        let namespace = namespace.filter(|_| caller.is_some());
        let (name, from) = (caller.as_deref(), namespace.as_deref());
        let mut first = None;
        let (mut seen, mut admitted, mut rules) = (false, name.is_some(), Vec::new());
        for (index, (callers, namespaces, endpoints, services, operations)) in written.iter().enumerate() {
            let is_caller = says_of_callers(callers, name) && says_of_namespaces(namespaces, from);
            let shown = is_caller && says(endpoints, &endpoint);
            admitted |= is_caller;
            seen |= shown;
            if shown && says(services, &service) && says(operations, &operation) && first.is_none() {
                first = Some(format!("authorization.rules[{index}]"));
            }
            let callers = Callers { names: compiled(callers), namespaces: compiled(namespaces) };
            let [endpoints, services, operations] = [endpoints, services, operations].map(compiled);
            rules.push(Rule { callers, endpoints, services, operations });
        }
        let authorization = of(rules);
        let who = Who { name, namespace: from };
        let asked = Asked { endpoint: &endpoint, service: &service, operation: &operation };
        let verdict = authorization.decide(who, asked);
        let rule = verdict.as_ref().ok().and_then(|authorized| authorized.rule()).map(ToString::to_string);
        prop_assert_eq!(rule, first);
        let unseen = if admitted { Denied::Hidden } else { Denied::Unauthenticated };
        prop_assert_eq!(authorization.shows(who, &endpoint), if seen { Ok(()) } else { Err(unseen) });
        prop_assert_eq!(authorization.admits(who).is_ok(), admitted);
        if let Err(denied) = verdict {
            prop_assert_eq!(denied, if seen { Denied::Forbidden } else { unseen });
        }
    }

    /// Nobody sends completions but those whom the words name; where there are none, whoever has the seal.
    #[test]
    fn completions_are_let_in_as_the_words_say(
        written in prop::option::of((texts(), texts())),
        caller in prop::option::of(name()), namespace in prop::option::of(name()),
    ) {
        let namespace = namespace.filter(|_| caller.is_some());
        let (name, from) = (caller.as_deref(), namespace.as_deref());
        let completions = written.as_ref().map(|(names, namespaces)| {
            Callers { names: compiled(names), namespaces: compiled(namespaces) }
        });
        let settings = AuthorizationSettings { completions, ..AuthorizationSettings::default() };
        let authorization = Authorization::new(Some(&settings), true);
        for way in [Completion::Sealed, Completion::Home] {
            let expected = match &written {
                None => way == Completion::Sealed,
                Some((names, namespaces)) => says_of_callers(names, name) && says_of_namespaces(namespaces, from),
            };
            let who = Who { name, namespace: from };
            prop_assert_eq!(authorization.decide_completion(who, way).is_some(), expected);
        }
    }
}
