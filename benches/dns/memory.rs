//! What names weigh: whole agents, freshly started, and the compiled answers by themselves.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use portolan::dns::Answers;
use portolan::model::DnsName;
use portolan::testing::table::Tables;
use serde::Serialize;

use crate::agent::Agent;
use crate::options::Options;
use crate::process::output;
use crate::questions::{self, NAMES, ZONE};
use crate::{say, servers, tell, usage};

/// The larger number of names.
const MANY: u32 = 110_000;
const MOST_MIB: f64 = 25.0;
const MOST_BYTES_PER_NAME: f64 = 500.0;
/// After the start, before memory is read.
const REST: Duration = Duration::from_secs(3);
const MIB: f64 = 1024.0 * 1024.0;

/// One weight, with its bound where it has one.
#[derive(Debug, Serialize)]
pub(crate) struct Weight {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) bound: Option<f64>,
}

/// Resident memory, and of what is shared only the share.
struct Memory {
    rss: f64,
    pss: f64,
}

/// Starts the agents one after the other.
pub(crate) fn measure(dir: &Path, options: &Options) -> io::Result<Vec<Weight>> {
    let few = agent(dir, options, 20, NAMES, None)?;
    let many = agent(dir, options, 21, MANY, None)?;
    let more = f64::from(MANY - NAMES);
    let per_name = |few: f64, many: f64| (many - few) * MIB / more;
    let bytes = |what: &str, value, bound| Weight { what: what.into(), value, unit: "B", bound };
    let mib = |what: &str, value, bound| Weight { what: what.into(), value, unit: "MiB", bound };
    let compiled = per_name(compiled(NAMES)?, compiled(MANY)?);
    let mut weights = vec![
        mib("agent of 10 000 names, listening on none: RSS", few.rss, Some(MOST_MIB)),
        mib("agent of 10 000 names, listening on none: PSS", few.pss, None),
        mib("agent of 110 000 names, listening on none: RSS", many.rss, None),
        mib("agent of 110 000 names, listening on none: PSS", many.pss, None),
        bytes("compiled answers, per name beyond 10 000", compiled, Some(MOST_BYTES_PER_NAME)),
        bytes("whole agent, per name beyond 10 000: RSS", per_name(few.rss, many.rss), None),
        bytes("whole agent, per name beyond 10 000: PSS", per_name(few.pss, many.pss), None),
    ];
    let range = format!("127.{}.0.0/16", 130 + std::process::id() % 90);
    match agent(dir, options, 22, NAMES, Some(range)) {
        Ok(listening) => {
            let each = per_name(few.rss, listening.rss) * more / f64::from(NAMES);
            weights.push(mib("agent of 10 000 names with listeners: RSS", listening.rss, None));
            weights.push(bytes("listeners, each: RSS", each, None));
        }
        Err(error) => tell(&format!("with listeners: {error}")),
    }
    Ok(weights)
}

fn agent(
    dir: &Path,
    options: &Options,
    host: u8,
    services: u32,
    listens: Option<String>,
) -> io::Result<Memory> {
    let dir = dir.join(format!("memory-{host}"));
    fs::create_dir_all(&dir)?;
    let agent = Agent { dir: &dir, host: servers::host(host), services, listens };
    let mut running = agent.start(options)?;
    thread::sleep(REST);
    running.check()?;
    let memory =
        Memory { rss: usage::rss_mib(running.pid())?, pss: usage::pss_mib(running.pid())? };
    tell(&format!("{services} names: RSS {:.1} MiB, PSS {:.1} MiB", memory.rss, memory.pss));
    Ok(memory)
}

/// What the compiled answers of so many names weigh in a process of their own, MiB.
fn compiled(names: u32) -> io::Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["answers", "--names", &names.to_string()]);
    output(command)?.trim().parse().map_err(io::Error::other)
}

/// Compiles the answers of one table and says by how much the process grew.
pub(crate) fn answers(names: u32) -> io::Result<()> {
    let tables = (0..names).fold(Tables::new("paris"), |tables, number| {
        let (namespace, name) = questions::service(number);
        let address = Ipv4Addr::from(0x0A40_0000 + number).to_string();
        tables.vip(&format!("{namespace}/{name}"), &[&address], &["http:TCP:80"], &["paris"])
    });
    let table = tables.build();
    let zone = DnsName::parse(ZONE).map_err(io::Error::other)?;
    let before = usage::pss_mib(std::process::id())?;
    let answers = Answers::compile(&table, &zone, None);
    let grown = usage::pss_mib(std::process::id())? - before;
    drop(answers);
    say(&format!("{grown:.3}"))
}
