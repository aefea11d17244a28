//! Reading from and writing to a TCP socket with the fewest system calls: vectored, non-blocking, and without the extra
//! read that only learns "nothing more". Knows nothing of what the bytes mean.

use std::{
    io::{self, IoSlice, IoSliceMut},
    task::{Context, Poll, ready},
};

use tokio::{io::Interest, net::TcpStream};

/// Reads once into `bufs`, in order. `Ok(0)` is the end of the stream (given that `bufs` has room).
pub(crate) fn poll_read(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    bufs: &mut [IoSliceMut<'_>],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        // The kernel takes a shorter way for a single buffer.
        let read = match &mut *bufs {
            [one] => stream.try_read(one),
            several => stream.try_read_vectored(several),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}

/// Writes once from `bufs`.
pub(crate) fn poll_write(stream: &TcpStream, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    loop {
        let written = match bufs {
            [one] => stream.try_write(one),
            several => stream.try_write_vectored(several),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(stream.poll_write_ready(cx))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}

/// Says that the last read emptied the socket (it returned less than asked for). With edge-triggered readiness the
/// kernel tells of whatever arrives next, so the read that would only return `WouldBlock` is saved. The end of the
/// stream, if it has already arrived, stays visible.
pub(crate) fn drained(stream: &TcpStream) {
    let nothing: io::Result<()> = stream.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
    debug_assert!(nothing.is_err());
}

/// Closes the sending direction: the peer reads the end of the stream after what was written.
pub(crate) fn shutdown_write(stream: &TcpStream) -> io::Result<()> {
    match socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        done => done,
    }
}

/// Makes the coming close an abort (RST), so that the other side cannot mistake it for an orderly end.
pub(crate) fn abort_on_close(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}

/// No Nagle delay, and keep-alive so that a vanished peer is noticed. Set on a listener, every accepted connection has
/// it too, without a system call of its own.
pub(crate) fn tune(socket: &socket2::Socket) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(std::time::Duration::from_secs(60))
        .with_interval(std::time::Duration::from_secs(15))
        .with_retries(4);
    // Neither changes what is carried; a socket that refuses them has usually been closed already.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}
