//! One file's text to documents: split at the markers, each parsed on its own, so that an error
//! has the line of the file and a document that did not change is not parsed again.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest;

use super::manifest::{Manifest, Peek};
use super::object::{Object, ObjectId};
use super::spread::spread;

/// Largest file that is read.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most documents in one file.
pub(super) const MAX_DOCUMENTS: usize = 200_000;
/// Deepest nesting of a document.
const MAX_DEPTH: usize = 64;

/// Most parser events that the aliases of one document may stand for: manifests hardly use any,
/// bombs are made of them.
const MAX_ALIASED_EVENTS: usize = 50_000;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    /// Documents between `---` lines.
    Yaml,
    /// Values one after the other.
    Json,
}

/// Where and why a file could not be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    /// The line, from 1.
    pub(super) line: usize,
    /// The column, from 1, where known.
    pub(super) column: Option<usize>,
    /// What is wrong and what to do.
    pub(super) what: String,
}

/// An object and the line at which its document begins.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) id: ObjectId,
    pub(super) object: Arc<Object>,
    pub(super) line: usize,
}

/// What a file holds, in its order.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) objects: Vec<Placed>,
    /// Documents by the SHA-256 of their text, to be taken over when the file changes.
    pub(super) documents: Documents,
    /// Objects of other kinds that were passed over.
    pub(super) ignored: usize,
}

/// Parsed documents by their text.
pub(super) type Documents = HashMap<[u8; 32], Arc<Document>>;

/// One parsed document.
#[derive(Debug)]
pub(super) struct Document {
    objects: Vec<(ObjectId, Arc<Object>)>,
    ignored: usize,
}

impl From<Manifest> for Document {
    fn from(manifest: Manifest) -> Self {
        let objects = manifest.objects.into_iter();
        Self {
            objects: objects.map(|(id, object)| (id, Arc::new(object))).collect(),
            ignored: manifest.ignored,
        }
    }
}

/// Parses a file; documents that `known` holds are taken over. The first mistake refuses all.
pub(super) fn parse(bytes: &[u8], syntax: Syntax, known: &Documents) -> Result<Content, Mistake> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = str::from_utf8(bytes).map_err(|error| Mistake {
        line: 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count(),
        column: None,
        what: "the file is not UTF-8; save it as UTF-8".to_owned(),
    })?;
    let chunks = match syntax {
        Syntax::Yaml => split_yaml(text)?,
        // A JSON file is one chunk: its documents have no markers.
        Syntax::Json => vec![Chunk { text, line: 1, content: 1 }],
    };
    let parsed = spread(&chunks, |chunk| {
        let digest = digest::digest(&digest::SHA256, chunk.text.as_bytes());
        let hash: [u8; 32] = digest.as_ref().try_into().unwrap_or_default();
        if let Some(document) = known.get(&hash) {
            return Ok((hash, Arc::clone(document)));
        }
        let manifest = match syntax {
            Syntax::Yaml => yaml(chunk)?,
            Syntax::Json => json(chunk.text)?,
        };
        Ok((hash, Arc::new(Document::from(manifest))))
    });
    let mut content = Content::default();
    for (chunk, parsed) in chunks.iter().zip(parsed) {
        let (hash, document) = parsed?;
        content.objects.extend(document.objects.iter().map(|(id, object)| Placed {
            id: id.clone(),
            object: Arc::clone(object),
            line: chunk.content,
        }));
        content.ignored += document.ignored;
        content.documents.insert(hash, document);
    }
    Ok(content)
}

/// The text of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk<'a> {
    text: &'a str,
    /// The line of the file at which the text begins.
    line: usize,
    /// The line of the file at which its content begins.
    content: usize,
}

/// Splits at `---` and `...` in the first column: YAML allows neither there inside any scalar
/// (YAML 1.2, section 9.1.2). A chunk keeps its `---` line, which may hold content. Chunks
/// without content (comments, directives, nothing) are left out.
fn split_yaml(text: &str) -> Result<Vec<Chunk<'_>>, Mistake> {
    let mut chunks = Vec::new();
    let (mut start, mut line, mut content) = (0, 1, None);
    let mut end = 0;
    for (number, text_line) in (1..).zip(text.split_inclusive('\n')) {
        let starts = after_marker(text_line, "---");
        if starts.is_some() || after_marker(text_line, "...").is_some() {
            if let Some(content) = content {
                chunks.push(Chunk { text: &text[start..end], line, content });
            }
            (start, line) = match starts {
                Some(_) => (end, number),
                None => (end + text_line.len(), number + 1),
            };
            content = starts.filter(|rest| has_content(rest)).map(|_| number);
        } else if content.is_none() && has_content(text_line) && !text_line.starts_with('%') {
            content = Some(number);
        }
        end += text_line.len();
        if chunks.len() >= MAX_DOCUMENTS && content.is_some() {
            return Err(too_many(line));
        }
    }
    if let Some(content) = content {
        chunks.push(Chunk { text: &text[start..], line, content });
    }
    Ok(chunks)
}

/// What follows a marker in the first column, if this line is one.
fn after_marker<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(marker)?;
    (rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])).then_some(rest)
}

fn has_content(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

fn yaml(chunk: &Chunk<'_>) -> Result<Manifest, Mistake> {
    let mistake = match serde_saphyr::from_str_with_options(chunk.text, options()) {
        Ok(manifest) => return Ok(manifest),
        Err(error) => error,
    };
    // Another kind whose fields have other shapes under the same names is no mistake.
    match serde_saphyr::from_str_with_options::<Peek>(chunk.text, options()) {
        Ok(peek) if peek.is_foreign() => Ok(Manifest { objects: Vec::new(), ignored: 1 }),
        _ => Err(yaml_mistake(&mistake, chunk)),
    }
}

fn yaml_mistake(error: &serde_saphyr::Error, chunk: &Chunk<'_>) -> Mistake {
    let location = error.location();
    let at = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Mistake {
        line: location.map_or(chunk.content, |place| chunk.line + at(place.line()).max(1) - 1),
        column: location.map(|place| at(place.column())),
        what: without_place(&error.render_with_formatter(&serde_saphyr::UserMessageFormatter)),
    }
}

/// The message without the places at its end, which count from the document's first line.
fn without_place(mut message: &str) -> String {
    let of_place = |c: char| c.is_ascii_digit() || " ,column".contains(c);
    while let Some((rest, place)) = message.rsplit_once(" at line ")
        && place.chars().all(of_place)
    {
        message = rest;
    }
    message.to_owned()
}

/// The parser's own budgets are meant for small configurations; ours follow from the cap of the
/// file, since every event and node takes at least a byte of it.
fn options() -> serde_saphyr::Options {
    let bytes = usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX);
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: bytes,
            max_nodes: bytes,
            max_total_scalar_bytes: bytes,
            max_depth: MAX_DEPTH,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIASED_EVENTS,
        },
        emit_comments: false,
        with_snippet: false,
    }
}

fn json(text: &str) -> Result<Manifest, Mistake> {
    let mut all = Manifest::default();
    let (mut rest, mut line) = (text, 1);
    for documents in 0.. {
        let next = rest.trim_start();
        line += newlines(&rest[..rest.len() - next.len()]);
        if next.is_empty() {
            break;
        }
        if documents == MAX_DOCUMENTS {
            return Err(too_many(line));
        }
        let mut stream = serde_json::Deserializer::from_str(next).into_iter::<Manifest>();
        let bytes = match stream.next() {
            None => break,
            Some(Ok(manifest)) => {
                all.objects.extend(manifest.objects);
                all.ignored += manifest.ignored;
                stream.byte_offset()
            }
            Some(Err(error)) => {
                all.ignored += 1;
                foreign_json(next).ok_or_else(|| json_mistake(&error, line))?
            }
        };
        line += newlines(&next[..bytes]);
        rest = &next[bytes..];
    }
    Ok(all)
}

/// How long the first value is, if it is a manifest of another kind.
fn foreign_json(text: &str) -> Option<usize> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Peek>();
    let foreign = stream.next()?.ok()?.is_foreign();
    foreign.then(|| stream.byte_offset())
}

/// `first` is the line at which the value begins.
fn json_mistake(error: &serde_json::Error, first: usize) -> Mistake {
    // An error of ours, found after the value was read, has no place: line 0.
    let column = (error.line() > 0).then_some(error.column());
    let what = without_place(&error.to_string());
    Mistake { line: first + error.line().max(1) - 1, column, what }
}

fn too_many(line: usize) -> Mistake {
    let what = format!("more than {MAX_DOCUMENTS} documents in one file; split the file");
    Mistake { line, column: None, what }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests;
