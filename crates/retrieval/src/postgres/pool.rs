//! Connections: made when they are needed, kept for the next, made anew when the server was gone.

use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{BuildError, Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Address;
use super::failure::{Attempt, Failure};
use super::statement::Statement;
use super::tls;
use crate::error::{Error, Result};

/// Connections of a process, at most. A server of PostgreSQL takes 100 unless it is told otherwise.
const CONNECTIONS: usize = 16;
/// How long a piece of work waits for one.
const WAIT: Duration = Duration::from_secs(10);
/// How long one may take to be made, with all that is asked of a new one.
const CREATE: Duration = Duration::from_secs(20);

pub(super) type Connection = Object<Connector>;

/// Makes connections.
pub(super) struct Connector {
    address: Address,
    pub(super) tls: MakeRustlsConnect,
}

/// A pool without a connection yet.
pub(super) fn pool(address: &Address) -> Result<Pool<Connector>> {
    let connector = Connector { address: address.clone(), tls: tls::connector(address)? };
    let built = Pool::builder(connector)
        .max_size(CONNECTIONS)
        .wait_timeout(Some(WAIT))
        .create_timeout(Some(CREATE))
        .runtime(Runtime::Tokio1)
        .build();
    built.map_err(|error: BuildError| server_error(address, &error.to_string()))
}

impl Manager for Connector {
    type Type = Client;
    type Error = Failure;

    async fn create(&self) -> Attempt<Client> {
        let config = self.address.with_password()?;
        let (client, connection) = config.connect(self.tls.clone()).await?;
        tokio::spawn(async move {
            // What breaks it is told to who waits for an answer.
            let _ = connection.await;
        });
        prepare(&client, &self.address).await?;
        Ok(client)
    }

    async fn recycle(&self, client: &mut Client, _: &Metrics) -> RecycleResult<Failure> {
        if client.is_closed() { Err(RecycleError::message("the server closed it")) } else { Ok(()) }
    }
}

/// Settings of a session: where tables and the extension's types are; changes that are on the disk when they are
/// acknowledged, whatever the role's default is; searches that are not compiled first; an index that goes on until enough
/// rows match.
pub(super) async fn prepare(client: &Client, address: &Address) -> Attempt<()> {
    let mut statement = Statement::default();
    let schema = statement.bind(address.schema.clone(), Type::TEXT);
    statement.push(&format!(
        "SELECT set_config('search_path', concat_ws(', ', quote_ident({schema}), (SELECT quote_ident(nspname) \
             FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'vector')), false), \
         set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false), \
         set_config('jit', 'off', false), \
         set_config('hnsw.iterative_scan', 'relaxed_order', false)"
    ));
    statement.query(client).await?;
    Ok(())
}

/// A connection of the pool.
pub(super) async fn take(pool: &Pool<Connector>, address: &Address) -> Attempt<Connection> {
    let unavailable = |reason: String| Error::Unavailable { server: address.to_string(), reason };
    pool.get().await.map_err(|error| match error {
        PoolError::Backend(failure) => failure,
        PoolError::Timeout(deadpool::managed::TimeoutType::Wait) => {
            unavailable(format!("all {CONNECTIONS} connections were in use for {} s", WAIT.as_secs())).into()
        }
        PoolError::Timeout(_) => {
            unavailable(format!("it did not answer within {} s", CREATE.as_secs())).into()
        }
        _ => server_error(address, "its connections were given up").into(),
    })
}

fn server_error(address: &Address, reason: &str) -> Error {
    Error::Server { server: address.to_string(), reason: reason.to_owned() }
}
