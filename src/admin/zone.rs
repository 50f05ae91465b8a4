//! `/zone`: all that DNS answers, as a master file (RFC 1035, section 5) or as JSON.
//!
//! A zone may be large and its reader slow, so it goes out in pieces, rendered ahead by a few on a
//! thread of its own. If that breaks off, so does the body: half a zone never looks whole.

use std::io::{self, Write};

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::answer::{Source, refuse};
use crate::model::DnsName;
use crate::zone::{Dump, Line};

/// A piece is sent once it has so many octets.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces rendered ahead of the reader.
const PIECES: usize = 4;

/// How a zone is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A master file.
    #[default]
    Zone,
    /// One object, [`Head`]'s fields and `records`: a list of `{name, ttl, type, data}`.
    Json,
}

/// The query of `/zone`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    #[serde(default)]
    format: Format,
}

/// What is said of the zone as a whole.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    zone: &'a DnsName,
    serial: u32,
    revision: u64,
    count: usize,
}

/// A record.
#[derive(Debug, Serialize)]
struct RecordJson<'a> {
    name: &'a str,
    ttl: u32,
    r#type: &'a str,
    data: &'a str,
}

/// `GET /zone?format=zone|json`.
pub(super) async fn zone(
    State(Source { view, .. }): State<Source>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let Ok(Query(Asked { format })) = asked else {
        let problem = "ask for /zone, or /zone?format=json";
        return refuse(StatusCode::BAD_REQUEST, problem.to_owned());
    };
    let (pieces, ready) = mpsc::channel(PIECES);
    let rendering = tokio::task::spawn_blocking(move || {
        // That the reader went away ends the work; there is nobody to tell.
        let _unread = render(view.zone(), format, &mut Pieces { buffer: Vec::new(), pieces });
    });
    let body = stream::unfold((ready, Some(rendering)), |(mut ready, rendering)| async move {
        if let Some(piece) = ready.recv().await {
            return Some((Ok(piece), (ready, rendering)));
        }
        // The end, unless the renderer panicked.
        let error = rendering?.await.err()?;
        Some((Err(io::Error::other(error)), (ready, None)))
    });
    let kind = match format {
        // RFC 4027.
        Format::Zone => "text/dns",
        Format::Json => "application/json",
    };
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(body)).into_response()
}

fn render(dump: Dump, format: Format, out: &mut Pieces) -> io::Result<()> {
    let ttl = dump.ttl_seconds();
    let head = Head {
        zone: dump.zone(),
        serial: dump.serial(),
        revision: dump.revision(),
        count: dump.records(),
    };
    match format {
        Format::Zone => {
            writeln!(out, "; zone {}", head.zone)?;
            writeln!(out, "; serial {}, of route table {}", head.serial, head.revision)?;
            writeln!(out, "; {} records", head.count)?;
            for lines in dump {
                for Line { owner, rtype, data } in lines {
                    writeln!(out, "{owner}. {ttl} IN {rtype} {data}")?;
                }
            }
        }
        Format::Json => {
            let text = serde_json::to_string(&head)?;
            // The object goes on.
            write!(out, "{},\"records\":[", text.trim_end_matches('}'))?;
            let mut between = "\n";
            for line in dump.flatten() {
                out.write_all(between.as_bytes())?;
                let Line { owner: name, rtype, data } = &line;
                serde_json::to_writer(&mut *out, &RecordJson { name, ttl, r#type: rtype, data })?;
                between = ",\n";
            }
            writeln!(out, "\n]}}")?;
        }
    }
    out.flush()
}

/// Collects what is written into pieces; an error says that nobody reads them any more.
struct Pieces {
    buffer: Vec<u8>,
    pieces: mpsc::Sender<Bytes>,
}

impl Write for Pieces {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(octets);
        if self.buffer.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.buffer);
        self.pieces.blocking_send(piece.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
