//! Independent items on several threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What `f` makes of each item, in the order of the items, on `workers` threads, each of which takes the next item as soon as
/// it is done with one. `begin` makes what a thread keeps from item to item, a buffer for example.
pub(crate) fn map_with<T: Sync, S, R: Send>(
    items: &[T],
    workers: usize,
    begin: impl Fn() -> S + Sync,
    f: impl Fn(&mut S, &T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..workers.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                let mut kept = begin();
                while let Some((i, item)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    items.get(i).map(|item| (i, item))
                } {
                    let result = f(&mut kept, item);
                    if let Ok(mut done) = done.lock() {
                        done.push((i, result));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_unstable_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

/// [`map_with`] where threads keep nothing.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], workers: usize, f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    map_with(items, workers, || (), |_, item| f(item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..50).collect();
        let slow_first = |&i: &u64| {
            std::thread::sleep(std::time::Duration::from_micros((50 - i) * 20));
            i * i
        };
        assert_eq!(map(&items, 7, slow_first), items.iter().map(|i| i * i).collect::<Vec<_>>());
        assert!(map(&[] as &[u64], 3, slow_first).is_empty());
    }

    #[test]
    fn a_thread_keeps_what_it_began_with() {
        let count = |seen: &mut usize, _: &u8| {
            *seen += 1;
            *seen
        };
        assert_eq!(map_with(&[0; 5], 1, || 0, count), [1, 2, 3, 4, 5]);
    }
}
