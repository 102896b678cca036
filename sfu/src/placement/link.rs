//! The connection to Redis: to one server, to the one that its Sentinels name, or to a Redis Cluster.
//! It is made, and made again, in the background.

mod connection;

use std::time::Duration;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::cluster::ClusterClient;
use ::redis::io::tcp::TcpSettings;
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError,
    RedisResult, TlsCertificates,
};
use contract::sfu_config::RedisConfig;
use parking_lot::Mutex;

use super::redis::{ANSWER_TIMEOUT, StoreError};
use crate::settings::read;
pub(super) use connection::Connection;

/// How often the Sentinels are asked which server is the master, or a cluster that did not answer is
/// tried again.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long sent data may wait to be acknowledged before a connection is given up. While packets are
/// lost the kernel waits longer and longer between its tries: without this bound a connection would
/// be silent for as long again as the network was cut.
const UNACKNOWLEDGED: Duration = Duration::from_secs(2);
/// Longest wait for one Sentinel: several are asked while a lease lives.
const SENTINEL_TIMEOUT: Duration = Duration::from_millis(500);

/// Who may use Redis, and how it is reached.
struct Access {
    tls: bool,
    /// Authorities that it is checked against, in PEM; the system's where there are none.
    authorities: Option<Vec<u8>>,
    username: Option<String>,
    password: Option<String>,
}

impl Access {
    fn of(config: &RedisConfig) -> Result<Self, StoreError> {
        let password = match (&config.password_file, &config.password) {
            (Some(path), _) => Some(read(path)?.trim().to_owned()),
            (None, password) => password.as_ref().map(|password| password.0.clone()),
        };
        let authorities = config.ca_file.as_deref().map(read).transpose()?.map(String::into_bytes);
        Ok(Self { tls: config.tls, authorities, username: config.username.clone(), password })
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
        Ok(info.set_redis_settings(redis).set_tcp_settings(tcp_settings()))
    }

    fn certificates(&self) -> Option<TlsCertificates> {
        let authorities = self.authorities.clone().filter(|_| self.tls)?;
        Some(TlsCertificates { client_tls: None, root_cert: Some(authorities) })
    }

    fn client(&self, address: &str, authenticates: bool) -> RedisResult<Client> {
        let info = self.to(address, authenticates)?;
        match self.certificates() {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        }
    }

    fn connect(&self, address: &str) -> RedisResult<ConnectionManager> {
        let options = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(ANSWER_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_number_of_retries(1);
        ConnectionManager::new_lazy_with_config(self.client(address, true)?, options)
    }

    fn cluster(&self, addresses: &[String]) -> RedisResult<ClusterClient> {
        let nodes: RedisResult<Vec<ConnectionInfo>> =
            addresses.iter().map(|address| self.to(address, true)).collect();
        let builder = ClusterClient::builder(nodes?)
            .connection_timeout(ANSWER_TIMEOUT)
            .response_timeout(ANSWER_TIMEOUT)
            .tcp_settings(tcp_settings())
            .retries(1);
        match self.certificates() {
            Some(certificates) => builder.certs(certificates).build(),
            None => builder.build(),
        }
    }
}

fn tcp_settings() -> TcpSettings {
    TcpSettings::default().set_nodelay(true).set_user_timeout(UNACKNOWLEDGED)
}

/// The server that is used now.
struct Server {
    address: String,
    connection: Connection,
}

/// How the server is found.
enum Way {
    /// It is always the same.
    Fixed,
    /// The Sentinels at these addresses name it; they watch it by this name.
    Sentinels(Vec<String>, String),
    /// Each key of a cluster is at one of its servers, all of ours at the same.
    Cluster(Box<ClusterClient>),
}

/// The way to Redis.
pub(super) struct Link {
    access: Access,
    way: Way,
    server: Mutex<Option<Server>>,
}

impl Link {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, StoreError> {
        let access = Access::of(config)?;
        let (way, server) = if let Some(sentinel) = &config.sentinel {
            (Way::Sentinels(sentinel.addresses.clone(), sentinel.master.clone()), None)
        } else if config.cluster.is_empty() {
            let address = config.address.clone();
            let connection = Connection::Server(access.connect(&address)?);
            (Way::Fixed, Some(Server { address, connection }))
        } else {
            (Way::Cluster(Box::new(access.cluster(&config.cluster)?)), None)
        };
        Ok(Self { access, way, server: Mutex::new(server) })
    }

    /// A connection to the server of the moment.
    pub(super) fn connection(&self) -> Result<Connection, StoreError> {
        let server = self.server.lock();
        server.as_ref().map(|server| server.connection.clone()).ok_or(StoreError::NoServer)
    }

    /// Follows what the Sentinels say, or finds the cluster; never ends.
    pub(super) async fn follow(&self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match &self.way {
                Way::Fixed => return std::future::pending().await,
                Way::Sentinels(sentinels, master) => {
                    if let Some(address) = self.ask_sentinels(sentinels, master).await {
                        self.turn_to(address, master);
                    }
                }
                Way::Cluster(client) => {
                    if self.join_cluster(client).await {
                        return std::future::pending().await;
                    }
                }
            }
        }
    }

    /// Connects to the cluster; from then on the connection finds its servers by itself.
    async fn join_cluster(&self, client: &ClusterClient) -> bool {
        match client.get_async_connection().await {
            Ok(connection) => {
                tracing::info!("The Redis Cluster is found");
                let connection = Connection::Cluster(connection);
                *self.server.lock() = Some(Server { address: String::new(), connection });
                true
            }
            Err(error) => {
                tracing::warn!(%error, "The Redis Cluster does not answer");
                false
            }
        }
    }

    fn turn_to(&self, address: String, master: &str) {
        let mut server = self.server.lock();
        if server.as_ref().is_some_and(|server| server.address == address) {
            return;
        }
        match self.access.connect(&address) {
            Ok(connection) => {
                tracing::info!(address, master, "The Sentinels name the master");
                *server = Some(Server { address, connection: Connection::Server(connection) });
            }
            Err(error) => tracing::warn!(%error, address, "The master's address is unusable"),
        }
    }

    /// The master by the first Sentinel that knows it.
    async fn ask_sentinels(&self, sentinels: &[String], master: &str) -> Option<String> {
        for sentinel in sentinels {
            let said = match self.ask(sentinel, master, false).await {
                Err(error) if needs_password(&error) => self.ask(sentinel, master, true).await,
                said => said,
            };
            match said {
                Ok(Some((host, port))) if host.contains(':') => {
                    return Some(format!("[{host}]:{port}"));
                }
                Ok(Some((host, port))) => return Some(format!("{host}:{port}")),
                Ok(None) => tracing::warn!(sentinel, master, "No such master"),
                Err(error) => tracing::debug!(%error, sentinel, "Sentinel does not answer"),
            }
        }
        None
    }

    async fn ask(
        &self,
        sentinel: &str,
        master: &str,
        authenticates: bool,
    ) -> RedisResult<Option<(String, String)>> {
        let client = self.access.client(sentinel, authenticates)?;
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(SENTINEL_TIMEOUT))
            .set_response_timeout(Some(SENTINEL_TIMEOUT));
        let mut connection = client.get_multiplexed_async_connection_with_config(&options).await?;
        let mut question = ::redis::cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(master);
        question.query_async(&mut connection).await
    }
}

/// Sentinels have passwords of their own, mostly none.
fn needs_password(error: &RedisError) -> bool {
    error.code() == Some("NOAUTH") || error.kind() == ErrorKind::AuthenticationFailed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_nobody_acknowledges_ends_within_a_lease() {
        let access = Access { tls: false, authorities: None, username: None, password: None };
        let info = access.to("redis:6379", true).expect("an address");
        let limit = info.tcp_settings().user_timeout().expect("a limit");
        assert!(limit + ANSWER_TIMEOUT < contract::redis::NODE_LEASE);
    }
}
