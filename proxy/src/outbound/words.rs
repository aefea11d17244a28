//! What does an application of ours speak? A declared protocol says so; else whoever speaks first shows it. Nobody waits,
//! and nothing is sent here but the news that there is a connection.

use std::{future::poll_fn, task::Poll};

use super::upstream::Opened;
use crate::{
    connection::{Application, Record},
    forward::Interrupted,
    http::{
        Declared, detect,
        h1::{TcpWire, Wire as _},
    },
    link::Event,
};

/// What the application has said so far. Waited for only where nothing else can be done: in the middle of a first line, or
/// where HTTP is declared.
pub(super) async fn heard(wire: &mut TcpWire, record: &Record, declared: Declared) -> Result<Application, Interrupted> {
    if declared == Declared::Bytes {
        return Ok(Application::Bytes);
    }
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(cut) = record.poll_cut(cx) {
                return Poll::Ready(Err(Interrupted::Cut(cut)));
            }
            match wire.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Application::Bytes)),
                Poll::Ready(Ok(_)) => match detect(wire.input(), declared) {
                    Application::Unknown => {}
                    seen => return Poll::Ready(Ok(seen)),
                },
                Poll::Ready(Err(error)) => return Poll::Ready(Err(record.near_failed(error))),
                Poll::Pending if wire.input().is_empty() && declared == Declared::Nothing => {
                    return Poll::Ready(Ok(Application::Unknown));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Waits until one side speaks; the peer's squire is told of the connection, so that its application may be the first.
pub(super) async fn first_words(
    wire: &mut TcpWire,
    opened: &mut Opened,
    record: &Record,
) -> Result<Application, Interrupted> {
    poll_fn(|cx| {
        if let Poll::Ready(cut) = record.poll_cut(cx) {
            return Poll::Ready(Err(Interrupted::Cut(cut)));
        }
        loop {
            match wire.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Application::Bytes)),
                Poll::Ready(Ok(_)) => match detect(wire.input(), Declared::Nothing) {
                    Application::Unknown => {}
                    seen => return Poll::Ready(Ok(seen)),
                },
                Poll::Ready(Err(error)) => return Poll::Ready(Err(record.near_failed(error))),
                Poll::Pending => break,
            }
        }
        let link = match opened {
            Opened::Plaintext(far, _) => {
                return far.poll_read_ready(cx).map(|_| Ok(Application::Bytes));
            }
            Opened::Pooled(_, leased) => &mut leased.link,
            Opened::Alone(link) => link,
        };
        if let Poll::Ready(Err(error)) = link.poll_flush(cx) {
            return Poll::Ready(Err(error.into()));
        }
        if link.has_data() {
            return Poll::Ready(Ok(Application::Bytes));
        }
        let event = match link.poll_event(cx) {
            Poll::Ready(Ok(event)) => event,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Pending => return Poll::Pending,
        };
        if event != Event::Data {
            link.unread(event);
        }
        Poll::Ready(Ok(Application::Bytes))
    })
    .await
}
