//! Test of ranks that read parts of batches.

use super::tests::{batches, folder, load, spec};
use super::*;

/// Two ranks and four read what one process does, in its order, broken files and all.
#[test]
fn ranks_read_the_batches_of_one_process() {
    let dir = folder(1, 10);
    let whole: Vec<Batch> = batches(&dir, 2, 0).into_iter().flatten().collect();
    for size in [2, 4] {
        let of = |rank| LoaderSpec { share: Share::new(rank, size), ..spec(1) };
        let ranks: Vec<Vec<Batch>> =
            (0..size).map(|rank| load(&dir, &of(rank), 0).into_iter().flatten().collect()).collect();
        for (step, batch) in whole.iter().enumerate() {
            let parts = || ranks.iter().map(|all| &all[step]);
            assert_eq!(parts().flat_map(|b| b.indices.clone()).collect::<Vec<_>>(), batch.indices);
            for (v, view) in batch.views.iter().enumerate() {
                assert_eq!(parts().flat_map(|b| b.views[v].pixels.clone()).collect::<Vec<_>>(), view.pixels);
                let colours: Vec<_> = parts().flat_map(|b| b.views[v].photometric.clone()).collect();
                assert_eq!(colours, view.photometric);
            }
        }
    }
}
