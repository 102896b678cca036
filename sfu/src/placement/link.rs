//! The connection to Redis: to one server, or to the one that its Sentinels name. It is made, and
//! made again, in the background.

use std::time::Duration;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError,
    RedisResult,
};
use contract::sfu_config::RedisConfig;
use parking_lot::Mutex;

use super::redis::{ANSWER_TIMEOUT, StoreError};
use crate::settings::read;

/// How often the Sentinels are asked which server is the master.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for one Sentinel: several are asked while a lease lives.
const SENTINEL_TIMEOUT: Duration = Duration::from_millis(500);

/// Who may use Redis, and how it is reached.
struct Access {
    tls: bool,
    username: Option<String>,
    password: Option<String>,
}

impl Access {
    fn of(config: &RedisConfig) -> Result<Self, StoreError> {
        let password = match (&config.password_file, &config.password) {
            (Some(path), _) => Some(read(path)?.trim().to_owned()),
            (None, password) => password.as_ref().map(|password| password.0.clone()),
        };
        Ok(Self { tls: config.tls, username: config.username.clone(), password })
    }

    /// How the server at `address`, `host:port`, is reached.
    fn to(&self, address: &str, authenticates: bool) -> RedisResult<ConnectionInfo> {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let info = format!("{scheme}://{address}").into_connection_info()?;
        let mut redis = info.redis_settings().clone();
        if authenticates {
            if let Some(username) = &self.username {
                redis = redis.set_username(username);
            }
            if let Some(password) = &self.password {
                redis = redis.set_password(password);
            }
        }
        Ok(info.set_redis_settings(redis))
    }

    fn connect(&self, address: &str) -> RedisResult<ConnectionManager> {
        let options = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(ANSWER_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_number_of_retries(1);
        ConnectionManager::new_lazy_with_config(Client::open(self.to(address, true)?)?, options)
    }
}

/// The server that is used now.
struct Server {
    address: String,
    connection: ConnectionManager,
}

/// The way to Redis.
pub(super) struct Link {
    access: Access,
    /// Sentinels, and the name under which they watch the master; none for one server.
    sentinels: Vec<String>,
    master: String,
    server: Mutex<Option<Server>>,
}

impl Link {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, StoreError> {
        let access = Access::of(config)?;
        let (server, sentinels, master) = match &config.sentinel {
            None => {
                let (address, connection) =
                    (config.address.clone(), access.connect(&config.address)?);
                (Some(Server { address, connection }), Vec::new(), String::new())
            }
            Some(sentinel) => (None, sentinel.addresses.clone(), sentinel.master.clone()),
        };
        Ok(Self { access, sentinels, master, server: Mutex::new(server) })
    }

    /// A connection to the server of the moment.
    pub(super) fn connection(&self) -> Result<ConnectionManager, StoreError> {
        let server = self.server.lock();
        server.as_ref().map(|server| server.connection.clone()).ok_or(StoreError::NoMaster)
    }

    /// Follows what the Sentinels say; never ends.
    pub(super) async fn follow(&self) {
        if self.sentinels.is_empty() {
            return std::future::pending().await;
        }
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Some(address) = self.ask_sentinels().await {
                self.turn_to(address);
            }
        }
    }

    fn turn_to(&self, address: String) {
        let mut server = self.server.lock();
        if server.as_ref().is_some_and(|server| server.address == address) {
            return;
        }
        match self.access.connect(&address) {
            Ok(connection) => {
                tracing::info!(address, master = self.master, "The Sentinels name the master");
                *server = Some(Server { address, connection });
            }
            Err(error) => tracing::warn!(%error, address, "The master's address is unusable"),
        }
    }

    /// The master by the first Sentinel that knows it.
    async fn ask_sentinels(&self) -> Option<String> {
        for sentinel in &self.sentinels {
            let said = match self.ask(sentinel, false).await {
                Err(error) if needs_password(&error) => self.ask(sentinel, true).await,
                said => said,
            };
            match said {
                Ok(Some((host, port))) if host.contains(':') => {
                    return Some(format!("[{host}]:{port}"));
                }
                Ok(Some((host, port))) => return Some(format!("{host}:{port}")),
                Ok(None) => tracing::warn!(sentinel, master = self.master, "No such master"),
                Err(error) => tracing::debug!(%error, sentinel, "Sentinel does not answer"),
            }
        }
        None
    }

    async fn ask(
        &self,
        sentinel: &str,
        authenticates: bool,
    ) -> RedisResult<Option<(String, String)>> {
        let client = Client::open(self.access.to(sentinel, authenticates)?)?;
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(SENTINEL_TIMEOUT))
            .set_response_timeout(Some(SENTINEL_TIMEOUT));
        let mut connection = client.get_multiplexed_async_connection_with_config(&options).await?;
        let mut question = ::redis::cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(&self.master);
        question.query_async(&mut connection).await
    }
}

/// Sentinels have passwords of their own, mostly none.
fn needs_password(error: &RedisError) -> bool {
    error.code() == Some("NOAUTH") || error.kind() == ErrorKind::AuthenticationFailed
}
