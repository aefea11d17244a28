//! What an application sees of the servers that its outbound sidecar takes it to.

use super::*;

#[tokio::test]
async fn applications_share_one_connection_to_a_server() {
    let rig = rig(&Table::default());
    let (server, connections) = app().await;
    for _ in 0..3 {
        let (mut client, _) = client(rig.outbound(server)).await;
        for _ in 0..5 {
            assert_eq!(get(&mut client, "/", &[]).await.unwrap().status(), 200);
        }
        let claims = [("x-forwarded-for", "1.2.3.4")];
        let told = get(&mut client, "/told", &claims).await.unwrap();
        assert!(
            !told.headers().contains_key("told-x-forwarded-for"),
            "what an application says of clients of its own is nobody's word, as over HTTP/1"
        );
    }
    assert_eq!(*connections.borrow(), 1);
    rig.counted(
        "squire_requests_total",
        &["direction=\"outbound\"", "flag=\"ok\""],
        18.0,
    )
    .await;
}

#[tokio::test]
async fn many_streams_take_more_connections_and_none_more_than_the_server_allows() {
    let rig = rig(&Table::default());
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(20);
    let answer = |request, respond| -> Answering { Box::pin(app_answer(request, respond)) };
    let (server, connections) = server_with(builder, answer).await;
    let (mut client, _) = client(rig.outbound(server)).await;
    // Until its settings are known.
    assert_eq!(get(&mut client, "/", &[]).await.unwrap().status(), 200);
    let mut open = Vec::new();
    for _ in 0..50 {
        let mut ready = soon(client.clone().ready()).await.unwrap();
        open.push(ready.send_request(request("/echo", &[]), false).unwrap());
    }
    let mut bodies = Vec::new();
    for (response, there) in open {
        let response = soon(response).await.unwrap();
        assert_eq!(response.status(), 200);
        bodies.push((response.into_body(), there));
    }
    assert_eq!(*connections.borrow(), 3);
    for (body, mut there) in bodies {
        there.send_data(Bytes::from_static(b"!"), true).unwrap();
        assert_eq!(whole(body).await.unwrap().0, b"!");
    }
}

#[tokio::test]
async fn a_server_that_goes_away_is_left_without_losing_a_request() {
    let rig = rig(&Table::default());
    let (server, connections) = app().await;
    let (mut client, _) = client(rig.outbound(server)).await;
    for round in 1..=5 {
        assert_eq!(get(&mut client, "/goaway", &[]).await.unwrap().status(), 200);
        for _ in 0..3 {
            assert_eq!(get(&mut client, "/", &[]).await.unwrap().status(), 200);
        }
        assert!(*connections.borrow() >= round);
    }
    assert_eq!(rig.metric("squire_requests_total", &["flag=\"ok\""]), 20.0);
}

/// A server that refuses the first stream of its first connection, as one does whose limit is reached.
#[tokio::test]
async fn a_stream_refused_unread_is_sent_again() {
    let rig = rig(&Table::default());
    let answer = |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| -> Answering {
        static SEEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        Box::pin(async move {
            if request.uri().path() == "/always" || SEEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
                return respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            respond.send_response(Response::new(()), true).unwrap();
        })
    };
    let (server, _) = server_with(h2::server::Builder::new(), answer).await;
    let (mut client, _) = client(rig.outbound(server)).await;
    assert_eq!(get(&mut client, "/", &[]).await.unwrap().status(), 200);
    assert_eq!(
        get(&mut client, "/always", &[]).await.unwrap().status(),
        503,
        "but not for ever"
    );

    // With a body that has been read, the client is told to do it itself.
    let (response, mut there) = client.send_request(request("/always", &[]), false).unwrap();
    there.send_data(Bytes::from_static(b"once"), true).unwrap();
    let error = soon(response).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.is_remote()),
        (Some(h2::Reason::REFUSED_STREAM), true)
    );
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_or_breaks_off_is_answered_for() {
    let rig = rig(&Table::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (mut client, _) = client(rig.outbound(address)).await;
    let breaking = tokio::spawn(async move {
        // Takes the connection, and drops it once the request is there.
        let (tcp, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(tcp).await.unwrap();
        let _request = connection.accept().await;
    });
    let grpc = [("content-type", "application/grpc")];
    let response = get(&mut client, "/a.B/C", &grpc).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14");
    soon(breaking).await.unwrap();
    rig.counted("squire_requests_total", &["flag=\"upstream_reset\""], 1.0)
        .await;
    assert_eq!(
        get(&mut client, "/", &[]).await.unwrap().status(),
        503,
        "nobody listens any more"
    );
    rig.counted("squire_requests_total", &["status=\"503\""], 1.0).await;
}

#[tokio::test]
async fn connections_that_are_idle_are_closed_when_the_sidecar_drains() {
    let rig = rig(&Table::default());
    let (server, _) = app().await;
    let (mut client, ended) = client(rig.outbound(server)).await;
    assert_eq!(get(&mut client, "/", &[]).await.unwrap().status(), 200);
    drop(client);
    soon(ended).await.unwrap().unwrap();
    rig.counted("squire_connections_closed_total", &["complete"], 1.0).await;
    rig.draining.cancel();
    rig.shared.http2.sweep(&rig.shared);
    rig.shared.tasks.close();
    soon(rig.shared.tasks.wait()).await;
}
