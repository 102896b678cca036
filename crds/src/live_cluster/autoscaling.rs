//! How many media nodes there are, by what they do.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Period;

/// How many media nodes there are, by what they do.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.minNodes <= self.maxNodes")
        .message("spec.autoscaling.minNodes must not be above spec.autoscaling.maxNodes"),
    validation = Rule::new("self.mode == 'None' || has(self.roomsPerNode) || has(self.subscribersPerNode) || self.loadPercent > 0")
        .message("spec.autoscaling needs a target: roomsPerNode, subscribersPerNode or loadPercent"),
    validation = Rule::new("self.freeSlots == 0 || has(self.roomsPerNode)")
        .message("spec.autoscaling.freeSlots needs spec.autoscaling.roomsPerNode"),
    validation = Rule::new("self.mode != 'None' || !(has(self.roomsPerNode) || has(self.subscribersPerNode))")
        .message("spec.autoscaling.roomsPerNode and subscribersPerNode need spec.autoscaling.mode HPA or BuiltIn")
)]
pub struct AutoscalingSpec {
    /// Who sets `spec.nodes`: `None` (a person), `HPA` (a HorizontalPodAutoscaler that the
    /// operator makes, fed by the operator's custom metrics API; where that API cannot be had,
    /// the operator itself) or `BuiltIn` (the operator itself).
    #[serde(default)]
    pub mode: AutoscalingMode,
    /// Fewest media nodes.
    #[serde(default = "default_min_nodes")]
    #[schemars(range(min = 1, max = 1000))]
    #[schemars(extend("format" = "int32"))]
    pub min_nodes: u16,
    /// Most media nodes, those that leave or are being replaced apart.
    #[serde(default = "default_max_nodes")]
    #[schemars(range(min = 1, max = 1000))]
    #[schemars(extend("format" = "int32"))]
    pub max_nodes: u16,
    /// Rooms for each node to have, on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    #[schemars(extend("format" = "int32"))]
    pub rooms_per_node: Option<u32>,
    /// Participants with at least one subscription for each node to have, on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    #[schemars(extend("format" = "int32"))]
    pub subscribers_per_node: Option<u32>,
    /// Share of time that the media workers of a node may be busy, on average; 0 takes no
    /// account of it.
    #[serde(default = "default_load_percent")]
    #[schemars(range(min = 0, max = 95))]
    #[schemars(extend("format" = "int32"))]
    pub load_percent: u8,
    /// Rooms that must find a place at once beside those that there are: a start of a node takes
    /// seconds, a burst of rooms does not.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    #[schemars(extend("format" = "int32"))]
    pub free_slots: u32,
    /// How fast nodes come and go.
    #[serde(default)]
    pub behavior: ScalingBehavior,
}

impl Default for AutoscalingSpec {
    fn default() -> Self {
        Self {
            mode: AutoscalingMode::default(),
            min_nodes: default_min_nodes(),
            max_nodes: default_max_nodes(),
            rooms_per_node: None,
            subscribers_per_node: None,
            load_percent: default_load_percent(),
            free_slots: 0,
            behavior: ScalingBehavior::default(),
        }
    }
}

impl AutoscalingSpec {
    /// Most nodes that there can be when `nodes` is `spec.nodes`.
    #[must_use]
    pub fn most_nodes(&self, nodes: u16) -> u16 {
        match self.mode {
            AutoscalingMode::None => nodes,
            AutoscalingMode::Hpa | AutoscalingMode::BuiltIn => nodes.max(self.max_nodes),
        }
    }
}

/// Who sets `spec.nodes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AutoscalingMode {
    /// A person, or a scaler that is not ours.
    #[default]
    None,
    /// A HorizontalPodAutoscaler.
    #[serde(rename = "HPA")]
    Hpa,
    /// The operator.
    BuiltIn,
}

/// How fast nodes come and go.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingBehavior {
    /// How nodes come. In each period they may also double, if that is more.
    #[serde(default = "default_scale_out")]
    pub scale_out: ScalingRule,
    /// How nodes go.
    #[serde(default = "default_scale_in")]
    pub scale_in: ScalingRule,
}

impl Default for ScalingBehavior {
    fn default() -> Self {
        Self { scale_out: default_scale_out(), scale_in: default_scale_in() }
    }
}

/// How fast the number of nodes changes in one direction.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.window.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') ? duration(self.window) <= duration('1h') : true")
        .message("the window of spec.autoscaling.behavior must be at most 1h"),
    validation = Rule::new("self.period.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') ? duration(self.period) >= duration('1s') && duration(self.period) <= duration('30m') : true")
        .message("the period of spec.autoscaling.behavior must be from 1s to 30m")
)]
pub struct ScalingRule {
    /// The change happens only when it was asked for all this time (`0s` to `1h`).
    pub window: Period,
    /// Most nodes that come or go in a period.
    #[schemars(range(min = 1, max = 1000))]
    #[schemars(extend("format" = "int32"))]
    pub nodes: u16,
    /// The period (`1s` to `30m`).
    pub period: Period,
}

fn default_min_nodes() -> u16 {
    1
}

/// An account that nobody expected is worse than a room that found no place.
fn default_max_nodes() -> u16 {
    10
}

/// What is left takes a burst until another node is there.
fn default_load_percent() -> u8 {
    70
}

fn default_scale_out() -> ScalingRule {
    ScalingRule { window: Period::from("0s"), nodes: 4, period: Period::from("15s") }
}

/// Meetings begin at full hours, and a node that went must be started again.
fn default_scale_in() -> ScalingRule {
    ScalingRule { window: Period::from("10m"), nodes: 1, period: Period::from("60s") }
}
