//! Keys of one LiveCluster in Redis, the values under them, and the scripts that change them.
//!
//! All keys of a cluster share one hash tag, `{uid}`, so that several clusters share a Redis
//! and Redis Cluster runs the scripts on one shard.
