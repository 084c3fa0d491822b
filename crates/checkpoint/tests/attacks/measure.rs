//! What opening a file costs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use occlude_checkpoint::Checkpoint;

/// What a hostile file may cost.
const MEMORY: usize = 200 << 20;
/// Far above what any takes on any machine; catches what never ends.
const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// Counts the bytes that each thread holds.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn grow(bytes: usize) {
    // A thread that is being torn down has nothing left to measure.
    let _ = CURRENT.try_with(|current| {
        current.set(current.get().wrapping_add(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(current.get())));
    });
}

fn shrink(bytes: usize) {
    let _ = CURRENT.try_with(|current| current.set(current.get().saturating_sub(bytes)));
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new block exist together in the worst case.
        grow(size);
        // SAFETY: the caller's promise.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        shrink(layout.size());
        moved
    }
}

/// The most bytes that `f` held at a time, and how long it took.
fn measure<T>(f: impl FnOnce() -> T) -> (T, usize, Duration) {
    let before = CURRENT.get();
    PEAK.set(before);
    let start = Instant::now();
    let result = f();
    (result, PEAK.get().saturating_sub(before), start.elapsed())
}

/// Opens a file of these bytes; what comes of it must be cheap, and be cheap to throw away.
pub(crate) fn open(name: &str, bytes: &[u8]) -> Result<Checkpoint, String> {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("attack.pth");
    std::fs::write(&path, bytes).expect("writes");
    let (result, peak, time) =
        measure(|| Checkpoint::open(&path).map_err(|error| (error.to_string(), format!("{error:?}").len())));
    println!("{name}: {} KiB, {} ms for {} KiB of file", peak >> 10, time.as_millis(), bytes.len() >> 10);
    assert!(peak < MEMORY, "{name}: {} MiB", peak >> 20);
    assert!(time < PATIENCE, "{name}: {time:?}");
    result.map_err(|(message, _)| message)
}

/// The message with which these bytes are refused. It has to be one that can be read.
pub(crate) fn refused(name: &str, bytes: &[u8]) -> String {
    let message = open(name, bytes).map(drop).expect_err(name);
    assert!(message.len() < 4000, "{name}: a message of {} bytes", message.len());
    message
}

/// Asserts that the bytes are refused with a message that says why.
pub(crate) fn refused_for(name: &str, bytes: &[u8], reason: &str) {
    let message = refused(name, bytes);
    assert!(message.contains(reason), "{name}: expected `{reason}` in: {message}");
}
