//! Which agents a room asks for, and what becomes of their jobs.

use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::{Job, JobState, JobStatus, JobType, RoomAgentDispatch, RoomConfiguration};
use sfu_core::signal::join::PeerConnectionMode::Single;

use crate::client::*;

/// Kind, agent and participant of each wanted job.
fn wanted(world: &mut World) -> Vec<(JobType, String, String)> {
    let describe = |job: Job| {
        let participant = job.participant.clone().unwrap_or_default().identity;
        (job.r#type(), job.agent_name, participant)
    };
    std::mem::take(&mut world.jobs).into_iter().map(describe).collect()
}

fn named(agent_name: &str) -> RoomAgentDispatch {
    RoomAgentDispatch { agent_name: agent_name.to_owned(), ..RoomAgentDispatch::default() }
}

fn entry(kind: JobType, agent: &str, participant: &str) -> (JobType, String, String) {
    (kind, agent.to_owned(), participant.to_owned())
}

/// A worker takes the last wanted job and its agent enters.
fn assign(world: &mut World, agent: &str) -> Job {
    let job = world.jobs.pop().unwrap();
    let mut state = JobState { participant_identity: agent.to_owned(), ..JobState::default() };
    state.set_status(JobStatus::JsRunning);
    world.call(|room, now| room.job_assigned(job.clone(), state, now));
    job
}

#[test]
fn unnamed_agents_are_wanted_for_room_participants_and_publishers() {
    let mut world = World::new();
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let expected = [
        entry(JobType::JtRoom, "", ""),
        entry(JobType::JtParticipant, "", "anna"),
        entry(JobType::JtPublisher, "", "anna"),
    ];
    assert_eq!(wanted(&mut world), expected);
    enter_single(&mut world, "ben", SINGLE_START);
    assert_eq!(wanted(&mut world), [entry(JobType::JtParticipant, "", "ben")]);
}

#[test]
fn the_first_token_or_the_api_names_the_agents() {
    let mut world = World::new();
    let mut joining = params("anna", Single);
    joining.claims.room_config =
        Some(RoomConfiguration { agents: vec![named("helper")], ..Default::default() });
    world.join(joining).unwrap();
    assert_eq!(wanted(&mut world), [entry(JobType::JtRoom, "helper", "")]);

    let mut world = World::new();
    world.call(|room, now| room.create_dispatch(named("scribe"), now)).unwrap();
    assert_eq!(wanted(&mut world), [entry(JobType::JtRoom, "scribe", "")]);
    enter_single(&mut world, "anna", SINGLE_START);
    assert_eq!(wanted(&mut world), [entry(JobType::JtParticipant, "scribe", "anna")]);
}

#[test]
fn agents_get_no_agents() {
    let mut world = World::new();
    enter_single(&mut world, "anna", SINGLE_START);
    wanted(&mut world);
    let mut agent = params("agent", Single);
    agent.claims.kind = "agent".to_owned();
    let session = world.join(agent).unwrap();
    world.signal(session, offer(SINGLE_START, 1));
    let transport = *world.opened.last().unwrap();
    world.connect(transport);
    assert!(wanted(&mut world).is_empty());
}

#[test]
fn a_job_ends_with_its_agent_its_dispatch_or_its_room() {
    for end in ["agent", "dispatch", "room"] {
        let mut world = World::new();
        enter_single(&mut world, "anna", SINGLE_START);
        world.jobs.truncate(1);
        let job = assign(&mut world, "agent");
        let mut joining = params("agent", Single);
        joining.claims.kind = "agent".to_owned();
        let agent = world.join(joining).unwrap();
        match end {
            "agent" => world.signal(agent, Request::Leave(Default::default())),
            "dispatch" => {
                let id = job.dispatch_id.clone();
                world.call(|room, now| room.delete_dispatch(&id, now)).unwrap();
                assert!(world.room.dispatches().is_empty());
            }
            _ => {
                world.call(|room, now| {
                    room.close(sfu_core::room::RoomCloseReason::Deleted, now);
                });
            }
        }
        assert_eq!(world.terminated, [job.id], "{end}");
    }
}

#[test]
fn a_worker_reports_how_its_job_is() {
    let mut world = World::new();
    enter_single(&mut world, "anna", SINGLE_START);
    world.jobs.truncate(1);
    let job = assign(&mut world, "agent");
    world.call(|room, now| room.update_job(&job.id, JobStatus::JsSuccess, "", now));
    let state = world.room.dispatches()[0].state.clone().unwrap().jobs[0].state.clone().unwrap();
    assert_eq!(state.status(), JobStatus::JsSuccess);
    assert!(state.ended_at > 0);
    let names: Vec<&str> = world.events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[names.len() - 2..], ["agent_job_started", "agent_job_ended"]);
}

#[test]
fn a_worker_that_is_done_before_the_room_knows_it_counts() {
    let mut world = World::new();
    enter_single(&mut world, "anna", SINGLE_START);
    world.jobs.truncate(1);
    let id = world.jobs[0].id.clone();
    world.call(|room, now| room.update_job(&id, JobStatus::JsSuccess, "", now));
    assign(&mut world, "agent");
    let state = world.room.dispatches()[0].state.clone().unwrap().jobs[0].state.clone().unwrap();
    assert_eq!(state.status(), JobStatus::JsSuccess);
}

#[test]
fn a_lost_worker_is_replaced_unless_its_agent_is_here() {
    for here in [false, true] {
        let mut world = World::new();
        enter_single(&mut world, "anna", SINGLE_START);
        world.jobs.truncate(1);
        let job = assign(&mut world, "agent");
        if here {
            world.join(params("agent", Single)).unwrap();
        }
        wanted(&mut world);
        world.call(|room, now| room.worker_lost(&job.id, now));
        let replaced = wanted(&mut world);
        assert_eq!(replaced.len(), usize::from(!here));
    }
}

#[test]
fn a_job_of_a_dispatch_that_was_deleted_meanwhile_is_terminated() {
    let mut world = World::new();
    let dispatch = world.call(|room, now| room.create_dispatch(named("slow"), now)).unwrap();
    let job = world.jobs.pop().unwrap();
    world.call(|room, now| room.delete_dispatch(&dispatch.id, now)).unwrap();
    world.call(|room, now| room.job_assigned(job.clone(), JobState::default(), now));
    assert_eq!(world.terminated, [job.id]);
}

#[test]
fn dispatches_are_bounded() {
    let mut world = World::new();
    for _ in 0..64 {
        world.call(|room, now| room.create_dispatch(named("x"), now)).unwrap();
    }
    world.call(|room, now| room.create_dispatch(named("x"), now)).unwrap_err();
}
