//! Portolan: a real `portolan run` that reads services from files and listens on none of them.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use portolan::clock::now;
use portolan::commands::client::Admin;
use portolan::testing::trust;

use crate::options::Options;
use crate::process::{Running, on_cpu};
use crate::questions::{self, Name, ZONE};

const CLUSTER: &str = "paris";
const DNS_PORT: u16 = 5353;
const ADMIN_PORT: u16 = 9900;
/// Services in one file.
const PER_FILE: u32 = 10_000;
/// For the largest number of services.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What an agent is started with.
#[derive(Debug)]
pub(crate) struct Agent<'a> {
    /// A folder of its own.
    pub(crate) dir: &'a Path,
    pub(crate) host: Ipv4Addr,
    pub(crate) services: u32,
    /// The range of the services' addresses where the agent listens on them, else nobody does.
    pub(crate) listens: Option<String>,
}

impl Agent<'_> {
    pub(crate) fn dns(&self) -> SocketAddr {
        SocketAddr::new(self.host.into(), DNS_PORT)
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self, options: &Options) -> io::Result<Running> {
        let config = self.write()?;
        let mut command = on_cpu(options.server_cpu, &options.portolan);
        command.arg("run").arg("--config").arg(config);
        let mut running = Running::start(command, "portolan", &self.dir.join("log"))?;
        let admin = self.admin();
        runtime()?.block_on(async {
            let deadline = now() + PATIENCE;
            while !admin.ready().await {
                running.check()?;
                if now() > deadline {
                    let text = format!("portolan is not ready:\n{}", running.said());
                    return Err(io::Error::other(text));
                }
                thread::sleep(LOOK_EVERY);
            }
            Ok(())
        })?;
        Ok(running)
    }

    /// The names it answers, with the addresses that it chose.
    pub(crate) fn names(&self) -> io::Result<Vec<Name>> {
        let state = runtime()?.block_on(self.admin().state()).map_err(io::Error::other)?;
        let names = state.services.iter().filter_map(|service| {
            let address = service.ips.iter().find_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            })?;
            let text = format!("{}.{}.svc.{ZONE}", service.name, service.namespace);
            Some(Name { text, addresses: [address; 2] })
        });
        let names: Vec<Name> = names.collect();
        if names.len() != self.services as usize {
            return Err(io::Error::other(format!("portolan has only {} names", names.len())));
        }
        Ok(names)
    }

    fn admin(&self) -> Admin {
        Admin::new(SocketAddr::new(self.host.into(), ADMIN_PORT))
    }

    fn write(&self) -> io::Result<PathBuf> {
        let (dir, host) = (self.dir, self.host);
        trust::mesh(&dir.join("trust"), &[CLUSTER]);
        let registry = dir.join("registry");
        fs::create_dir_all(&registry)?;
        for first in (0..self.services).step_by(PER_FILE as usize) {
            let mut text = String::new();
            for number in first..self.services.min(first + PER_FILE) {
                push_service(number, &mut text);
            }
            fs::write(registry.join(format!("from-{first}.yaml")), text)?;
        }
        let vips = self.listens.as_deref().unwrap_or("10.64.0.0/10");
        let text = format!(
            "cluster: {CLUSTER}\nclusterset: {ZONE}\nsource: {{ files: ./registry }}\n\
             state: {{ dir: ./state }}\nvips: {vips}\n\
             gateway: {{ listen: '{host}:8443', outbound: {} }}\n\
             dns: {{ listen: '{host}:{DNS_PORT}' }}\nadmin: {{ listen: '{host}:{ADMIN_PORT}' }}\n\
             trust: {{ dir: ./trust/{CLUSTER} }}\npeers: []\nlog: {{ filter: warn }}\n",
            self.listens.is_some()
        );
        let config = dir.join("portolan.yaml");
        fs::write(&config, text)?;
        Ok(config)
    }
}

/// A Service with one ready endpoint, and its export.
fn push_service(number: u32, text: &mut String) {
    let (namespace, name) = questions::service(number);
    writeln!(
        text,
        "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: {namespace}, name: {name} }}\n\
         spec: {{ ports: [ {{ name: http, port: 80 }} ] }}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
         namespace: {namespace}\n  name: {name}-1\n  labels: {{ kubernetes.io/service-name: {name} \
         }}\naddressType: IPv4\nports: [ {{ name: http, port: 8080 }} ]\n\
         endpoints: [ {{ addresses: [\"10.1.2.3\"] }} ]\n---\n\
         apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
         metadata: {{ namespace: {namespace}, name: {name} }}\n---"
    )
    .expect("a String takes everything");
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
