//! The command line. The same words are keys of a configuration file and, in capitals behind `OCCLUDE_SERVE_`, names
//! of environment variables.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::source::{Setting, Sources};
use super::{ConfigError, LogFormat, Provider, environment, file, host, units};
use crate::tools::{EmbedArgs, IndexArgs};

/// Serves ONNX encoders written by `occlude-export` over HTTP: embeddings, saliency masks and nearest neighbours.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "occlude-serve", version, args_override_self = true, after_help = AFTER)]
pub struct Args {
    /// A task other than serving
    #[command(subcommand)]
    pub command: Option<Tool>,

    /// ONNX file written by `occlude-export onnx`, as FILE or NAME=FILE; its preprocessing contract is applied.
    /// Several models are served side by side; requests that name none go to the first
    #[arg(long, value_name = "[NAME=]FILE", help_heading = MODEL)]
    pub model: Vec<String>,
    /// Where the models run: `cuda` fails at start if it cannot run; `auto` uses CUDA if it works, else the CPU, and
    /// reports which
    #[arg(long, value_enum, default_value_t = Provider::Auto, help_heading = MODEL)]
    pub provider: Provider,
    /// Sessions of each model that encode side by side, each with its own copy of the weights
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = MODEL)]
    pub workers: usize,
    /// Threads within one session, on the CPU [default: cores divided by workers]
    #[arg(long, value_name = "N", help_heading = MODEL)]
    pub intra_threads: Option<usize>,
    /// Maximum bytes of GPU memory that one session uses for weights and activations, like `4GiB` [default: as needed]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes, help_heading = MODEL)]
    pub gpu_mem_limit: Option<usize>,
    /// Seconds between checks of the model files; a replaced file is loaded while the old model keeps answering. 0:
    /// only on SIGHUP
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = units::seconds, help_heading = MODEL)]
    pub watch: f64,
    /// Folder of pictures (flat, or one sub-folder per class) that is indexed at start for `/v1/search`
    #[arg(long, value_name = "DIR", help_heading = MODEL)]
    pub gallery: Option<PathBuf>,

    /// Folder for collections; without it there are none
    #[arg(long, value_name = "DIR", help_heading = MODEL)]
    pub data: Option<PathBuf>,

    /// Maximum number of pictures in one run of the model
    #[arg(long, default_value_t = 8, value_name = "N", help_heading = WORK)]
    pub max_batch: usize,
    /// Longest time in milliseconds that a picture waits for others to share its batch; it waits only while others
    /// are being decoded
    #[arg(long, default_value = "4", value_name = "MS", value_parser = units::millis, help_heading = WORK)]
    pub max_delay: u64,
    /// Pictures that are decoded at the same time [default: cores]
    #[arg(long, value_name = "N", help_heading = WORK)]
    pub decode_threads: Option<usize>,
    /// Maximum number of pictures in the server at once, decoding or waiting; above it, requests are answered 429
    #[arg(long, default_value_t = 256, value_name = "N", help_heading = WORK)]
    pub max_queue: usize,
    /// Maximum pixels of all pictures in the server at once; above it, requests are answered 429
    #[arg(long, default_value = "1000000000", value_name = "N", value_parser = units::count, help_heading = WORK)]
    pub max_queue_pixels: u64,
    /// Maximum bytes of request bodies held at once, over all requests; above it, requests are answered 429
    #[arg(long, default_value = "256MiB", value_name = "BYTES", value_parser = units::bytes, help_heading = WORK)]
    pub max_buffered: usize,

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
    pub timeout: f64,
    /// Seconds that a client has to send its headers. A body may take longer, as long as each such period delivers
    /// `--min-rate`; 408 after that
    #[arg(long, default_value = "20", value_name = "SECONDS", value_parser = units::seconds, help_heading = REQUESTS)]
    pub read_timeout: f64,
    /// Minimum bytes per second of a body, averaged over each `--read-timeout`; 0: a single byte is enough
    #[arg(long, default_value = "2KiB", value_name = "BYTES", value_parser = units::bytes, help_heading = REQUESTS)]
    pub min_rate: usize,

    /// Fetch pictures that requests name by web address (`http://`, `https://`); only from public addresses
    #[arg(long, help_heading = REQUESTS)]
    pub allow_url_fetch: bool,
    /// With `--allow-url-fetch`: only from this host, which may then be on the local network; may be given several
    /// times
    #[arg(long, value_name = "HOST", help_heading = REQUESTS)]
    pub url_host: Vec<String>,

    /// Address or name to listen on; 0.0.0.0 opens the server to the network. Of a name's addresses the first IPv4 one
    /// is used, else the first
    #[arg(long, default_value = "127.0.0.1", value_parser = host::parse, help_heading = NETWORK)]
    pub host: String,
    /// Port to listen on; 0 takes a free one, printed at start
    #[arg(long, default_value_t = 8080, help_heading = NETWORK)]
    pub port: u16,
    /// Maximum number of connections at once; further ones wait to be accepted
    #[arg(long, default_value_t = 1024, value_name = "N", help_heading = NETWORK)]
    pub max_connections: usize,
    /// Seconds that a connection is kept open between requests; longer than a load balancer in front keeps its own,
    /// which is usually 60
    #[arg(long, default_value = "75", value_name = "SECONDS", value_parser = units::seconds, help_heading = NETWORK)]
    pub keep_alive_timeout: f64,
    /// Seconds for answering accepted requests after SIGTERM or SIGINT, before connections are cut
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = units::seconds, help_heading = NETWORK)]
    pub drain_timeout: f64,
    /// File of hashed API keys, written by `occlude-serve key`; without it no key is required. Reloaded on SIGHUP
    #[arg(long, value_name = "FILE", help_heading = NETWORK)]
    pub api_keys: Option<PathBuf>,
    /// Origin whose web pages may call the server, as `https://example.org`, or `*` for all; may be given several times
    #[arg(long, value_name = "ORIGIN", help_heading = NETWORK)]
    pub cors_origin: Vec<String>,

    /// Address or network of a proxy, like `10.0.0.0/8`, that is trusted to name the clients whose requests it
    /// forwards (`X-Forwarded-For`, `Forwarded`); may be given several times
    #[arg(long, value_name = "CIDR", help_heading = NETWORK)]
    pub trusted_proxy: Vec<String>,

    /// Lowest level of messages that are logged to stderr: `error`, `warn`, `info` (a line for every request) or
    /// `debug`
    #[arg(long, default_value = "info", value_name = "LEVEL", help_heading = LOGS)]
    pub log_level: tracing::Level,
    /// How messages are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text, help_heading = LOGS)]
    pub log_format: LogFormat,
    /// OpenTelemetry collector to send a trace of each request to, by OTLP over HTTP, like `http://127.0.0.1:4318`
    #[arg(long, value_name = "URL", help_heading = LOGS)]
    pub otlp_endpoint: Option<String>,
    /// TOML file with any of these flags as keys, like `max-batch = 16`; environment and command line take precedence
    #[arg(long, value_name = "FILE", help_heading = LOGS)]
    pub config: Option<PathBuf>,

    /// Where settings come from that are not on the command line
    #[arg(skip)]
    pub sources: Sources,
    /// What the environment has that is no setting
    #[arg(skip)]
    pub notes: Vec<String>,
}

const MODEL: &str = "Models";
const WORK: &str = "Concurrency";
const REQUESTS: &str = "Requests";
const NETWORK: &str = "Network";
const LOGS: &str = "Logs and configuration";
const AFTER: &str = "Every flag of the server is also an environment variable (`--max-batch` is \
     OCCLUDE_SERVE_MAX_BATCH) and a key of the file that `--config` names; those of the subcommands are not. Lists \
     in variables are separated by commas or line breaks; empty variables count as unset.";

/// What the program does besides serving.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Tool {
    /// Create an API key: its hash is added to the file, the key itself is printed and not stored
    Key {
        /// Whom it is for; logs show it
        name: String,
        /// File for `--api-keys`
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Ask a server whether it is ready: exit code 0 if it is, 1 if not
    Health {
        /// The server, as URL, HOST:PORT, HOST or PORT [default: where a server of this configuration listens]
        #[arg(value_name = "URL")]
        url: Option<String>,
    },
    /// Write the embeddings of a folder to a file; the same command resumes a stopped run
    Embed(EmbedArgs),
    /// Put the pictures of a folder into a collection; the same command resumes a stopped run, and later adds what is
    /// new
    Index(IndexArgs),
}

/// Settings of the server that its tools use as well; the others need not even make sense to them.
const OF_TOOLS: [&str; 5] = ["config", "host", "port", "log_level", "log_format"];

impl Args {
    /// The command line.
    pub fn described() -> clap::Command {
        Self::command()
    }

    /// Parses `words` (the program's name first), the environment and the file of `--config`, in this order of
    /// precedence. Wrong words, `--help` and `--version` end the process, as clap does.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, ConfigError> {
        Self::read_with(words, std::env::vars_os())
    }

    /// Likewise, with these variables for the environment.
    pub fn read_with(
        words: impl IntoIterator<Item = OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut words: Vec<OsString> = words.into_iter().collect();
        let command = Self::command();
        let given = command.clone().get_matches_from(&words);
        let serves = given.subcommand_name().is_none();
        let wanted = |id: &str| serves || OF_TOOLS.contains(&id);
        let environment = environment::read(&command, variables, wanted)?;
        let mut decided: BTreeSet<String> = command
            .get_arguments()
            .map(|a| a.get_id().as_str().to_owned())
            .filter(|id| given.value_source(id) == Some(ValueSource::CommandLine))
            .collect();
        let mut settings: Vec<Setting> = environment.settings;
        settings.retain(|s| !decided.contains(&s.id));
        decided.extend(settings.iter().map(|s| s.id.clone()));
        if let Some((path, name)) = configuration(&given, &settings) {
            let of_file = file::read(&path, &name, &command)?;
            settings.extend(of_file.into_iter().filter(|s| !decided.contains(&s.id) && wanted(&s.id)));
        }
        let mut sources = Sources::default();
        for setting in settings {
            setting.check(&command)?;
            let at = words.len().min(1);
            drop(words.splice(at..at, setting.words()));
            sources.add(&setting.flag, setting.origin);
        }
        let matches = command.get_matches_from(words);
        let args = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        Ok(Self { sources, notes: environment.notes, ..args })
    }
}

/// The configuration file, and what names it.
fn configuration(given: &ArgMatches, settings: &[Setting]) -> Option<(PathBuf, String)> {
    if let Some(path) = given.get_one::<PathBuf>("config") {
        return Some((path.clone(), "`--config`".to_owned()));
    }
    let setting = settings.iter().find(|s| s.id == "config")?;
    Some((setting.first()?.into(), setting.origin.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, ENVIRONMENT};

    fn read(words: &[&str], variables: &[(&str, &str)]) -> Result<Args, ConfigError> {
        let words = ["occlude-serve"].iter().chain(words).map(OsString::from);
        let pair = |(n, v): &(&str, &str)| (OsString::from(format!("{ENVIRONMENT}{n}")), OsString::from(v));
        Args::read_with(words, variables.iter().map(pair))
    }

    fn error(words: &[&str], variables: &[(&str, &str)]) -> String {
        match read(words, variables).and_then(Args::resolve) {
            Err(error) => error.to_string(),
            Ok(config) => panic!("{config:?}"),
        }
    }

    fn toml(text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serve.toml");
        std::fs::write(&path, text).unwrap();
        let path = path.to_string_lossy().into_owned();
        (dir, path)
    }

    #[test]
    fn words_come_before_variables_and_variables_before_the_file() {
        let (_dir, path) = toml("model = [\"a.onnx\", \"b.onnx\"]\nmax-batch = 3\nmax-images = 5\nport = 1");
        let args = read(
            &["--config", &path, "--max-images=2"],
            &[
                ("MAX_BATCH", "4"),
                ("MAX_IMAGES", "9"),
                ("PORT", "tcp://10.0.0.1:80"),
                ("MODEL", "c.onnx,d.onnx"),
            ],
        )
        .unwrap();
        assert_eq!((args.max_images, args.max_batch, args.port), (2, 4, 1));
        assert_eq!(args.model, ["c.onnx", "d.onnx"]);
        assert!(args.notes[0].contains("`OCCLUDE_SERVE_PORT`"), "{:?}", args.notes);
        let name = |flag: &str| args.sources.name(flag);
        assert_eq!(
            (name("max-images"), name("max-batch")),
            ("`--max-images`".to_owned(), "`OCCLUDE_SERVE_MAX_BATCH`".to_owned())
        );
        assert_eq!(name("port"), format!("`port` in `{path}`"));
        let Config { models, .. } =
            read(&["--model", "x.onnx"], &[("CONFIG", &path)]).unwrap().resolve().unwrap();
        assert_eq!(models.len(), 1, "a flag takes the place of the file's list");
    }

    #[test]
    fn a_wrong_value_is_told_of_where_it_stands() {
        let model = ["--model", "x.onnx"];
        for (name, value) in [
            ("PORT", "80x"),
            ("HOST", "http://x"),
            ("PROVIDER", "gpu"),
            ("MAX_BODY", "lots"),
            ("TIMEOUT", "0"),
            ("TIMEOUT", "soon"),
            ("MAX_BATCH", "0"),
            ("MAX_IMAGES", "1000"),
            ("CORS_ORIGIN", "example.org"),
            ("URL_HOST", "example.org"),
            ("OTLP_ENDPOINT", "collector:4318"),
            ("LOG_LEVEL", "loud"),
            ("CONFIG", "gone.toml"),
        ] {
            let told = error(&model, &[(name, value)]);
            assert!(told.contains(&format!("`OCCLUDE_SERVE_{name}`")), "{name}={value}: {told}");
            let flag = format!("`--{}`", name.to_lowercase().replace('_', "-"));
            let (message, _) = told.split_once("; hint: ").unwrap_or((&told, ""));
            assert!(!message.contains(&flag), "{name}={value}: {told}");
            if name == "CONFIG" {
                continue;
            }
            let key = name.to_lowercase().replace('_', "-");
            let (_dir, path) = toml(&format!("model = \"x.onnx\"\n{key} = \"{value}\""));
            let told = error(&["--config", &path], &[]);
            assert!(told.contains(&format!("`{key}` in `{path}`")), "{key} = {value}: {told}");
        }
        let told = error(&["--model", "x.onnx", "--max-batch", "0"], &[("MAX_BATCH", "0")]);
        assert!(told.contains("`--max-batch`"), "{told}");
    }

    #[test]
    fn tools_take_only_what_they_need_of_the_environment() {
        let args = read(&["health"], &[("MAX_BATCH", "x"), ("PORT", "9000"), ("MODEL", "a,b")]).unwrap();
        assert_eq!((args.port, args.model.len()), (9000, 0));
        assert!(
            read(&["health"], &[("PORT", "x")]).unwrap_err().to_string().contains("`OCCLUDE_SERVE_PORT`")
        );
    }
}
