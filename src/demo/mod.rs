//! `portolan demo`: three clouds on one machine, a load, and a script of faults with bounds.
//!
//! The clouds are real `portolan run` processes on loopback addresses, joined by a delay line of
//! ours; everything else here (backends, load, figures) only looks on from outside, through DNS,
//! the clusterset address and the admin ports, as a user would. Nothing needs root, a network
//! or anything installed, and nothing is left behind.

mod ask;
mod backend;
mod figures;
mod line;
mod load;
mod narrate;
mod orders;
mod report;
mod script;
mod world;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use self::narrate::Narrator;
use self::report::Report;
use self::script::Script;
use self::world::World;

/// How the report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// The story, for people, on standard output.
    #[default]
    Text,
    /// The report as JSON on standard output; the story goes to standard error.
    Json,
}

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// End after the script instead of staying up.
    pub once: bool,
    /// How the report is written.
    pub output: Output,
    /// Lay everything out here and leave it: an empty folder, or one that does not exist yet.
    pub keep: Option<PathBuf>,
}

/// Runs the demo; `true` when every bound held.
///
/// An error is something that kept the script from running: an agent that ended by itself, say.
/// Interrupted before its end, the script did not hold its bounds.
pub async fn run(options: Options) -> Result<bool, anyhow::Error> {
    let narrator = Narrator::new(options.output);
    let program = std::env::current_exe().context("cannot find the own program file")?;
    let world = Arc::new(World::build(options.keep.as_deref(), program).await?);
    let mut report = Report::default();
    let outcome = tokio::select! {
        biased;
        interrupted = interrupted() => interrupted.map_err(anyhow::Error::from),
        fault = world.watch_agents() => Err(fault),
        told = tell(&options, narrator, &world, &mut report) => told,
    };
    world.end().await;
    outcome?;
    Ok(report.held())
}

async fn tell(
    options: &Options,
    narrator: Narrator,
    world: &Arc<World>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut script = Script::new(world.clone(), narrator);
    let played = script.play().await;
    let finished = script.into_report();
    if options.output == Output::Json {
        finished.write_json(io::stdout().lock())?;
    }
    played?;
    let (all, failed) = (finished.len(), finished.failed());
    narrator.step(&format!("{} of {all} bounds held", all - failed))?;
    *report = finished;
    if let Some(path) = &options.keep {
        narrator.line(&format!("configuration, manifests and logs: {}", path.display()))?;
    }
    if !options.once {
        script::invite(world, narrator)?;
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Returns at the first SIGINT or SIGTERM.
async fn interrupted() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
