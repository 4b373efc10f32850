"""Stands in for a server where the tutorial's code is tested without a model: `--port N`, canned answers."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.reply({"object": "list", "data": [{"id": "fake", "object": "model", "created": 0, "owned_by": "tests"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body.get("stream"):
            return self.stream()
        chat = self.path == "/v1/chat/completions"
        text: dict[str, Any] = {"message": {"role": "assistant", "content": "Hello."}} if chat else {"text": " hello"}
        choices = [{"index": i, "finish_reason": "stop", "logprobs": None, **text} for i in range(body.get("n") or 1)]
        self.reply({"id": "x", "object": "y", "created": 0, "model": "fake", "choices": choices, "usage": USAGE})

    def reply(self, answer: object) -> None:
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        head = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "fake"}
        for delta in ({"role": "assistant"}, {"content": "Once "}, {"content": "upon"}):
            self.event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        self.event({**head, "choices": [], "usage": USAGE})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, data: object) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")

    def log_message(self, *args: object) -> None:
        pass


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}

if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
