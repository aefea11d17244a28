//! The streams of one connection: what each has received and may still send. Streams are found by their number as long as
//! frames may come for them, and by their place as long as somebody holds them.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    task::{Context, Waker},
};

use bytes::BytesMut;
use slab::Slab;

use super::{error::Error, fields::FieldList};

/// Frames smaller than this are put together while they wait, so that waiting costs what they carry and little more.
const SMALL: usize = 2 * 1024;
/// Waiting bytes are put together up to so many.
const TOGETHER: usize = 16 * 1024;

/// What one end of a stream has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    /// No head yet.
    Idle,
    /// A head, and no end.
    Open,
    /// END_STREAM.
    Ended,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// Handles that hold it.
    pub(super) held: usize,
    pub(super) receiving: Half,
    pub(super) sending: Half,
    /// Why it is over early.
    pub(super) over: Option<Error>,
    /// Still found by its number.
    pub(super) listed: bool,
    /// Interim heads that have not been taken.
    pub(super) interim: VecDeque<FieldList>,
    /// The head, until it is taken.
    pub(super) head: Option<FieldList>,
    pub(super) data: VecDeque<BytesMut>,
    pub(super) trailers: Option<FieldList>,
    /// What the peer may still send.
    pub(super) receive_window: i64,
    /// What was taken and has not been given back to the peer's window yet.
    pub(super) released: u32,
    /// Received, and not given back to the connection's window.
    pub(super) unreleased: u32,
    /// Nobody will read what comes.
    pub(super) deaf: bool,
    /// What we may still send.
    pub(super) send_window: i64,
    /// Body bytes that `content-length` says are still to come.
    pub(super) expected: Option<u64>,
    /// Client: the request is HEAD, so that `content-length` says nothing of a body.
    pub(super) to_head: bool,
    waker: Option<Waker>,
}

impl Stream {
    pub(super) fn new(id: u32, receive_window: i64, send_window: i64) -> Self {
        Self {
            id,
            held: 0,
            receiving: Half::Idle,
            sending: Half::Idle,
            over: None,
            listed: true,
            interim: VecDeque::new(),
            head: None,
            data: VecDeque::new(),
            trailers: None,
            receive_window,
            released: 0,
            unreleased: 0,
            deaf: false,
            send_window,
            expected: None,
            to_head: false,
            waker: None,
        }
    }

    /// Whoever works on the stream wants to know what happens to it.
    pub(super) fn watch(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether no frame of either end is missing.
    pub(super) fn is_done(&self) -> bool {
        self.over.is_some() || (self.receiving == Half::Ended && self.sending == Half::Ended)
    }

    /// The next head.
    pub(super) fn take_head(&mut self) -> Option<FieldList> {
        self.interim.pop_front().or_else(|| self.head.take())
    }

    /// Keeps received bytes until they are taken.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        match self.data.back_mut() {
            Some(last) if bytes.len() < SMALL && last.len() + bytes.len() <= TOGETHER => last.extend_from_slice(bytes),
            _ => self.data.push_back(BytesMut::from(bytes)),
        }
    }
}

/// All streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Table {
    streams: Slab<Stream>,
    places: HashMap<u32, usize, BuildHasherDefault<ById>>,
}

impl Table {
    pub(super) fn insert(&mut self, stream: Stream) -> usize {
        let id = stream.id;
        let place = self.streams.insert(stream);
        self.places.insert(id, place);
        place
    }

    /// The place of a stream that frames may still come for.
    pub(super) fn find(&self, id: u32) -> Option<usize> {
        self.places.get(&id).copied()
    }

    /// Streams that frames may still come for.
    pub(super) fn open(&self) -> usize {
        self.places.len()
    }

    pub(super) fn get(&mut self, place: usize) -> Option<&mut Stream> {
        self.streams.get_mut(place)
    }

    /// No frame is expected for it any more.
    pub(super) fn unlist(&mut self, place: usize) {
        if let Some(stream) = self.streams.get_mut(place)
            && std::mem::replace(&mut stream.listed, false)
        {
            self.places.remove(&stream.id);
        }
    }

    pub(super) fn remove(&mut self, place: usize) -> Option<Stream> {
        self.unlist(place);
        self.streams.try_remove(place)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Stream)> {
        self.streams.iter_mut()
    }
}

/// Numbers of streams are spread by a multiplication.
#[derive(Debug, Default)]
pub(super) struct ById(u64);

impl Hasher for ById {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
