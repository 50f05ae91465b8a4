//! Processes: started on one CPU, ended with the value that holds them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Between SIGTERM and SIGKILL: whoever has children ends them.
const GRACE: Duration = Duration::from_millis(500);

/// A process that ends with this value.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    name: String,
    log: PathBuf,
}

/// `program` on that CPU alone: how many workers it starts is often the number of CPUs it sees.
pub(crate) fn on_cpu(cpu: u32, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(cpu.to_string()).arg(program);
    command
}

impl Running {
    /// Starts it; what it says goes to `log`.
    pub(crate) fn start(mut command: Command, name: &str, log: &Path) -> io::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", command.get_program().display()))
        })?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned() })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells how it ended, if it has.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        Err(io::Error::other(format!("{} ended by itself, {status}:\n{}", self.name, self.said())))
    }

    /// The end of its log.
    pub(crate) fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // One that ended by itself is as dead as wanted.
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let mut waited = Duration::ZERO;
        while waited < GRACE && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
            waited += Duration::from_millis(10);
        }
        let _dead = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Runs a command to its end; what it printed.
pub(crate) fn output(mut command: Command) -> io::Result<String> {
    let done = command.stdin(Stdio::null()).output().map_err(|error| {
        io::Error::new(error.kind(), format!("{}: {error}", command.get_program().display()))
    })?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(io::Error::other(format!("{command:?}: {}\n{said}", done.status)));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
