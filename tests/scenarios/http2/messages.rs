//! Every kind of message over HTTP/2, as it was sent: what HTTP/1 has, and what it has not.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use squire_tests::{
    Mesh, Pair,
    http2::{Http2App, client, get, request},
    id, in_time,
};

async fn ask(client: &SendRequest<Bytes>, request: Request<()>) -> Response<h2::RecvStream> {
    let mut ready = client.clone().ready().await.unwrap();
    let (response, _) = ready.send_request(request, true).unwrap();
    in_time("a response", response).await.unwrap()
}

#[tokio::test]
async fn every_kind_of_message_arrives_as_it_was_sent_over_http_2_too() {
    let mesh = Mesh::strict();
    let Pair { app, db, web } = Pair::start(&mesh, Http2App::start("db").await).await;
    let mut client = client(web.to("db:8080")).await;

    let head = Request::head("http://db/x").body(()).unwrap();
    let answer = ask(&client, head).await;
    assert_eq!(
        answer.headers()["content-length"],
        "4000",
        "of the body that GET would have"
    );
    assert!(answer.body().is_end_stream());
    assert_eq!(get(&mut client, "/no-content").await.status(), StatusCode::NO_CONTENT);
    let answer = get(&mut client, "/not-modified").await;
    assert_eq!(
        (
            answer.status(),
            &answer.headers()["etag"],
            &answer.headers()["content-length"]
        ),
        (
            StatusCode::NOT_MODIFIED,
            &"\"x\"".parse().unwrap(),
            &"77".parse().unwrap()
        )
    );

    let mut ready = client.clone().ready().await.unwrap();
    let (mut response, _) = ready.send_request(request("/early-hints"), true).unwrap();
    let hints = in_time("hints", poll_fn(|cx| response.poll_informational(cx))).await;
    let hints = hints.unwrap().unwrap();
    assert_eq!(
        (hints.status().as_u16(), &hints.headers()["link"]),
        (103, &"</style.css>".parse().unwrap())
    );
    assert_eq!(in_time("a response", response).await.unwrap().status(), 200);

    // The body is sent when the application has asked for it; trailers go both ways.
    let waits = Request::post("http://db/echo")
        .header("expect", "100-continue")
        .body(())
        .unwrap();
    let mut ready = client.clone().ready().await.unwrap();
    let (mut response, mut there) = ready.send_request(waits, false).unwrap();
    let go_on = in_time("leave to go on", poll_fn(|cx| response.poll_informational(cx))).await;
    assert_eq!(go_on.unwrap().unwrap().status(), 100);
    there.send_data(Bytes::from_static(b"body"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "4".parse().unwrap());
    trailers.insert("x-forwarded-client-cert", "URI=spiffe://evil/x".parse().unwrap());
    there.send_trailers(trailers).unwrap();
    let mut back = in_time("a response", response).await.unwrap().into_body();
    assert_eq!(in_time("the echo", back.data()).await.unwrap().unwrap(), "body");
    let trailers = in_time("trailers", back.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["x-sum"], "4");
    assert!(
        trailers.get("x-forwarded-client-cert").is_none(),
        "not even in trailers"
    );

    // A tunnel: CONNECT has neither scheme nor path (RFC 9113 §8.5).
    let tunnel = Request::builder()
        .method(Method::CONNECT)
        .uri("db:5432")
        .body(())
        .unwrap();
    let mut ready = client.clone().ready().await.unwrap();
    let (response, mut there) = ready.send_request(tunnel, false).unwrap();
    let response = in_time("a response", response).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut back = response.into_body();
    for bytes in ["\x16any", "bytes"] {
        there.send_data(Bytes::from_static(bytes.as_bytes()), false).unwrap();
        assert_eq!(in_time("bytes", back.data()).await.unwrap().unwrap(), bytes);
    }
    assert!(app.requests() >= 6);
    db.counts("squire_requests_total", &[("method", "HEAD"), ("flag", "ok")], 1.0)
        .await;
}

#[tokio::test]
async fn what_the_application_is_told_over_http_2_comes_from_the_squires_alone() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mesh = Mesh::strict();
    let Pair {
        app: _app,
        db: _db,
        web,
    } = Pair::start(&mesh, Http2App::start("db").await).await;
    let client = client(web.to("db:8080")).await;
    let request = Request::get("http://db/told")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x_forwarded_for", "6.6.6.6")
        .header("x-forwarded-client-cert", "URI=spiffe://evil/x")
        .header("x-forwarded_client-cert", "URI=spiffe://evil/x")
        .header("traceparent", trace)
        .header("tracestate", "a=b");
    let answer = ask(&client, request.body(()).unwrap()).await;
    let told = answer.headers();
    assert_eq!(
        (&told["told-traceparent"], &told["told-tracestate"]),
        (&trace.parse().unwrap(), &"a=b".parse().unwrap())
    );
    assert_eq!(told["told-x-forwarded-for"], mesh.address("web").to_string());
    assert_eq!(told.get_all("told-x-forwarded-client-cert").iter().count(), 1);
    let certificate = told["told-x-forwarded-client-cert"].to_str().unwrap();
    assert!(
        certificate.starts_with(&format!("By={};Hash=", id("db"))),
        "{certificate}"
    );
    assert!(certificate.ends_with(&format!(";URI={}", id("web"))), "{certificate}");
    for (name, value) in told {
        let text = value.to_str().unwrap();
        assert!(!text.contains("6.6.6.6") && !text.contains("evil"), "{name}: {text}");
    }
}
