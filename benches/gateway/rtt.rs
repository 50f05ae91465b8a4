//! A long line between the gateways: two network namespaces, each with a TUN device, and the
//! process that carries packets between them (see [`crate::line`]).

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::geteuid;

use crate::cases::{LOSS, ROUND_TRIP_MS};
use crate::place::{Place, Side};

const TUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gateway/tun.py");
const RATE_MBIT: u32 = 200;
const NETWORK: &str = "10.77.0.0/16";
/// Looks for the devices, and their spacing.
const LOOKS: u32 = 100;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The line; it and its namespaces go with this value.
#[derive(Debug)]
pub(crate) struct Line {
    process: Child,
    lossy: PathBuf,
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
        let (lossy, log) = (dir.join("lossy"), dir.join("line.log"));
        let process = Command::new("python3")
            .args(["-B", TUN])
            .args(namespaces.iter().map(|namespace| format!("/run/netns/{}", namespace.0)))
            .arg(std::env::current_exe()?)
            .arg("line")
            .args([format!("--round-trip={ROUND_TRIP_MS}"), format!("--rate={RATE_MBIT}")])
            .arg(format!("--loss={LOSS}"))
            .arg(format!("--lossy-while={}", lossy.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("python3: {error}")))?;
        let line = Self { process, lossy, namespaces };
        for (namespace, address) in line.namespaces.iter().zip([gateway(1), gateway(2)]) {
            namespace.device().map_err(|error| {
                io::Error::other(format!(
                    "{error} {}",
                    fs::read_to_string(&log).unwrap_or_default()
                ))
            })?;
            namespace.ip(&["link", "set", "wan0", "up", "mtu", "1500", "txqueuelen", "10000"])?;
            namespace.ip(&["addr", "add", &format!("{address}/32"), "dev", "wan0"])?;
            namespace.ip(&["route", "add", NETWORK, "dev", "wan0", "src", &address.to_string()])?;
        }
        Ok(line)
    }

    /// The two ends, as a place.
    pub(crate) fn place(&self, dir: PathBuf, cubic: bool) -> io::Result<Place> {
        for namespace in &self.namespaces {
            namespace.set_congestion(if cubic { &["cubic", "reno"] } else { &["bbr"] });
        }
        let side = |number: u8| Side {
            gateway: gateway(number),
            netns: Some(self.namespaces[usize::from(number) - 1].0.clone()),
        };
        let vips = IpAddr::V4(Ipv4Addr::new(127, 110, 0, 0));
        Ok(Place { dir, near: side(1), far: side(2), vips, cubic })
    }

    /// Whether packets are lost from now on.
    pub(crate) fn set_lossy(&self, is_lossy: bool) -> io::Result<()> {
        if is_lossy {
            File::create(&self.lossy)?;
        } else if self.lossy.exists() {
            fs::remove_file(&self.lossy)?;
        }
        thread::sleep(2 * LOOK_EVERY);
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // One that ended by itself is as dead as wanted.
        let _dead = self.process.kill();
        let _reaped = self.process.wait();
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

    /// The congestion control of connections that ask for none: the first of these that the machine
    /// lets a namespace choose (`tcp_allowed_congestion_control`), else what it was.
    fn set_congestion(&self, names: &[&str]) {
        let set = |name: &&str| {
            let set = format!("net.ipv4.tcp_congestion_control={name}");
            ip(&["netns", "exec", self.0.as_str(), "sysctl", "-qw", &set]).is_ok()
        };
        let _as_it_was = names.iter().any(set);
    }

    /// Waits until the line has made its device.
    fn device(&self) -> io::Result<()> {
        let mut looks = 0;
        loop {
            match self.ip(&["link", "show", "wan0"]) {
                Err(error) if looks == LOOKS => return Err(error),
                Err(_) => {}
                Ok(()) => return Ok(()),
            }
            looks += 1;
            thread::sleep(LOOK_EVERY);
        }
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
