//! What an HTTP/2 connection may cost, on either side of this sidecar. Every limit of the protocol library is set here
//! explicitly; none is left to its default.

use std::time::Duration;

use super::wire::Engine;

/// Bounds of connections and streams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Who speaks HTTP/2 for us.
    pub(crate) engine: Engine,
    /// Streams a client may have open at a time on one connection.
    pub(crate) max_streams: u32,
    /// Body bytes that one stream may have under way towards us.
    pub(crate) stream_window: u32,
    /// Body bytes that all streams of a connection may have under way towards us.
    pub(crate) connection_window: u32,
    /// Body bytes of one stream that may wait here for the socket.
    pub(crate) send_buffer: usize,
    /// Size of a header list, in the measure of RFC 9113 §6.5.2.
    pub(crate) header_list: u32,
    /// The client's preface has to be here in this time.
    pub(crate) preface: Duration,
    /// With streams open and nothing heard for so long, a client is sent a PING; after as long again it is given up.
    pub(crate) silence: Duration,
    /// A client that takes nothing of a response that waits for it is given up after so long.
    pub(crate) stall: Duration,
    /// From so many streams on, another upstream connection is opened beside the first. The connection window holds as
    /// many stream windows, so slow readers never stop their neighbours.
    pub(crate) ample: usize,
    /// Upstream connections to one endpoint.
    pub(crate) connections: usize,
    /// Upstream connections without a stream are closed after so long.
    pub(crate) idle: Duration,
    /// How often a request is sent anew that an upstream has refused unread.
    pub(crate) attempts: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            engine: Engine::default(),
            max_streams: 256,
            stream_window: 256 * 1024,
            connection_window: 64 * 256 * 1024,
            send_buffer: 256 * 1024,
            header_list: 64 * 1024,
            preface: Duration::from_secs(10),
            silence: Duration::from_secs(60),
            stall: Duration::from_secs(300),
            ample: 64,
            connections: 8,
            idle: Duration::from_secs(60),
            attempts: 3,
        }
    }
}

/// Streams reset by the peer before we have looked at them (rapid reset), and remembered after we reset them.
const RESETS: usize = 64;
/// Streams of one connection that may end by a protocol error of the peer.
const STREAM_ERRORS: usize = 1024;
/// How long frames for a stream that we have reset are tolerated.
const RESET_MEMORY: Duration = Duration::from_secs(1);

/// What small DATA frames that wait here may cost beyond their bytes. A slow reader of tiny messages must not end the
/// connection for its neighbours; a flood of them still does.
const SMALL_FRAMES: usize = 32 * 1024 * 1024;

impl Limits {
    /// Settings towards clients.
    pub(super) fn server(&self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(self.max_streams)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_send_buffer_size(self.send_buffer)
            .max_header_list_size(self.header_list)
            .data_frame_budget(SMALL_FRAMES)
            .max_concurrent_reset_streams(RESETS)
            .max_pending_accept_reset_streams(RESETS)
            .max_local_error_reset_streams(Some(STREAM_ERRORS))
            .reset_stream_duration(RESET_MEMORY)
            .enable_connect_protocol();
        builder
    }

    /// Settings towards servers. Nothing is pushed to us: nobody asked for it, so nobody has authorized it.
    pub(super) fn client(&self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(self.ample)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_send_buffer_size(self.send_buffer)
            .max_header_list_size(self.header_list)
            .data_frame_budget(SMALL_FRAMES)
            .max_concurrent_reset_streams(RESETS)
            .max_pending_accept_reset_streams(RESETS)
            .max_local_error_reset_streams(Some(STREAM_ERRORS))
            .reset_stream_duration(RESET_MEMORY);
        builder
    }
}
