//! The command line. The same words are keys of a configuration file and, in capitals behind `OCCLUDE_SERVE_`, names
//! of environment variables.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::headings::{LOGS, NETWORK, REQUESTS};
use super::source::{Setting, Sources};
use super::{ConfigError, Limits, Logs, Network, Served, environment, file};
use crate::tools::{CopyArgs, DuplicatesArgs, EmbedArgs, EvaluateArgs, IndexArgs, TuneArgs};

/// Serves ONNX encoders written by `occlude-export` over HTTP: embeddings, saliency masks and nearest neighbours.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "occlude-serve", version, args_override_self = true, after_help = AFTER)]
pub struct Args {
    /// A task other than serving
    #[command(subcommand)]
    pub command: Option<Tool>,

    #[allow(missing_docs)]
    #[command(flatten)]
    pub served: Served,

    #[allow(missing_docs)]
    #[command(flatten)]
    pub limits: Limits,

    /// Fetch pictures that requests name by web address (`http://`, `https://`); only from public addresses
    #[arg(long, help_heading = REQUESTS)]
    pub allow_url_fetch: bool,
    /// With `--allow-url-fetch`: only from this host, which may then be on the local network; may be given several
    /// times
    #[arg(long, value_name = "HOST", help_heading = REQUESTS)]
    pub url_host: Vec<String>,

    #[allow(missing_docs)]
    #[command(flatten)]
    pub network: Network,

    /// Origin whose web pages may call the server, as `https://example.org`, or `*` for all; may be given several times
    #[arg(long, value_name = "ORIGIN", help_heading = NETWORK)]
    pub cors_origin: Vec<String>,

    /// Address or network of a proxy, like `10.0.0.0/8`, that is trusted to name the clients whose requests it
    /// forwards (`X-Forwarded-For`, `Forwarded`); may be given several times
    #[arg(long, value_name = "CIDR", help_heading = NETWORK)]
    pub trusted_proxy: Vec<String>,

    #[allow(missing_docs)]
    #[command(flatten)]
    pub logs: Logs,
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
    /// Measure how well a model finds pictures that belong together: recall at k and mean average precision
    Evaluate(EvaluateArgs),
    /// Measure which provider, sessions, threads and batch suit a model on this machine, and print a configuration
    Tune(TuneArgs),
    /// Report pictures of a collection that are nearly the same, in groups
    Duplicates(DuplicatesArgs),
    /// Copy collections between folders and databases, and compare them; the same command resumes a stopped run
    Copy(CopyArgs),
}

/// Settings of the server that its tools use as well; the others need not even make sense to them.
const OF_TOOLS: [&str; 6] = ["config", "host", "port", "tls_cert", "log_level", "log_format"];

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
        assert_eq!((args.limits.max_images, args.limits.max_batch, args.network.port), (2, 4, 1));
        let paths: Vec<_> = args.served.models.iter().map(|m| m.path.display().to_string()).collect();
        assert_eq!(paths, ["c.onnx", "d.onnx"]);
        assert!(args.notes[0].contains("`OCCLUDE_SERVE_PORT`"), "{:?}", args.notes);
        let name = |flag: &str| args.sources.name(flag);
        assert_eq!(
            (name("max-images"), name("max-batch")),
            ("`--max-images`".to_owned(), "`OCCLUDE_SERVE_MAX_BATCH`".to_owned())
        );
        assert_eq!(name("port"), format!("`port` in `{path}`"));
        let Config { served, .. } =
            read(&["--model", "x.onnx"], &[("CONFIG", &path)]).unwrap().resolve().unwrap();
        assert_eq!(served.models.len(), 1, "a flag takes the place of the file's list");
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
        assert_eq!((args.network.port, args.served.models.len()), (9000, 0));
        assert!(
            read(&["health"], &[("PORT", "x")]).unwrap_err().to_string().contains("`OCCLUDE_SERVE_PORT`")
        );
    }
}
