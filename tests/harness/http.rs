//! HTTP/1.1 spoken by hand: one request per connection for admin endpoints ([`get`]), and a [`Client`] that sends exactly
//! the bytes it is told to.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::in_time;

/// Status and body of a GET.
///
/// # Errors
/// When there is no whole answer.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut client = Client::connect(address).await?;
    client
        .send(&format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        ))
        .await?;
    let answer = client.try_answer().await?;
    Ok((answer.status, answer.text()))
}

/// A connection that HTTP is spoken on.
#[derive(Debug)]
pub struct Client {
    /// The socket.
    pub stream: TcpStream,
    rest: Vec<u8>,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head as it came.
    pub head: String,
    /// Its body as it came; chunked framing included.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a field, name in any case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When that fails.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            stream: TcpStream::connect(address).await?,
            rest: Vec::new(),
        })
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// When the other side has gone.
    pub async fn send(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes()).await
    }

    /// A GET on this connection.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: db\r\n\r\n")).await
    }

    /// Sends a request and reads the response.
    pub async fn ask(&mut self, request: &str) -> Answer {
        self.send(request).await.unwrap();
        self.answer().await
    }

    /// The next response (also an interim one).
    pub async fn answer(&mut self) -> Answer {
        in_time("a response", self.try_answer()).await.unwrap()
    }

    /// The next response to HEAD: its head alone.
    pub async fn bare_answer(&mut self) -> Answer {
        let head = in_time("a response", read_head(&mut self.stream, &mut self.rest)).await;
        let head = head.unwrap().unwrap();
        Answer {
            status: status_of(&head),
            head,
            body: Vec::new(),
        }
    }

    /// The next response.
    ///
    /// # Errors
    /// When the connection ends before it is whole.
    pub async fn try_answer(&mut self) -> io::Result<Answer> {
        let head = read_head(&mut self.stream, &mut self.rest)
            .await?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let body = body_of(&mut self.stream, &mut self.rest, &head, Message::Response).await?;
        Ok(Answer {
            status: status_of(&head),
            head,
            body,
        })
    }

    /// Reads exactly these bytes.
    pub async fn expect(&mut self, text: &[u8]) {
        let mut bytes = std::mem::take(&mut self.rest);
        while bytes.len() < text.len() {
            let read = in_time("bytes", self.stream.read_buf(&mut bytes)).await.unwrap();
            assert!(read > 0, "the end instead of {:?}", String::from_utf8_lossy(text));
        }
        self.rest = bytes.split_off(text.len());
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(text));
    }

    /// How many bytes have been read and not looked at.
    #[must_use]
    pub fn held(&self) -> usize {
        self.rest.len()
    }

    /// Whether the connection ends now, one way or the other, with nothing more to read.
    pub async fn is_over(&mut self) -> bool {
        let mut buffer = [0; 1];
        self.rest.is_empty() && matches!(in_time("the end", self.stream.read(&mut buffer)).await, Ok(0) | Err(_))
    }
}

/// Which kind a head belongs to: without a length, a response goes on until the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    Request,
    Response,
}

fn status_of(head: &str) -> u16 {
    head.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Reads up to the empty line, and on into `rest`. None: the connection ended before the first byte.
///
/// # Errors
/// When it ended in the middle.
pub async fn read_head(stream: &mut TcpStream, rest: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
            let after = rest.split_off(end + 4);
            let head = std::mem::replace(rest, after);
            return String::from_utf8(head).map(Some).map_err(io::Error::other);
        }
        if stream.read_buf(rest).await? == 0 {
            return if rest.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    }
}

/// Reads the body that follows a head.
pub(crate) async fn body_of(
    stream: &mut TcpStream,
    rest: &mut Vec<u8>,
    head: &str,
    message: Message,
) -> io::Result<Vec<u8>> {
    let status = status_of(head);
    let bare = message == Message::Response && (status < 200 || status == 204 || status == 304);
    if bare {
        return Ok(Vec::new());
    }
    if field(head, "transfer-encoding").is_some() {
        return read_until(stream, rest, |bytes| {
            let last = bytes.windows(5).position(|five| five == b"0\r\n\r\n").map(|at| at + 5);
            let trailers = bytes.windows(3).position(|three| three == b"0\r\n").and_then(|at| {
                bytes[at..]
                    .windows(4)
                    .position(|four| four == b"\r\n\r\n")
                    .map(|end| at + end + 4)
            });
            last.or(trailers)
        })
        .await;
    }
    match (field(head, "content-length"), message) {
        (Some(length), _) => {
            let length: usize = length.parse().map_err(io::Error::other)?;
            read_until(stream, rest, |bytes| (bytes.len() >= length).then_some(length)).await
        }
        (None, Message::Request) => Ok(Vec::new()),
        (None, Message::Response) => {
            stream.read_to_end(rest).await?;
            Ok(std::mem::take(rest))
        }
    }
}

async fn read_until(
    stream: &mut TcpStream,
    rest: &mut Vec<u8>,
    end: impl Fn(&[u8]) -> Option<usize>,
) -> io::Result<Vec<u8>> {
    loop {
        if let Some(end) = end(rest) {
            let after = rest.split_off(end);
            return Ok(std::mem::replace(rest, after));
        }
        if stream.read_buf(rest).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
