//! From a configuration to a running server.

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::auth::Keys;
use crate::config::Config;
use crate::fetch::Fetcher;
use crate::loader::{Loader, StartError};
use crate::routes::{app, cross_origin};
use crate::serve::{Timeouts, serve};
use crate::state::{AppState, Expected};
use crate::telemetry::Telemetry;

/// Listens at once (answering 503), loads the models, indexes the gallery, and serves until SIGTERM or SIGINT. SIGHUP
/// reads models and keys again.
pub async fn run(config: Config) -> Result<(), StartError> {
    let expected = Expected {
        models: config.models.iter().map(|m| m.name.clone()).collect(),
        gallery: config.gallery.is_some(),
        store: config.data.is_some(),
    };
    let state = AppState::new(config.limits.clone(), expected);
    if let Some(hosts) = &config.fetch {
        state.set_fetcher(Fetcher::new(hosts.clone(), config.limits.read_timeout, config.limits.max_body));
    }
    if let Some(endpoint) = &config.otlp_endpoint {
        state.set_telemetry(Telemetry::start(endpoint));
    }
    if let Some(path) = &config.api_keys {
        state.set_keys(Keys::read(path)?);
    }
    state.set_trusted_proxies(config.trusted_proxies.clone());
    let listen = |source| StartError::Listen { address: config.address, source };
    let listener = TcpListener::bind(config.address).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let [mut terminate, mut interrupt, mut hangup] = signals()?;
    tracing::info!("occlude-serve {} on http://{address}", env!("CARGO_PKG_VERSION"));

    let (loader, loaded) = Loader::start(config.clone(), state.clone());
    let (failed, mut failure) = oneshot::channel();
    let end = async {
        let load = async {
            match loaded.await {
                Ok(Err(error)) => drop(failed.send(error)),
                // Loaded, or the loader was dropped: serve until a signal.
                _ => std::future::pending().await,
            }
        };
        let again = async {
            while hangup.recv().await.is_some() {
                tracing::info!("SIGHUP: reading models and keys again");
                loader.reload();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: finishing what was accepted"),
            _ = interrupt.recv() => tracing::info!("SIGINT: finishing what was accepted"),
            () = load => {}
            () = again => {}
        }
    };
    let timeouts = Timeouts {
        head: config.limits.read_timeout,
        drain: config.drain_timeout,
        max_connections: config.max_connections,
    };
    let router = cross_origin(app(state.clone()), &config.cors);
    let closing = state.clone();
    serve(listener, router, state, timeouts, end).await;
    // Closing writes the approximate indexes; without it the next start builds them anew.
    closing.close_store();
    closing.close_telemetry();
    failure.try_recv().map_or(Ok(()), Err)
}

fn signals() -> Result<[Signal; 3], StartError> {
    let listen = |kind| signal(kind).map_err(StartError::Signal);
    Ok([listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?])
}
