//! LiveKit's `AgentDispatchService`: agents that are sent to a room.

use livekit_protocol as proto;
use sfu_core::room::Room;
use sfu_core::time::Now;

use super::{Answer, Call, TwirpError, room_name, unavailable, zero};
use crate::node::Route;

const NO_DISPATCH: &str = "dispatch does not exist";
const NO_ROOM: &str = "requested room does not exist";

impl Call {
    pub(super) async fn answer_dispatch(self, method: &str) -> Answer {
        match method {
            "CreateDispatch" => self.create_dispatch().await,
            "DeleteDispatch" => self.delete_dispatch().await,
            "ListDispatch" => self.list_dispatch().await,
            _ => Err(TwirpError::bad_route(method)),
        }
    }

    /// A room that does not exist yet begins: the agent shall be there first.
    async fn create_dispatch(self) -> Answer {
        let request: proto::CreateAgentDispatchRequest = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        let room = room_name(&request.room)?;
        let handle = match self.node.route(&room).await.map_err(unavailable)? {
            Route::Local(handle) => handle,
            Route::Remote(home) => return Ok(self.pass_on(&home).await),
        };
        let wish = proto::RoomAgentDispatch {
            agent_name: request.agent_name,
            metadata: request.metadata,
            restart_policy: request.restart_policy,
            deployment: request.deployment,
            attributes: request.attributes,
        };
        let created = handle.call(move |room, now| room.create_dispatch(wish, now)).await;
        let created = created.map_err(|_| TwirpError::not_found(NO_ROOM))?;
        let dispatch =
            created.map_err(|error| TwirpError::failed_precondition(&error.to_string()))?;
        Ok(self.form.encode(&dispatch, &zero::dispatch()))
    }

    async fn delete_dispatch(self) -> Answer {
        let request: proto::DeleteAgentDispatchRequest = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        let delete =
            move |room: &mut Room, now: Now| room.delete_dispatch(&request.dispatch_id, now);
        self.ask(&request.room, NO_DISPATCH, delete, zero::dispatch).await
    }

    async fn list_dispatch(self) -> Answer {
        let request: proto::ListAgentDispatchRequest = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        let id = request.dispatch_id;
        let list = move |room: &mut Room, _: Now| {
            let mut agent_dispatches = room.dispatches();
            agent_dispatches.retain(|dispatch| id.is_empty() || dispatch.id == id);
            Some(proto::ListAgentDispatchResponse { agent_dispatches })
        };
        self.ask(&request.room, NO_ROOM, list, zero::dispatches).await
    }
}
