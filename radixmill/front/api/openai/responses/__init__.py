"""OpenAI's Responses API: body → items → prompt → session → events → response."""

from radixmill.front.api.openai.responses.routes import KINDS, add_response_routes

__all__ = ["KINDS", "add_response_routes"]
