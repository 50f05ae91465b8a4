//! One cloud's `portolan run` process.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Instant;

use anyhow::Context as _;
use tokio::process::{Child, Command};

use crate::clock;

use super::Cloud;

/// Lines of the log that are shown when a process ended by itself.
const LAST_LINES: usize = 15;

/// A process, ended at the latest when this is dropped.
#[derive(Debug)]
pub(super) struct Agent {
    cloud: Cloud,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    running: Option<Child>,
}

impl Agent {
    /// An agent of that configuration file; not started yet.
    pub(super) fn new(cloud: Cloud, program: PathBuf, config: PathBuf, log: PathBuf) -> Self {
        Self { cloud, program, config, log, running: None }
    }

    /// Starts it; the log is appended to. Returns the instant of the start.
    pub(super) fn start(&mut self) -> anyhow::Result<Instant> {
        let open = || OpenOptions::new().create(true).append(true).open(&self.log);
        let log = open().with_context(|| format!("cannot write {}", self.log.display()))?;
        let errors = log.try_clone()?;
        let started = clock::now();
        let child = Command::new(&self.program)
            .arg("run")
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // A group of its own: a Ctrl-C in the terminal is for the demo, which ends it then.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.running = Some(child);
        Ok(started)
    }

    /// Ends it with SIGKILL and waits until it is gone.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.running.take() {
            child.kill().await.with_context(|| format!("cannot end {}", self.cloud.name()))?;
        }
        Ok(())
    }

    /// An error that says which process ended by itself, how, and what it said last.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.running else { return Ok(()) };
        match child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status)),
            Err(fault) => Err(anyhow::Error::new(fault)
                .context(format!("cannot ask after the process of {}", self.cloud.name()))),
        }
    }

    fn ended(&self, status: ExitStatus) -> anyhow::Error {
        let last = self.last_lines();
        anyhow::anyhow!(
            "the agent of {} ended by itself ({status}); the last lines of {}:\n{last}",
            self.cloud.name(),
            self.log.display()
        )
    }

    fn last_lines(&self) -> String {
        let Ok(file) = std::fs::File::open(&self.log) else { return String::new() };
        let mut last = VecDeque::with_capacity(LAST_LINES + 1);
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            last.push_back(format!("  {line}\n"));
            if last.len() > LAST_LINES {
                last.pop_front();
            }
        }
        last.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(dir: &std::path::Path, script: &str) -> Agent {
        let program = dir.join("agent");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        Agent::new(Cloud::Oregon, program, dir.join("c.yaml"), dir.join("log"))
    }

    #[tokio::test]
    async fn one_that_ends_by_itself_is_named_with_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut agent = agent(dir.path(), "echo \"the port is taken: $*\" >&2; exit 2");
        agent.start().unwrap();
        let error = loop {
            if let Err(error) = agent.check() {
                break error.to_string();
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        assert!(error.contains("agent of oregon ended by itself (exit status: 2)"), "{error}");
        assert!(error.contains("the port is taken: run --config"), "{error}");
    }

    #[tokio::test]
    async fn one_that_we_end_is_no_fault_and_can_start_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut agent = agent(dir.path(), "exec sleep 60");
        for _ in 0..2 {
            agent.start().unwrap();
            agent.check().unwrap();
            agent.kill().await.unwrap();
            agent.check().unwrap();
        }
    }
}
