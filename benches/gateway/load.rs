//! The clients: threads with blocking sockets, so that they add as little as possible. Each kind
//! measures one window and prints its figures as one JSON object.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portolan::clock::now;

use crate::backend::BODY;
use crate::options::{Kind, Load};
use crate::usage;

/// What was measured, by name.
pub(crate) type Figures = BTreeMap<String, f64>;

/// Bulk streams and pings run so long before they are measured.
const WARM_UP: Duration = Duration::from_millis(300);
const BULK_WRITE: usize = 256 * 1024;
/// Octets of a ping and of its answer.
const PING: usize = 1024;
/// Octets of a new connection's question, which is echoed.
const QUESTION: [u8; 2] = *b"hi";
/// Requests a second.
const HTTP_RATE: f64 = 10_000.0;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
/// Threads that open the idle streams.
const OPENERS: usize = 16;
/// How long idle streams rest before memory is read.
const REST: Duration = Duration::from_secs(3);
/// Nothing takes longer, unless it is lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between looks at what arrived.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between paced connections: longer than a spare needs to come back.
const PACE: Duration = Duration::from_millis(300);

/// Measures and prints.
pub(crate) fn run(load: &Load) -> io::Result<()> {
    let figures = match load.kind {
        Kind::Bulk => bulk(load),
        Kind::Conn => conn(load),
        Kind::Ping => ping(load),
        Kind::Idle => idle(load),
        Kind::Http => http(load),
        Kind::Paced => paced(load),
        Kind::Burst => burst(load),
        Kind::Beside => beside(load),
    }?;
    crate::say(&serde_json::to_string(&figures).expect("numbers are JSON"))
}

fn figures<const N: usize>(pairs: [(&str, f64); N]) -> Figures {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A client's connection.
fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream, question: &[u8], answer: &mut [u8]) -> io::Result<Duration> {
    let begun = now();
    stream.write_all(question)?;
    stream.read_exact(answer)?;
    Ok(now() - begun)
}

/// CPU time of everything watched.
fn cpu(load: &Load) -> f64 {
    load.watched.iter().map(|pid| usage::cpu(*pid).as_secs_f64()).sum()
}

/// Joins threads; their first error is the whole's.
fn gather<T>(threads: Vec<thread::ScopedJoinHandle<'_, io::Result<T>>>) -> io::Result<Vec<T>> {
    threads.into_iter().map(|thread| thread.join().expect("a client does not panic")).collect()
}

/// Nearest rank.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Octets that each connection to the sink has received.
fn counts(load: &Load) -> io::Result<BTreeMap<u64, u64>> {
    let mut text = Vec::new();
    TcpStream::connect(load.counts)?.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Streams that write as fast as they can while `measure` runs.
fn while_uploading<T>(
    target: SocketAddr,
    streams: usize,
    measure: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let open: Vec<TcpStream> = (0..streams).map(|_| connect(target)).collect::<io::Result<_>>()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for mut stream in &open {
            let stop = &stop;
            scope.spawn(move || {
                let buffer = vec![7; BULK_WRITE];
                // The shutdown at the end breaks the last write.
                while !stop.load(Ordering::Relaxed) && stream.write_all(&buffer).is_ok() {}
            });
        }
        let measured = measure();
        stop.store(true, Ordering::Relaxed);
        for stream in &open {
            let _ended = stream.shutdown(Shutdown::Both);
        }
        measured
    })
}

/// Octets that arrived, in all and by stream, and the CPU time they took.
fn bulk(load: &Load) -> io::Result<Figures> {
    while_uploading(load.target, load.streams, || {
        let deadline = now() + PATIENCE;
        while counts(load)?.values().filter(|count| **count > 0).count() < load.streams {
            if now() >= deadline {
                return Err(io::Error::other("a stream does not arrive"));
            }
            thread::sleep(LOOK_EVERY);
        }
        thread::sleep(WARM_UP);
        let (cpu_before, mut before, begun) = (cpu(load), counts(load)?, now());
        // Connections by which the start was awaited may still be listed.
        before.retain(|_, count| *count > 0);
        thread::sleep(Duration::from_millis(load.millis));
        let (cpu_after, after, took) = (cpu(load), counts(load)?, now() - begun);
        let arrived = |(id, count): (&u64, &u64)| {
            after.get(id).map(|later| later.saturating_sub(*count) as f64)
        };
        let each: Vec<f64> = before.iter().filter_map(arrived).collect();
        if each.len() != load.streams {
            let text = format!("{} of {} streams stayed", each.len(), load.streams);
            return Err(io::Error::other(text));
        }
        let all: f64 = each.iter().sum();
        Ok(figures([
            ("cpu_s_per_gb", (cpu_after - cpu_before) / (all / 1e9)),
            ("gbit_per_s", all * 8.0 / 1e9 / took.as_secs_f64()),
            ("jain", jain(&each)),
        ]))
    })
}

/// 1 where all get the same, 1/n where one gets everything.
pub(crate) fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Connect, ask, hear, close, again and again; the pool is as the start left it.
fn conn(load: &Load) -> io::Result<Figures> {
    let until = now() + Duration::from_millis(load.millis);
    let (cpu_before, begun) = (cpu(load), now());
    let each = thread::scope(|scope| {
        let client = || {
            let mut times = Vec::with_capacity(1 << 16);
            while now() < until {
                times.push(one_connection(load.target)?);
            }
            Ok(times)
        };
        gather((0..load.streams).map(|_| scope.spawn(client)).collect())
    })?;
    let took = now() - begun;
    let cpu = cpu(load) - cpu_before;
    let mut times = each.concat();
    times.sort_unstable();
    let count = times.len() as f64;
    Ok(figures([
        ("cpu_ms", cpu * 1e3 / count),
        ("per_second", count / took.as_secs_f64()),
        ("p50_ms", millis(quantile(&times, 0.5))),
        ("p99_ms", millis(quantile(&times, 0.99))),
    ]))
}

fn one_connection(target: SocketAddr) -> io::Result<Duration> {
    let begun = now();
    let mut stream = connect(target)?;
    exchange(&mut stream, &QUESTION, &mut [0; QUESTION.len()])?;
    Ok(now() - begun)
}

fn ping(load: &Load) -> io::Result<Figures> {
    let mut stream = connect(load.target)?;
    let warm = now() + WARM_UP;
    while now() < warm {
        exchange(&mut stream, &[1; PING], &mut [0; PING])?;
    }
    let (cpu_before, until) = (cpu(load), now() + Duration::from_millis(load.millis));
    let mut times = Vec::with_capacity(1 << 16);
    while now() < until {
        times.push(exchange(&mut stream, &[1; PING], &mut [0; PING])?);
    }
    let cpu = cpu(load) - cpu_before;
    times.sort_unstable();
    Ok(figures([
        ("p50_us", micros(quantile(&times, 0.5))),
        ("p99_us", micros(quantile(&times, 0.99))),
        ("cpu_us", cpu * 1e6 / times.len() as f64),
    ]))
}

/// Memory of each gateway per stream, after one exchange on each and a rest.
fn idle(load: &Load) -> io::Result<Figures> {
    let memory = || load.watched.iter().map(|pid| usage::pss_kib(*pid)).collect::<Vec<f64>>();
    let before = memory();
    let streams = thread::scope(|scope| {
        let opener = |count: usize| {
            let open = |_| {
                let mut stream = connect(load.target)?;
                exchange(&mut stream, &QUESTION, &mut [0; QUESTION.len()])?;
                Ok(stream)
            };
            (0..count).map(open).collect::<io::Result<Vec<TcpStream>>>()
        };
        let share = |place| load.streams / OPENERS + usize::from(place < load.streams % OPENERS);
        gather((0..OPENERS).map(|place| scope.spawn(move || opener(share(place)))).collect())
    })?;
    thread::sleep(REST);
    let each: Vec<f64> = memory()
        .iter()
        .zip(&before)
        .map(|(after, before)| (after - before) / load.streams as f64)
        .collect();
    // All of them still answer.
    for mut stream in streams.into_iter().flatten() {
        exchange(&mut stream, &QUESTION, &mut [0; QUESTION.len()])?;
    }
    Ok(figures([
        ("client_kib", each.first().copied().unwrap_or_default()),
        ("server_kib", each.get(1).copied().unwrap_or_default()),
        ("base_client_mib", before.first().copied().unwrap_or_default() / 1024.0),
        ("base_server_mib", before.get(1).copied().unwrap_or_default() / 1024.0),
    ]))
}

/// Requests at a fixed rate, spread over kept connections. A request that could not be sent in
/// its time because the answer before was late is counted from when it should have been sent.
fn http(load: &Load) -> io::Result<Figures> {
    let gap = Duration::from_secs_f64(load.streams as f64 / HTTP_RATE);
    let open: Vec<TcpStream> =
        (0..load.streams).map(|_| connect(load.target)).collect::<io::Result<_>>()?;
    let begin = now() + WARM_UP;
    let (measured, end) = (begin + WARM_UP, begin + WARM_UP + Duration::from_millis(load.millis));
    let client = |place: usize, stream: TcpStream| {
        let first = begin + gap.mul_f64(place as f64 / load.streams as f64);
        keep_asking(stream, first, gap, measured, end)
    };
    let (cpu, each) = thread::scope(|scope| {
        let clients = open.into_iter().enumerate();
        let threads =
            clients.map(|(place, stream)| scope.spawn(move || client(place, stream))).collect();
        thread::sleep(measured.saturating_duration_since(now()));
        let before = cpu(load);
        gather(threads).map(|each| (cpu(load) - before, each))
    })?;
    let took = (now() - measured).as_secs_f64();
    let mut times = each.concat();
    times.sort_unstable();
    Ok(figures([
        ("p50_us", micros(quantile(&times, 0.5))),
        ("p99_us", micros(quantile(&times, 0.99))),
        ("cpu_us", cpu * 1e6 / times.len() as f64),
        ("per_second", times.len() as f64 / took),
    ]))
}

fn keep_asking(
    mut stream: TcpStream,
    mut due: Instant,
    gap: Duration,
    measured: Instant,
    end: Instant,
) -> io::Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut answer = [0; BODY + 256];
    while due < end {
        let early = due.saturating_duration_since(now());
        thread::sleep(early);
        // A thread that slept and woke late is the generator's fault, not the gateways'.
        let begun = if early.is_zero() { due } else { now() };
        stream.write_all(REQUEST)?;
        read_answer(&mut stream, &mut answer)?;
        if due >= measured {
            times.push(now() - begun);
        }
        due += gap;
    }
    Ok(times)
}

/// Reads to the end of a body of [`BODY`] octets.
fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    let mut have = 0;
    loop {
        have += match stream.read(&mut buffer[have..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => count,
        };
        let head = buffer[..have].windows(4).position(|four| four == b"\r\n\r\n");
        if head.is_some_and(|head| have >= head + 4 + BODY) {
            return Ok(());
        }
    }
}

/// New connections one at a time, each to an idle pair.
fn paced(load: &Load) -> io::Result<Figures> {
    let mut times = Vec::new();
    for _ in 0..load.streams {
        times.push(one_connection(load.target)?);
        thread::sleep(PACE);
    }
    times.sort_unstable();
    Ok(figures([
        ("p50_ms", millis(quantile(&times, 0.5))),
        ("p99_ms", millis(quantile(&times, 0.99))),
    ]))
}

/// New connections at the same instant, more than any pool has at hand.
fn burst(load: &Load) -> io::Result<Figures> {
    let mut times = thread::scope(|scope| {
        let client = || one_connection(load.target);
        gather((0..load.streams).map(|_| scope.spawn(client)).collect())
    })?;
    times.sort_unstable();
    Ok(figures([
        ("p50_ms", millis(quantile(&times, 0.5))),
        ("max_ms", millis(quantile(&times, 1.0))),
    ]))
}

/// Pings on their own stream beside streams that upload.
fn beside(load: &Load) -> io::Result<Figures> {
    let target = load.beside.ok_or_else(|| io::Error::other("--beside is missing"))?;
    let mut stream = connect(load.target)?;
    exchange(&mut stream, &[1; PING], &mut [0; PING])?;
    let (mut times, sum) = while_uploading(target, load.streams, || {
        thread::sleep(WARM_UP);
        let (before, begun) = (counts(load)?, now());
        let until = begun + Duration::from_millis(load.millis);
        let mut times = Vec::new();
        while now() < until {
            times.push(exchange(&mut stream, &[1; PING], &mut [0; PING])?);
        }
        let took = (now() - begun).as_secs_f64();
        let after = counts(load)?;
        let total = |seen: &BTreeMap<u64, u64>| seen.values().sum::<u64>() as f64;
        Ok((times, (total(&after) - total(&before)) * 8.0 / 1e6 / took))
    })?;
    times.sort_unstable();
    Ok(figures([
        ("p50_ms", millis(quantile(&times, 0.5))),
        ("p99_ms", millis(quantile(&times, 0.99))),
        ("max_ms", millis(quantile(&times, 1.0))),
        ("bulk_mbit_per_s", sum),
    ]))
}
