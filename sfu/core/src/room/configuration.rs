//! What the creator of a room says of it: itself, and by the name of a preset.

use std::collections::BTreeMap;

use contract::sfu_config::{PresetAgent, RoomPreset};
use livekit_protocol::{RoomAgentDispatch, RoomConfiguration};
use thiserror::Error;

use super::RoomUpdate;

/// There is no preset of that name; LiveKit's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("unknown room configuration in create room request")]
pub struct UnknownPreset;

/// What `wish` says, and where it says nothing what the preset does; without a name there is none.
///
/// # Errors
///
/// When there is no preset of that name.
pub fn configuration(
    wish: RoomConfiguration,
    preset: &str,
    presets: &BTreeMap<String, RoomPreset>,
) -> Result<RoomConfiguration, UnknownPreset> {
    if preset.is_empty() {
        return Ok(wish);
    }
    let preset = presets.get(preset).ok_or(UnknownPreset)?;
    let RoomPreset {
        empty_timeout,
        departure_timeout,
        max_participants,
        min_playout_delay,
        max_playout_delay,
        sync_streams,
        metadata,
        agents,
    } = preset;
    let given = |wish: u32, preset: u32| if wish > 0 { wish } else { preset };
    Ok(RoomConfiguration {
        empty_timeout: given(wish.empty_timeout, *empty_timeout),
        departure_timeout: given(wish.departure_timeout, *departure_timeout),
        max_participants: given(wish.max_participants, *max_participants),
        min_playout_delay: given(wish.min_playout_delay, *min_playout_delay),
        max_playout_delay: given(wish.max_playout_delay, *max_playout_delay),
        sync_streams: wish.sync_streams || *sync_streams,
        metadata: if wish.metadata.is_empty() { metadata.clone() } else { wish.metadata },
        agents: if wish.agents.is_empty() {
            agents.iter().map(dispatch).collect()
        } else {
            wish.agents
        },
        ..wish
    })
}

fn dispatch(agent: &PresetAgent) -> RoomAgentDispatch {
    let PresetAgent { agent_name, metadata, attributes } = agent;
    RoomAgentDispatch {
        agent_name: agent_name.clone(),
        metadata: metadata.clone(),
        attributes: attributes.clone().into_iter().collect(),
        ..RoomAgentDispatch::default()
    }
}

impl From<RoomConfiguration> for RoomUpdate {
    /// Takes what is said; agents are no part of it.
    fn from(wish: RoomConfiguration) -> Self {
        let given = |value: u32| (value > 0).then_some(value);
        Self {
            metadata: (!wish.metadata.is_empty()).then_some(wish.metadata),
            empty_timeout: given(wish.empty_timeout),
            departure_timeout: given(wish.departure_timeout),
            max_participants: given(wish.max_participants),
            min_playout_delay: given(wish.min_playout_delay),
            max_playout_delay: given(wish.max_playout_delay),
            sync_streams: wish.sync_streams.then_some(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presets() -> BTreeMap<String, RoomPreset> {
        let preset = RoomPreset {
            empty_timeout: 1,
            departure_timeout: 2,
            max_participants: 3,
            min_playout_delay: 4,
            max_playout_delay: 5,
            sync_streams: true,
            metadata: "preset".to_owned(),
            agents: vec![PresetAgent { agent_name: "notes".to_owned(), ..PresetAgent::default() }],
        };
        BTreeMap::from([("webinar".to_owned(), preset)])
    }

    fn wish(number: u32, text: &str) -> RoomConfiguration {
        RoomConfiguration {
            empty_timeout: number,
            departure_timeout: number,
            max_participants: number,
            min_playout_delay: number,
            max_playout_delay: number,
            metadata: text.to_owned(),
            agents: (number > 0)
                .then(|| RoomAgentDispatch { agent_name: text.to_owned(), ..Default::default() })
                .into_iter()
                .collect(),
            ..RoomConfiguration::default()
        }
    }

    #[test]
    fn a_preset_fills_what_is_not_said_and_nothing_else() {
        let filled = configuration(wish(0, ""), "webinar", &presets()).unwrap();
        assert_eq!(filled.agents[0].agent_name, "notes");
        let expected = RoomUpdate {
            metadata: Some("preset".to_owned()),
            empty_timeout: Some(1),
            departure_timeout: Some(2),
            max_participants: Some(3),
            min_playout_delay: Some(4),
            max_playout_delay: Some(5),
            sync_streams: Some(true),
        };
        assert_eq!(RoomUpdate::from(filled), expected);
        let said = RoomConfiguration { sync_streams: true, ..wish(9, "own") };
        assert_eq!(configuration(said.clone(), "webinar", &presets()), Ok(said));
    }

    #[test]
    fn without_a_name_nothing_is_filled_and_an_unknown_name_is_refused() {
        assert_eq!(configuration(wish(0, ""), "", &presets()), Ok(wish(0, "")));
        assert_eq!(RoomUpdate::from(wish(0, "")), RoomUpdate::default());
        assert_eq!(configuration(wish(9, "own"), "seminar", &presets()), Err(UnknownPreset));
    }
}
