//! What a target is shown, by its settings.

use super::*;
use crate::admission::How;

fn identity(name: &str) -> Identity {
    Identity { name: name.into(), namespace: Some("pay ns".into()), how: How::ApiKey }
}

#[tokio::test]
async fn nothing_configured_shows_nothing() {
    let purse = Wallet::new().purse("clusters.home", &Outward::default());
    assert_eq!(purse.at_once(), Some(HeaderMap::new()));
    assert_eq!(purse.pass(), Pass { authorization: false, cookie: false });
}

#[tokio::test]
async fn credentials_stand_above_further_headers() {
    let outward = Outward {
        credentials: Some(Credentials::Header(AUTHORIZATION, HeaderValue::from_static("Bearer own"))),
        headers: vec![
            (AUTHORIZATION, HeaderValue::from_static("other")),
            (HeaderName::from_static("x-a"), HeaderValue::from_static("1")),
        ],
        ..Outward::default()
    };
    let headers = Wallet::new().purse("clusters.home", &outward).at_once().unwrap();
    assert_eq!(headers[AUTHORIZATION], "Bearer own");
    assert_eq!(headers["x-a"], "1");
}

#[tokio::test]
async fn a_caller_is_named_in_visible_characters_and_told_from_any_other() {
    let purse = Wallet::new().purse("clusters.home", &Outward::default());
    let named = |name: &str| {
        let mut headers = HeaderMap::new();
        purse.name_caller(&mut headers, Some(&identity(name)), "pay");
        assert_eq!(headers[&CALLER_NAMESPACE], "pay%20ns");
        headers[&CALLER].to_str().unwrap().to_owned()
    };
    assert_eq!(named("team/orders@a.test"), "team/orders@a.test");
    assert_eq!((named("a b\r\nx: ü"), named("a%20b")), ("a%20b%0D%0Ax:%20%C3%BC".into(), "a%2520b".into()));
    let mut headers = HeaderMap::new();
    purse.name_caller(&mut headers, None, "pay");
    assert!(headers.is_empty(), "an anonymous caller has no name");
}

#[tokio::test]
async fn a_caller_is_not_named_where_that_is_off() {
    let outward = Outward { caller: CallerHeader::Off, ..Outward::default() };
    let mut headers = HeaderMap::new();
    Wallet::new().purse("clusters.home", &outward).name_caller(&mut headers, Some(&identity("a")), "pay");
    assert!(headers.is_empty());
}
