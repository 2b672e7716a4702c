#!/usr/bin/env python3
"""A framework of one's own in Python: runs tasks through offers and hears the fate of each exactly once.

Needs grpcio and grpcio-tools. The stubs are generated from Muster's .proto files at start.
In the middle it drops its event stream on purpose, and resumes by id and cursor.
"""

import argparse
import collections
import importlib
import os
import pathlib
import sys
import tempfile
import uuid

import grpc
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[3] / "proto" / "proto"


def generate(proto):
    """Compiles the .proto files of the scheduler API; returns their modules."""
    out = tempfile.mkdtemp(prefix="muster-python-")
    files = ["muster/types/v1/types.proto", "muster/scheduler/v1/scheduler.proto"]
    if protoc.main(["protoc", f"-I{proto}", f"--python_out={out}", f"--grpc_python_out={out}", *files]) != 0:
        sys.exit(f"error: can't compile the .proto files in {proto}")
    sys.path.insert(0, out)
    names = ["muster.types.v1.types_pb2", "muster.scheduler.v1.scheduler_pb2", "muster.scheduler.v1.scheduler_pb2_grpc"]
    return [importlib.import_module(name) for name in names]


class Framework:
    """One subscription to the scheduler API, which may be dropped and resumed."""

    def __init__(self, modules, channel, token, name):
        self.types, self.api, services = modules
        self.stub = services.SchedulerStub(channel)
        self.metadata = [("authorization", f"Bearer {token}")]
        self.info = self.api.FrameworkInfo(name=name)
        self.framework_id = ""
        self.subscription_id = ""
        self.cursor = None
        self.stream = None

    def subscribe(self):
        """Opens the event stream: as a new framework, or where the last one broke off."""
        request = self.api.SubscribeRequest(
            info=self.info, framework_id=self.framework_id, cursor=self.cursor, request_id=uuid.uuid4().hex
        )
        self.stream = self.stub.Subscribe(request, metadata=self.metadata, wait_for_ready=True)
        subscribed = next(self.stream).subscribed
        self.framework_id = subscribed.framework_id
        self.subscription_id = subscribed.subscription_id

    def drop(self):
        """Ends the stream as a broken network would."""
        self.stream.cancel()

    def caller(self):
        return self.api.Caller(
            framework_id=self.framework_id, subscription_id=self.subscription_id, request_id=uuid.uuid4().hex
        )

    def call(self, method, **fields):
        request = getattr(self.api, f"{method}Request")(caller=self.caller(), **fields)
        return getattr(self.stub, method)(request, metadata=self.metadata, timeout=20)

    def demand(self, shape, count):
        demands = [self.api.Demand(shape=shape, count=count)] if count else []
        self.call("SetDemand", demands=demands)

    def events(self):
        """Events as they come; each durable one once, however often the stream breaks."""
        while True:
            try:
                for event in self.stream:
                    if event.HasField("cursor"):
                        place = (event.cursor.index, event.cursor.ordinal)
                        if self.cursor and place <= (self.cursor.index, self.cursor.ordinal):
                            continue
                        self.cursor = event.cursor
                    yield event
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
                    raise
            print("the stream broke; resuming", file=sys.stderr)
            self.subscribe()
            yield self.api.Event(subscribed=self.api.Subscribed(framework_id=self.framework_id))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--server", default="127.0.0.1:5050")
    arguments.add_argument("--token-file", default="/var/lib/muster-dev/coordinator/token")
    arguments.add_argument("--proto", default=PROTO, help="folder with Muster's .proto files")
    arguments.add_argument("--tasks", type=int, default=100)
    options = arguments.parse_args()

    modules = generate(options.proto)
    types = modules[0]
    token = pathlib.Path(options.token_file).read_text().strip()
    channel = grpc.insecure_channel(options.server.removeprefix("http://"))
    framework = Framework(modules, channel, token, "python-example")
    framework.subscribe()

    shape = types.Resources(cpus_milli=20, mem_mib=16)
    run = uuid.uuid4().hex[:8]
    unlaunched = [f"python-{run}-{number}" for number in range(options.tasks)]
    wanted = set(unlaunched)
    fates = collections.Counter()
    final = {
        types.TASK_STATE_FINISHED, types.TASK_STATE_FAILED, types.TASK_STATE_KILLED,
        types.TASK_STATE_ERROR, types.TASK_STATE_DROPPED, types.TASK_STATE_GONE,
    }
    is_dropped = False
    framework.demand(shape, len(unlaunched))
    for event in framework.events():
        kind = event.WhichOneof("event")
        if kind == "subscribed":
            framework.demand(shape, len(unlaunched))
        elif kind == "offers":
            for offer in event.offers.offers:
                fitting = min(offer.resources.cpus_milli // shape.cpus_milli, offer.resources.mem_mib // shape.mem_mib)
                chosen, unlaunched = unlaunched[:fitting], unlaunched[fitting:]
                tasks = [
                    types.TaskSpec(task_id=task_id, name="python", resources=shape, command=["sh", "-c", "exit 0"])
                    for task_id in chosen
                ]
                launch = framework.api.Operation(launch=framework.api.Launch(tasks=tasks))
                try:
                    answer = framework.call("Accept", offer_ids=[offer.offer_id], operations=[launch])
                    unlaunched += [result.task_id for result in answer.results if result.HasField("refusal")]
                except grpc.RpcError as error:
                    # The offer is gone, with an older subscription for example: nothing was launched.
                    print(f"the offer could not be used: {error.details()}", file=sys.stderr)
                    unlaunched += chosen
            framework.demand(shape, len(unlaunched))
        elif kind == "status" and event.status.state in final:
            fates[event.status.task_id] += 1
            if event.status.state != types.TASK_STATE_FINISHED:
                sys.exit(f"error: {event.status.task_id} did not finish: {event.status.message}")
            if len(fates) == len(wanted):
                break
            if len(fates) >= len(wanted) // 2 and not is_dropped:
                is_dropped = True
                framework.drop()
            elif len(fates) % 10 == 0:
                framework.call("Acknowledge", cursor=framework.cursor)

    framework.call("Acknowledge", cursor=framework.cursor)
    framework.call("Teardown")
    twice = [task_id for task_id, count in fates.items() if count != 1]
    if set(fates) != wanted or twice:
        sys.exit(f"error: {len(wanted - set(fates))} fates are missing, {len(twice)} came twice")
    print(f"{len(fates)} tasks finished, each heard of exactly once, over a dropped connection", flush=True)
    # The interpreter's own end may wait for ever for a thread of grpcio's.
    os._exit(0)


if __name__ == "__main__":
    main()
