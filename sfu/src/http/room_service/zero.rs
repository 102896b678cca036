//! JSON replies with nothing set: the names that Twirp's servers in Go always write.

use serde_json::{Value, json};

pub(super) fn empty() -> Value {
    json!({})
}

pub(super) fn room() -> Value {
    json!({
        "sid": "", "name": "", "empty_timeout": 0, "departure_timeout": 0, "max_participants": 0,
        "creation_time": "0", "creation_time_ms": "0", "turn_password": "",
        "enabled_codecs": [{ "mime": "", "fmtp_line": "" }], "metadata": "", "num_participants": 0, "num_publishers": 0, "active_recording": false,
        "version": null
    })
}

pub(super) fn rooms() -> Value {
    json!({ "rooms": [room()] })
}

pub(super) fn participant() -> Value {
    json!({
        "sid": "", "identity": "", "state": "JOINING", "tracks": [track()], "metadata": "",
        "joined_at": "0", "joined_at_ms": "0", "name": "", "version": 0,
        "permission": permission(), "region": "", "is_publisher": false, "kind": "STANDARD", "attributes": {},
        "disconnect_reason": "UNKNOWN_REASON", "kind_details": [], "data_tracks": [],
        "client_protocol": 0, "capabilities": []
    })
}

pub(super) fn muted_track() -> Value {
    json!({ "track": track() })
}

pub(super) fn rpc() -> Value {
    json!({ "payload": "" })
}

pub(super) fn dispatch() -> Value {
    json!({
        "id": "", "agent_name": "", "room": "", "metadata": "", "state": null,
        "restart_policy": "JRP_ON_FAILURE", "deployment": "", "attributes": {}
    })
}

pub(super) fn dispatches() -> Value {
    json!({ "agent_dispatches": [dispatch()] })
}

pub(super) fn participants() -> Value {
    json!({ "participants": [participant()] })
}

fn track() -> Value {
    json!({
        "sid": "", "type": "AUDIO", "name": "", "muted": false, "width": 0, "height": 0,
        "simulcast": false, "disable_dtx": false, "source": "UNKNOWN", "layers": [layer()],
        "mime_type": "", "mid": "", "codecs": [codec()], "stereo": false, "disable_red": false,
        "encryption": "NONE", "stream": "", "version": null, "audio_features": [],
        "backup_codec_policy": "PREFER_REGRESSION", "packet_trailer_features": []
    })
}

fn codec() -> Value {
    json!({
        "mime_type": "", "mid": "", "cid": "", "layers": [layer()], "video_layer_mode": "MODE_UNUSED",
        "sdp_cid": ""
    })
}

fn layer() -> Value {
    json!({
        "quality": "LOW", "width": 0, "height": 0, "bitrate": 0, "ssrc": 0, "spatial_layer": 0,
        "rid": "", "repair_ssrc": 0
    })
}

/// Each participant has it.
fn permission() -> Value {
    json!({
        "can_subscribe": false, "can_publish": false, "can_publish_data": false,
        "can_publish_sources": [], "hidden": false, "recorder": false,
        "can_update_metadata": false, "agent": false, "can_subscribe_metrics": false,
        "can_manage_agent_session": false
    })
}
