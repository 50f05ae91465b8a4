//! dnsperf as the client, over UDP: one that others know. It cannot ask faster than about 270 000
//! times a second from one CPU, so it ranks no faster servers, and tells of the answers their
//! codes only. Over TCP it opens all connections at once, more than Knot lets wait.

use std::io;
use std::process::Command;

use crate::options::Options;
use crate::others::program;
use crate::process::{on_cpu, output};
use crate::servers::Server;
use crate::tally::Figures;

const SOCKETS: &str = "16";
const OUTSTANDING: &str = "160";
/// The share of questions for names that do not exist, percent, and how far answers may be off.
const MISSING: f64 = 10.0;
const OFF: f64 = 1.0;

/// Asks, and tells how it went.
pub(crate) fn run(server: &Server, options: &Options) -> io::Result<Figures> {
    let mut command: Command = on_cpu(options.client_cpu, &program("dnsperf"));
    command.args(["-T", "1", "-c", SOCKETS, "-q", OUTSTANDING, "-l"]);
    command.arg(options.seconds.to_string()).arg("-d").arg(&server.queries);
    command.args(["-s", &server.address.ip().to_string()]);
    command.args(["-p", &server.address.port().to_string()]);
    let said = output(command)?;
    let codes = text_of(&said, "Response codes:")?;
    let share = |code: &str| -> Option<f64> {
        let part = codes.split(", ").find(|part| part.starts_with(code))?;
        part.split_once('(')?.1.strip_suffix("%)")?.parse().ok()
    };
    let (right, missing) = (share("NOERROR "), share("NXDOMAIN "));
    let is_right = missing.is_some_and(|share| (share - MISSING).abs() < OFF)
        && right.zip(missing).is_some_and(|(one, other)| one + other > 99.98);
    if !is_right {
        return Err(io::Error::other(format!("other answers than expected: {codes}")));
    }
    let number = |key| -> io::Result<f64> {
        let text = text_of(&said, key)?;
        let word = text.split_whitespace().next().and_then(|word| word.parse().ok());
        word.ok_or_else(|| io::Error::other(format!("dnsperf: {key} {text}")))
    };
    let pairs = [
        ("answers", number("Queries completed:")?),
        ("per_second", number("Queries per second:")?),
        ("lost", number("Queries lost:")?),
    ];
    Ok(pairs.map(|(name, value)| (name.to_owned(), value)).into())
}

fn text_of<'t>(said: &'t str, key: &str) -> io::Result<&'t str> {
    let found = said.lines().find_map(|line| line.trim().strip_prefix(key));
    found
        .map(str::trim)
        .ok_or_else(|| io::Error::other(format!("dnsperf says no '{key}':\n{said}")))
}
