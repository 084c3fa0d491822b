//! How much the server takes.

use std::sync::LazyLock;
use std::time::Duration;

use clap::{Args, Command, FromArgMatches};

use super::headings::{REQUESTS, WORK};
use super::units::Seconds;
use super::{ConfigError, Sources, check, units};

/// What the server accepts and how much of it at once.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct Limits {
    /// Maximum number of pictures in one run of the model
    #[arg(long, default_value_t = 8, value_name = "N", help_heading = WORK)]
    pub max_batch: usize,
    /// Longest time in milliseconds that a picture waits for others to share its batch; it waits only while others
    /// are being decoded
    #[arg(long, default_value = "4", value_name = "MS", value_parser = units::millis, help_heading = WORK)]
    pub max_delay: Duration,
    /// Pictures that are decoded at the same time [default: cores]
    #[arg(long, default_value_t = cores(), hide_default_value = true, value_name = "N", help_heading = WORK)]
    pub decode_threads: usize,
    /// Maximum number of pictures in the server at once, decoding or waiting; above it, requests are answered 429
    #[arg(long, default_value_t = 256, value_name = "N", help_heading = WORK)]
    pub max_queue: usize,
    /// Longest time that a picture of a request waits, for decoding and in the queue; what has waited longer is not encoded,
    /// and the request is answered 429; times may have a unit, like `500ms` [default: as long as the queue takes]
    #[arg(long, value_name = "SECONDS", value_parser = units::seconds, help_heading = WORK)]
    pub max_wait: Option<Seconds>,
    /// Maximum pixels of all pictures in the server at once; above it, requests are answered 429
    #[arg(long, default_value = "1000000000", value_name = "N", value_parser = units::count, help_heading = WORK)]
    pub max_queue_pixels: u64,
    /// Maximum bytes of request bodies, fetched pictures and payloads held at once, over all requests; above it, requests
    /// are answered 429, and 413 where one alone takes more
    #[arg(long, default_value = "256MiB", value_name = "BYTES", value_parser = units::bytes, help_heading = WORK)]
    pub max_buffered: usize,
    /// Bytes for keeping answers: a picture file that comes again is not decoded and encoded again; 0: none are kept
    #[arg(long, default_value = "0", value_name = "BYTES", value_parser = units::bytes, help_heading = WORK)]
    pub cache_bytes: usize,

    /// Maximum number of pictures in one request
    #[arg(long, default_value_t = 32, value_name = "N", help_heading = REQUESTS)]
    pub max_images: usize,
    /// Largest request body in bytes; sizes may have a unit: `20MiB` is 20 times 2^20, `20MB` 20 million
    #[arg(long, default_value = "20MiB", value_name = "BYTES", value_parser = units::bytes, help_heading = REQUESTS)]
    pub max_body: usize,
    /// Maximum pixels (width times height) of one picture
    #[arg(long, default_value = "50000000", value_name = "N", value_parser = units::count, help_heading = REQUESTS)]
    pub max_pixels: u64,
    /// Seconds from the last byte of a request to its answer, 504 after that; times may have a unit, like `500ms`,
    /// `30s` or `2min`
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = units::seconds, help_heading = REQUESTS)]
    pub timeout: Seconds,
    /// Seconds that a client has to send its headers. A body may take longer, as long as each such period delivers
    /// `--min-rate`; 408 after that
    #[arg(long, default_value = "20", value_name = "SECONDS", value_parser = units::seconds, help_heading = REQUESTS)]
    pub read_timeout: Seconds,
    /// Minimum bytes per second of a body, averaged over each `--read-timeout`; 0: a single byte is enough
    #[arg(long, default_value = "2KiB", value_name = "BYTES", value_parser = units::bytes, help_heading = REQUESTS)]
    pub min_rate: usize,
}

impl Default for Limits {
    /// The defaults of the flags, for tests and for embedding the server elsewhere.
    fn default() -> Self {
        static DEFAULTS: LazyLock<Limits> = LazyLock::new(|| {
            let matches = Limits::augment_args(Command::new("limits")).try_get_matches_from(["limits"]);
            let parsed = matches.and_then(|m| Limits::from_arg_matches(&m));
            parsed.expect("the defaults stand above")
        });
        DEFAULTS.clone()
    }
}

impl Limits {
    /// Those of decoding a picture.
    pub(crate) fn decode(&self) -> occlude_preprocess::Limits {
        occlude_preprocess::Limits { max_pixels: self.max_pixels, ..Default::default() }
    }

    /// Checks the limits alone and against each other.
    pub(super) fn check(&self, sources: &Sources) -> Result<(), ConfigError> {
        let (batch, queue) = (("max-batch", self.max_batch as u64), ("max-queue", self.max_queue as u64));
        let (images, body) = (("max-images", self.max_images as u64), ("max-body", self.max_body as u64));
        let buffered = ("max-buffered", self.max_buffered as u64);
        let (pixels, all) = (("max-pixels", self.max_pixels), ("max-queue-pixels", self.max_queue_pixels));
        let threads = ("decode-threads", self.decode_threads as u64);
        check::counts(sources, &[threads, batch, queue, images, all, body, buffered, pixels])?;
        check::bounds(sources, &[(pixels, all), (batch, queue), (images, queue), (body, buffered)])?;
        if let Some(wait) = self.max_wait.filter(|wait| wait.is_usable()) {
            // else a picture would be late before its batch is due
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let (delay, wait) = (millis(self.max_delay), millis(wait.time()));
            check::bounds(sources, &[(("max-delay", delay), ("max-wait", wait))])?;
        }
        let waits = self.max_wait.map(|wait| ("max-wait", wait));
        let times: Vec<_> = [("timeout", self.timeout), ("read-timeout", self.read_timeout)]
            .into_iter()
            .chain(waits)
            .collect();
        check::times(sources, &times)
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
