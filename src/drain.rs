//! Shutdown in phases: everything that serves holds a [`Watch`]; the one [`Trigger`] moves the
//! phase forward, never back.

use tokio::sync::watch;

/// How far shutdown has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Phase {
    /// Serving.
    #[default]
    Serving,
    /// Unready and announced to peers, still accepting (load balancers lag).
    Announced,
    /// No longer accepting; what is open may finish.
    Draining,
    /// The deadline has passed: end what is left.
    Forced,
}

/// Moves the phase; dropping it forces the end.
#[derive(Debug)]
pub struct Trigger(watch::Sender<Phase>);

/// Sees the phase.
#[derive(Debug, Clone)]
pub struct Watch(watch::Receiver<Phase>);

/// A trigger and its watch.
#[must_use]
pub fn channel() -> (Trigger, Watch) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (Trigger(sender), Watch(receiver))
}

impl Trigger {
    /// Moves on to `phase`; an earlier one is ignored.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let later = phase > *current;
            if later {
                *current = phase;
            }
            later
        });
    }
}

impl Drop for Trigger {
    fn drop(&mut self) {
        self.advance(Phase::Forced);
    }
}

impl Watch {
    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Whether the phase has moved since this was last asked; one load, for those who are asked
    /// for something too often to look at the phase itself.
    pub fn moved(&mut self) -> bool {
        let moved = self.0.has_changed().unwrap_or(true);
        if moved {
            self.0.mark_unchanged();
        }
        moved
    }

    /// Waits until at least `phase` is reached; returns at once if it is.
    pub async fn reached(&mut self, phase: Phase) {
        // The sender's last act is `Forced`, so an error means that every phase was reached.
        let _ended = self.0.wait_for(|current| *current >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_move_forward_and_dropping_the_trigger_forces() {
        let (trigger, mut watch) = channel();
        assert!(!watch.moved());
        trigger.advance(Phase::Draining);
        trigger.advance(Phase::Announced);
        assert_eq!(watch.phase(), Phase::Draining);
        assert!(watch.moved() && !watch.moved());
        watch.reached(Phase::Announced).await;
        drop(trigger);
        watch.reached(Phase::Forced).await;
        assert_eq!(watch.phase(), Phase::Forced);
    }
}
