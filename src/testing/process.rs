//! Agents as real processes, for what only a process can show: a kill, a signal, its memory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;
use crate::admin::json::ServiceJson;
use crate::clock;
use crate::commands::client::Admin;

/// How often a process is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How often it is asked what it says of a service.
const EXPLAIN_EVERY: Duration = Duration::from_millis(20);

/// A `portolan run` of its own.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// When it was started.
    pub started: Instant,
    /// Its admin port.
    pub admin: Admin,
    log: PathBuf,
}

impl Process {
    /// Starts `binary run --config config`; its log goes beside the configuration.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(binary: &str, config: &Path, admin: std::net::SocketAddr) -> Self {
        let log = config.with_extension("log");
        let out = File::options().create(true).append(true).open(&log).expect("a log file");
        let child = Command::new(binary)
            .arg("run")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("{binary} does not start: {error}"));
        Self { child, started: clock::now(), admin: Admin::new(admin), log }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it says of a service, once that is as `wanted`.
    ///
    /// # Panics
    /// When it is never so.
    pub async fn explains(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&ServiceJson) -> bool,
    ) -> ServiceJson {
        let deadline = clock::now() + PATIENCE;
        loop {
            let seen = self.admin.explain(name).await;
            if let Some(service) = seen.as_ref().ok().filter(|service| wanted(service)) {
                return service.clone();
            }
            assert!(clock::now() < deadline, "{what}: never; last {seen:#?}\n{}", self.log());
            tokio::time::sleep(EXPLAIN_EVERY).await;
        }
    }

    /// Waits until it reports ready.
    ///
    /// # Panics
    /// When it ends, or is not ready within `patience`.
    pub async fn ready(&mut self, patience: Duration) -> Duration {
        let deadline = self.started + patience;
        loop {
            if self.admin.ready().await {
                return clock::now() - self.started;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the agent ended with {status}:\n{}", self.log());
            }
            assert!(clock::now() < deadline, "not ready within {patience:?}:\n{}", self.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal).expect("the process lives");
    }

    /// Ends it with SIGKILL and reaps it.
    ///
    /// # Panics
    /// When it cannot be reaped.
    pub fn kill(&mut self) {
        // A process that has ended by itself is as dead as wanted.
        let _dead = self.child.kill();
        self.child.wait().expect("reaped");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it lives on for longer than `patience`.
    pub async fn ended(&mut self, patience: Duration) -> ExitStatus {
        let deadline = clock::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                return status;
            }
            assert!(clock::now() < deadline, "still running after {patience:?}:\n{}", self.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Resident memory now, in KiB.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it lives");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a VmRSS line");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    }

    /// CPU time used so far, user and system.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it lives");
        let after = stat.rsplit_once(')').expect("a command name").1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().filter_map(|i| fields[*i].parse::<u64>().ok()).sum();
        // USER_HZ is 100 on every Linux that Rust supports.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
