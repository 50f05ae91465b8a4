//! The composition root: build, bound addresses, run, drain.
//!
//! [`build`] is the only way to start an agent, in tests and the demo too: ports may be 0, and the
//! bound ones are read back from [`Running::addresses`]. Only this module knows every other;
//! edges meet nowhere else. Not here: any protocol or policy.

mod addresses;
mod build;
mod cluster;
mod compare;
mod director;
mod dirty;
mod metrics;
mod orders;
mod origin;
mod planner;
mod publisher;
mod saved;
mod saver;
mod settings;
mod staleness;
mod start;
mod status;
mod supervise;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use prometheus::Gauge;
use tokio::sync::watch;

pub use build::{BuildError, build};
pub use supervise::TaskEnded;

use crate::config::Config;
use crate::config::reload::Status;
use crate::drain;
use supervise::{Role, Supervisor};

/// After the deadline everything ends within this.
const FORCED_END: Duration = Duration::from_secs(2);

/// Where an agent listens.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// The port between clusters.
    pub gateway: Vec<SocketAddr>,
    /// The admin port.
    pub admin: SocketAddr,
    /// The second, smaller admin listener.
    pub probes: Option<SocketAddr>,
    /// DNS; empty until the agent is synced, because a refused query costs a resolver
    /// milliseconds and a wrong answer seconds.
    pub dns: watch::Receiver<Vec<SocketAddr>>,
}

impl Addresses {
    /// Waits until DNS is open.
    pub async fn dns(&self) -> Vec<SocketAddr> {
        let mut dns = self.dns.clone();
        match dns.wait_for(|addresses| !addresses.is_empty()).await {
            Ok(addresses) => addresses.clone(),
            Err(_) => Vec::new(),
        }
    }
}

/// An agent that runs.
#[derive(Debug)]
pub struct Running {
    addresses: Addresses,
    supervisor: Supervisor,
    stages: Stages,
    /// 1 while the configuration file is faulty.
    config_faulty: Gauge,
    drain: drain::Watch,
}

/// What shutdown moves, in order.
#[derive(Debug)]
struct Stages {
    gateway: drain::Trigger,
    dns: drain::Trigger,
    draining: watch::Sender<bool>,
    gateway_delay: Duration,
    dns_delay: Duration,
    deadline: Duration,
}

impl Stages {
    fn new(
        config: &Config,
        gateway: drain::Trigger,
        dns: drain::Trigger,
        draining: watch::Sender<bool>,
    ) -> Self {
        Self {
            gateway,
            dns,
            draining,
            gateway_delay: config.gateway.shutdown_delay,
            dns_delay: config.dns.shutdown_delay,
            deadline: config.gateway.drain,
        }
    }
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Shows how the watched configuration file stands to what is in force, as a metric.
    pub fn show_config(&mut self, mut status: watch::Receiver<Status>) {
        let (gauge, mut drain) = (self.config_faulty.clone(), self.drain.clone());
        self.supervisor.spawn("config status", Role::Supporting, async move {
            let follow = async {
                loop {
                    let faulty = status.borrow_and_update().error.is_some();
                    gauge.set(f64::from(u8::from(faulty)));
                    if status.changed().await.is_err() {
                        // Nobody looks at the file any more.
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                () = follow => {}
                () = drain.reached(drain::Phase::Forced) => {}
            }
        });
    }

    /// Runs until `stop` resolves, then drains: unready and announced to peers at once, still
    /// accepting for the shutdown delay, then draining up to the deadline.
    ///
    /// # Errors
    /// A long-lived task ended early or panicked: the agent is down and says which.
    pub async fn until(mut self, stop: impl Future<Output = ()> + Send) -> Result<(), TaskEnded> {
        tokio::select! {
            ended = self.supervisor.early_end() => return Err(ended),
            () = stop => {}
        }
        self.shut_down().await;
        Ok(())
    }

    async fn shut_down(mut self) {
        let stages = &self.stages;
        tracing::info!(
            delay = ?stages.gateway_delay, deadline = ?stages.deadline,
            "draining: peers are told, streams may finish; a second signal ends at once"
        );
        stages.draining.send_replace(true);
        stages.gateway.advance(drain::Phase::Announced);
        stages.dns.advance(drain::Phase::Announced);
        let stop_accepting = async |trigger: &drain::Trigger, delay| {
            tokio::time::sleep(delay).await;
            trigger.advance(drain::Phase::Draining);
        };
        tokio::join!(
            stop_accepting(&stages.dns, stages.dns_delay),
            stop_accepting(&stages.gateway, stages.gateway_delay),
        );
        if tokio::time::timeout(stages.deadline, self.supervisor.drained()).await.is_err() {
            tracing::warn!("the drain deadline has passed; what is left is reset");
        }
        stages.gateway.advance(drain::Phase::Forced);
        stages.dns.advance(drain::Phase::Forced);
        if tokio::time::timeout(FORCED_END, self.supervisor.finished()).await.is_err() {
            tracing::warn!("some tasks did not end in time and are cut off");
        }
        tracing::info!("stopped");
    }
}
