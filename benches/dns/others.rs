//! The servers from Debian with the same names, each with one worker, and their configurations.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::on_cpu;
use crate::questions::{Name, ZONE};

/// Programs, and the packages they are in.
const NEEDED: [(&str, &str); 5] = [
    ("knotd", "knot"),
    ("nsd", "nsd"),
    ("unbound", "unbound"),
    ("dnsperf", "dnsperf"),
    ("taskset", "util-linux"),
];
/// Daemons are not in everybody's search path.
const FOLDERS: [&str; 5] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/usr/local/go/bin"];
const TTL: u32 = 5;
const SOA: &str = "dns.clusterset.local. hostmaster.clusterset.local. 1 7200 1800 86400 5";

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}

/// Says what is to be installed, if anything is.
pub(crate) fn demand_packages() -> io::Result<()> {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(" ");
    Err(io::Error::other(format!(
        "not installed: {missing}; 'apt-get install --no-install-recommends {missing}', and stop \
         the services that start with it"
    )))
}

/// The zone as a master file.
pub(crate) fn write_zone(path: &Path, names: &[Name]) -> io::Result<()> {
    let mut text =
        format!("$ORIGIN {ZONE}.\n$TTL {TTL}\n@ SOA {SOA}\n@ NS dns.{ZONE}.\ndns A 192.0.2.53\n");
    for Name { text: name, addresses } in names {
        writeln!(text, "{name}. A {}", addresses[0]).expect("a String takes everything");
    }
    fs::write(path, text)
}

/// Knot: its command, which serves the zone file `zone` at `listen`.
pub(crate) fn knot(dir: &Path, zone: &Path, listen: SocketAddr, cpu: u32) -> io::Result<Command> {
    let config = dir.join("knot.conf");
    let (here, zone, address) = (dir.display(), zone.display(), listen.ip());
    let text = format!(
        "server:\n    listen: {address}@{}\n    rundir: {here}\n    udp-workers: 1\n    \
         tcp-workers: 1\n    background-workers: 1\n    udp-max-payload: 1232\nlog:\n  - target: \
         stderr\n    any: warning\ndatabase:\n    storage: {here}/knot\nzone:\n  - domain: {ZONE}\n    \
         file: {zone}\n    zonefile-sync: -1\n    journal-content: none\n",
        listen.port()
    );
    fs::create_dir_all(dir.join("knot"))?;
    fs::write(&config, text)?;
    let mut command = on_cpu(cpu, &program("knotd"));
    command.arg("-c").arg(config);
    Ok(command)
}

/// NSD, likewise.
pub(crate) fn nsd(dir: &Path, zone: &Path, listen: SocketAddr, cpu: u32) -> io::Result<Command> {
    let config = dir.join("nsd.conf");
    let (here, zone) = (dir.display(), zone.display());
    let text = format!(
        "server:\n  ip-address: {}@{}\n  server-count: 1\n  username: \"\"\n  chroot: \"\"\n  \
         zonesdir: \"{here}\"\n  pidfile: \"{here}/nsd.pid\"\n  xfrdfile: \"{here}/nsd.xfrd\"\n  \
         zonelistfile: \"{here}/nsd.zones\"\n  xfrdir: \"{here}\"\n  minimal-responses: yes\n  \
         rrl-ratelimit: 0\n  rrl-whitelist-ratelimit: 0\n  tcp-count: 256\n  ipv4-edns-size: 1232\n\
         remote-control:\n  control-enable: no\nzone:\n  name: {ZONE}\n  zonefile: \"{zone}\"\n",
        listen.ip(),
        listen.port()
    );
    fs::write(&config, text)?;
    let mut command = on_cpu(cpu, &program("nsd"));
    command.arg("-d").arg("-c").arg(config);
    Ok(command)
}

/// Unbound, likewise, with the names as its local data.
pub(crate) fn unbound(
    dir: &Path,
    names: &[Name],
    listen: SocketAddr,
    cpu: u32,
) -> io::Result<Command> {
    let config = dir.join("unbound.conf");
    let here = dir.display();
    let mut text = format!(
        "server:\n  interface: {}\n  port: {}\n  num-threads: 1\n  module-config: \"iterator\"\n  \
         do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  directory: \"{here}\"\n  pidfile: \
         \"{here}/unbound.pid\"\n  use-syslog: no\n  logfile: \"\"\n  verbosity: 0\n  \
         access-control: 127.0.0.0/8 allow\n  minimal-responses: yes\n  incoming-num-tcp: 256\n  \
         edns-buffer-size: 1232\n  local-zone: \"{ZONE}.\" static\n  \
         local-data: \"{ZONE}. {TTL} SOA {SOA}\"\n",
        listen.ip(),
        listen.port()
    );
    for Name { text: name, addresses } in names {
        writeln!(text, "  local-data: \"{name}. {TTL} A {}\"", addresses[0])
            .expect("a String takes everything");
    }
    text.push_str("remote-control:\n  control-enable: no\n");
    fs::write(&config, text)?;
    let mut command = on_cpu(cpu, &program("unbound"));
    command.arg("-d").arg("-c").arg(config);
    Ok(command)
}

/// A program that [`demand_packages`] has found.
pub(crate) fn program(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| name.into())
}
