"""Errors that know their HTTP face.

    RadixMillError
    ├── CannotStart                 command line: one line, exit code 2
    │   ├── BadModel                the model's files or its architecture are not what we can serve
    │   ├── NoRoom                  it does not fit into the memory that is free
    │   └── ModelChanged            it is not what earlier engines have served under its name
    └── ServeError                  an answer to a client; status, type, code, param
        ├── BadRequest          400
        │   ├── ContextTooLong  400  context_length_exceeded
        │   └── PromptTooLong   400  context_length_exceeded
        ├── Unauthorized        401  invalid_api_key
        ├── Forbidden           403
        ├── NotFound            404
        │   └── UnknownModel    404  model_not_found
        ├── RequestTimeout      408  timeout
        ├── Conflict            409
        ├── TooLarge            413
        ├── Overloaded          429  rate_limit_exceeded
        ├── EngineFailed        500
        │   └── GivenUp         500  engine_failed
        └── NotReady            503

Asserts are for our bugs; these are for users and machines.
"""

from __future__ import annotations


class RadixMillError(Exception):
    """Root of everything RadixMill raises on purpose."""


class CannotStart(RadixMillError):
    """The command cannot go on: `message` says what is wrong, `hint` what to do. Exit code 2, no traceback."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}. {hint}" if hint else message)
        self.message, self.hint = message, hint


class BadModel(CannotStart):
    """The model's files are missing, damaged, or of an architecture that has no model file here."""


class NoRoom(CannotStart):
    """There is too little free memory for the model."""


class ModelChanged(CannotStart):
    """The model is no longer the one that this process would take over: streams would go on with other weights, or with
    other tokens."""

    def __init__(self, what: str) -> None:
        super().__init__(
            what, "Put back what was there, if it is wanted, and POST /admin/reload, which serves what is there then"
        )


class ServeError(RadixMillError):
    """An error that is the answer to a request."""

    status: int = 500
    type: str = "server_error"
    code: str | None = None

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.retry_after = message, param, retry_after
        if code is not None:
            self.code = code

    def body(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class BadRequest(ServeError):
    status, type = 400, "invalid_request_error"


class ContextTooLong(BadRequest):
    code = "context_length_exceeded"

    def __init__(
        self, prompt: int, wanted: int, limit: int, *, param: str = "messages", limited_by: str = "max_tokens"
    ) -> None:
        """`prompt` tokens in the prompt, `wanted` more to generate, `limit` what the server's context holds.

        `limited_by`: the request's field that says how many are wanted.
        """
        asked = f" and {wanted} more were requested" if wanted else ""
        super().__init__(
            f"This model's maximum context length is {limit} tokens, but the prompt has {prompt} tokens{asked} "
            f"({prompt + wanted} in all). Shorten the prompt or lower {limited_by}.",
            param=param,
        )


class PromptTooLong(BadRequest):
    code = "context_length_exceeded"

    def __init__(self, prompt: int, limit: int, *, param: str, least: bool = False) -> None:
        """`prompt` tokens in the prompt, or, if that is only what it has at the `least`; `limit` that it may have."""
        have = f"at least {prompt}" if least else str(prompt)
        super().__init__(f"{param} may have at most {limit} tokens here, but it has {have}.", param=param)


class Unauthorized(ServeError):
    status, type, code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(ServeError):
    status, type, code = 403, "invalid_request_error", "forbidden"


class NotFound(ServeError):
    status, type, code = 404, "invalid_request_error", "not_found"


class UnknownModel(NotFound):
    code = "model_not_found"

    def __init__(self, name: str, served: tuple[str, ...]) -> None:
        super().__init__(
            f"The model `{name}` does not exist here; this server has: {', '.join(served)}.", param="model"
        )


class Conflict(ServeError):
    status, type, code = 409, "invalid_request_error", "conflict"


class RequestTimeout(ServeError):
    """The time that the client, or the server, gave a request is over. Asking again would take as long."""

    status, type, code = 408, "invalid_request_error", "timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request was not done after {seconds:g} seconds, which is all it may take.")


class TooLarge(ServeError):
    status, type, code = 413, "invalid_request_error", "request_too_large"


class Overloaded(ServeError):
    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class EngineFailed(ServeError):
    status, type, code = 500, "server_error", "internal_error"


class GivenUp(EngineFailed):
    """Engines died over it, and nothing else; it is not tried again."""

    code = "engine_failed"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is given up: the engine died over it several times in a row.")


class NotReady(ServeError):
    status, type, code = 503, "server_error", "not_ready"
