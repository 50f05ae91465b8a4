//! A long line between the gateways: two network namespaces, each with a TUN device, and the
//! process of `conformance/net` that carries packets between them, late, few or not at all.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::geteuid;

use crate::cases::ROUND_TRIP_MS;
use crate::place::{Place, Side};

const SWITCH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/net/lab/switch.py");
const RATE_MBIT: u32 = 200;
const NETWORK: &str = "10.77.0.0/16";

/// The line; it and its namespaces go with this value.
#[derive(Debug)]
pub(crate) struct Line {
    switch: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
    namespaces: [Namespace; 2],
}

/// Removed with this value.
#[derive(Debug)]
struct Namespace(String);

impl Line {
    /// A line of 200 Mbit/s with a queue of 40 ms and no loss yet, or why there can be none here.
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        if !geteuid().is_root() {
            return Err(io::Error::other("needs root, for network namespaces"));
        }
        if !Path::new("/dev/net/tun").exists() {
            return Err(io::Error::other("needs /dev/net/tun; load the module tun"));
        }
        let process = std::process::id();
        let namespaces = [
            Namespace::new(format!("pgw{process}-near"))?,
            Namespace::new(format!("pgw{process}-far"))?,
        ];
        let log = dir.join("switch.log");
        let mut switch = Command::new("python3")
            .args(["-B", SWITCH])
            .args(namespaces.iter().map(|namespace| format!("/run/netns/{}", namespace.0)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("python3: {error}")))?;
        let commands = switch.stdin.take().expect("piped");
        let answers = BufReader::new(switch.stdout.take().expect("piped"));
        let mut line = Self { switch, commands, answers, log, namespaces };
        line.answered()?;
        line.command(format_args!("rtt 1 2 {ROUND_TRIP_MS}"))?;
        // The bounds are close to whole round trips.
        line.command(format_args!("jitter 0"))?;
        line.command(format_args!("rate {RATE_MBIT}"))?;
        for (namespace, address) in line.namespaces.iter().zip([gateway(1), gateway(2)]) {
            namespace.ip(&["link", "set", "wan0", "up", "mtu", "1500", "txqueuelen", "10000"])?;
            namespace.ip(&["addr", "add", &format!("{address}/32"), "dev", "wan0"])?;
            namespace.ip(&["route", "add", NETWORK, "dev", "wan0", "src", &address.to_string()])?;
        }
        Ok(line)
    }

    /// The two ends, as a place.
    pub(crate) fn place(&self, dir: PathBuf) -> Place {
        let side = |number: u8| Side {
            gateway: gateway(number),
            netns: Some(self.namespaces[usize::from(number) - 1].0.clone()),
        };
        let vips = IpAddr::V4(Ipv4Addr::new(127, 110, 0, 0));
        Place { dir, near: side(1), far: side(2), vips }
    }

    /// From now on this share of all packets is lost.
    pub(crate) fn set_loss(&mut self, share: f64) -> io::Result<()> {
        self.command(format_args!("loss {share}"))
    }

    fn command(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        // In one write: the other side takes what it reads for whole lines.
        self.commands.write_all(format!("{text}\n").as_bytes())?;
        self.commands.flush()?;
        self.answered()
    }

    fn answered(&mut self) -> io::Result<()> {
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.trim_end() {
            "ok" => Ok(()),
            other => {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                Err(io::Error::other(format!("the delay line says {other:?} {log}")))
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // One that ended by itself is as dead as wanted.
        let _dead = self.switch.kill();
        let _reaped = self.switch.wait();
    }
}

fn gateway(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, number, 1))
}

impl Namespace {
    fn new(name: String) -> io::Result<Self> {
        ip(&["netns", "add", &name])?;
        let namespace = Self(name);
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// `ip` inside.
    fn ip(&self, arguments: &[&str]) -> io::Result<()> {
        ip(&[&["-n", self.0.as_str()], arguments].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What is left of it disturbs nobody: the name holds this process's id.
        let _left = ip(&["netns", "del", &self.0]);
    }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let done = Command::new("ip").args(arguments).output();
    let done = done.map_err(|error| io::Error::new(error.kind(), format!("ip: {error}")))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(io::Error::other(format!("ip {}: {said}", arguments.join(" "))))
}
