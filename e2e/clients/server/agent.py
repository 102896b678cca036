"""An agent as an application writes it: greets everybody in its room."""

from livekit.agents import AgentServer, JobContext, cli

# The machine of a test is busy: the worker takes jobs all the same.
server = AgentServer(load_threshold=float("inf"), num_idle_processes=1, port=0)


@server.rtc_session()
async def greet(context: JobContext) -> None:
    await context.connect()
    await context.room.local_participant.publish_data(
        f"welcome to {context.room.name}", reliable=True, topic="greeting"
    )


if __name__ == "__main__":
    cli.run_app(server)
