//! The command line. The same words are keys of a configuration file and, in capitals behind `OCCLUDE_SERVE_`, names
//! of environment variables.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Command, CommandFactory, FromArgMatches};

use super::file;
use super::{ConfigError, LogFormat, Provider};
use crate::tools::{EmbedArgs, IndexArgs};

/// Serves ONNX encoders written by `occlude-export` over HTTP: embeddings, saliency masks and nearest neighbours.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "occlude-serve", version, args_override_self = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// Something else than serving
    #[command(subcommand)]
    pub command: Option<Tool>,

    /// ONNX file written by `occlude-export onnx`, as FILE or NAME=FILE; its preprocessing contract is obeyed. Several
    /// models are served side by side; requests that name none are answered by the first
    #[arg(long, value_name = "[NAME=]FILE", required_unless_present = "config", help_heading = MODEL)]
    pub model: Vec<String>,
    /// Where the models run: `cuda` fails at start where it cannot run, `auto` takes CUDA if it works, else the CPU,
    /// and says so
    #[arg(long, value_enum, default_value_t = Provider::Auto, help_heading = MODEL)]
    pub provider: Provider,
    /// Sessions of each model that encode side by side, each with its own copy of the weights
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = MODEL)]
    pub workers: usize,
    /// Threads within one session, on the CPU [default: cores divided by workers]
    #[arg(long, value_name = "N", help_heading = MODEL)]
    pub intra_threads: Option<usize>,
    /// Most bytes of GPU memory that one session takes for weights and activations [default: as needed]
    #[arg(long, value_name = "BYTES", help_heading = MODEL)]
    pub gpu_mem_limit: Option<usize>,
    /// Seconds between looks at the model files; a file that was replaced is loaded while the old one goes on
    /// answering. 0: only on SIGHUP
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", help_heading = MODEL)]
    pub watch: f64,
    /// Folder of pictures (flat, or one sub-folder per class) that is indexed at start for `/v1/search`
    #[arg(long, value_name = "DIR", help_heading = MODEL)]
    pub gallery: Option<PathBuf>,

    /// Folder that keeps collections; without it there are none
    #[arg(long, value_name = "DIR", help_heading = MODEL)]
    pub data: Option<PathBuf>,

    /// Most pictures in one run of the model
    #[arg(long, default_value_t = 8, value_name = "N", help_heading = WORK)]
    pub max_batch: usize,
    /// Longest time in milliseconds that a picture waits for others to share its batch; it waits only while others
    /// are being decoded
    #[arg(long, default_value_t = 4, value_name = "MS", help_heading = WORK)]
    pub max_delay: u64,
    /// Pictures that are decoded at the same time [default: cores]
    #[arg(long, value_name = "N", help_heading = WORK)]
    pub decode_threads: Option<usize>,
    /// Most pictures in the server at once, decoding or waiting; above it, requests are answered 429
    #[arg(long, default_value_t = 256, value_name = "N", help_heading = WORK)]
    pub max_queue: usize,
    /// Most pixels of all pictures in the server at once; above it, requests are answered 429
    #[arg(long, default_value_t = 1_000_000_000, value_name = "N", help_heading = WORK)]
    pub max_queue_pixels: u64,
    /// Most bytes of request bodies held at once, all requests together; above it, requests are answered 429
    #[arg(long, default_value_t = 256 << 20, value_name = "BYTES", help_heading = WORK)]
    pub max_buffered: usize,

    /// Most pictures in one request
    #[arg(long, default_value_t = 32, value_name = "N", help_heading = REQUESTS)]
    pub max_images: usize,
    /// Largest request body in bytes
    #[arg(long, default_value_t = 20 << 20, value_name = "BYTES", help_heading = REQUESTS)]
    pub max_body: usize,
    /// Most pixels (width times height) of one picture
    #[arg(long, default_value_t = 50_000_000, value_name = "N", help_heading = REQUESTS)]
    pub max_pixels: u64,
    /// Seconds that a request may take from its first byte of body to its answer, 504 after that
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", help_heading = REQUESTS)]
    pub timeout: f64,
    /// Seconds that a client has for sending its headers, and again for its body, 408 after that
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS", help_heading = REQUESTS)]
    pub read_timeout: f64,

    /// Fetch pictures that requests name by web address (`http://`, `https://`); only from public addresses
    #[arg(long, help_heading = REQUESTS)]
    pub allow_url_fetch: bool,
    /// With `--allow-url-fetch`: only from this host, which may then be of the local network; may be given several
    /// times
    #[arg(long, value_name = "HOST", requires = "allow_url_fetch", help_heading = REQUESTS)]
    pub url_host: Vec<String>,

    /// Address to listen on; 0.0.0.0 opens the server to the network
    #[arg(long, default_value = "127.0.0.1", help_heading = NETWORK)]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one, printed at start
    #[arg(long, default_value_t = 8080, help_heading = NETWORK)]
    pub port: u16,
    /// Most connections at once; further ones wait to be accepted
    #[arg(long, default_value_t = 1024, value_name = "N", help_heading = NETWORK)]
    pub max_connections: usize,
    /// Seconds for answering accepted requests after SIGTERM or SIGINT, before connections are cut
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS", help_heading = NETWORK)]
    pub drain_timeout: f64,
    /// File of hashed API keys, written by `occlude-serve key`; without it nobody is asked for one. Read again on
    /// SIGHUP
    #[arg(long, value_name = "FILE", help_heading = NETWORK)]
    pub api_keys: Option<PathBuf>,
    /// Origin whose web pages may call the server, as `https://example.org`, or `*` for all; may be given several times
    #[arg(long, value_name = "ORIGIN", help_heading = NETWORK)]
    pub cors_origin: Vec<String>,

    /// Address or network of a proxy, like `10.0.0.0/8`, that is believed when it says whose requests it passes on
    /// (`X-Forwarded-For`, `Forwarded`); may be given several times
    #[arg(long, value_name = "CIDR", help_heading = NETWORK)]
    pub trusted_proxy: Vec<String>,

    /// Least severe messages that are logged to stderr: `error`, `warn`, `info` (a line for every request) or `debug`
    #[arg(long, default_value = "info", value_name = "LEVEL", help_heading = LOGS)]
    pub log_level: tracing::Level,
    /// How messages are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text, help_heading = LOGS)]
    pub log_format: LogFormat,
    /// OpenTelemetry collector that is sent a trace of each request, by OTLP over HTTP, like `http://127.0.0.1:4318`
    #[arg(long, value_name = "URL", help_heading = LOGS)]
    pub otlp_endpoint: Option<String>,
    /// TOML file with any of these flags as keys, like `max-batch = 16`; environment and command line come first
    #[arg(long, value_name = "FILE", help_heading = LOGS)]
    pub config: Option<PathBuf>,
}

const MODEL: &str = "Models";
const WORK: &str = "Work at once";
const REQUESTS: &str = "Requests";
const NETWORK: &str = "Network";
const LOGS: &str = "Logs and configuration";

/// What the program does besides serving.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Tool {
    /// Make an API key: its hash is added to the file, the key itself is printed and kept nowhere
    Key {
        /// Who it is for; logs name it
        name: String,
        /// File for `--api-keys`
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Ask a server whether it is ready: exit code 0 if it is, 1 if not
    Health {
        /// The server
        #[arg(default_value = "http://127.0.0.1:8080", value_name = "URL")]
        url: String,
    },
    /// Write the embeddings of a folder to a file; the same command goes on where it was stopped
    Embed(EmbedArgs),
    /// Put the pictures of a folder into a collection; the same command goes on, and later adds what is new
    Index(IndexArgs),
}

/// What environment variables begin with.
pub const ENVIRONMENT: &str = "OCCLUDE_SERVE_";

impl Args {
    /// The command with an environment variable for every flag.
    pub fn described() -> Command {
        Self::command().mut_args(|argument| {
            let id = argument.get_id().as_str().to_owned();
            if matches!(id.as_str(), "help" | "version") {
                return argument;
            }
            argument.env(format!("{ENVIRONMENT}{}", id.to_uppercase())).hide_env(true)
        })
    }

    /// Parses `words` (the program's name first), the environment and the file of `--config`, in this order of
    /// precedence. Wrong usage, `--help` and `--version` end the process, as clap does.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, ConfigError> {
        let words: Vec<OsString> = words.into_iter().collect();
        let command = Self::described();
        let words = match file::named(&words, &std::env::var_os(format!("{ENVIRONMENT}CONFIG"))) {
            Some(path) => file::before(&path, &command, words)?,
            None => words,
        };
        let matches = command.get_matches_from(words);
        Ok(Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()))
    }
}
