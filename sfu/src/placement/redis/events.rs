//! The stream of room events.

use redis::Pipeline;
use tokio::time::timeout;

use super::{ANSWER_TIMEOUT, RedisStore, StoreError};
use crate::room_events::Entry;

impl RedisStore {
    pub(in crate::placement) async fn append_events(
        &self,
        entries: &[Entry],
        length: u32,
    ) -> Result<(), StoreError> {
        let key = self.keys.events();
        let mut pipeline = Pipeline::with_capacity(entries.len());
        for entry in entries {
            // Redis cuts whole blocks of the stream: some entries more may stay.
            pipeline.cmd("XADD").arg(&key).arg("MAXLEN").arg("~").arg(length).arg("*");
            for (field, value) in entry {
                pipeline.arg(field).arg(value);
            }
            pipeline.ignore();
        }
        let mut connection = self.link.connection()?;
        let () = timeout(ANSWER_TIMEOUT, pipeline.query_async(&mut connection)).await??;
        Ok(())
    }
}
