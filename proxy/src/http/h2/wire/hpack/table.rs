//! The tables of HPACK (RFC 7541 §2.3): the one everybody knows, and the one that grows with what a connection carries.

use std::collections::VecDeque;

use super::super::fields::Field;

/// Fields everybody knows, from index 1 on (RFC 7541, Appendix A).
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// What an entry costs beside its bytes (RFC 7541 §4.1).
const OVERHEAD: usize = 32;

/// One entry.
#[derive(Debug)]
struct Entry {
    /// The name, then the value.
    bytes: Box<[u8]>,
    name: usize,
    /// Whether the field may stand in a message (RFC 9113 §8.2.1): looked at once, when it came.
    fit: bool,
}

impl Entry {
    fn size(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }

    fn field(&self) -> Field<'_> {
        let (name, value) = self.bytes.split_at(self.name);
        Field {
            name,
            value,
            sensitive: false,
        }
    }
}

/// The table of one direction of one connection; the newest entry first.
#[derive(Debug)]
pub(super) struct Dynamic {
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
}

impl Dynamic {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            limit,
        }
    }

    /// Entries now.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry that so many are newer than, and whether it is fit.
    pub(super) fn get(&self, index: usize) -> Option<(Field<'_>, bool)> {
        self.entries.get(index).map(|entry| (entry.field(), entry.fit))
    }

    /// Gives the table another size (RFC 7541 §4.3); how many entries that costs.
    pub(super) fn resize(&mut self, limit: usize) -> usize {
        self.limit = limit;
        self.evict(0)
    }

    /// Adds an entry (RFC 7541 §4.4). Whether it was kept: one larger than the table only empties it.
    pub(super) fn insert(&mut self, field: Field<'_>, fit: bool) -> Inserted {
        let entry = Entry {
            bytes: [field.name, field.value].concat().into(),
            name: field.name.len(),
            fit,
        };
        let size = entry.size();
        let evicted = self.evict(size);
        let kept = size <= self.limit;
        if kept {
            self.size += size;
            self.entries.push_front(entry);
        }
        Inserted { evicted, kept }
    }

    /// Makes room for `more`; how many entries had to go.
    fn evict(&mut self, more: usize) -> usize {
        let mut evicted = 0;
        while self.size + more > self.limit
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.size();
            evicted += 1;
        }
        evicted
    }
}

/// What an insertion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inserted {
    /// So many of the oldest entries are gone.
    pub(super) evicted: usize,
    /// The new one is there.
    pub(super) kept: bool,
}
