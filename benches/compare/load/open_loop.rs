//! Latency at a fixed rate, without coordinated omission: when each request is due is decided before the run, and its latency counts from
//! then, however late a slow answer before it made it start. Plain blocking threads, because timers of an event loop are too coarse.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::{PATIENCE, http, pattern};

/// When requests arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrivals {
    /// One in each interval, at a pseudo-random moment of it.
    Spread,
    /// Ten at the same moment, then a pause.
    Bursts,
}

impl Arrivals {
    const BURST: u64 = 10;

    /// When request `number` is due, from the start of the run, at `rate` requests per second.
    fn due(self, number: u64, rate: u64) -> Duration {
        let interval = 1_000_000_000 / rate;
        Duration::from_nanos(match self {
            Self::Spread => number * interval + scatter(number) % interval,
            Self::Bursts => number / Self::BURST * Self::BURST * interval,
        })
    }
}

/// Makes requests at `rate` per second for `length`, over `clients` keep-alive connections in turn. Returns each latency in nanoseconds.
pub(crate) fn run(
    entry: SocketAddr,
    clients: u64,
    rate: u64,
    arrivals: Arrivals,
    length: Duration,
    body: u64,
) -> Result<Vec<u64>> {
    let mut connections = (0..clients)
        .map(|_| Blocking::open(entry, body))
        .collect::<Result<Vec<_>>>()?;
    let start = Instant::now() + Duration::from_millis(20);
    let total = u64::try_from(length.as_nanos() * u128::from(rate) / 1_000_000_000)?;
    thread::scope(|scope| {
        let threads: Vec<_> = (0u64..)
            .zip(&mut connections)
            .map(|(first, connection)| {
                let mine = (first..total).step_by(usize::try_from(clients).unwrap_or(1));
                scope.spawn(move || {
                    mine.map(|number| connection.timed(start + arrivals.due(number, rate)))
                        .collect::<Result<Vec<u64>>>()
                })
            })
            .collect();
        let mut latencies = Vec::new();
        for thread in threads {
            latencies.extend(thread.join().map_err(|_| anyhow!("a load thread panicked"))??);
        }
        Ok(latencies)
    })
}

struct Blocking {
    stream: TcpStream,
    request: String,
    body: u64,
    buffer: Vec<u8>,
}

impl Blocking {
    /// Connects and makes one exchange, so that no handshake is part of a latency.
    fn open(entry: SocketAddr, body: u64) -> Result<Self> {
        let stream = TcpStream::connect(entry)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut connection = Self {
            stream,
            request: http::get(body),
            body,
            buffer: vec![0; 16 * 1024],
        };
        connection.exchange().context("the first request of a connection")?;
        Ok(connection)
    }

    fn timed(&mut self, due: Instant) -> Result<u64> {
        wait_until(due)?;
        self.exchange()?;
        Ok(u64::try_from(due.elapsed().as_nanos())?)
    }

    fn exchange(&mut self) -> Result<()> {
        self.stream.write_all(self.request.as_bytes())?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            if read == 0 {
                bail!("the connection ended in the middle of an answer");
            }
            filled += read;
            let Some(head) = http::head(&self.buffer[..filled])? else {
                continue;
            };
            http::expect_ok(&head, self.body)?;
            let whole = head.length + usize::try_from(self.body)?;
            if filled > whole {
                bail!("{} bytes more than were asked for", filled - whole);
            }
            if filled == whole {
                return pattern::check(0, &self.buffer[head.length..filled]);
            }
        }
    }
}

/// Waits with the finest timer the kernel gives (by default it may be 50 µs late).
fn wait_until(due: Instant) -> Result<()> {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::park_timeout(left);
    }
}

/// A number that looks random and is the same in every run (the finaliser of SplitMix64).
fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_arrivals_keep_the_rate_and_their_order() {
        let due: Vec<Duration> = (0..1_000).map(|number| Arrivals::Spread.due(number, 1_000)).collect();
        assert!(due.windows(2).all(|two| two[0] < two[1]));
        for (millisecond, due) in (0u128..).zip(&due) {
            assert_eq!(due.as_millis(), millisecond);
        }
    }

    #[test]
    fn bursts_are_ten_at_once() {
        let due: Vec<u128> = [0, 9, 10, 19, 20]
            .map(|number| Arrivals::Bursts.due(number, 1_000).as_millis())
            .to_vec();
        assert_eq!(due, [0, 0, 10, 10, 20]);
    }
}
