"""The four answers of the API that verify-phase2b.sh asks for, each of which can be made wrong."""
import http.server
import json
import threading
import uuid


class StubApi:
    """`faults`: names of what goes wrong; `requests`: what was asked, as (action, authorization)."""

    def __init__(self, *faults):
        self.faults = set(faults)
        self.requests = []
        self.run_id = str(uuid.uuid4())
        self.polls = 0
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length))
                stub.requests.append((body["action"], self.headers.get("Authorization")))
                self.send(*stub.execute(body))

            def do_GET(self):
                stub.requests.append(("stream", self.headers.get("Authorization")))
                self.send(200, stub.frames(), "text/event-stream")

            def send(self, status, text, kind="application/json"):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def execute(self, body):
        action = body["action"]
        if f"{action}-500" in self.faults:
            return 503, json.dumps({"detail": "Service temporarily unavailable"})
        status = getattr(self, f"on_{action}")()
        answer = {"run_id": self.run_id, "status": status, "message": "as told", "plan": None}
        if "no-run-id" in self.faults:
            del answer["run_id"]
        return 200, json.dumps(answer)

    def on_create(self):
        return "queued" if "create-queued" in self.faults else "created"

    def on_start(self):
        return "created" if "start-created" in self.faults else "queued"

    def on_stop(self):
        return "cancelled"

    def on_status(self):
        self.polls += 1
        if "stays-queued" in self.faults or self.polls == 1:
            return "queued"
        if "stays-executing" in self.faults or self.polls == 2:
            return "executing"
        return "failed" if "run-fails" in self.faults else "completed"

    def frames(self):
        text = "retry: 2000\n\n"
        for kind in ("connected", "log", "complete"):
            if f"stream-no-{kind}" not in self.faults:
                text += "data: " + json.dumps({"type": kind, "run_id": self.run_id}) + "\n\n"
        return text
