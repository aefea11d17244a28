//! The little HTTP/1.1 that the load generators and the application need: fixed requests, heads with a content length, bodies made of
//! [`pattern`]. Not a general client: anything unexpected is an error.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::pattern;

/// The largest head that is read.
const LONGEST_HEAD: usize = 8 * 1024;

/// A parsed head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    /// Its first line.
    pub(crate) start: &'a str,
    /// The length of the head itself, with the empty line.
    pub(crate) length: usize,
    /// The length of the body that follows.
    pub(crate) body: u64,
}

/// Parses the head at the front of `bytes`; `None` if it is not complete.
pub(crate) fn head(bytes: &[u8]) -> Result<Option<Head<'_>>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        if bytes.len() > LONGEST_HEAD {
            bail!("a head longer than {LONGEST_HEAD} bytes");
        }
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end]).context("a head that is not text")?;
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default();
    let mut body = 0;
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .with_context(|| format!("a header without a colon: {line:?}"))?;
        if name.eq_ignore_ascii_case("content-length") {
            body = value
                .trim()
                .parse()
                .with_context(|| format!("content-length {value:?}"))?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("transfer-encoding {} where a content-length was sent", value.trim());
        }
    }
    Ok(Some(Head {
        start,
        length: end + 4,
        body,
    }))
}

/// Fails unless `head` answers 200 with a body of `expected` bytes.
pub(crate) fn expect_ok(head: &Head<'_>, expected: u64) -> Result<()> {
    if !head.start.starts_with("HTTP/1.1 200 ") {
        bail!("status {:?} instead of 200", head.start);
    }
    if head.body != expected {
        bail!("a body of {} bytes instead of {expected}", head.body);
    }
    Ok(())
}

/// A request for a body of `length` bytes.
pub(crate) fn get(length: u64) -> String {
    format!("GET /bytes/{length} HTTP/1.1\r\nHost: bench\r\nUser-Agent: squire-compare\r\nAccept: */*\r\n\r\n")
}

/// The head of an upload of `length` bytes.
pub(crate) fn put(length: u64) -> String {
    format!("PUT /bytes HTTP/1.1\r\nHost: bench\r\nUser-Agent: squire-compare\r\nContent-Length: {length}\r\n\r\n")
}

/// A keep-alive client connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Takes over a fresh stream.
    pub(crate) fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// The status that a GET of `path` is answered with; the connection is of no use afterwards.
    pub(crate) async fn status(&mut self, path: &str) -> Result<u16> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        while !self.buffer.contains(&b'\n') {
            self.read_some().await?;
        }
        let start = String::from_utf8_lossy(&self.buffer);
        start
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .context("an answer without a status")
    }

    /// Asks for a small body and checks it.
    pub(crate) async fn get(&mut self, length: u64) -> Result<()> {
        self.exchange(get(length).as_bytes(), length).await
    }

    /// Sends a request that was made before and checks that the answer is 200 with `expected` bytes of the pattern.
    pub(crate) async fn exchange(&mut self, request: &[u8], expected: u64) -> Result<()> {
        self.stream.write_all(request).await?;
        let length = self.read_head(expected).await?;
        let whole = length + usize::try_from(expected)?;
        while self.buffer.len() < whole {
            self.read_some().await?;
        }
        if self.buffer.len() > whole {
            bail!("{} bytes more than were asked for", self.buffer.len() - whole);
        }
        pattern::check(0, &self.buffer[length..])?;
        self.buffer.clear();
        Ok(())
    }

    /// Asks for a large body, checks it piece by piece through `scratch`, and tells `progress` of each piece.
    pub(crate) async fn download(&mut self, length: u64, scratch: &mut [u8], progress: impl Fn(u64)) -> Result<()> {
        self.stream.write_all(get(length).as_bytes()).await?;
        let head = self.read_head(length).await?;
        pattern::check(0, &self.buffer[head..])?;
        let mut received = (self.buffer.len() - head) as u64;
        progress(received);
        self.buffer.clear();
        while received < length {
            let most = scratch
                .len()
                .min(usize::try_from(length - received).unwrap_or(usize::MAX));
            let read = self.stream.read(&mut scratch[..most]).await?;
            if read == 0 {
                bail!("the connection ended after {received} of {length} bytes");
            }
            pattern::check(received, &scratch[..read])?;
            received += read as u64;
            progress(read as u64);
        }
        Ok(())
    }

    /// Sends a large body, telling `progress` of each piece, and waits for the answer (which comes only if the application has found every
    /// byte right).
    pub(crate) async fn upload(&mut self, length: u64, progress: impl Fn(u64)) -> Result<()> {
        self.stream.write_all(put(length).as_bytes()).await?;
        let mut sent = 0;
        while sent < length {
            let most = usize::try_from(length - sent)
                .unwrap_or(usize::MAX)
                .min(pattern::LONGEST);
            let written = self.stream.write(pattern::at(sent, most)).await? as u64;
            sent += written;
            progress(written);
        }
        let head = self.read_head(0).await?;
        if self.buffer.len() > head {
            bail!("bytes after an answer without a body");
        }
        self.buffer.clear();
        Ok(())
    }

    /// Reads until the head is complete and right; it stays in the buffer.
    async fn read_head(&mut self, expected: u64) -> Result<usize> {
        loop {
            if let Some(head) = head(&self.buffer)? {
                expect_ok(&head, expected)?;
                return Ok(head.length);
            }
            self.read_some().await?;
        }
    }

    async fn read_some(&mut self) -> Result<()> {
        self.buffer.reserve(2048);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection ended in the middle of an answer");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_parsed_and_judged() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length:  12\r\nX: y\r\n\r\nbody";
        let parsed = head(bytes).unwrap().unwrap();
        assert_eq!((parsed.length, parsed.body), (bytes.len() - 4, 12));
        expect_ok(&parsed, 12).unwrap();
        assert!(expect_ok(&parsed, 13).is_err());
        let error = head(b"HTTP/1.1 503 No\r\n\r\n").unwrap().unwrap();
        assert!(expect_ok(&error, 0).unwrap_err().to_string().contains("503"));
    }

    #[test]
    fn incomplete_and_broken_heads() {
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nA: b\r\n").unwrap(), None);
        for broken in [
            "A\r\nno colon\r\n\r\n",
            "A\r\nContent-Length: x\r\n\r\n",
            "A\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(head(broken.as_bytes()).is_err(), "{broken:?}");
        }
        assert!(head(&[b'a'; LONGEST_HEAD + 1]).is_err());
    }
}
