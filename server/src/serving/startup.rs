//! From a configuration to a running server.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

#[cfg(feature = "grpc")]
use super::app::grpc_app;
use super::app::{app, cross_origin};
use super::keys::Keys;
use super::repository::Repository;
use super::socket::{Door, Timeouts, serve};
use super::state::{AppState, Expected};
#[cfg(feature = "tls")]
use super::tls::Tls;
use crate::config::{Config, host};
use crate::inference::loader::{Loader, StartError};
use crate::observe::telemetry::Telemetry;
use crate::pictures::fetch::Fetcher;

/// Listens at once (answering 503), loads the models, indexes the gallery, and serves until SIGTERM or SIGINT. SIGHUP
/// reads the keys again, at once, and the models that have changed.
pub async fn run(config: Config) -> Result<(), StartError> {
    let state = prepared(&config)?;
    let [mut terminate, mut interrupt, mut hangup] = signals()?;
    #[cfg(feature = "tls")]
    let tls = tls(&config)?;
    let doors = doors(&config, &state).await?;
    #[cfg(feature = "tls")]
    let doors = doors.into_iter().map(|door| door.behind(tls.clone())).collect();
    config.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let (loader, loaded) = Loader::start(config.clone(), state.clone());
    let (folders, kept) = (config.served.model_folder.clone(), config.served.models.clone());
    state.set_repository(Repository::new(folders, kept, loader.orders()));
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
                tracing::info!("SIGHUP: reloading keys, and models that have changed");
                // Not behind the loader, which may be indexing for hours: a key that is gone opens nothing any more.
                reload_keys(&config, &state).await;
                #[cfg(feature = "tls")]
                reload_tls(tls.as_ref());
                loader.reload();
            }
            std::future::pending::<()>().await;
        };
        tokio::pin!(again);
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = load => return,
            () = &mut again => return,
        };
        let delay = config.network.shutdown_delay.time();
        if !delay.is_zero() {
            tracing::info!("{name}: no longer ready; answering for {} s more", delay.as_secs_f64());
            state.start_leaving();
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                // A key that is gone opens nothing in this time, either.
                () = again => {}
            }
        }
        tracing::info!("{name}: finishing accepted requests");
    };
    let timeouts = Timeouts {
        head: config.limits.read_timeout.time(),
        keep_alive: config.network.keep_alive_timeout.time(),
        drain: config.network.drain_timeout.time(),
        max_connections: config.network.max_connections,
    };
    serve(doors, state.clone(), timeouts, end).await;
    // Closing writes the approximate indexes; without it the next start builds them anew.
    state.close_store();
    state.close_telemetry();
    failure.try_recv().map_or(Ok(()), Err)
}

/// The state before anything is loaded.
fn prepared(config: &Config) -> Result<AppState, StartError> {
    let expected = Expected {
        models: config.served.models.iter().map(|m| m.name.clone()).collect(),
        gallery: config.served.gallery.is_some(),
        store: config.served.data.is_some(),
    };
    let state = AppState::new(config.limits.clone(), expected);
    if let Some(hosts) = &config.fetch {
        state.set_fetcher(Fetcher::new(
            hosts.clone(),
            config.limits.read_timeout.time(),
            config.limits.max_body,
        ));
    }
    if let Some(path) = &config.network.api_keys {
        let setting = config.sources.name("api-keys");
        state.set_keys(Keys::read(path).map_err(|source| StartError::Keys { setting, source })?);
    }
    if let Some(endpoint) = &config.otlp_endpoint {
        state.set_telemetry(Telemetry::start(endpoint));
    }
    state.set_trusted_proxies(config.trusted_proxies.clone());
    Ok(state)
}

/// The ports, open: connections wait until they are served.
async fn doors(config: &Config, state: &AppState) -> Result<Vec<Door>, StartError> {
    let (listener, address) = listen(config, "port", config.network.port).await?;
    let scheme = if config.network.is_tls() { "https" } else { "http" };
    tracing::info!("occlude-serve {} on {scheme}://{address}", env!("CARGO_PKG_VERSION"));
    let doors = vec![Door::http(listener, cross_origin(app(state.clone()), &config.cors))];
    #[cfg(feature = "grpc")]
    if let Some(port) = config.network.grpc_port {
        let (listener, address) = listen(config, "grpc-port", port).await?;
        tracing::info!("gRPC on {address}");
        return Ok(doors.into_iter().chain([Door::grpc(listener, grpc_app(state.clone()))]).collect());
    }
    Ok(doors)
}

#[cfg(feature = "tls")]
fn tls(config: &Config) -> Result<Option<Tls>, StartError> {
    let (Some(cert), Some(key)) = (&config.network.tls_cert, &config.network.tls_key) else {
        return Ok(None);
    };
    let setting = config.sources.name("tls-cert");
    Tls::read(cert, key).map(Some).map_err(|source| StartError::Tls { setting, source: Box::new(source) })
}

/// Two small files: nobody waits for them.
#[cfg(feature = "tls")]
fn reload_tls(tls: Option<&Tls>) {
    match tls.map(Tls::reload) {
        None => {}
        Some(Ok(())) => tracing::info!("the certificate was reloaded"),
        Some(Err(error)) => tracing::error!("{error}; the previous certificate stays in use"),
    }
}

/// A port that `setting` names, and its address.
async fn listen(config: &Config, setting: &str, port: u16) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        address: host::with_port(&config.network.host, port),
        source,
        host: config.sources.name("host"),
        port: config.sources.name(setting),
    };
    let name = config.network.host.clone();
    let found = tokio::task::spawn_blocking(move || host::resolve(&name, port)).await;
    let address = found.unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(failed)?;
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

async fn reload_keys(config: &Config, state: &AppState) {
    let Some(path) = config.network.api_keys.clone() else { return };
    match tokio::task::spawn_blocking(move || Keys::read(&path)).await {
        Ok(Ok(keys)) => {
            state.set_keys(keys);
            tracing::info!("keys were reloaded");
        }
        Ok(Err(error)) => tracing::error!("{error}; the previous keys stay in use"),
        Err(error) => tracing::error!("keys were not reloaded: {error}; the previous ones stay in use"),
    }
}

fn signals() -> Result<[Signal; 3], StartError> {
    let listen = |kind| signal(kind).map_err(StartError::Signal);
    Ok([listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?])
}
