//! The two HTTP/2 engines behind `http2.engine`: real processes speak with either, either speaks with the other, and both
//! give up a client that never ends the head it has begun.

use bytes::Bytes;
use http::HeaderMap;
use squire_tests::{
    Mesh, Pair, eventually,
    http2::{Http2App, client, frame, get, request},
    in_time,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::RULES;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// HPACK for `GET http://db/`.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x01, 2, b'd', b'b'];

/// The first header block that a server answers a GET with, as it is on the wire.
async fn first_block(to: std::net::SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let hello = [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 5, 1, GET)].concat();
    stream.write_all(&hello).await.unwrap();
    let reading = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.unwrap();
            if head[3] == 1 {
                return payload;
            }
        }
    };
    in_time("a header block", reading).await
}

#[tokio::test]
async fn each_engine_speaks_with_the_other_and_the_wire_shows_which_it_is() {
    for (of_web, of_db) in [("h2", "h2"), ("h2", "squire"), ("squire", "h2")] {
        let mesh = Mesh::strict();
        mesh.write("rules.yaml", RULES);
        let app = Http2App::start("db").await;
        let db = mesh
            .pod("db")
            .serves(8080, app.address())
            .set(&format!("http2.engine={of_db}"));
        let web = mesh
            .pod("web")
            .reaches("db:8080")
            .set(&format!("http2.engine={of_web}"));
        mesh.start().await;
        let (db, web) = tokio::join!(db.start(), web.start());
        // The crate writes strings in Huffman's code, ours as they are: the application's own field tells.
        let block = first_block(web.to("db:8080")).await;
        let plain = block.windows(9).any(|bytes| bytes == b"x-backend");
        assert_eq!(plain, of_web == "squire", "{block:?}");

        let mut client = client(web.to("db:8080")).await;
        assert_eq!(get(&mut client, "/open").await.status(), 200);
        assert_eq!(get(&mut client, "/admin/x").await.status(), 403);
        let (response, mut there) = client.send_request(request("/echo"), false).unwrap();
        let mut back = in_time("a head", response).await.unwrap().into_body();
        let long = Bytes::from(vec![b'x'; 300_000]);
        let sending = tokio::spawn(async move {
            squire_tests::http2::send(&mut there, long).await.unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "300000".parse().unwrap());
            there.send_trailers(trailers).unwrap();
        });
        let mut echoed = 0;
        while let Some(bytes) = in_time("the echo", back.data()).await {
            let bytes = bytes.unwrap();
            echoed += bytes.len();
            back.flow_control().release_capacity(bytes.len()).unwrap();
        }
        let trailers = in_time("trailers", back.trailers()).await.unwrap().unwrap();
        assert_eq!((echoed, &trailers["x-sum"]), (300_000, &"300000".parse().unwrap()));
        sending.await.unwrap();
        let (response, mut body) = client.send_request(request("/held"), false).unwrap();
        eventually("the request is under way", async || (app.requests() == 4).then_some(())).await;
        body.send_reset(h2::Reason::CANCEL);
        eventually("the application is told", async || (app.resets() == 1).then_some(())).await;
        assert!(in_time("an end", response).await.is_err());
        db.counts("squire_requests_total", &[("status", "200"), ("flag", "ok")], 3.0)
            .await;
        db.counts("squire_requests_total", &[("status", "403"), ("flag", "denied")], 1.0)
            .await;
    }
}

#[tokio::test]
async fn a_head_without_an_end_is_given_up_while_what_is_merely_silent_goes_on() {
    for engine in ["squire", "h2"] {
        let mesh = Mesh::strict();
        let settings = ["limits.headTimeout=1s", &format!("http2.engine={engine}")];
        let Pair {
            app: _app,
            db: _db,
            web,
        } = Pair::with(&mesh, Http2App::start("db").await, &settings).await;
        let mut idle = client(web.to("db:8080")).await;
        assert_eq!(get(&mut idle, "/open").await.status(), 200);
        let mut silent = client(web.to("db:8080")).await;
        let (response, mut there) = silent.send_request(request("/echo"), false).unwrap();
        let mut back = in_time("a head", response).await.unwrap().into_body();
        // One block that never ends, and one frame that never does.
        let begun = frame(1, 1, 1, GET);
        for unfinished in [&begun[..], &frame(1, 5, 1, GET)[..12]] {
            let mut slow = TcpStream::connect(web.to("db:8080")).await.unwrap();
            let hello = [PREFACE, &frame(4, 0, 0, &[]), unfinished].concat();
            slow.write_all(&hello).await.unwrap();
            let _ = in_time("it is given up", slow.read_to_end(&mut Vec::new())).await;
        }
        web.counts("squire_http2_refused_total", &[("reason", "slow_head")], 2.0)
            .await;
        // By now these have said nothing for longer than a head may take.
        there.send_data(Bytes::from_static(b"at last"), true).unwrap();
        assert_eq!(in_time("the echo", back.data()).await.unwrap().unwrap(), "at last");
        assert_eq!(get(&mut idle, "/open").await.status(), 200);
    }
}
