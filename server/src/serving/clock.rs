//! The time that a request may take: it stands still while its body comes in, which has bounds of its own.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

tokio::task_local! {
    /// Of the request that this task answers: since when its time runs; none while it stands still.
    static SINCE: Cell<Option<Instant>>;
}

/// The answer, or `None` where it takes longer than `limit`, the time within [`stopped`] left out.
pub(crate) async fn in_time<T>(limit: Duration, run: impl Future<Output = T>) -> Option<T> {
    SINCE
        .scope(Cell::new(Some(Instant::now())), async {
            tokio::pin!(run);
            loop {
                let due = SINCE.with(Cell::get).unwrap_or_else(Instant::now) + limit;
                tokio::select! {
                    biased;
                    done = &mut run => return Some(done),
                    () = tokio::time::sleep_until(due) => {
                        let since = SINCE.with(Cell::get);
                        if since.is_some_and(|at| at + limit <= Instant::now()) {
                            return None;
                        }
                    }
                }
            }
        })
        .await
}

/// Does something that takes a client's time; the server's own begins anew after it.
pub(crate) async fn stopped<T>(work: impl Future<Output = T>) -> T {
    // Outside of `in_time` there is no clock to stop.
    let set = |since| {
        let _ = SINCE.try_with(|cell| cell.set(since));
    };
    set(None);
    let done = work.await;
    set(Some(Instant::now()));
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn wait(ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    #[tokio::test]
    async fn only_the_servers_own_time_counts() {
        let limit = Duration::from_millis(200);
        assert_eq!(in_time(limit, async { wait(1).await }).await, Some(()));
        assert_eq!(in_time(limit, async { wait(5000).await }).await, None);
        assert_eq!(in_time(limit, stopped(wait(700))).await, Some(()));
        let after = async {
            stopped(wait(500)).await;
            wait(50).await;
        };
        assert_eq!(in_time(limit, after).await, Some(()));
        let began = Instant::now();
        let slow = async {
            stopped(wait(500)).await;
            wait(5000).await;
        };
        assert_eq!(in_time(limit, slow).await, None);
        let took = began.elapsed().as_millis();
        assert!((690..3000).contains(&took), "the limit begins anew after the body: {took} ms");
        assert_eq!(stopped(async { 5 }).await, 5, "without a clock");
    }
}
