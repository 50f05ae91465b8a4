//! The process's own figures, under the names every dashboard knows. Read from `/proc` at each
//! scrape; what cannot be read is left out.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Error, Gauge, Registry};
use rustix::process::{Resource, getrlimit};

/// Clock ticks per second in `/proc` (USER_HZ, fixed by the kernel's interface).
const TICKS_PER_SECOND: f64 = 100.0;

/// Registers `process_cpu_seconds_total`, `process_resident_memory_bytes`,
/// `process_virtual_memory_bytes`, `process_open_fds`, `process_max_fds`, `process_threads` and
/// `process_start_time_seconds`.
pub fn register_process(registry: &Registry) -> Result<(), Error> {
    registry.register(Box::new(Process::new()?))
}

struct Process {
    cpu: Counter,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    started: Gauge,
}

impl Process {
    fn new() -> Result<Self, Error> {
        let process = Self {
            cpu: Counter::new("process_cpu_seconds_total", "Processor time used, in seconds.")?,
            resident: Gauge::new("process_resident_memory_bytes", "Resident memory, in bytes.")?,
            virtual_memory: Gauge::new(
                "process_virtual_memory_bytes",
                "Virtual memory, in bytes.",
            )?,
            open_fds: Gauge::new("process_open_fds", "Open file descriptors.")?,
            max_fds: Gauge::new("process_max_fds", "Most file descriptors allowed.")?,
            threads: Gauge::new("process_threads", "Threads of the process.")?,
            started: Gauge::new(
                "process_start_time_seconds",
                "When the process started, in seconds since 1970.",
            )?,
        };
        if let Some(started) = started() {
            process.started.set(started);
        }
        Ok(process)
    }

    fn gauges(&self) -> [&Gauge; 6] {
        [
            &self.resident,
            &self.virtual_memory,
            &self.open_fds,
            &self.max_fds,
            &self.threads,
            &self.started,
        ]
    }

    fn read(&self) {
        if let Some(total) = stat_fields().and_then(|fields| cpu_seconds(&fields)) {
            // Only ever forward: two scrapes at once must not make a counter fall.
            self.cpu.inc_by((total - self.cpu.get()).max(0.0));
        }
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            let kib = |key| status_number(&status, key).map(|kib| kib * 1024.0);
            set(&self.resident, kib("VmRSS:"));
            set(&self.virtual_memory, kib("VmSize:"));
            set(&self.threads, status_number(&status, "Threads:"));
        }
        // One of them is the listing itself.
        let open = fs::read_dir("/proc/self/fd").ok().map(|listing| listing.count());
        let open = open.and_then(|count| u32::try_from(count.saturating_sub(1)).ok());
        set(&self.open_fds, open.map(f64::from));
        let most = getrlimit(Resource::Nofile).current;
        set(&self.max_fds, Some(most.map_or(f64::INFINITY, |most| most as f64)));
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = self.cpu.desc();
        all.extend(self.gauges().into_iter().flat_map(Collector::desc));
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        let mut all = self.cpu.collect();
        all.extend(self.gauges().into_iter().flat_map(Collector::collect));
        all
    }
}

fn set(gauge: &Gauge, value: Option<f64>) {
    if let Some(value) = value {
        gauge.set(value);
    }
}

/// The fields of `/proc/self/stat` from the third on: the second may hold spaces.
fn stat_fields() -> Option<Vec<String>> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// `utime` and `stime` are the 14th and 15th fields (proc(5)).
fn cpu_seconds(fields: &[String]) -> Option<f64> {
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some((ticks(14)? + ticks(15)?) / TICKS_PER_SECOND)
}

/// `starttime`, the 22nd field, counts from boot.
fn started() -> Option<f64> {
    let since_boot = stat_fields()?.get(22 - 3)?.parse::<f64>().ok()? / TICKS_PER_SECOND;
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + since_boot)
}

fn status_number(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}
