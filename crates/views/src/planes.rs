//! Decoded samples, one plane a component.

use occlude_preprocess::Rgb;

use crate::header::Component;
use crate::window::Window;

/// A part of a component's samples, stored column by column: a pass along x then works on whole columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plane {
    /// Column after column; may be longer than the part.
    data: Vec<u8>,
    /// Where the part begins in the component.
    left: usize,
    top: usize,
    /// Its size; `rows` is the distance between columns, too.
    columns: usize,
    rows: usize,
}

impl Plane {
    /// Makes room for the part of `component` that `window` shows.
    pub(super) fn place(&mut self, component: &Component, window: &Window) {
        let (h, v) = (component.h * window.side, component.v * window.side);
        (self.left, self.top) = (window.x.start * h, window.y.start * v);
        (self.columns, self.rows) = (window.x.len() * h, window.y.len() * v);
        let size = self.columns * self.rows;
        if self.data.len() < size {
            self.data.resize(size, 0);
        }
    }

    /// The samples from block `(x, y)` of the part on, and the distance between columns.
    #[inline(always)]
    pub(super) fn block(&mut self, (x, y): (usize, usize), side: usize) -> Option<(&mut [u8], usize)> {
        let rows = self.rows;
        self.data.get_mut(x * side * rows + y * side..).map(|out| (out, rows))
    }

    /// One channel of a picture.
    pub(super) fn channel(image: &Rgb, channel: usize) -> Self {
        let (columns, rows) = (image.width as usize, image.height as usize);
        let mut data = vec![0; columns * rows];
        for (y, row) in image.data.chunks_exact(3 * columns.max(1)).enumerate() {
            for (x, pixel) in row.as_chunks::<3>().0.iter().enumerate() {
                data[x * rows + y] = pixel[channel];
            }
        }
        Self { data, left: 0, top: 0, columns, rows }
    }

    /// Column `x` of the component from row `y` on, as far as it is stored.
    ///
    /// # Panics
    /// Where it is not.
    #[inline(always)]
    pub(super) fn column(&self, x: usize, y: usize) -> &[u8] {
        let start = (x - self.left) * self.rows;
        &self.data[start..start + self.rows][y - self.top..]
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.data.capacity()
    }

    /// Gives back memory behind the part.
    pub(super) fn shrink(&mut self) {
        self.data.truncate(self.columns * self.rows);
        self.data.shrink_to_fit();
    }
}
