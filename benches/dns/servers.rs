//! The servers that are compared: all started once, one of them loaded at a time.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use portolan::clock::now;

use crate::agent::Agent;
use crate::options::Options;
use crate::process::Running;
use crate::questions::{self, Expected, NAMES, Name, Question};
use crate::{coredns, others, swapped};

const PORT: u16 = 5300;
const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_millis(100);

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Candidate {
    Portolan,
    Knot,
    Nsd,
    Unbound,
    Coredns,
    /// The library's server, with tables that are swapped.
    Swapped,
}

impl Candidate {
    /// Those that are compared.
    pub(crate) const ALL: [Self; 5] =
        [Self::Portolan, Self::Knot, Self::Nsd, Self::Unbound, Self::Coredns];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Portolan => "portolan",
            Self::Knot => "knot",
            Self::Nsd => "nsd",
            Self::Unbound => "unbound",
            Self::Coredns => "coredns",
            Self::Swapped => "swapped",
        }
    }
}

/// A server that answers.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) candidate: Candidate,
    pub(crate) running: Running,
    pub(crate) address: SocketAddr,
    /// Its names and their addresses.
    pub(crate) names: PathBuf,
    /// The questions for dnsperf.
    pub(crate) queries: PathBuf,
}

/// Servers that could not be started, and why.
pub(crate) type Skipped = Vec<(&'static str, String)>;

/// Starts what is compared, as far as it is here.
pub(crate) fn start_all(dir: &Path, options: &Options) -> io::Result<(Vec<Server>, Skipped)> {
    let home = dir.join("portolan");
    fs::create_dir_all(&home)?;
    let agent = Agent { dir: &home, host: host(1), services: NAMES, listens: None };
    let running = agent.start(options)?;
    let names = agent.names()?;
    let (zone, list, queries) = (dir.join("zone"), dir.join("names"), dir.join("queries"));
    others::write_zone(&zone, &names)?;
    questions::write(&list, &names)?;
    let asked = questions::asked(&names);
    let lines: Vec<String> = asked.iter().map(|(name, _)| format!("{name} A\n")).collect();
    fs::write(&queries, lines.concat())?;
    let server = |candidate, running, address| {
        let (names, queries) = (list.clone(), queries.clone());
        Server { candidate, running, address, names, queries }
    };
    let mut servers = vec![server(Candidate::Portolan, running, agent.dns())];
    let mut skipped = Skipped::new();
    for (candidate, last) in Candidate::ALL.into_iter().zip(1..).skip(1) {
        let listen = SocketAddr::new(host(last).into(), PORT);
        let cpu = options.server_cpu;
        let command = match candidate {
            Candidate::Knot => others::knot(dir, &zone, listen, cpu)?,
            Candidate::Nsd => others::nsd(dir, &zone, listen, cpu)?,
            Candidate::Unbound => others::unbound(dir, &names, listen, cpu)?,
            _ => match coredns::program(options) {
                Ok(program) => coredns::command(&program, dir, &zone, listen, cpu)?,
                Err(reason) => {
                    skipped.push((candidate.as_str(), reason));
                    continue;
                }
            },
        };
        let name = candidate.as_str();
        let running = Running::start(command, name, &dir.join(format!("{name}.log")))?;
        servers.push(server(candidate, running, listen));
    }
    for server in &mut servers {
        server.answers(&names)?;
    }
    Ok((servers, skipped))
}

/// Starts the server whose tables are swapped.
pub(crate) fn start_swapped(dir: &Path, options: &Options) -> io::Result<Server> {
    let list = dir.join("swapped.names");
    let names = swapped::names();
    questions::write(&list, &names)?;
    let address = SocketAddr::new(host(9).into(), PORT);
    let running = swapped::start(address, &list, options, &dir.join("swapped.log"))?;
    let queries = PathBuf::new();
    let mut server =
        Server { candidate: Candidate::Swapped, running, address, names: list, queries };
    server.answers(&names)?;
    Ok(server)
}

/// An address of loopback that no other run uses.
pub(crate) fn host(last: u8) -> Ipv4Addr {
    let process = std::process::id();
    let part = |number: u32| u8::try_from(number).expect("below 200");
    Ipv4Addr::new(127, 20 + part(process % 90), part(process / 90 % 200), last)
}

impl Server {
    /// Waits for right answers, to the first name and the last, and to one that does not exist.
    fn answers(&mut self, names: &[Name]) -> io::Result<()> {
        let existing = [names.first(), names.last()].into_iter().flatten();
        let questions = existing.map(|n| Question::new(&n.text, Expected::Address(n.addresses)));
        let missing = format!("nosuch.ns-1.svc.{}", questions::ZONE);
        let missing = Question::new(&missing, Expected::NoName);
        let questions: Vec<Question> = questions.chain([missing]).collect();
        let deadline = now() + PATIENCE;
        while !questions.iter().all(|question| self.is_right(question).unwrap_or(false)) {
            self.running.check()?;
            if now() > deadline {
                let (name, said) = (self.candidate.as_str(), self.running.said());
                return Err(io::Error::other(format!("{name} does not answer right:\n{said}")));
            }
            thread::sleep(ANSWER_WITHIN);
        }
        Ok(())
    }

    fn is_right(&self, question: &Question) -> io::Result<bool> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(self.address)?;
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        socket.send(&question.octets)?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer)?;
        Ok(question.check(&answer[..length]).is_some())
    }
}
