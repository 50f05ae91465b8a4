//! Long-lived tasks by name: one that ends early, or panics, ends the process and says which.

use std::collections::HashMap;
use std::future::Future;

use thiserror::Error;
use tokio::task::{Id, JoinSet};

/// What a task is for, which decides when shutdown waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Serves clients or peers: shutdown waits for it to drain.
    Serving,
    /// Serves the others: ends last.
    Supporting,
}

/// How a long-lived task ended when it should not have.
#[derive(Debug, Error)]
pub enum TaskEnded {
    /// It returned.
    #[error("task {0} ended early; this is a bug: report it with the log above")]
    Early(&'static str),
    /// It failed.
    #[error("task {0} failed: {1:#}")]
    Failed(&'static str, anyhow::Error),
    /// It panicked.
    #[error("task {0} panicked; this is a bug: report it with the log above")]
    Panicked(&'static str),
}

/// What a long-lived task comes to: nothing, or a fault.
pub(super) trait Outcome {
    /// The fault, if any.
    fn into_result(self) -> anyhow::Result<()>;
}

impl Outcome for () {
    fn into_result(self) -> anyhow::Result<()> {
        Ok(())
    }
}

impl<E: Into<anyhow::Error>> Outcome for Result<(), E> {
    fn into_result(self) -> anyhow::Result<()> {
        self.map_err(Into::into)
    }
}

/// The owner of all long-lived tasks.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, (&'static str, Role)>,
}

impl Supervisor {
    /// Starts a task under a name.
    pub(super) fn spawn<F>(&mut self, name: &'static str, role: Role, task: F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        let handle = self.tasks.spawn(async move { task.await.into_result() });
        self.names.insert(handle.id(), (name, role));
    }

    /// Waits until a task ends although it should not; never returns while there is none.
    pub(super) async fn early_end(&mut self) -> TaskEnded {
        match self.tasks.join_next_with_id().await {
            Some(joined) => self.ended(joined),
            None => std::future::pending().await,
        }
    }

    /// Waits until every serving task has ended; ends are expected now, faults are logged.
    pub(super) async fn drained(&mut self) {
        while self.names.values().any(|(_, role)| *role == Role::Serving) {
            self.reap().await;
        }
    }

    /// Waits until every task has ended.
    pub(super) async fn finished(&mut self) {
        while !self.tasks.is_empty() {
            self.reap().await;
        }
    }

    async fn reap(&mut self) {
        let Some(joined) = self.tasks.join_next_with_id().await else {
            self.names.clear();
            return;
        };
        match self.ended(joined) {
            TaskEnded::Early(name) => tracing::debug!(task = name, "task ended"),
            fault => tracing::warn!(%fault, "a task did not end well"),
        }
    }

    fn ended(
        &mut self,
        joined: Result<(Id, anyhow::Result<()>), tokio::task::JoinError>,
    ) -> TaskEnded {
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let name = self.names.remove(&id).map_or("unnamed", |(name, _)| name);
        match joined {
            Ok((_, Ok(()))) => TaskEnded::Early(name),
            Ok((_, Err(error))) => TaskEnded::Failed(name, error),
            Err(_) => TaskEnded::Panicked(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_early_end_a_failure_and_a_panic_are_told_apart_by_name() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("early", Role::Supporting, async { anyhow::Ok(()) });
        assert!(matches!(supervisor.early_end().await, TaskEnded::Early("early")));
        supervisor.spawn("fails", Role::Supporting, async { Err(anyhow::anyhow!("no")) });
        assert!(matches!(supervisor.early_end().await, TaskEnded::Failed("fails", _)));
        supervisor.spawn("panics", Role::Supporting, async {
            if supervisor_never_true() { anyhow::Ok(()) } else { panic!("on purpose") }
        });
        assert!(matches!(supervisor.early_end().await, TaskEnded::Panicked("panics")));
    }

    fn supervisor_never_true() -> bool {
        std::hint::black_box(false)
    }

    #[tokio::test]
    async fn draining_waits_for_serving_tasks_only() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn(
            "supports",
            Role::Supporting,
            std::future::pending::<anyhow::Result<()>>(),
        );
        supervisor.spawn("serves", Role::Serving, async { anyhow::Ok(()) });
        supervisor.drained().await;
        assert_eq!(supervisor.tasks.len(), 1);
    }
}
