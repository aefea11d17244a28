//! The state of one connection, whichever end of it we are: settings, windows, streams, and what waits to be written. It
//! does no input and no output; `receive.rs` takes frames in, `send.rs` makes them, `drive.rs` moves the bytes.

use std::{
    collections::VecDeque,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use h2::Reason;

use super::{
    error::{By, Error},
    fields::FieldList,
    frame,
    hpack::{Decoder, Encoder},
    out::Out,
    table::{Half, Stream, Table},
};
use crate::http::h2::limits::Limits;

/// Streams of the peer that it reset before anybody had looked at them.
const RESETS: usize = 64;
/// Streams remembered after we reset them.
const REMEMBERED: usize = 256;
/// Streams of one connection that may end by an error of the peer, in so much time.
const STREAM_ERRORS: u32 = 1024;
const ERROR_MEMORY: Duration = Duration::from_secs(10);
/// How long frames for a stream that we have reset are tolerated.
const RESET_MEMORY: Duration = Duration::from_secs(30);
/// Payload of the PING that follows the first GOAWAY of an orderly end, and of the one that asks whether anybody is there.
pub(super) const LEAVING: [u8; 8] = *b"leaving!";
pub(super) const ANYBODY: [u8; 8] = *b"anybody?";

/// Which end we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// How far an orderly end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// GOAWAY has been sent with the highest number; what was under way is still taken.
    Announced,
    /// GOAWAY has been sent with the last stream that is served.
    Final(u32),
}

/// What the peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It costs the stream.
    Stream(u32, Reason),
    /// It costs the connection.
    Connection(Reason),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) role: Role,
    pub(super) limits: Limits,
    pub(super) streams: Table,
    /// Server: new streams, in order, until they are taken.
    pub(super) accepted: VecDeque<usize>,
    /// Of these, how many the peer has reset already.
    pub(super) reset_unseen: usize,
    /// Written when the socket takes it.
    pub(super) out: Out,
    pub(super) encoder: Encoder,
    pub(super) decoder: Decoder,
    /// A header block that is not complete.
    pub(super) block: Option<super::receive::Block>,
    /// The peer's preface: its SETTINGS have come.
    pub(super) greeted: bool,
    /// What we may send on all streams.
    pub(super) send_window: i64,
    /// What we may send on a new stream.
    pub(super) peer_window: i64,
    /// Streams that we may open.
    pub(super) peer_streams: usize,
    /// The peer takes extended CONNECT (RFC 8441).
    pub(super) peer_connects: bool,
    /// What the peer may send on all streams.
    pub(super) receive_window: i64,
    pub(super) released: u32,
    /// Streams that wait for the connection's window or for room to write, in order.
    pub(super) waiting: VecDeque<usize>,
    /// The highest stream that the peer has opened.
    pub(super) last_peer: u32,
    /// The next stream that we open.
    pub(super) next: u32,
    reset: VecDeque<(u32, Instant)>,
    /// Errors of the peer, and since when they are counted.
    errors: (u32, Instant),
    pub(super) leaving: Leaving,
    /// The peer wants no more streams.
    pub(super) gone_away: Option<Reason>,
    /// No more streams of ours: close when the last has ended.
    pub(super) closing: bool,
    /// The connection is over.
    pub(super) over: Option<Error>,
    /// Requests that were refused for the size of their header list, and not told yet.
    pub(super) refused_lists: usize,
    /// Our PING has been answered.
    pub(super) pong: bool,
    driver: Option<Waker>,
    /// Whoever drives the connection is at work, and writes at the end what there is.
    pub(super) driven: bool,
}

impl Core {
    pub(super) fn new(role: Role, limits: Limits) -> Self {
        let mut core = Self {
            role,
            limits,
            streams: Table::default(),
            accepted: VecDeque::new(),
            reset_unseen: 0,
            out: Out::default(),
            encoder: Encoder::new(),
            decoder: Decoder::new(limits.header_list as usize),
            block: None,
            greeted: false,
            send_window: frame::WINDOW,
            peer_window: frame::WINDOW,
            peer_streams: limits.ample,
            peer_connects: false,
            receive_window: i64::from(limits.connection_window),
            released: 0,
            waiting: VecDeque::new(),
            last_peer: 0,
            next: 1,
            reset: VecDeque::new(),
            errors: (0, Instant::now()),
            leaving: Leaving::No,
            gone_away: None,
            closing: false,
            over: None,
            refused_lists: 0,
            pong: false,
            driver: None,
            driven: false,
        };
        core.greet();
        core
    }

    /// SETTINGS, and the connection's window, which no setting changes (RFC 9113 §6.9.2).
    fn greet(&mut self) {
        let mut settings = vec![
            (frame::INITIAL_WINDOW_SIZE, self.limits.stream_window),
            (frame::MAX_HEADER_LIST_SIZE, self.limits.header_list),
        ];
        match self.role {
            Role::Server => settings.extend([
                (frame::MAX_CONCURRENT_STREAMS, self.limits.max_streams),
                (frame::ENABLE_CONNECT_PROTOCOL, 1),
            ]),
            // Nobody asked for what would be pushed, so nobody has authorized it.
            Role::Client => {
                self.out.buffer().extend_from_slice(super::super::PREFACE);
                settings.push((frame::ENABLE_PUSH, 0));
            }
        }
        frame::write_settings(self.out.buffer(), &settings);
        let more = i64::from(self.limits.connection_window) - frame::WINDOW;
        if let Some(more) = u32::try_from(more).ok().filter(|more| *more > 0) {
            frame::write_window(self.out.buffer(), 0, more);
        }
    }

    /// Whoever drives the connection wants to know when there is something to write.
    pub(super) fn watch(&mut self, cx: &Context<'_>) {
        match &mut self.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.driver = Some(cx.waker().clone()),
        }
    }

    /// There is something to write, or the connection may be over.
    pub(super) fn stir(&self) {
        if !self.driven
            && let Some(waker) = &self.driver
        {
            waker.wake_by_ref();
        }
    }

    /// Opens a stream that somebody asked for.
    pub(super) fn add(&mut self, id: u32) -> usize {
        let window = i64::from(self.limits.stream_window);
        self.streams.insert(Stream::new(id, window, self.peer_window))
    }

    /// Ends a stream early, for both ends; the peer is told where that is needed.
    pub(super) fn end(&mut self, place: usize, error: Error) {
        let Some(stream) = self.streams.get(place) else { return };
        if stream.is_done() {
            return;
        }
        let id = stream.id;
        if let Some(reason) = error.reset().filter(|_| error.reset_by_peer().is_none()) {
            frame::write_reset(self.out.buffer(), id, reason);
            self.remember(id);
        }
        if let Some(stream) = self.streams.get(place) {
            stream.over = Some(error);
            stream.wake();
        }
        self.done(place);
        self.stir();
    }

    /// No more frames are expected for a stream.
    pub(super) fn done(&mut self, place: usize) {
        self.streams.unlist(place);
        self.leave_queue(place);
        if self.streams.open() == 0 && (self.closing || self.leaving != Leaving::No) {
            self.stir();
        }
    }

    /// The stream was reset by us: what the peer has sent meanwhile is no fault.
    fn remember(&mut self, id: u32) {
        if self.reset.len() == REMEMBERED {
            self.reset.pop_front();
        }
        self.reset.push_back((id, Instant::now()));
    }

    /// Whether frames for this stream are late rather than wrong.
    pub(super) fn is_late(&self, id: u32) -> bool {
        // A server may well go on for a while with what nobody wants any more, and a client with what we have left behind.
        self.role == Role::Client
            || self.is_left_behind(id)
            || self
                .reset
                .iter()
                .any(|(reset, at)| *reset == id && at.elapsed() < RESET_MEMORY)
    }

    /// Whether a client opened this stream after we had said which is the last.
    pub(super) fn is_left_behind(&self, id: u32) -> bool {
        matches!(self.leaving, Leaving::Final(last) if id > last)
    }

    /// Counts a stream that the peer has reset before it was taken.
    pub(super) fn note_unseen(&mut self) -> Result<(), Fault> {
        self.reset_unseen += 1;
        match self.reset_unseen > RESETS {
            true => Err(Fault::Connection(Reason::ENHANCE_YOUR_CALM)),
            false => Ok(()),
        }
    }

    /// Carries out what a fault costs; none: the connection goes on.
    pub(super) fn punish(&mut self, fault: Fault) -> Option<Error> {
        match fault {
            Fault::Stream(id, reason) => {
                if self.errors.1.elapsed() > ERROR_MEMORY {
                    self.errors = (0, Instant::now());
                }
                self.errors.0 += 1;
                if self.errors.0 > STREAM_ERRORS {
                    return Some(self.fail(Reason::ENHANCE_YOUR_CALM));
                }
                match self.streams.find(id) {
                    Some(place) => self.end(place, Error::Reset { reason, by: By::Us }),
                    None => {
                        frame::write_reset(self.out.buffer(), id, reason);
                        self.remember(id);
                    }
                }
                None
            }
            Fault::Connection(reason) => Some(self.fail(reason)),
        }
    }

    /// Ends the connection for an error of the peer.
    fn fail(&mut self, reason: Reason) -> Error {
        self.go_away(reason);
        let error = Error::GoAway { reason, by: By::Us };
        self.lose(&error);
        error
    }

    /// Says goodbye with a reason; streams are ended by whoever calls.
    pub(super) fn go_away(&mut self, reason: Reason) {
        frame::write_goaway(self.out.buffer(), self.last_peer, reason);
        self.leaving = Leaving::Final(self.last_peer);
    }

    /// The connection is over: so is every stream.
    pub(super) fn lose(&mut self, error: &Error) {
        self.over.get_or_insert_with(|| error.clone());
        let open: Vec<_> = self
            .streams
            .iter_mut()
            .filter(|(_, stream)| !stream.is_done())
            .map(|(place, stream)| {
                stream.over = Some(error.clone());
                stream.wake();
                place
            })
            .collect();
        for place in open {
            self.streams.unlist(place);
        }
        self.waiting.clear();
    }

    /// Asks the peer for an answer: a PING.
    pub(super) fn ask(&mut self) {
        self.pong = false;
        frame::write(self.out.buffer(), frame::PING, 0, 0, &ANYBODY);
        self.stir();
    }

    /// Begins an orderly end (RFC 9113 §6.8).
    pub(super) fn announce(&mut self) {
        if self.leaving == Leaving::No {
            frame::write_goaway(self.out.buffer(), frame::MAX_STREAM, Reason::NO_ERROR);
            frame::write(self.out.buffer(), frame::PING, 0, 0, &LEAVING);
            self.leaving = Leaving::Announced;
            self.stir();
        }
    }

    /// Whether everything has been served after an orderly end began.
    pub(super) fn is_finished(&self) -> bool {
        let leaving = match self.leaving {
            Leaving::Final(_) => true,
            Leaving::No | Leaving::Announced => self.closing,
        };
        leaving && self.streams.open() == 0 && self.accepted.is_empty() && self.out.is_empty()
    }

    /// The next new stream, with its head.
    pub(super) fn take_accepted(&mut self) -> Option<(usize, FieldList)> {
        while let Some(place) = self.accepted.pop_front() {
            if let Some(stream) = self.streams.get(place)
                && let Some(head) = stream.head.take()
            {
                if stream.over.is_some() {
                    self.reset_unseen = self.reset_unseen.saturating_sub(1);
                }
                return Some((place, head));
            }
        }
        None
    }

    /// Nobody holds the stream any more: what is not over ends now, and it is forgotten.
    pub(super) fn let_go(&mut self, place: usize) {
        let Some(stream) = self.streams.get(place) else { return };
        if !stream.is_done() {
            // A server that has answered wants no more of the request (RFC 9113 §8.1).
            let reason = match (self.role, stream.sending) {
                (Role::Server, Half::Ended) => Reason::NO_ERROR,
                _ => Reason::CANCEL,
            };
            self.end(place, Error::Reset { reason, by: By::Us });
        }
        if let Some(stream) = self.streams.remove(place) {
            self.give_back(stream.unreleased);
        }
        self.leave_queue(place);
    }
}
