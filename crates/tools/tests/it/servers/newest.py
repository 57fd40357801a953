"""A server of the newest era of the protocol, with the reference SDK: over pipes, or over HTTP with a port as argument."""

import base64
import os
import sys
import time

from mcp.server import MCPServer
from mcp.types import ImageContent, ToolAnnotations

server = MCPServer("newest")
kind = sys.argv[1] if len(sys.argv) > 1 else ""


@server.tool(annotations=ToolAnnotations(readOnlyHint=True), description=os.environ.get("ADD_SAYS", "Adds two numbers."))
def add(a: int, b: int) -> int:
    return a + b


@server.tool(description="Writes\u202e something\u200b down.")
def note(text: str) -> str:
    return f"noted {text}"


@server.tool()
def fail() -> str:
    raise ValueError("it does not work")


@server.tool()
def crash() -> str:
    print("the disk is full", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def slow() -> str:
    time.sleep(60)
    return "late"


@server.tool()
def picture() -> ImageContent:
    return ImageContent(type="image", data=base64.b64encode(b"\x89PNG").decode(), mime_type="image/png")


@server.tool()
def secret() -> str:
    return ",".join(sorted(os.environ)) + " " + os.environ.get("TOKEN", "")


if kind.isdigit():
    server.run(transport="streamable-http", port=int(kind), host="127.0.0.1")
else:
    server.run(transport="stdio")
