//! Streams between real clients and real servers of HTTP/2, with this sidecar's code in between.
