//! What a client sees of an application behind an inbound sidecar.

use super::*;
use crate::connection::Cut;

#[tokio::test]
async fn a_call_with_body_and_trailers_passes_whole_and_is_counted() {
    let rig = rig(&Table::default());
    let (app, _) = app().await;
    let (io, connection, _) = rig.inbound(app);
    let (mut client, _) = client(io).await;
    let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let (response, mut body) = client
        .send_request(request("/echo", &[("te", "trailers")]), false)
        .unwrap();
    let uploading = Bytes::from(sent.clone());
    tokio::spawn(async move {
        send(&mut body, uploading).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "17".parse().unwrap());
        trailers.insert(
            "x-forwarded-client-cert",
            "URI=spiffe://td/ns/x/sa/admin".parse().unwrap(),
        );
        body.send_trailers(trailers).unwrap();
    });
    let response = soon(response).await.unwrap();
    assert_eq!(response.status(), 200);
    let (back, trailers) = whole(response.into_body()).await.unwrap();
    assert!(back == sent);
    let trailers = trailers.unwrap();
    assert_eq!(trailers["x-checksum"], "17");
    assert!(
        !trailers.contains_key("x-forwarded-client-cert"),
        "not even in trailers"
    );
    let labels = ["grpc_status=\"0\"", "status=\"200\"", "flag=\"ok\""];
    rig.counted("squire_requests_total", &labels, 1.0).await;
    assert_eq!(connection.requests(), 1);
}

#[tokio::test]
async fn messages_flow_both_ways_at_the_same_time() {
    let rig = rig(&Table::default());
    let (io, ..) = rig.inbound(app().await.0);
    let (mut client, _) = client(io).await;
    let (response, mut there) = client.send_request(request("/echo", &[]), false).unwrap();
    let mut back = soon(response).await.unwrap().into_body();
    for message in [&b"one"[..], b"two", b"three"] {
        there.send_data(Bytes::copy_from_slice(message), false).unwrap();
        let got = soon(back.data()).await.unwrap().unwrap();
        back.flow_control().release_capacity(got.len()).unwrap();
        assert_eq!(got, message);
    }
    there.send_data(Bytes::new(), true).unwrap();
    let (rest, trailers) = whole(back).await.unwrap();
    assert!(rest.is_empty());
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn the_application_is_told_who_calls_by_us_alone_and_sees_the_normalised_path() {
    let rig = rig(&Table::default());
    let (io, ..) = rig.inbound(app().await.0);
    let (mut client, _) = client(io).await;
    let claims = [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-client-cert", "URI=spiffe://td/ns/x/sa/admin"),
        ("x_forwarded_for", "1.2.3.4"),
        ("traceparent", "00-1-2-01"),
    ];
    let response = get(&mut client, "/a/%2e%2e/t%6fld?x=/../", &claims).await.unwrap();
    let told = response.headers();
    assert_eq!(told["x-path"], "/told?x=/../");
    assert_eq!(told["told-x-forwarded-for"], "10.0.0.7");
    assert_eq!(told["told-traceparent"], "00-1-2-01");
    assert_eq!(told["told-authority"], "db");
    assert!(!told.contains_key("told-x-forwarded-client-cert"));
    assert!(!told.contains_key("told-x_forwarded_for"));
}

#[tokio::test]
async fn interim_responses_come_before_the_response() {
    let rig = rig(&Table::default());
    let (io, ..) = rig.inbound(app().await.0);
    let (mut client, _) = client(io).await;
    let (mut response, _) = client.send_request(request("/hint", &[]), true).unwrap();
    let hint = soon(std::future::poll_fn(|cx| response.poll_informational(cx))).await;
    let hint = hint.unwrap().unwrap();
    assert_eq!(
        (hint.status().as_u16(), &hint.headers()["link"]),
        (103, &"</style.css>".parse().unwrap())
    );
    assert_eq!(soon(response).await.unwrap().status(), 200);
}

#[tokio::test]
async fn resets_pass_both_ways_with_their_codes() {
    let rig = rig(&Table::default());
    let (io, ..) = rig.inbound(app().await.0);
    let (mut client, _) = client(io).await;
    let error = get(&mut client, "/reset", &[]).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.is_remote()),
        (Some(h2::Reason::HTTP_1_1_REQUIRED), true)
    );

    let (response, mut there) = client.send_request(request("/reset-midway", &[]), false).unwrap();
    let mut body = soon(response).await.unwrap().into_body();
    assert_eq!(soon(body.data()).await.unwrap().unwrap(), "some");
    there.send_data(Bytes::from_static(b"go"), false).unwrap();
    let error = soon(body.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
    rig.counted("squire_requests_total", &["flag=\"upstream_reset\""], 2.0)
        .await;

    let (_response, mut there) = client.send_request(request("/never?reset", &[]), false).unwrap();
    eventually("the request has arrived", || {
        WAITING.with_borrow(|waiting| waiting.contains(&"reset".to_owned()))
    })
    .await;
    there.send_reset(h2::Reason::CONNECT_ERROR);
    eventually("the application sees the client's code", || {
        CANCELLED.with_borrow(|cancelled| cancelled.contains(&h2::Reason::CONNECT_ERROR))
    })
    .await;
    rig.counted("squire_requests_total", &["flag=\"client_gone\""], 1.0)
        .await;
}

#[tokio::test]
async fn denials_name_no_policy_and_grpc_gets_trailers_only() {
    let rig = rig(&only(&["/told", "/shop.Cart/*"]));
    let (io, ..) = rig.inbound(app().await.0);
    let (mut client, _) = client(io).await;
    let denied = get(&mut client, "/admin", &[]).await.unwrap();
    assert_eq!(denied.status(), 403);
    let (body, _) = whole(denied.into_body()).await.unwrap();
    assert!(!String::from_utf8(body).unwrap().contains("secret-policy"));

    let grpc = [("content-type", "application/grpc+proto")];
    let denied = get(&mut client, "/shop.Bank/Rob", &grpc).await.unwrap();
    assert_eq!(denied.status(), 200);
    assert!(denied.body().is_end_stream(), "trailers only");
    assert_eq!(denied.headers()["grpc-status"], "7");
    assert_eq!(denied.headers()["content-type"], "application/grpc");
    assert!(
        !denied.headers()["grpc-message"]
            .to_str()
            .unwrap()
            .contains("secret-policy")
    );

    assert_eq!(get(&mut client, "/shop.Cart/List", &grpc).await.unwrap().status(), 200);
    assert_eq!(get(&mut client, "/told/../admin", &[]).await.unwrap().status(), 403);
    let labels = ["flag=\"denied\"", "grpc_status=\"7\""];
    assert_eq!(rig.metric("squire_requests_total", &labels), 1.0);
}

#[tokio::test]
async fn malformed_requests_are_refused_and_their_neighbours_served() {
    let rig = rig(&Table::default());
    let (io, ..) = rig.inbound(app().await.0);
    let (mut client, _) = client(io).await;
    let refused: [(&str, &[(&str, &str)]); 3] = [
        ("/", &[("host", "other")]),
        ("/%00", &[]),
        ("/", &[("content-length", "0"), ("content-length", "0")]),
    ];
    for (path, fields) in refused {
        assert_eq!(
            get(&mut client, path, fields).await.unwrap().status(),
            400,
            "{path} {fields:?}"
        );
    }
    let lower = Request::builder().method("get").uri("http://db/").body(()).unwrap();
    let (response, _) = client.send_request(lower, true).unwrap();
    assert_eq!(soon(response).await.unwrap().status(), 400);
    assert_eq!(get(&mut client, "/", &[]).await.unwrap().status(), 200);
    assert_eq!(rig.metric("squire_http2_refused_total", &["malformed"]), 4.0);
}

#[tokio::test]
async fn a_policy_that_changes_reaches_open_streams_one_by_one() {
    let mut rig = rig(&only(&["/never", "/echo", "/endless"]));
    let (io, connection, _) = rig.inbound(app().await.0);
    let (mut client, _) = client(io).await;
    let (unanswered, _) = client.send_request(request("/never", &[]), true).unwrap();
    let (endless, _) = client.send_request(request("/endless", &[]), true).unwrap();
    let mut endless = soon(endless).await.unwrap().into_body();
    let (echo, mut there) = client.send_request(request("/echo", &[]), false).unwrap();
    let mut echo = soon(echo).await.unwrap().into_body();

    rig.policy(&only(&["/echo"]));
    connection.judge_again();
    assert_eq!(soon(unanswered).await.unwrap().status(), 403);
    let error = loop {
        match soon(endless.data()).await.unwrap() {
            Ok(bytes) => endless.flow_control().release_capacity(bytes.len()).unwrap(),
            Err(error) => break error,
        }
    };
    assert_eq!((error.reason(), error.is_remote()), (Some(h2::Reason::CANCEL), true));
    // The stream that is still allowed goes on.
    there.send_data(Bytes::from_static(b"on"), true).unwrap();
    assert_eq!(soon(echo.data()).await.unwrap().unwrap(), "on");
    rig.counted("squire_requests_total", &["flag=\"cut\""], 2.0).await;

    // A gRPC client learns the status even in the middle of a response.
    let grpc = [("content-type", "application/grpc")];
    let (call, _there) = client.send_request(request("/echo", &grpc), false).unwrap();
    let call = soon(call).await.unwrap().into_body();
    rig.policy(&only(&["/nothing"]));
    connection.judge_again();
    let (_, trailers) = whole(call).await.unwrap();
    assert_eq!(trailers.unwrap()["grpc-status"], "7");
}

#[tokio::test]
async fn a_cut_ends_every_stream_and_the_connection() {
    let rig = rig(&Table::default());
    let (io, connection, serving) = rig.inbound(app().await.0);
    let (mut client, ended) = client(io).await;
    let (unanswered, _) = client.send_request(request("/never", &[]), true).unwrap();
    rig.counted("squire_connect_duration_seconds_count", &[], 1.0).await;
    connection.cut(Cut::Revoked);
    assert!(soon(unanswered).await.is_err());
    assert!(soon(ended).await.unwrap().is_err());
    assert_eq!(soon(serving).await.unwrap().label(), "cut_revoked");
    rig.counted("squire_requests_total", &["flag=\"cut\""], 1.0).await;
}

#[tokio::test]
async fn draining_lets_open_streams_finish_and_takes_no_new_ones() {
    let rig = rig(&Table::default());
    let (io, _, serving) = rig.inbound(app().await.0);
    let (mut client, ended) = client(io).await;
    let (response, mut there) = client.send_request(request("/echo", &[]), false).unwrap();
    let body = soon(response).await.unwrap().into_body();
    rig.draining.cancel();
    let gone = async {
        while client.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(gone).await;
    there.send_data(Bytes::from_static(b"last words"), true).unwrap();
    let (back, trailers) = whole(body).await.unwrap();
    assert_eq!(back, b"last words");
    assert!(trailers.is_some());
    drop(client);
    assert!(soon(ended).await.unwrap().is_ok());
    assert_eq!(soon(serving).await.unwrap().label(), "complete");
}

#[tokio::test]
async fn an_application_that_goes_away_is_followed_by_its_client_and_dialled_anew() {
    let rig = rig(&Table::default());
    let (app, connections) = app().await;
    let (io, ..) = rig.inbound(app);
    let (mut client, ended) = client(io).await;
    let (response, mut there) = client.send_request(request("/echo", &[]), false).unwrap();
    let body = soon(response).await.unwrap().into_body();
    // Sent before the client can know.
    assert_eq!(get(&mut client, "/goaway", &[]).await.unwrap().status(), 200);
    let gone = async {
        while client.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(gone).await;
    there.send_data(Bytes::from_static(b"still here"), true).unwrap();
    assert_eq!(whole(body).await.unwrap().0, b"still here");
    drop(client);
    assert!(soon(ended).await.unwrap().is_ok());
    assert_eq!(*connections.borrow(), 1);
    // The next client reaches it on a connection of its own.
    let (io, ..) = rig.inbound(app);
    let (mut client, _) = super::client(io).await;
    assert_eq!(get(&mut client, "/", &[]).await.unwrap().status(), 200);
    assert_eq!(*connections.borrow(), 2);
}

#[tokio::test]
async fn an_application_that_cannot_be_reached_is_answered_for() {
    let rig = rig(&Table::default());
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let (io, ..) = rig.inbound(nobody);
    let (mut client, _) = client(io).await;
    assert_eq!(get(&mut client, "/", &[]).await.unwrap().status(), 503);
    let grpc = [("content-type", "application/grpc")];
    let response = get(&mut client, "/a.B/C", &grpc).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14");
    rig.counted("squire_requests_total", &["flag=\"unreachable\""], 2.0)
        .await;
}

#[tokio::test]
async fn a_slow_reader_bounds_what_the_application_can_send() {
    let rig = rig(&Table::default());
    let (io, ..) = rig.inbound(app().await.0);
    let (mut client, _) = client(io).await;
    let (response, _) = client.send_request(request("/endless-counted", &[]), true).unwrap();
    let mut body = soon(response).await.unwrap().into_body();
    let sent = || SENT.get();
    // Another stream of the connection gets through all the same, again and again.
    for _ in 0..200 {
        assert_eq!(get(&mut client, "/", &[]).await.unwrap().status(), 200);
    }
    let stopped = sent();
    // The client's window, the stream's window here, what may wait for the socket, and the last piece of each.
    assert!(stopped <= 3 * 256 * 1024 + 128 * 1024, "{stopped}");
    for _ in 0..50 {
        assert_eq!(get(&mut client, "/", &[]).await.unwrap().status(), 200);
    }
    assert_eq!(sent(), stopped, "nothing moves while nobody reads");
    let mut read = 0;
    while read < 4 * 1024 * 1024 {
        let piece = soon(body.data()).await.unwrap().unwrap();
        read += piece.len();
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
}

#[tokio::test]
async fn a_thousand_streams_are_open_at_the_same_time() {
    let rig = rig(&Table::default());
    let (app, _) = app().await;
    let mut open = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let (io, ..) = rig.inbound(app);
        // It lets them all wait before it reads the first.
        let mut builder = h2::client::Builder::new();
        builder.data_frame_budget(1 << 20);
        let (client, connection) = builder.handshake::<_, Bytes>(io).await.unwrap();
        let connection = tokio::spawn(connection);
        for _ in 0..250 {
            let mut ready = soon(client.clone().ready()).await.unwrap();
            open.push(ready.send_request(request("/echo", &[]), false).unwrap());
        }
        clients.push((client, connection));
    }
    let mut bodies = Vec::new();
    for (response, there) in open {
        bodies.push((soon(response).await.unwrap().into_body(), there));
    }
    for (_, there) in &mut bodies {
        there.send_data(Bytes::from_static(b"!"), true).unwrap();
    }
    for (body, _) in bodies {
        assert_eq!(whole(body).await.unwrap().0, b"!");
    }
    rig.counted("squire_requests_total", &["flag=\"ok\""], 1000.0).await;
}

#[tokio::test]
async fn streams_that_nobody_reads_never_use_up_the_window_of_the_others_for_good() {
    // Two that are not read hold most of what the application may send on its connection.
    let limits = Limits {
        stream_window: 64 * 1024,
        connection_window: 160 * 1024,
        ..Limits::default()
    };
    let rig = rig_with(&Table::default(), limits);
    let (io, ..) = rig.inbound(app().await.0);
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(4 * 1024 * 1024);
    let (mut client, connection) = builder.handshake::<_, Bytes>(io).await.unwrap();
    tokio::spawn(connection);
    let mut unread = Vec::new();
    for _ in 0..2 {
        unread.push(get(&mut client, "/endless", &[]).await.unwrap());
    }
    let mut body = get(&mut client, "/endless", &[]).await.unwrap().into_body();
    let mut read = 0;
    while read < 1024 * 1024 {
        let piece = soon(body.data()).await.unwrap().unwrap();
        read += piece.len();
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
}
