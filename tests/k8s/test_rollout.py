"""A rollout as Kubernetes would do it, from version 1 to version 2, with pods killed in between, under steady load."""

from __future__ import annotations

import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from serving.proto.timbre.v1 import timbre_pb2, timbre_pb2_grpc
from tests.conftest import ROOT
from tests.k8s.rollout import Deployment, Load, Pod, Proxy, Request, under
from tests.service import until
from tests.sounds import encode, voice

WAV = encode(voice(1.0), 16_000)
REPLICAS = 2
CLIENTS = 2
"""Of each transport."""
KEYS = 12
"""Of each client."""
# A request that began so shortly after a pod was let go may have been on its way into it.
ON_ITS_WAY_S = 0.3

OLD = 'default: stable\nvariants:\n  stable: {version: "1", weight: 100}\n'
SPLIT = """default: stable
variants:
  stable: {{version: "1", weight: {0}}}
  candidate: {{version: "2", weight: {1}}}
"""
NEW = 'default: candidate\nvariants:\n  candidate: {version: "2", weight: 100}\n'

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy, which is not on this machine")


class Http(Load):
    """Clients by HTTP, each with a connection that is kept."""

    def __init__(self, port: int, clients: int = CLIENTS, keys: int = KEYS) -> None:
        super().__init__(clients, keys)
        self._clients = [httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) for _ in range(clients)]

    def ask(self, client: int, key: str) -> Request:
        asked, began = (f"http-{client}", "http", key), time.monotonic()
        headers = {"Content-Type": "audio/wav", "X-Timbre-Key": key}
        try:
            answer = self._clients[client].post("/predict", content=WAV, headers=headers)
        except httpx.HTTPError as error:
            return Request(*asked, began, time.monotonic(), "", "", "", repr(error))
        got = answer.headers
        failure = "" if answer.is_success else f"{answer.status_code} {answer.text}"
        who = (got.get("x-pod", ""), got.get("x-timbre-variant", ""), got.get("x-model-version", ""))
        return Request(*asked, began, time.monotonic(), *who, failure)

    def close(self) -> None:
        for client in self._clients:
            client.close()


class Grpc(Load):
    """Clients by gRPC, each with one HTTP/2 connection to the proxy, which balances its calls."""

    def __init__(self, port: int, clients: int = CLIENTS, keys: int = KEYS) -> None:
        super().__init__(clients, keys)
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        self._channels = [grpc.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(clients)]
        self._stubs = [timbre_pb2_grpc.TimbreStub(channel) for channel in self._channels]

    def ask(self, client: int, key: str) -> Request:
        asked, began = (f"grpc-{client}", "grpc", key), time.monotonic()
        message = timbre_pb2.PredictRequest(audio=WAV, options=timbre_pb2.Options(key=key))
        predict = self._stubs[client].Predict.with_call
        try:
            answer, call = predict(message, timeout=60, wait_for_ready=True)
        except grpc.RpcError as error:
            return Request(*asked, began, time.monotonic(), "", "", "", f"{error}")
        got = dict([*call.initial_metadata(), *call.trailing_metadata()])
        who = (str(got["x-pod"]), str(got["x-timbre-variant"]), answer.model_version)
        return Request(*asked, began, time.monotonic(), *who)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_a_rollout_from_version_1_to_version_2(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    deployment = Deployment(tmp_path, ROOT / "exported", proxy, REPLICAS)
    settled: list[tuple[str, float, float]] = []
    retried = 0

    def calmly(step: Callable[[], None]) -> None:
        """A step without a kill: not one request may even have needed a second try."""
        nonlocal retried
        before = proxy.retries()
        step()
        retried += proxy.retries() - before

    @contextmanager
    def staying(weights: str) -> Iterator[None]:
        """A while with weights that every pod has taken over, at least until every key was asked for."""
        began = time.monotonic()
        yield
        rounds = [load.goes_round() for load in (http, rpc)]
        assert until(lambda: all(done() for done in rounds), 300)
        settled.append((weights, began, time.monotonic()))

    def move(stable: int, candidate: int) -> None:
        deployment.edit(SPLIT.format(stable, candidate))
        assert until(lambda: all(weight_of(pod, "candidate") == candidate for pod in deployment.pods), 120)

    try:
        deployment.apply("1", OLD)
        http, rpc = Http(proxy.http_port), Grpc(proxy.grpc_port)
        with under(http, rpc):
            with staying("100/0"):
                pass
            calmly(lambda: deployment.apply("2", SPLIT.format(90, 10)))
            with staying("90/10"):
                deployment.kill(deployment.pods[0])
            calmly(lambda: move(50, 50))
            with staying("50/50"):
                deployment.kill(deployment.pods[0], holding=2 * CLIENTS)
            calmly(lambda: move(0, 100))
            with staying("0/100"):
                pass
            calmly(lambda: deployment.apply("3", NEW))
            with staying("2 alone"):
                pass
        for pod in deployment.pods:
            assert pod.count()
    finally:
        deployment.close()
        proxy.close()

    requests = [*http.requests, *rpc.requests]
    tell(requests, deployment, settled)
    killed = [pod for pod in deployment.past if pod.killed_at is not None]
    assert len(killed) == 2
    assert retried == 0
    assert_only_what_was_being_done_is_lost(requests, killed)
    assert_nothing_new_comes_after_the_endpoint_has_gone(requests, deployment.past)
    assert_keys_stick(requests, settled)
    assert_counts_add_up(requests, [*deployment.past, *deployment.pods])
    last = [request for request in requests if request.began > settled[-1][1] and not request.failure]
    assert {request.version for request in last} == {"2"}


def weight_of(pod: Pod, variant: str) -> float:
    variants = httpx.get(f"{pod.service.url}/models").json()["variants"]
    return float(variants[variant]["weight"])


def assert_only_what_was_being_done_is_lost(requests: list[Request], killed: list[Pod]) -> None:
    """Each failure is a request that a killed pod had in hand: one of each client at most, and all that it held.

    That no other pod has lost one is what counts that add up say: it has counted as many as were answered by it.
    """
    lost = [request for request in requests if request.failure]
    for pod in killed:
        assert pod.killed_at is not None
        assert pod.down_at is not None
        its = [each for each in lost if each.began <= pod.down_at and each.ended >= pod.killed_at]
        clients = [request.client for request in its]
        assert len(clients) == len(set(clients)), (pod.name, its)
        assert {request.pod for request in its} <= {"", pod.name}
        if pod.held:
            assert len(its) == pod.held, (pod.name, its)
        lost = [request for request in lost if request not in its]
    assert lost == []


def assert_nothing_new_comes_after_the_endpoint_has_gone(requests: list[Request], past: list[Pod]) -> None:
    """A pod that is stopped hears nothing new while preStop sleeps, yet is ready to the end of it."""
    stopped = [pod for pod in past if pod.killed_at is None]
    assert len(stopped) == 2 * REPLICAS
    for pod in stopped:
        assert pod.drained_at
        assert pod.ready_at_sigterm, pod.name
        late = [r for r in requests if r.pod == pod.name and r.began > pod.drained_at + ON_ITS_WAY_S]
        assert late == []


def assert_keys_stick(requests: list[Request], settled: list[tuple[str, float, float]]) -> None:
    """Within a stage a key has one variant; from stage to stage keys go to the candidate only, and never back."""
    before: dict[str, str] = {}
    shares = []
    for weights, began, ended in settled:
        seen: dict[str, set[str]] = defaultdict(set)
        for request in requests:
            if began <= request.began and request.ended <= ended and not request.failure:
                seen[request.key].add(request.variant)
        assert len(seen) >= 2 * CLIENTS * (KEYS - 1), weights  # a client may have lost one
        assert all(len(variants) == 1 for variants in seen.values()), (weights, seen)
        now = {key: variants.pop() for key, variants in seen.items()}
        assert not [key for key in now if before.get(key) == "candidate" and now[key] == "stable"], weights
        before |= now
        shares.append(Counter(now.values())["candidate"] / len(now))
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)


def assert_counts_add_up(requests: list[Request], pods: list[Pod]) -> None:
    """What the clients got from a pod is what that pod counted, by transport.

    A killed pod was asked right before: it had counted all that was over by then, and nothing that had not begun.
    """
    for pod in pods:
        assert not pod.refused(), pod.name
        for transport in ("http", "grpc"):
            its = [each for each in requests if (each.pod, each.transport) == (pod.name, transport)]
            if pod.killed_at is None:
                assert pod.answered(transport) == len(its), (pod.name, transport)
            else:
                over = sum(each.ended <= pod.asked_at for each in its)
                begun = sum(each.began <= pod.told_at for each in its)
                in_hand = sum(each.failure != "" and each.transport == transport for each in requests)
                assert over <= pod.answered(transport) <= begun + in_hand, (pod.name, transport)
    assert sum(request.failure == "" for request in requests) > 100


def tell(requests: list[Request], deployment: Deployment, settled: list[tuple[str, float, float]]) -> None:
    """What happened, for whoever runs `make rollout-test`."""
    failed = [request for request in requests if request.failure]
    by_transport = Counter(request.transport for request in requests)
    print(f"\n{by_transport['http']} requests by HTTP and {by_transport['grpc']} by gRPC, {len(failed)} lost")
    for request in failed:
        print(f"  {request.client} lost one: {' '.join(request.failure.split())[:100]}")
    for pod in [*deployment.past, *deployment.pods]:
        answered = Counter(request.version for request in requests if request.pod == pod.name and not request.failure)
        end = "killed" if pod.killed_at is not None else "stopped" if pod in deployment.past else "runs"
        print(
            f"  {pod.name} {end}: " + ", ".join(f"{n} by version {version}" for version, n in sorted(answered.items()))
        )
    for weights, began, ended in settled:
        inside = [request for request in requests if began <= request.began and request.ended <= ended]
        share = sum(request.variant == "candidate" for request in inside) / max(len(inside), 1)
        print(f"  {weights}: {len(inside)} requests, {share:.0%} by the candidate")
