//! Percentiles of measured durations.

use std::time::Duration;

/// The nearest-rank percentile: the smallest value that at least `percent` % of all do not
/// exceed. `None` of nothing.
pub(super) fn percentile(values: &[Duration], percent: f64) -> Option<Duration> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let exact = percent / 100.0 * sorted.len() as f64;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of at most the values held"
    )]
    let rank = (exact.ceil().max(1.0)) as usize;
    sorted.get(rank.min(sorted.len()).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        for (percent, expected) in [(0.0, 1), (50.0, 100), (99.0, 198), (99.6, 200), (100.0, 200)] {
            assert_eq!(percentile(&values, percent), Some(Duration::from_millis(expected)));
        }
        assert_eq!(percentile(&values[..1], 50.0), Some(Duration::from_millis(200)));
        assert_eq!(percentile(&[], 99.0), None);
    }
}
