"""`llumnix vllm -- ...` starts a server that can move its requests."""

from dataclasses import dataclass
from pathlib import Path

import aiohttp

from llumnix.testbed import Environment, ServerOptions, launched_vllm


@dataclass(frozen=True, slots=True)
class Typed(ServerOptions):
    """A server as a user starts it."""

    def command(self, port: int) -> list[str]:
        usual = ServerOptions.command(self, port)
        arguments = usual[usual.index("serve") + 1 :]
        return [usual[0], "-m", "llumnix", "vllm", "--instance-id=typed", "--", *arguments]


async def test_it_announces_a_llumlet(
    environment: Environment, model: Path, tmp_path: Path
) -> None:
    options = Typed(environment, model, secret="s")
    async with (
        launched_vllm([options], tmp_path) as (server,),
        aiohttp.ClientSession() as session,
        session.get(f"{server.url}/metrics") as answer,
    ):
        page = await answer.text()

    (info,) = [line for line in page.splitlines() if line.startswith("llumnix_llumlet_info{")]
    assert 'instance_id="typed"' in info
    assert 'engine="vllm"' in info
