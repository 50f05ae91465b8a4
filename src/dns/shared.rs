//! What every loop and connection of the server reads.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::answers::{Answers, SharedAnswers};
use super::limit::Limiter;
use super::metrics::Metrics;
use super::respond::{Policy, Received, respond};
use super::slots::Slots;
use crate::clock;

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) policy: ArcSwap<Policy>,
    pub(super) answers: SharedAnswers,
    pub(super) metrics: Metrics,
    pub(super) slots: Arc<Slots>,
}

impl Shared {
    /// Answers one message into `out` and counts it; false if it gets no answer.
    pub(super) fn answer(
        &self,
        received: Received<'_>,
        policy: &Policy,
        answers: &Answers,
        limiter: Option<&mut Limiter>,
        out: &mut Vec<u8>,
    ) -> bool {
        match respond(received, policy, answers, limiter, out) {
            Some(responded) => {
                let took = clock::now().saturating_duration_since(received.now);
                self.metrics.answered(received.transport, responded, took);
                true
            }
            None => {
                self.metrics.dropped(received.transport);
                false
            }
        }
    }
}
