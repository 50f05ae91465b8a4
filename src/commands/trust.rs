//! `trust init` and `trust show`: the keys and certificates of a cluster.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Serialize, Serializer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::output::{Format, write_data};
use super::table::Table;
use super::{Exit, complain, print};
use crate::clock;
use crate::model::{ClusterId, DnsName};
use crate::tls;

/// Most bytes of a PEM file that are read.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// `portolan trust init`: makes an authority, a first certificate and an empty `peers/`.
#[must_use]
pub fn init(dir: &Path, cluster: &ClusterId, clusterset: &DnsName) -> Exit {
    if let Err(error) = tls::init(dir, cluster, clusterset) {
        complain(&error);
        return Exit::Wrong;
    }
    let dir = dir.display();
    print(|out| {
        writeln!(out, "made {dir} for cluster {cluster} of {clusterset}:")?;
        writeln!(out, "  ca.pem    the authority; each peer needs a copy as peers/{cluster}.pem")?;
        writeln!(out, "  ca.key    its key (10 years); keep it secret, 'run' renews from it")?;
        writeln!(out, "  cert.pem  the first certificate (24 h), with its key in key.pem")?;
        writeln!(out, "  peers/    put each peer's ca.pem here as <cluster>.pem")?;
        Ok(Exit::Good)
    })
}

/// One certificate, as shown.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Shown {
    file: PathBuf,
    subject: String,
    names: Vec<String>,
    #[serde(rename = "notBefore", serialize_with = "rfc_3339")]
    not_before: Timestamp,
    #[serde(rename = "notAfter", serialize_with = "rfc_3339")]
    not_after: Timestamp,
    sha256: String,
    valid: bool,
}

fn rfc_3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// `portolan trust show`: the certificates of a trust folder; keys are never opened. Exit 1 when
/// one is unreadable or not valid now.
#[must_use]
pub fn show(dir: &Path, format: Format) -> Exit {
    let mut exit = Exit::Good;
    let mut certificates = Vec::new();
    for file in files(dir) {
        match read(dir, &file) {
            Ok(read) => certificates.extend(read),
            Err(problem) => {
                complain(&format_args!("{}: {problem}", dir.join(&file).display()));
                exit = Exit::Wrong;
            }
        }
    }
    if certificates.iter().any(|certificate| !certificate.valid) {
        exit = Exit::Wrong;
    }
    print(|out| {
        if format == Format::Table {
            table(&certificates).write(out)?;
        } else {
            write_data(out, format, &certificates)?;
        }
        Ok(exit)
    })
}

/// The own two and every pinned bundle, in the order of their names.
fn files(dir: &Path) -> Vec<PathBuf> {
    let pinned = std::fs::read_dir(dir.join("peers")).into_iter().flatten().flatten();
    let mut pinned: Vec<_> = pinned
        .map(|entry| Path::new("peers").join(entry.file_name()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "pem"))
        .collect();
    pinned.sort();
    let own = ["ca.pem", "cert.pem"].map(PathBuf::from);
    own.into_iter().chain(pinned).collect()
}

fn read(dir: &Path, file: &Path) -> Result<Vec<Shown>, String> {
    use io::Read as _;
    let opened = std::fs::File::open(dir.join(file));
    let mut pem = Vec::new();
    opened
        .and_then(|opened| opened.take(MAX_PEM_BYTES).read_to_end(&mut pem))
        .map_err(|e| format!("{e}; make the folder with 'portolan trust init'"))?;
    let mut shown = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| format!("{e}; give PEM certificates"))?;
        shown.push(parse(file, &certificate)?);
    }
    if shown.is_empty() {
        return Err("holds no certificate; give PEM certificates".to_owned());
    }
    Ok(shown)
}

fn parse(file: &Path, der: &CertificateDer<'_>) -> Result<Shown, String> {
    let (_, parsed) =
        X509Certificate::from_der(der).map_err(|e| format!("{e}; give X.509 certificates"))?;
    let time = |seconds| Timestamp::from_second(seconds).map_err(|e| e.to_string());
    let validity = parsed.validity();
    let (not_before, not_after) =
        (time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?);
    let now = Timestamp::try_from(clock::wall()).map_err(|e| e.to_string())?;
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let names = alternatives.iter().flat_map(|found| &found.value.general_names);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    Ok(Shown {
        file: file.to_owned(),
        subject: parsed.subject().to_string(),
        names: names.map(name).collect(),
        not_before,
        not_after,
        sha256: digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
        valid: (not_before..=not_after).contains(&now),
    })
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => (*name).to_owned(),
        other => other.to_string(),
    }
}

fn table(certificates: &[Shown]) -> Table {
    /// As much of the fingerprint as people compare by eye; the data has all of it.
    const SHOWN_DIGITS: usize = 16;
    let mut table = Table::new(&["FILE", "WHO", "UNTIL", "VALID", "SHA-256"]);
    for certificate in certificates {
        let who = if certificate.names.is_empty() {
            certificate.subject.clone()
        } else {
            certificate.names.join(",")
        };
        table.row([
            certificate.file.display().to_string(),
            who,
            certificate.not_after.to_string(),
            if certificate.valid { "yes" } else { "no" }.to_owned(),
            certificate.sha256.chars().take(SHOWN_DIGITS).collect(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_folder_shows_its_authority_and_its_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = ClusterId::parse("paris").unwrap();
        let zone = DnsName::parse("clusterset.local").unwrap();
        tls::init(dir.path(), &cluster, &zone).unwrap();
        std::fs::copy(dir.path().join("ca.pem"), dir.path().join("peers/oregon.pem")).unwrap();
        let files = files(dir.path());
        assert_eq!(files, ["ca.pem", "cert.pem", "peers/oregon.pem"].map(PathBuf::from));
        let own = read(dir.path(), Path::new("cert.pem")).unwrap();
        assert!(own[0].valid);
        assert_eq!(own[0].sha256.len(), 64);
        assert_eq!(
            own[0].names,
            ["paris.portolan.internal", "spiffe://clusterset.local/cluster/paris"]
        );
        let mut shown = Vec::new();
        table(&own).write(&mut shown).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.starts_with("FILE      WHO  "), "{shown}");
    }

    #[test]
    fn what_is_no_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let absent = read(dir.path(), Path::new("ca.pem")).unwrap_err();
        assert!(absent.contains("trust init"), "{absent}");
        std::fs::write(dir.path().join("ca.pem"), "hello").unwrap();
        let empty = read(dir.path(), Path::new("ca.pem")).unwrap_err();
        assert!(empty.contains("holds no certificate"), "{empty}");
    }
}
