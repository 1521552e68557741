//! A handler's own Nexus answers reach the caller byte for byte, whether from a cluster or from elsewhere.

use nexus_gateway::nexus::ErrorType;

use crate::harness::*;

/// Fails unless each answer to `request` passes unchanged from a cluster and from an external target.
async fn assert_all_pass(request: &str, answers: Vec<String>) {
    for answer in answers {
        let handler = Handler::answering(answer.clone());
        let cluster = Cluster::serving(vec![listed("pay", 1)]).answering(answer.clone());
        for gateway in [Gateway::before(&handler).await, Gateway::serving(&cluster).await] {
            let request = if request == "start" { start("pay") } else { cancel("pay") };
            assert_passed(&answer, &gateway.call(&request).await);
        }
    }
}

#[tokio::test]
async fn results_pass() {
    let binary = answer("200 OK", &["Content-Type: application/x-protobuf; message-type=a.B"], "\u{1}\u{2}\0\r\n\r\n");
    let linked = answer(
        "200 OK",
        &[
            "Content-Type: application/json",
            "Nexus-Link: <http://a/>; type=\"a.B\", <http://b/>; type=\"a.C\"",
            "Nexus-Link: <http://c/>; type=\"a.D\"",
            "X-Of-The-Handler: 1",
        ],
        "1",
    );
    assert_all_pass("start", vec![ok(), binary, linked, answer("200 OK", &[], "")]).await;
}

#[tokio::test]
async fn started_operations_pass() {
    let body = |body| json("201 Created", body);
    let answers = vec![
        body(r#"{"token":"t","state":"running"}"#),
        body(r#"{ "id": "t", "token": "t", "state": "running", "later": [1] }"#),
        answer("201 Created", &["Content-Type: application/json; charset=utf-8"], r#"{"token":"t","state":"running"}"#),
        // A caller that cannot read a link retries for ever, but that is between it and the handler.
        answer(
            "201 Created",
            &["Content-Type: application/json", "Nexus-Link: nonsense"],
            r#"{"token":"t","state":"running"}"#,
        ),
    ];
    assert_all_pass("start", answers).await;
}

#[tokio::test]
async fn operations_that_failed_or_were_canceled_pass() {
    let by_header = |state| {
        let lines = ["Content-Type: application/json", state, "Temporal-Nexus-Failure-Source: worker"];
        answer("424 Failed Dependency", &lines, r#"{"message":"no","metadata":{},"details":{"a":[1,2]}}"#)
    };
    let by_body = |state| {
        let body = format!(
            r#"{{"message":"no","metadata":{{"type":"nexus.OperationError"}},"details":{{"state":"{state}"}},"cause":{{"message":"deeper"}}}}"#
        );
        json("424 Failed Dependency", &body)
    };
    let answers = vec![
        by_header("Nexus-Operation-State: failed"),
        by_header("Nexus-Operation-State: canceled"),
        by_body("failed"),
        by_body("canceled"),
    ];
    assert_all_pass("start", answers).await;
}

#[tokio::test]
async fn an_accepted_cancel_passes() {
    assert_all_pass("cancel", vec![answer("202 Accepted", &[], ""), json("202 Accepted", "{}")]).await;
}

/// An error of a handler in every form in which Temporal sends it.
fn forms_of(kind: ErrorType) -> Vec<String> {
    let (name, status) = (kind.name(), format!("{} x", kind.status().as_u16()));
    let typed = format!(
        r#"{{"message":"m","stackTrace":"at a\nat b","metadata":{{"type":"nexus.HandlerError"}},"details":{{"type":"{name}","retryableOverride":false}},"cause":{{"message":"c"}}}}"#
    );
    let deeper = format!(
        r#"{{"message":"m","metadata":{{"type":"temporal.api.failure.v1.Failure"}},"details":{{"nexusHandlerFailureInfo":{{"type":"{name}"}}}}}}"#
    );
    let with =
        |lines: &[&str], body: &str| answer(&status, &[&["Content-Type: application/json"], lines].concat(), body);
    vec![
        with(&[], r#"{"message":"only a message"}"#),
        with(&["Nexus-Request-Retryable: true"], r#"{"message":"m"}"#),
        with(&["Nexus-Request-Retryable: false", "Temporal-Nexus-Failure-Source: worker"], &typed),
        with(&["Retry-After: 7"], &typed),
        with(&[], &deeper),
    ]
}

#[tokio::test]
async fn every_handler_error_passes_in_every_form() {
    for kind in ErrorType::ALL {
        assert_all_pass("start", forms_of(kind)).await;
    }
}

#[tokio::test]
async fn a_cancels_handler_errors_pass() {
    for kind in ErrorType::ALL {
        assert_all_pass("cancel", forms_of(kind)).await;
    }
}

#[tokio::test]
async fn a_nexus_failure_passes_under_any_status() {
    let body = r#"{"message":"m","metadata":{"type":"nexus.HandlerError"},"details":{"type":"BAD_REQUEST"}}"#;
    let statuses = ["413 x", "418 x", "424 x", "502 x", "504 x", "505 x", "599 x"];
    let mut answers: Vec<_> = statuses.map(|status| json(status, body)).into();
    // A 424 is how an operation ended, and says so.
    answers.remove(2);
    assert_all_pass("start", answers).await;
}

#[tokio::test]
async fn an_unknown_error_type_passes() {
    let body = r#"{"message":"m","metadata":{"type":"nexus.HandlerError"},"details":{"type":"TEAPOT"}}"#;
    assert_all_pass("start", vec![json("500 x", body), json("418 x", body)]).await;
}

#[tokio::test]
async fn plain_errors_with_a_status_of_nexus_pass_where_it_tells_the_truth() {
    let statuses = ["400 x", "408 x", "409 x", "429 x", "500 x", "501 x", "503 x", "520 x"];
    let plain = |status: &str| answer(status, &["Content-Type: text/plain", "Retry-After: 3"], "sorry");
    assert_all_pass("start", statuses.map(plain).into()).await;
}

#[tokio::test]
async fn an_answer_in_pieces_arrives_whole() {
    let pieces = ["HTTP/1.1 200 OK\r\nConte", "nt-Type: application/json\r\nContent-Le", "ngth: 6\r\n\r\n\"do", "ne\""];
    let handler = Handler::acting(pieces.map(Act::from).into());
    let got = Gateway::before(&handler).await.call(&start("pay")).await;
    assert_eq!((got.status(), got.text()), (200, "\"done\"".into()));
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_arrives_whole() {
    let old = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n\"done\"";
    let handler = Handler::acting(vec![old.into(), Act::Close]);
    let got = Gateway::before(&handler).await.call(&start("pay")).await;
    assert_eq!((got.status(), got.text(), got.complete), (200, "\"done\"".into(), true));
}

#[tokio::test]
async fn interim_answers_are_waited_out() {
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"] {
        let handler = Handler::acting(vec![interim.into(), ok().into()]);
        let got = Gateway::before(&handler).await.call(&start("pay")).await;
        assert_passed(&ok(), &got);
    }
}

#[tokio::test]
async fn answers_to_requests_in_a_row_keep_their_order_on_one_connection() {
    let handler = Handler::scripted(|seen| vec![json("200 OK", &seen.message.text()).into()]);
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    // All of them before the first answer.
    for n in 0..5 {
        caller.send(start("pay").body(n.to_string()).bytes()).await;
    }
    for n in 0..5 {
        assert_eq!(caller.answer().await.text(), n.to_string());
    }
}
