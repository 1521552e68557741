//! What `resolve --as` and `check` say of rules.

use nexus_gateway::config::notes;
use nexus_gateway::resolve::{Question, Resolved, asker, resolve};

use crate::load_text;

const RULES: &str = "
endpoints: { pay: { external: { url: 'http://127.0.0.1:1' } }, ship: { external: { url: 'http://127.0.0.1:1' } } }
authorization:
  rules:
    - { callers: [orders], namespaces: ['prod-*'], endpoints: [pay], services: [Pay], operations: [quote, 'get-*'] }
    - { callers: ['team-*'], endpoints: ['p*'] }
    - { callers: [anonymous], endpoints: [ship] }";

async fn said(text: &str, who: Option<(&str, Option<&str>)>, service: &str, operation: &str) -> String {
    let who = who.map(|(name, namespace)| asker(name, namespace));
    let question = Question { service, operation, caller: None, who };
    let Resolved::Found(said) = resolve(load_text(text).expect("it is right"), "pay", question).await else {
        panic!("not found")
    };
    said
}

#[tokio::test]
async fn each_rule_is_told_with_the_reason_why_it_fits_or_not() {
    let orders = Some(("orders", Some("prod-eu")));
    let text = said(RULES, orders, "Pay", "refund").await;
    for line in [
        "caller             orders, of namespace prod-eu\n",
        "rules[0]           does not fit: `operations`, [quote, get-*], has no refund\n",
        "rules[1]           does not fit: `callers`, [team-*], has no orders\n",
        "rules[2]           does not fit: `callers`, [anonymous], has no orders\n",
        "authorization      403 forbidden: no rule allows the operation\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    for (who, service, operation, expected) in [
        (orders, "Pay", "quote", "rules[0]           fits\n"),
        (orders, "Pay", "get-a", "authorization      allowed by authorization.rules[0]\n"),
        (orders, "Other", "quote", "does not fit: `services`, [Pay], has no Other\n"),
        (orders, "", "", "rules[0]           fits, for services [Pay], for operations [quote, get-*]\n"),
        (orders, "", "", "ask with --service and --operation: the endpoint is there for this caller\n"),
        (Some(("orders", None)), "Pay", "quote", "`namespaces`, [prod-*], and the caller has none\n"),
        (Some(("orders", None)), "", "", "404 unknown_endpoint: no rule shows the endpoint to this caller\n"),
        (Some(("team-a", None)), "Pay", "quote", "allowed by authorization.rules[1]\n"),
        (Some(("anonymous", None)), "Pay", "quote", "caller             anonymous: shows no credential\n"),
        (Some(("anonymous", None)), "Pay", "quote", "does not fit: `endpoints`, [ship], has no pay\n"),
        (Some(("anonymous", None)), "Pay", "quote", "404 unknown_endpoint"),
        (None, "Pay", "quote", "authorization      ask with --as about a caller\n"),
    ] {
        let text = said(RULES, who, service, operation).await;
        assert!(text.contains(expected), "{who:?}: {expected} in {text}");
    }
}

#[tokio::test]
async fn what_would_be_answered_is_told() {
    let pay = "endpoints: { pay: { external: { url: 'http://127.0.0.1:1' } } }\n";
    for (authorization, expected) in [
        ("", "everybody may call everything (there is neither authentication nor authorization)"),
        ("authorization: { rules: [{ callers: ['*'] }] }", "401 unauthenticated: no rule is for anonymous callers"),
        (
            "authentication: { api_keys: { keys: [{ name: orders, sha256: 'SHA' }] } }",
            "401 unauthenticated: no rule is for anonymous callers",
        ),
        (
            "authorization: { tell_forbidden: true, rules: [{ callers: [anonymous], endpoints: [ship] }] }",
            "403 forbidden: no rule shows the endpoint to this caller (authorization.tell_forbidden)",
        ),
    ] {
        let text = format!("{pay}{authorization}").replace("SHA", &"ab".repeat(32));
        let text = said(&text, Some(("anonymous", None)), "S", "o").await;
        assert!(text.contains(&format!("authorization      {expected}\n")), "{expected} in {text}");
    }
}

#[test]
fn rules_that_let_nobody_in_are_noted() {
    let of = |text: &str| notes(&load_text(text).unwrap());
    assert!(of("").is_empty());
    assert_eq!(of("authorization: {}"), ["nobody may call anything: `authorization` has no `rules`"]);
    let unknown = "callers are not authenticated, so all are `anonymous`: only rules that list that can fit";
    assert_eq!(of("authorization: { rules: [{ callers: [orders] }] }"), [unknown]);
    assert!(of("authorization: { rules: [{ callers: [anonymous] }] }").is_empty());
    let keys =
        format!("authentication: {{ api_keys: {{ keys: [{{ name: orders, sha256: '{}' }}] }} }}", "ab".repeat(32));
    let nobody = "nobody may call anything: callers are authenticated, and there are no `authorization.rules`";
    assert_eq!(of(&keys), [nobody]);
    assert!(of(&format!("{keys}\nauthorization: {{ rules: [{{ callers: [orders] }}] }}")).is_empty());
    let rules = "authorization: { rules: [{ callers: [anonymous], endpoints: [pay, gone, 'g*', lost] }] }\n";
    let pay = "endpoints: { pay: { external: { url: 'http://127.0.0.1:1' } } }\n";
    assert_eq!(
        of(&format!("{rules}{pay}")),
        ["`authorization.rules[0]` is for `gone`, `lost`, which `endpoints` does not define"]
    );
    let cluster = "clusters: { home: { url: 'http://127.0.0.1:1' } }\n";
    assert!(of(&format!("{rules}{pay}{cluster}")).is_empty());
}

#[test]
fn rules_for_names_in_any_namespace_are_noted_where_callers_have_one() {
    let of = |authentication: &str, rules: &str| {
        let text = format!("authentication: {{ {authentication} }}\nauthorization: {{ {rules} }}\n");
        notes(&load_text(&text.replace("SHA", &"ab".repeat(32))).unwrap())
    };
    let rules = "rules: [{ callers: [anonymous] }, { callers: ['*'] }, { callers: [a], namespaces: [n] }, { callers: [orders] }, \
        { callers: ['team-*'] }], completions: { callers: [handlers] }";
    let note = "`authorization.rules[3]`, `authorization.rules[4]`, `authorization.completions`: callers are named \
        without `namespaces`: whoever is called so in any namespace fits";
    for with in [
        "api_keys: { keys: [{ name: orders, sha256: 'SHA', namespace: shop }] }",
        "certificates: [{ spiffe: 'spiffe://example.org/ns/{namespace}/sa/{name}' }]",
        "jwt: [{ issuer: i, audience: a, jwks: { url: 'https://i.example/' }, namespace: ns }]",
        "jwt: [{ issuer: i, audience: a, jwks: { url: 'https://i.example/' }, pattern: '{namespace}:{name}' }]",
    ] {
        assert_eq!(of(with, rules), [note], "{with}");
    }
    assert!(of("api_keys: { keys: [{ name: orders, sha256: 'SHA' }] }", rules).is_empty());
    let of_namespaces = "rules: [{ callers: [orders], namespaces: [shop] }, { namespaces: [shop] }]";
    assert!(of("certificates: [{ dns: '{name}.{namespace}.svc' }]", of_namespaces).is_empty());
}
