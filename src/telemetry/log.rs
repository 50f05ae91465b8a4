//! The log: one subscriber on stderr, its filter changeable while it runs.

use std::fmt;
use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt as text, reload};

/// Libraries that would write a line per request or per handshake. A filter that names one of
/// them wins over this.
const QUIET: &str = "hickory_proto=warn,hickory_server=warn,h2=warn,hyper=warn,hyper_util=warn,\
                     rustls=warn,tokio_rustls=warn,kube_client=warn,notify=warn";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the log cannot be set up, or its filter changed.
#[derive(Debug, Error)]
pub enum LogError {
    /// The directives cannot be read.
    #[error("'{filter}' is not a log filter ({problem}); write a level such as info")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The process has a log already.
    #[error("the log is set up already; set it up once, first thing in main")]
    AlreadySet,
    /// The subscriber is gone.
    #[error("the log has ended; its filter cannot be changed any more")]
    Ended,
}

/// Changes the filter of the running log.
#[derive(Clone)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

/// Sets up the log of this process, on stderr, with a filter such as `info` or
/// `info,portolan::tls=debug`.
pub fn init_log(filter: &str, format: LogFormat) -> Result<LogFilter, LogError> {
    let (layer, handle) = reload::Layer::new(parse(filter)?);
    let lines = text::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer)
        .with(lines)
        .try_init()
        .map_err(|_| LogError::AlreadySet)?;
    Ok(LogFilter(handle))
}

impl LogFilter {
    /// Puts another filter in force; a bad one leaves the last in force.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        self.0.reload(parse(filter)?).map_err(|_| LogError::Ended)
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogFilter")
    }
}

/// Of two directives for one target the later wins, so the quieting comes first.
pub(super) fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let problem = |problem: String| LogError::Filter { filter: filter.to_owned(), problem };
    // On its own first, so that the error is about what was given.
    EnvFilter::builder().parse(filter).map_err(|error| problem(error.to_string()))?;
    EnvFilter::builder()
        .parse(format!("{QUIET},{filter}"))
        .map_err(|error| problem(error.to_string()))
}
