//! How much the server takes.

use std::time::Duration;

/// What the server accepts and how much of it at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes of one body.
    pub max_body: usize,
    /// Bytes of all bodies.
    pub max_buffered: usize,
    /// Pixels of one picture.
    pub max_pixels: u64,
    /// Pictures of one request.
    pub max_images: usize,
    /// Pictures in the server.
    pub max_queue: usize,
    /// Pixels of the pictures in the server.
    pub max_queue_pixels: u64,
    /// Pictures of one batch.
    pub max_batch: usize,
    /// Longest wait for a batch to fill.
    pub max_delay: Duration,
    /// Pictures decoded at once.
    pub decode_threads: usize,
    /// From the last byte of body to the answer.
    pub timeout: Duration,
    /// For a part of a body.
    pub read_timeout: Duration,
    /// Bytes a second of a body, on average over each `read_timeout`.
    pub min_rate: usize,
}

impl Default for Limits {
    /// The defaults of the flags, for tests and for embedding the server elsewhere.
    fn default() -> Self {
        Self {
            max_body: 20 << 20,
            max_buffered: 256 << 20,
            max_pixels: 50_000_000,
            max_images: 32,
            max_queue: 256,
            max_queue_pixels: 1_000_000_000,
            max_batch: 8,
            max_delay: Duration::from_millis(4),
            decode_threads: cores(),
            timeout: Duration::from_secs(60),
            read_timeout: Duration::from_secs(20),
            min_rate: 2048,
        }
    }
}

impl Limits {
    /// Those of decoding a picture.
    pub(crate) fn decode(&self) -> occlude_preprocess::Limits {
        occlude_preprocess::Limits { max_pixels: self.max_pixels, ..Default::default() }
    }
}

/// Threads that run at the same time.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_has_its_own_pixel_limit() {
        let limits = Limits { max_pixels: 77, ..Limits::default() };
        assert_eq!(limits.decode().max_pixels, 77);
    }
}
