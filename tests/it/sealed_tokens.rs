//! Where each operation's token is sealed, nobody cancels by a token that is guessed, made up, or another's.

use nexus_gateway::callback::CallbackSettings;
use nexus_gateway::config::Settings;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::resilience::park::ParkSettings;
use nexus_gateway::route::{PolicyRule, Selector, Toggle, TokenRule};

use crate::harness::handler::Seen;
use crate::harness::*;

const UNKNOWN_TOKEN: Expected = failure("unknown_token", ErrorType::NotFound, false);
const UNKNOWN_KEY: Expected = failure("unknown_key", ErrorType::Unavailable, true);
const HANDLERS_OWN: &str = "planted-handlers-own";
const BASE: &str = "/nexus/endpoints/pay/services/Svc/op";

fn sealing() -> PolicyRule {
    PolicyRule { tokens: Some(TokenRule::Sealed), ..PolicyRule::default() }
}

/// Tokens are sealed though nothing is relayed.
fn sealed(handler: &Handler) -> Settings {
    under(leading_to(handler), sealing())
}

/// The tokens with which cancels reached the handler.
fn canceled(handler: &Handler) -> Vec<String> {
    let cancels = handler.requests().into_iter().filter(|seen| seen.target().contains("/cancel"));
    cancels.map(|seen| seen.header("nexus-operation-token").unwrap_or(seen.target()).to_owned()).collect()
}

#[tokio::test]
async fn an_operation_is_canceled_by_its_sealed_token_and_by_no_other() {
    let handler = starting();
    let gateway = Gateway::start(sealed(&handler)).await;
    let token = token_of(&gateway.call(&start("pay")).await);
    assert!(token.starts_with("ngw1."), "{token}");

    let cancels = |token: &str| {
        [
            cancel_of(token),
            to(format!("{BASE}/cancel?token={token}")),
            to(format!("{BASE}/{token}/cancel")),
            to(format!("{BASE}/cancel?token={token}")).header("Nexus-Operation-Token", ""),
        ]
    };
    let mut forged = token.clone();
    forged.replace_range(forged.len() - 1.., if forged.ends_with('A') { "B" } else { "A" });
    for other in [HANDLERS_OWN, "ngw1", "ngw1.nonsense", "planted-b%C3%B6se", &forged] {
        for (at, cancel) in cancels(other).iter().enumerate() {
            UNKNOWN_TOKEN.assert_is(&gateway.call(cancel).await, &format!("{other}, form {at}"));
        }
    }
    let mut no_text = gateway.connect().await;
    no_text.send(format!("POST {BASE}/cancel HTTP/1.1\r\nHost: g\r\nNexus-Operation-Token: ")).await;
    no_text.send(b"\xff\xfe\r\nContent-Length: 0\r\n\r\n").await;
    UNKNOWN_TOKEN.assert_is(&no_text.answer().await, "no UTF-8");
    assert!(canceled(&handler).is_empty(), "{:?}", canceled(&handler));

    for cancel in cancels(&token) {
        assert_eq!(gateway.call(&cancel).await.status(), 202);
    }
    assert!(canceled(&handler).iter().all(|seen| seen.contains(HANDLERS_OWN)), "{:?}", canceled(&handler));
}

/// Whichever of them a handler reads, it is the one that was checked.
#[tokio::test]
async fn a_handler_finds_no_token_beside_the_one_that_was_sealed() {
    let handler = starting();
    let gateway = Gateway::start(sealed(&handler)).await;
    let token = token_of(&gateway.call(&start("pay")).await);
    for cancel in [
        to(format!("{BASE}/cancel?token=planted-theirs")).header("Nexus-Operation-Token", &token),
        cancel_of(&token).header("Nexus-Operation-Token", "planted-theirs"),
        cancel_of(&token).header("Nexus_Operation_Token", "planted-theirs"),
        cancel_of(&token).header("nexus-operation_token", "planted-theirs"),
        to(format!("{BASE}/{token}/cancel?token=planted-theirs")).header("Nexus-Operation-Token", "planted-theirs"),
    ] {
        assert_eq!(gateway.call(&cancel).await.status(), 202);
    }
    let seen = handler.requests();
    assert!(seen.iter().all(|seen| !format!("{} {seen:?}", seen.target()).contains("planted-theirs")), "{seen:?}");
}

#[tokio::test]
async fn a_token_is_for_its_operation_and_endpoint_however_their_names_are_escaped() {
    let handler = starting();
    let endpoints = ["pay", "pay2"].map(|name| external(name, &handler.url())).to_vec();
    let gateway = Gateway::start(Settings { endpoints, ..sealed(&handler) }).await;
    let token = token_of(&gateway.call(&start("pay")).await);
    for path in ["pay2/services/Svc/op", "pay/services/Svc/other", "pay/services/Other/op"] {
        let cancel = to(format!("/nexus/endpoints/{path}/cancel")).header("Nexus-Operation-Token", &token);
        UNKNOWN_TOKEN.assert_is(&gateway.call(&cancel).await, path);
    }
    let escaped = to("/nexus/endpoints/pay/services/S%76c/%6Fp/cancel").header("Nexus-Operation-Token", &token);
    assert_eq!(gateway.call(&escaped).await.status(), 202);
}

#[tokio::test]
async fn known_callers_cancel_only_what_they_started_unless_a_policy_takes_any_token() {
    let handler = starting();
    let known = Known::new(&[("orders", None), ("team-a", None)]);
    let settings = known.under(leading_to(&handler), vec![everybody()]);
    let gateway = Gateway::start(settings.clone()).await;
    let token = token_of(&gateway.call(&known.by("orders", start("pay"))).await);
    for (caller, token) in [("team-a", &*token), ("team-a", HANDLERS_OWN), ("orders", HANDLERS_OWN)] {
        UNKNOWN_TOKEN.assert_is(&gateway.call(&known.by(caller, cancel_of(token))).await, caller);
    }
    assert_eq!(gateway.call(&known.by("orders", cancel_of(&token))).await.status(), 202);

    gateway.running.apply(under(settings, taking_any())).await.expect("it can be applied");
    assert_eq!(token_of(&gateway.call(&known.by("orders", start("pay"))).await), HANDLERS_OWN);
    assert_eq!(gateway.call(&known.by("team-a", cancel_of(HANDLERS_OWN))).await.status(), 202);
}

#[tokio::test]
async fn handlers_tokens_pass_where_nobody_is_known() {
    let handler = starting();
    let gateway = Gateway::before(&handler).await;
    assert_eq!(token_of(&gateway.call(&start("pay")).await), HANDLERS_OWN);
    assert_eq!(gateway.call(&cancel_of(HANDLERS_OWN)).await.status(), 202);
}

#[tokio::test]
async fn what_ran_before_tokens_were_sealed_is_canceled_only_if_its_token_was() {
    let (handler, home) = (starting(), Handler::answering(answer("200 OK", &[], "")));
    let gateway = Gateway::start(relaying(&handler.url())).await;
    let relayed = token_of(&gateway.call(&start_of(&home, "one")).await);
    let plain = token_of(&gateway.call(&start("pay")).await);
    assert_eq!(plain, HANDLERS_OWN, "it has no callback");

    gateway.running.apply(under(relaying(&handler.url()), sealing())).await.expect("it can be applied");
    UNKNOWN_TOKEN.assert_is(&gateway.call(&cancel_of(&plain)).await, "it was not sealed");
    assert_eq!(gateway.call(&cancel_of(&relayed)).await.status(), 202);
}

#[tokio::test]
async fn each_gateway_of_two_in_a_row_seals_for_itself() {
    let handler = starting();
    let inner = Gateway::start(sealed(&handler)).await;
    let endpoint = external("pay", &format!("http://{}/nexus/endpoints/pay/services", inner.data()));
    let outer = Gateway::start(under(Settings { endpoints: vec![endpoint], ..settings() }, sealing())).await;
    let token = token_of(&outer.call(&start("pay")).await);
    UNKNOWN_KEY.assert_is(&inner.call(&cancel_of(&token)).await, "the outer one's seal is not the inner one's");
    let inner_token = token_of(&inner.call(&start("pay")).await);
    assert_ne!(outer.call(&cancel_of(&inner_token)).await.status(), 202, "nor the other way round");
    assert!(canceled(&handler).is_empty());
    assert_eq!(outer.call(&cancel_of(&token)).await.status(), 202);
    assert_eq!(canceled(&handler), [HANDLERS_OWN]);
}

fn taking_any() -> PolicyRule {
    PolicyRule { tokens: Some(TokenRule::Any), ..PolicyRule::default() }
}

#[tokio::test]
async fn what_was_sealed_is_canceled_also_when_nothing_is_sealed_any_more() {
    let (handler, state) = (starting(), tempfile::tempdir().expect("a temporary folder"));
    let known = Known::new(&[("orders", None), ("team-a", Some("prod"))]);
    let open = || Settings { state: Some(state.path().into()), ..leading_to(&handler) };
    let guarded = |settings| known.under(settings, vec![everybody()]);
    let gateway = Gateway::start(guarded(open())).await;
    let mut tokens = Vec::new();
    for caller in ["orders", "team-a"] {
        tokens.push((caller, token_of(&gateway.call(&known.by(caller, start("pay"))).await)));
    }
    gateway.running.apply(guarded(under(open(), taking_any()))).await.expect("it can be applied");
    for (caller, token) in &tokens {
        assert_eq!(gateway.call(&known.by(caller, cancel_of(token))).await.status(), 202);
    }
    gateway.running.apply(open()).await.expect("it can be applied");
    let restarted = Gateway::start(open()).await;
    for (_, token) in &tokens {
        assert_eq!(gateway.call(&cancel_of(token)).await.status(), 202);
        assert_eq!(restarted.call(&cancel_of(token)).await.status(), 202);
    }
    assert_eq!(canceled(&handler), [HANDLERS_OWN; 6]);
    assert_eq!(token_of(&restarted.call(&start("pay")).await), HANDLERS_OWN, "the key only opens");
}

#[tokio::test]
async fn keys_open_what_a_known_caller_started_when_nobody_is_known_any_more() {
    let handler = starting();
    let known = Known::new(&[("orders", None)]);
    let gateway = Gateway::start(known.under(relaying(&handler.url()), vec![everybody()])).await;
    let token = token_of(&gateway.call(&known.by("orders", start_of(&handler, "one"))).await);
    let mut without_url = relaying(&handler.url());
    without_url.callbacks = CallbackSettings { keys: without_url.callbacks.keys, ..CallbackSettings::default() };
    for settings in [relaying(&handler.url()), without_url.clone(), under(without_url, sealing())] {
        gateway.running.apply(settings).await.expect("it can be applied");
        assert_eq!(gateway.call(&cancel_of(&token)).await.status(), 202);
    }
    let other = to("/nexus/endpoints/pay/services/Svc/other/cancel").header("Nexus-Operation-Token", &token);
    UNKNOWN_TOKEN.assert_is(&gateway.call(&other).await, "for another operation");
    assert_eq!(canceled(&handler), [HANDLERS_OWN; 3]);
}

/// An endpoint of another gateway, as this one sees it.
fn through(inner: &Gateway) -> String {
    format!("http://{}/nexus/endpoints/pay/services", inner.data())
}

#[tokio::test]
async fn a_cancel_passes_through_a_gateway_that_left_the_inner_ones_seal_as_it_is() {
    let handler = starting();
    let inner = Gateway::start(sealed(&handler)).await;
    let known = Known::new(&[("orders", None)]);
    let selector = Selector { endpoint: Some("pay".into()), ..Selector::default() };
    let any = PolicyRule { selector, ..taking_any() };
    let direct = PolicyRule { relay: Some(false), ..PolicyRule::default() };
    let endpoints = vec![external("pay", &through(&inner))];
    for (which, settings) in [
        ("any", known.under(under(Settings { endpoints, ..settings() }, any), vec![everybody()])),
        ("direct", under(relaying(&through(&inner)), direct)),
    ] {
        let outer = Gateway::start(settings).await;
        let token = token_of(&outer.call(&known.by("orders", start_of(&handler, which))).await);
        assert_eq!(outer.call(&known.by("orders", cancel_of(&token))).await.status(), 202, "{which}");
    }
    assert_eq!(canceled(&handler), [HANDLERS_OWN; 2]);
}

#[tokio::test]
async fn a_relaying_gateway_takes_cancels_of_what_had_no_callback_or_no_room_for_its_seal() {
    let long = "planted-".repeat(300);
    let body = format!("{{\"token\":\"{long}\",\"state\":\"running\"}}");
    let handler = Handler::scripted(move |seen: &Seen| {
        let canceled = seen.message.target().contains("/cancel");
        vec![if canceled { answer("202 Accepted", &[], "") } else { json("201 Created", &body) }.into()]
    });
    let inner = Gateway::start(sealed(&handler)).await;
    let outer = Gateway::start(relaying(&through(&inner))).await;
    let token = token_of(&outer.call(&start_of(&handler, "one")).await);
    assert!(token.len() > 3072, "it would be too long if it were sealed again");
    assert_eq!(outer.call(&cancel_of(&token)).await.status(), 202, "no room");
    assert_eq!(canceled(&handler), [&*long]);

    let handler = starting();
    inner.running.apply(sealed(&handler)).await.expect("it can be applied");
    let token = token_of(&outer.call(&start("pay")).await);
    assert_eq!(outer.call(&cancel_of(&token)).await.status(), 202, "no callback");
    assert_eq!(canceled(&handler), [HANDLERS_OWN]);
}

#[tokio::test]
async fn any_replica_with_the_keys_takes_a_cancel_and_keys_change_without_losing_one() {
    let handler = starting();
    let with = |keys: &[&str]| {
        let mut settings = sealed(&handler);
        settings.callbacks.keys = keys.iter().map(|id| seal_key(id)).collect();
        settings
    };
    let (first, second) = (Gateway::start(with(&["a"])).await, Gateway::start(with(&["b", "a"])).await);
    let token = token_of(&first.call(&start("pay")).await);
    assert_eq!(second.call(&cancel_of(&token)).await.status(), 202);
    let newer = token_of(&second.call(&start("pay")).await);
    // A replica that has not read the new keys yet: another attempt may meet one that has.
    UNKNOWN_KEY.assert_is(&first.call(&cancel_of(&newer)).await, "not yet");
    first.running.apply(with(&["b", "a"])).await.expect("it can be applied");
    assert_eq!(first.call(&cancel_of(&newer)).await.status(), 202);
    assert_eq!(canceled(&handler).len(), 2);
}

/// Temporal takes 4096 bytes.
#[tokio::test]
async fn an_operation_whose_token_is_too_long_to_be_sealed_runs_and_cannot_be_canceled() {
    let long = "planted-".repeat(440);
    let body = format!("{{\"token\":\"{long}\",\"state\":\"running\"}}");
    let handler = Handler::scripted(move |_: &Seen| vec![json("201 Created", &body).into()]);
    let gateway = Gateway::start(sealed(&handler)).await;
    assert_eq!(token_of(&gateway.call(&start("pay")).await), long);
    UNKNOWN_TOKEN.assert_is(&gateway.call(&cancel_of(&long)).await, "it was not sealed");
    assert_eq!(handler.requests().len(), 1);
}

#[tokio::test]
async fn what_was_parked_is_canceled_by_the_token_that_its_caller_was_given() {
    let (reserved, home) = (Reserved::new(), Handler::answering(answer("200 OK", &[], "")));
    let park = Some(Toggle::On(ParkSettings::default()));
    let rule = PolicyRule { park, hold: Some(false), ..sealing() };
    let gateway = Gateway::start(under(relaying(&format!("http://{}", reserved.address)), rule)).await;
    let token = token_of(&gateway.call(&start_of(&home, "one")).await);
    let handler = Handler::on(reserved, |seen: &Seen| {
        let canceled = seen.message.target().contains("/cancel");
        let started = json("201 Created", "{\"token\":\"planted-handlers-own\",\"state\":\"running\"}");
        vec![if canceled { answer("202 Accepted", &[], "") } else { started }.into()]
    });
    handler.wait_for(1).await;
    gateway.counts("nexus_gateway_unparked_total", &[("end", "started")], 1.0).await;
    UNKNOWN_TOKEN.assert_is(&gateway.call(&cancel_of(HANDLERS_OWN)).await, "the handler's own");
    gateway.until_status(&cancel_of(&token), 202).await;
    eventually(|| canceled(&handler) == [HANDLERS_OWN]).await;
}

#[tokio::test]
async fn a_completion_has_the_token_of_its_start() {
    let (handler, home) = (starting(), Handler::answering(answer("200 OK", &[], "")));
    let selector = Selector { endpoint: Some("pay".into()), ..Selector::default() };
    let gateway = Gateway::start(under(relaying(&handler.url()), PolicyRule { selector, ..sealing() })).await;
    let token = token_of(&gateway.call(&start_of(&home, "one")).await);
    let path = sealed_path(&handler.requests()[0]);
    let completion =
        to(path).headers([("Nexus-Operation-State", "succeeded"), ("Nexus-Operation-Token", HANDLERS_OWN)]);
    assert_eq!(gateway.call(&completion.body(PAYLOAD)).await.status(), 200);
    assert_eq!(home.request().header("nexus-operation-token"), Some(&*token));
}
