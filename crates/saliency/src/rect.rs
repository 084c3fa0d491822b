//! Rectangles of pictures.

/// A rectangle in pixels; fractional, `left` and `top` may be negative when a small picture was padded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    /// Distance of the left edge from the picture's.
    pub left: f64,
    /// Distance of the top edge from the picture's.
    pub top: f64,
    /// Width, positive.
    pub width: f64,
    /// Height, positive.
    pub height: f64,
}

impl Rect {
    /// The part inside a picture of `width` x `height` pixels; its size is 0 when there is none.
    #[must_use]
    pub fn clamp(&self, width: f64, height: f64) -> Rect {
        let (left, top) = (self.left.clamp(0.0, width), self.top.clamp(0.0, height));
        let right = (self.left + self.width).clamp(0.0, width);
        let bottom = (self.top + self.height).clamp(0.0, height);
        Rect { left, top, width: right - left, height: bottom - top }
    }
}
