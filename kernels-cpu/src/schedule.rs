//! Work for all threads of the current rayon pool.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Runs `work` for every item in `0..items`, each thread with a scratch of its own. Threads take the next item when
/// they are done with one, so items should be in descending order of cost. Which thread does an item must not matter.
pub(crate) fn for_each<S: Send>(scratch: &mut [S], items: usize, work: impl Fn(&mut S, usize) + Sync) {
    let threads = scratch.len().min(rayon::current_num_threads()).min(items);
    if threads <= 1 {
        if let Some(scratch) = scratch.first_mut() {
            (0..items).for_each(|item| work(scratch, item));
        }
        return;
    }
    let next = AtomicUsize::new(0);
    scratch[..threads].par_iter_mut().with_max_len(1).for_each(|scratch| {
        loop {
            let item = next.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                break;
            }
            work(scratch, item);
        }
    });
}
