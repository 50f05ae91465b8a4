//! The questions of a client, and what came of them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::questions::{self, Question, Seen};

/// What was measured, by name.
pub(crate) type Figures = BTreeMap<String, f64>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Tally {
    questions: Vec<Question>,
    /// The next to ask.
    next: usize,
    /// Queries without an answer.
    pub(crate) lost: u64,
    /// Answers that gave the second address.
    second: u64,
    /// Nanoseconds each answer took.
    took: Vec<u32>,
}

impl Tally {
    /// Makes the questions about the names in that file.
    pub(crate) fn new(names: &Path) -> io::Result<Self> {
        let asked = questions::asked(&questions::read(names)?);
        let questions = asked.iter().map(|(name, expected)| Question::new(name, *expected));
        Ok(Self { questions: questions.collect(), next: 0, lost: 0, second: 0, took: Vec::new() })
    }

    /// The next question.
    pub(crate) fn draw(&mut self) -> usize {
        let question = self.next;
        self.next = (question + 1) % self.questions.len();
        question
    }

    /// Its message, with the id 0.
    pub(crate) fn octets(&self, question: usize) -> &[u8] {
        &self.questions[question].octets
    }

    /// Checks an answer and counts it.
    pub(crate) fn take(
        &mut self,
        question: usize,
        answer: &[u8],
        took: Duration,
    ) -> io::Result<()> {
        let question = &self.questions[question];
        let seen = question.check(answer).ok_or_else(|| {
            io::Error::other(format!("a wrong answer: {answer:?} to {:?}", question.octets))
        })?;
        self.second += u64::from(seen == Seen::Second);
        self.took.push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
        Ok(())
    }

    /// Tells how it went; `length` is how long it was asked.
    pub(crate) fn figures(mut self, length: Duration) -> Figures {
        self.took.sort_unstable();
        let answers = self.took.len() as f64;
        let quantile = |share: f64| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
            let rank = (share * answers).ceil() as usize;
            f64::from(self.took.get(rank.saturating_sub(1)).copied().unwrap_or_default()) / 1e3
        };
        let pairs = [
            ("answers", answers),
            ("per_second", answers / length.as_secs_f64()),
            ("p50_us", quantile(0.5)),
            ("p99_us", quantile(0.99)),
            ("lost", self.lost as f64),
            ("second", self.second as f64),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }
}
