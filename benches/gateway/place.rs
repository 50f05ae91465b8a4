//! Where a pair stands, and the processes that stand there.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::backend;

/// Addresses, network namespaces where there are any, and a folder.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) near: Side,
    pub(crate) far: Side,
    /// The clusterset addresses of the importing gateway, a /24 of loopback.
    pub(crate) vips: IpAddr,
    /// Whether connections between the gateways have `cubic`.
    pub(crate) cubic: bool,
}

/// One side of the line between the gateways.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    /// The gateway's address.
    pub(crate) gateway: IpAddr,
    /// The network namespace.
    pub(crate) netns: Option<String>,
}

impl Place {
    /// Addresses of loopback that no other run and no other part of this one uses.
    pub(crate) fn loopback(dir: PathBuf, number: u8) -> Self {
        let process = u8::try_from(std::process::id() % 90).expect("below 90");
        let at = |last| IpAddr::V4(Ipv4Addr::new(127, 20 + process, number, last));
        let side = |last| Side { gateway: at(last), netns: None };
        let vips = IpAddr::V4(Ipv4Addr::new(127, 110 + process, number, 0));
        Self { dir, near: side(1), far: side(2), vips, cubic: false }
    }

    /// Where the servers behind the second gateway listen.
    pub(crate) fn backend(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.far.gateway, port)
    }

    /// Starts the servers behind the second gateway.
    pub(crate) fn start_backend(&self) -> io::Result<Running> {
        let host = self.far.gateway.to_string();
        own(&self.far, &["backend", "--host", &host], &self.dir.join("backend.log"))
    }

    /// Where the backend tells what it received: reached past the gateways.
    pub(crate) fn counts(&self) -> SocketAddr {
        self.backend(backend::COUNTS)
    }
}

impl Side {
    /// A command that runs here.
    pub(crate) fn command(&self, program: &Path) -> Command {
        match &self.netns {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        }
    }
}

/// A process that ends with this value.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    /// Starts it; what it says goes to `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> io::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let started = command.spawn();
        started.map(Self).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", command.get_program().display()))
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Tells how it ended, if it has.
    pub(crate) fn check(&mut self, name: &str, log: &Path) -> io::Result<()> {
        let Some(status) = self.0.try_wait()? else { return Ok(()) };
        let said = std::fs::read_to_string(log).unwrap_or_default();
        Err(io::Error::other(format!("{name} ended by itself, {status}:\n{said}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that ended by itself is as dead as wanted.
        let _dead = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Starts a part of this program that says `ready`.
pub(crate) fn own(side: &Side, arguments: &[&str], log: &Path) -> io::Result<Running> {
    let mut command = side.command(&std::env::current_exe()?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(File::options().create(true).append(true).open(log)?);
    let mut running = Running(command.spawn()?);
    let mut line = String::new();
    if let Some(said) = running.0.stdout.take() {
        BufReader::new(said).read_line(&mut line)?;
    }
    if line.trim_end() != "ready" {
        running.check(arguments[0], log)?;
        return Err(io::Error::other(format!("{} is not ready", arguments[0])));
    }
    Ok(running)
}

/// Runs a part of this program to its end; what it printed.
pub(crate) fn ask(side: &Side, arguments: &[String]) -> io::Result<Vec<u8>> {
    let mut command = side.command(&std::env::current_exe()?);
    let done = command.args(arguments).stdin(Stdio::null()).output()?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(io::Error::other(format!("{}: {said}", arguments.join(" "))));
    }
    Ok(done.stdout)
}
