//! The commands: those that ask a running agent, those that prepare one, and `run` itself.
//!
//! - Standard output carries the answer alone, written to one lock; errors go to standard error.
//! - A reader that goes away (`portolan get routes | head`) ends the command quietly.
//! - What a command came to is an [`Exit`]; nothing here ends the process.
//!
//! Nothing here decides anything about routes: what the agent says is shown as it is.

pub mod ask;
pub mod check;
pub mod client;
pub mod drain;
pub mod output;
pub mod run;
mod table;
pub mod trust;
pub mod zone;

use std::io::{self, Write};
use std::process::ExitCode;

/// What a command came to: the exit codes that scripts may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exit {
    /// 0: good.
    Good,
    /// 1: it ran, and something is wrong or a bound was missed.
    Wrong,
    /// 2: the command line or the configuration is wrong.
    Usage,
    /// 3: the agent cannot be reached.
    Unreachable,
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Wrong => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Says on standard error what went wrong. That nobody listens there is no reason to fail.
pub fn complain(text: &dyn std::fmt::Display) {
    let _unheard = writeln!(io::stderr().lock(), "error: {text}");
}

/// Writes to the locked standard output; a reader that went away ends it quietly.
pub fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<Exit>) -> Exit {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = write(&mut out).and_then(|exit| out.flush().map(|()| exit));
    match written {
        Ok(exit) => exit,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Good,
        Err(error) => {
            complain(&format_args!("cannot write to standard output: {error}"));
            Exit::Wrong
        }
    }
}
