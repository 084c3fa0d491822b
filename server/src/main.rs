//! `occlude-serve`: HTTP server of embeddings and saliency masks.

use std::process::ExitCode;

use occlude_serve::{
    Args, Config, LogFormat, Tool, copy, create_key, duplicates, embed, evaluate, health, index, run,
    start_logs, tune,
};

/// Exit codes: 0 after a clean shutdown, 1 when the server could not start or serve, 2 for wrong usage.
fn main() -> ExitCode {
    let args = match Args::read(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => return wrong_usage(&error),
    };
    let done = match args.command {
        Some(tool) => {
            start_logs(args.logs.log_level, LogFormat::Text);
            use_tool(tool, (&args.network.host, args.network.port, args.network.is_tls()))
        }
        None => match args.resolve() {
            Ok(config) => serve(config),
            Err(error) => return wrong_usage(&error),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// The message, and of its causes those that it does not tell itself: each is said once.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        before if before.contains(&cause) => told,
        before => format!("{before}: {cause}"),
    })
}

fn wrong_usage(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(2)
}

fn serve(config: Config) -> anyhow::Result<()> {
    start_logs(config.logs.log_level, config.logs.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(run(config));
    // A picture that is being decoded cannot be interrupted; nobody waits for it any more.
    runtime.shutdown_background();
    Ok(result?)
}

/// `server` is where a server of this configuration listens, and whether it speaks TLS.
fn use_tool(tool: Tool, server: (&str, u16, bool)) -> anyhow::Result<()> {
    use std::io::Write;

    match tool {
        Tool::Key { name, file } => {
            let key = create_key(&name, &file)?;
            writeln!(std::io::stdout(), "{key}")?;
        }
        Tool::Health { url } => writeln!(std::io::stdout(), "{}", health(url.as_deref(), server)?)?,
        Tool::Embed(args) => drop(embed(&args)?),
        Tool::Index(args) => drop(index(&args)?),
        Tool::Evaluate(args) => {
            let evaluation = evaluate(&args)?;
            let text = if args.json { serde_json::to_string(&evaluation)? } else { evaluation.to_string() };
            writeln!(std::io::stdout(), "{text}")?;
        }
        Tool::Tune(args) => {
            let tuned = tune(&args)?;
            eprint!("{tuned}");
            write!(std::io::stdout(), "{}", tuned.toml())?;
        }
        Tool::Duplicates(args) => {
            let found = duplicates(&args)?;
            let text = if args.json { serde_json::to_string(&found)? } else { found.to_string() };
            writeln!(std::io::stdout(), "{}", text.trim_end())?;
        }
        Tool::Copy(args) => drop(copy(&args)?),
    }
    Ok(())
}
