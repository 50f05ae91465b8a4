//! `portolan run`: one cluster's agent until a signal.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::{Exit, complain};
use crate::config::{Config, Pod, reload};
use crate::{app, drain, telemetry};

/// Runs the agent of a configuration file until SIGTERM or SIGINT, then drains. The file is
/// watched: what applies live is taken while it runs.
pub async fn run(path: &Path, pod: &Pod) -> Exit {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            complain(&errors);
            return Exit::Usage;
        }
    };
    match serve(path, Arc::new(config), pod).await {
        Ok(()) => Exit::Good,
        Err(error) => {
            complain(&format_args!("{error:#}"));
            Exit::Wrong
        }
    }
}

async fn serve(path: &Path, config: Arc<Config>, pod: &Pod) -> anyhow::Result<()> {
    let log = telemetry::init_log(&config.log.filter, config.log.format)?;
    let mut signals = Signals::listen()?;
    let (watcher, watched) = reload::watch(path.to_owned(), Arc::clone(&config));
    // With the API server away and no identity at hand, a start may take long.
    let mut running = tokio::select! {
        running = app::build(&config, watched.configs.clone(), pod) => running?,
        () = signals.next() => anyhow::bail!("ended by a signal before it had started"),
    };
    running.show_config(watched.status);
    tracing::info!(
        cluster = %config.cluster,
        gateway = ?running.addresses().gateway,
        admin = %running.addresses().admin,
        "started"
    );
    let (_watching, drain) = drain::channel();
    let background = async {
        tokio::join!(watcher.run(drain), follow_filter(watched.configs, log));
        std::future::pending::<()>().await;
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let second_signal = async {
        signals.next().await;
        drop(stop);
        signals.next().await;
    };
    tokio::select! {
        ended = running.until(async { drop(stopped.await) }) => ended.context("the agent is down"),
        () = second_signal => anyhow::bail!("ended by a second signal; streams still open were cut"),
        () = background => Ok(()),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened to");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Applies a changed `log.filter`.
async fn follow_filter(mut configs: watch::Receiver<Arc<Config>>, log: telemetry::LogFilter) {
    while configs.changed().await.is_ok() {
        let filter = configs.borrow_and_update().log.filter.clone();
        if let Err(error) = log.set(&filter) {
            tracing::warn!(%error, "log.filter is not applied");
        }
    }
}
