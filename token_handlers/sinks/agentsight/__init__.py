"""AgentSightClient: token counts for AgentSight's API, as a sink or for a ConversationTracker."""

from token_handlers.sinks.agentsight.client import DEFAULT_ENDPOINT, AgentSightClient, SendFailed

__all__ = ["DEFAULT_ENDPOINT", "AgentSightClient", "SendFailed"]
