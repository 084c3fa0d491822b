//! From the index of a picture to its views.

use occlude_dataset::Error;
use occlude_preprocess::{Cut, ViewDecoder, ViewSize};

use super::crop::ViewSpec;
use super::store::{MAX_BROKEN, Store};

/// Cuts views out of the pictures of a store; one per thread, with buffers that are used again and again.
pub(super) struct Cutter<'a> {
    store: &'a Store,
    /// Of every view.
    sizes: Vec<ViewSize>,
    decoder: ViewDecoder,
    bytes: Vec<u8>,
    cuts: Vec<Cut>,
}

impl<'a> Cutter<'a> {
    pub(super) fn new(store: &'a Store, specs: &[ViewSpec]) -> Self {
        let size = |spec: &ViewSpec| ViewSize { side: spec.size, least_area: spec.augment.crop_min };
        let sizes = specs.iter().map(size).collect();
        Self { store, sizes, decoder: ViewDecoder::new(store.limits()), bytes: Vec::new(), cuts: Vec::new() }
    }

    /// Fills `outs`, `(3, side, side)` of each view's side, with the views that `draw` tells for the size of the picture at `index`;
    /// where that is broken, of the next file that is not, so that a batch is always full and the choice does not
    /// depend on timing; the index of the one that was read. `None` where no file can be read.
    pub(super) fn views(
        &mut self,
        index: usize,
        mut draw: impl FnMut(u32, u32, &mut Vec<Cut>),
        outs: &mut [&mut [u8]],
    ) -> Option<usize> {
        let n = self.store.len();
        // a data set of which so many in a row are broken is not there any more
        (0..n.min(MAX_BROKEN)).find_map(|i| {
            let at = (index + i) % n;
            match self.one(at, &mut draw, outs) {
                Ok(()) => Some(at),
                Err(error) => {
                    self.store.report(at, &error.to_string());
                    None
                }
            }
        })
    }

    /// The error names the file.
    fn one(
        &mut self,
        index: usize,
        mut draw: impl FnMut(u32, u32, &mut Vec<Cut>),
        outs: &mut [&mut [u8]],
    ) -> Result<(), Error> {
        let Self { store, sizes, decoder, bytes, cuts } = self;
        cuts.clear();
        if let Some(picture) = store.cached(index) {
            let (width, height) = picture.size();
            draw(width, height, cuts);
            for ((cut, size), out) in cuts.iter().zip(sizes.iter()).zip(outs) {
                decoder.cut(picture, size.side, cut, out);
            }
            return Ok(());
        }
        store.read(index, bytes)?;
        let named = |error| store.decode_error(index, error);
        let opened = decoder.open(bytes).map_err(named)?;
        let (width, height) = opened.size();
        draw(width, height, cuts);
        // what is kept is decoded as a whole, once; what is not, only as far as these views need it
        if store.has_room(width, height)
            && let Some(picture) = decoder.picture(&opened, sizes)
        {
            for ((cut, size), out) in cuts.iter().zip(sizes.iter()).zip(outs) {
                decoder.cut(&picture, size.side, cut, out);
            }
            store.keep(index, picture);
            return Ok(());
        }
        decoder.views(&opened, sizes, cuts, outs).map_err(named)
    }
}
