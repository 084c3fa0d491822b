//! From the index of a picture to its views.

use occlude_dataset::Error;
use occlude_preprocess::CropBox;
use occlude_views::{Cut, Opened, Picture, ViewDecoder, ViewSize};

use super::crop::ViewSpec;
use super::foreground::Foreground;
use super::store::{MAX_BROKEN, Store};

/// What views of a picture are drawn by.
pub(super) struct Whole {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Where crops have to hold some of it.
    pub(super) foreground: Option<Foreground>,
}

/// Cuts views out of the pictures of a store; one per thread, with buffers that are used again and again.
pub(super) struct Cutter<'a> {
    store: &'a Store,
    /// Of every view.
    sizes: Vec<ViewSize>,
    /// Whether crops have to hold a share of the foreground.
    holds: bool,
    decoder: ViewDecoder,
    bytes: Vec<u8>,
    cuts: Vec<Cut>,
}

impl<'a> Cutter<'a> {
    pub(super) fn new(store: &'a Store, specs: &[ViewSpec]) -> Self {
        let size = |spec: &ViewSpec| ViewSize { side: spec.size, least_area: spec.augment.crop_min };
        let (sizes, decoder) = (specs.iter().map(size).collect(), ViewDecoder::new(store.limits()));
        let holds = specs.iter().any(ViewSpec::holds_foreground);
        Self { store, sizes, holds, decoder, bytes: Vec::new(), cuts: Vec::new() }
    }

    /// Fills `outs`, `(3, side, side)` of each view's side, with the views that `draw` tells for the picture at `index`;
    /// where that is broken, of the next file that is not, so that a batch is always full and the choice does not
    /// depend on timing; the index of the one that was read. `None` where no file can be read, or the data set is out of reach.
    pub(super) fn views(
        &mut self,
        index: usize,
        mut draw: impl FnMut(&Whole, &mut Vec<Cut>),
        outs: &mut [&mut [u8]],
    ) -> Option<usize> {
        let n = self.store.len();
        // a data set of which so many in a row are broken is not there any more
        for at in (0..n.min(MAX_BROKEN)).map(|i| (index + i) % n) {
            match self.one(at, &mut draw, outs) {
                Ok(()) => return Some(at),
                // others in its place would be another training
                Err(error @ Error::Store { .. }) => {
                    self.store.lose(&error);
                    return None;
                }
                Err(error) => self.store.report(at, &error.to_string()),
            }
        }
        None
    }

    /// The error names the file.
    fn one(
        &mut self,
        index: usize,
        mut draw: impl FnMut(&Whole, &mut Vec<Cut>),
        outs: &mut [&mut [u8]],
    ) -> Result<(), Error> {
        let Self { store, sizes, holds, decoder, bytes, cuts } = self;
        cuts.clear();
        let whole = |(width, height), find: &mut dyn FnMut() -> Foreground| Whole {
            width,
            height,
            foreground: holds.then(|| store.foreground(index, find)),
        };
        if let Some(picture) = store.cached(index) {
            draw(&whole(picture.size(), &mut || of_picture(decoder, picture, sizes)), cuts);
            for ((cut, size), out) in cuts.iter().zip(sizes.iter()).zip(outs) {
                decoder.cut(picture, size.side, cut, out);
            }
            return Ok(());
        }
        store.read(index, bytes)?;
        let named = |error| store.decode_error(index, error);
        let opened = decoder.open(bytes).map_err(named)?;
        let (width, height) = opened.size();
        // what is kept is decoded as a whole, once; what is not, only as far as these views need it
        if store.has_room(width, height)
            && let Some(picture) = decoder.picture(&opened, sizes)
        {
            draw(&whole((width, height), &mut || of_picture(decoder, &picture, sizes)), cuts);
            for ((cut, size), out) in cuts.iter().zip(sizes.iter()).zip(outs) {
                decoder.cut(&picture, size.side, cut, out);
            }
            store.keep(index, picture);
            return Ok(());
        }
        draw(&whole((width, height), &mut || of_file(decoder, &opened, sizes)), cuts);
        decoder.views(&opened, sizes, cuts, outs).map_err(named)
    }
}

/// All of a picture.
fn everything((width, height): (u32, u32)) -> Cut {
    let crop = CropBox { left: 0.0, top: 0.0, width: width.into(), height: height.into() };
    Cut { crop, flip: false }
}

/// Of the size of the first view.
fn of_picture(decoder: &mut ViewDecoder, picture: &Picture, sizes: &[ViewSize]) -> Foreground {
    let side = sizes.first().map_or(1, |size| size.side);
    let mut planes = vec![0; 3 * side * side];
    decoder.cut(picture, side, &everything(picture.size()), &mut planes);
    Foreground::of_planes(&planes, side)
}

/// The same to the bit, of a file that is not decoded as a whole otherwise. What is behind something broken is not known,
/// although some crops of it can be had: then any of them will do.
fn of_file(decoder: &mut ViewDecoder, opened: &Opened<'_>, sizes: &[ViewSize]) -> Foreground {
    let side = sizes.first().map_or(1, |size| size.side);
    let mut planes = vec![0; 3 * side * side];
    let cut = [everything(opened.size())];
    match decoder.views(opened, sizes, &cut, &mut [planes.as_mut_slice()]) {
        Ok(()) => Foreground::of_planes(&planes, side),
        Err(_) => Foreground::ALL,
    }
}
