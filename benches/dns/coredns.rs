//! CoreDNS with the same zone file, built once from its Go module.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::options::Options;
use crate::others::find;
use crate::process::{on_cpu, output};
use crate::questions::ZONE;
use crate::tell;

/// The module whose go.mod and go.sum fix the version, which the clusters of conformance/kube run.
const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/kube/build/tools");
const PACKAGE: &str = "github.com/coredns/coredns";

/// The program, given, found or built; else why there is none.
pub(crate) fn program(options: &Options) -> Result<PathBuf, String> {
    if let Some(given) = &options.coredns {
        return Ok(given.clone());
    }
    build().map_err(|error| error.to_string())
}

fn build() -> io::Result<PathBuf> {
    let text = fs::read_to_string(Path::new(MODULE).join("go.mod"))?;
    let version = text.lines().find_map(|line| {
        let mut words = line.trim().strip_prefix(PACKAGE)?.split_whitespace();
        words.next().filter(|word| word.starts_with('v'))
    });
    let version = version.ok_or_else(|| io::Error::other("go.mod names no version of CoreDNS"))?;
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("coredns-{version}"));
    if built.is_file() {
        return Ok(built);
    }
    let go = find("go").ok_or_else(|| io::Error::other("Go is not installed"))?;
    tell(&format!("building CoreDNS {version}, once"));
    let partial = built.with_extension("partial");
    fs::create_dir_all(env!("CARGO_TARGET_TMPDIR"))?;
    let mut command = Command::new(go);
    command.current_dir(MODULE).env("CGO_ENABLED", "0");
    command.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(&partial).arg(PACKAGE);
    output(command)?;
    fs::rename(&partial, &built)?;
    Ok(built)
}

/// CoreDNS with its `file` plugin alone.
pub(crate) fn command(
    program: &Path,
    dir: &Path,
    zone: &Path,
    listen: SocketAddr,
    cpu: u32,
) -> io::Result<Command> {
    let config = dir.join("Corefile");
    let text = format!(
        "{ZONE}:{} {{\n    bind {}\n    file {}\n}}\n",
        listen.port(),
        listen.ip(),
        zone.display()
    );
    fs::write(&config, text)?;
    let mut command = on_cpu(cpu, program);
    command.env("GOMAXPROCS", "1").arg("-conf").arg(config);
    Ok(command)
}
