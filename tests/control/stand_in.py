#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Stands in for tapdisk where a test needs rings, and there is no Xen: it takes every
ring, and serves nothing. The key hang=METHOD in its disk is a method that it never
answers.
"""
import asyncio
import json
import os
import sys

words = [word for word in sys.argv[1:] if word not in ("--read-only", "--peek")]
options = dict(zip(words[::2], words[1::2]))
info = {"name": options["--name"], "spec": options["--disk"], "pid": os.getpid(),
        "size": 8 << 20, "block_size": 512, "cluster": 4096, "read_only": False,
        "can": ["write", "discard"], "nbd": [], "xen": None, "peek": "--peek" in sys.argv}
hang = options["--disk"].rpartition(",hang=")[2]
keys = dict(key.split("=", 1) for key in options["--disk"].split(",")[1:])
info["queues"] = int(keys.get("queues", 1))
waiting = []


async def answer(writer, request):
    method, params = request["method"], request.get("params", {})
    result = info
    print(f"{info['name']}: is asked to {method}", file=sys.stderr, flush=True)
    if method == hang:
        return
    if method == "xen-wait":
        waiting.append((writer, request))
        return
    if method == "xen-connect":
        info["xen"] = params
    elif method == "xen-disconnect":
        info["xen"] = None
        while waiting:
            send(*waiting.pop(), {"broken": False})
    elif method == "resize":
        info["size"] = int(params["size"])
    elif method == "quit":
        result = {}
    send(writer, request, result)
    if method == "quit":
        await writer.drain()
        sys.exit(0)


def send(writer, request, result):
    writer.write(json.dumps({"jsonrpc": "2.0", "id": request["id"],
                             "result": result}).encode() + b"\n")


async def client(reader, writer):
    while line := await reader.readline():
        await answer(writer, json.loads(line))
    writer.close()


async def main():
    server = await asyncio.start_unix_server(client, options["--control"])
    os.write(int(options["--ready-fd"]), b'{"ready": true}\n')
    os.close(int(options["--ready-fd"]))
    await server.serve_forever()

asyncio.run(main())
