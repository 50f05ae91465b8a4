//! Work over many items on all cores, for threads that may block.

use std::num::NonZero;
use std::thread;

/// Fewer items are not worth a thread.
const MIN_ITEMS: usize = 64;
/// More threads than this have never helped reading files.
const MAX_THREADS: usize = 8;

/// Maps items in order; with many of them, on as many threads as there are cores.
pub(super) fn spread<T: Sync, R: Send>(items: &[T], map: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if items.len() < MIN_ITEMS {
        return items.iter().map(map).collect();
    }
    // Asked for late: it reads the limits of the control group from files.
    let cores = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    let map = &map;
    thread::scope(|scope| {
        let parts = items.chunks(items.len().div_ceil(cores));
        let running: Vec<_> = parts
            .map(|part| scope.spawn(move || part.iter().map(map).collect::<Vec<_>>()))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Vec<R>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().flat_map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept() {
        for count in [0, 1, 63, 64, 65, 1001] {
            let items: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = items.iter().map(|item| item * 2).collect();
            assert_eq!(spread(&items, |item| item * 2), doubled, "{count}");
        }
    }
}
