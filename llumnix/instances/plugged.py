"""The link to an instance with a llumlet: reports arrive, orders are sent."""

import asyncio
import time
from collections.abc import Callable

from llumnix.instances.condition.silence import Silence
from llumnix.instances.condition.standstill import Standstill
from llumnix.instances.condition.trouble import Cause, ContactFailed
from llumnix.instances.config import FleetConfig
from llumnix.instances.instance import Identity, Instance, InstanceListener, MigrationOrder
from migration.config import MigrationConfig
from migration.errors import MigrationError
from migration.llumlet.control import ControlClient
from migration.llumlet.fleet_messages import COUNTS_STEPS, RECALLS, Recalled, Report, StepReport
from migration.protocol.peer import Peer
from policies.types import InstanceLoad, RequestId


class PluggedLink:
    """A control connection to a llumlet, over which the instance's reports arrive.

    Requests of a class that the instance does not know count as `default_class`. `flowed_at_s` says
    when a stream of the instance last brought something: a sign of life like a report.
    `local_count` counts the frontend's own requests there.
    """

    def __init__(
        self,
        instance: Instance,
        identity: Identity,
        secret: bytes,
        config: FleetConfig,
        watcher: InstanceListener,
        now_s: Callable[[], float],
        default_class: int,
        flowed_at_s: Callable[[], float] = float,
        local_count: Callable[[], int] = int,
    ) -> None:
        self._default_class = default_class
        self._flowed_at_s = flowed_at_s
        self._local_count = local_count
        self._with_steps = identity.protocol >= COUNTS_STEPS
        self._recalls = identity.protocol >= RECALLS
        self._silence = Silence(config.report_timeout_s, time.monotonic())
        self._standstill = Standstill(config.step_timeout_s / min(1.0, config.speed))
        self._instance = instance
        self._config = config
        self._watcher = watcher
        self._now_s = now_s
        self._gone = asyncio.Event()
        self._reason = ""
        self._port = identity.control_port
        self._control = ControlClient(
            identity.control_host,
            identity.control_port,
            secret,
            on_report=self._on_report,
            on_event=watcher.heard,
            on_closed=self.give_up,
            config=control_config(config),
        )

    async def open(self) -> None:
        """Connect and subscribe to reports. Raises ContactFailed if that fails."""
        try:
            await self._control.connect(self._config.contact_timeout_s)
            await self._control.subscribe(
                self._config.report_interval_s, with_steps=self._with_steps
            )
        except (MigrationError, OSError) as error:
            await self._control.close()
            told = f"its control port {self._port} does not take us: {error}"
            raise ContactFailed(Cause.CONTROL_PORT, told) from error

    async def lost(self) -> str:
        """Wait until the connection closes, or no report has arrived for too long."""
        self._silence.heard(time.monotonic())
        while not self._gone.is_set():
            try:
                async with asyncio.timeout(self._silence.tick_s):
                    await self._gone.wait()
            except TimeoutError:
                # What has arrived while we were busy is read before it counts as missing.
                await asyncio.sleep(0)
                now_s = time.monotonic()
                if self._silence.check(now_s) and not self._flows(now_s):
                    return f"no report for {self._silence.silent_s(now_s):.1f} s"
        return self._reason

    def give_up(self, reason: str) -> None:
        """Declare the instance gone: the connection closed, or something else found out."""
        self._reason = self._reason or reason
        self._gone.set()

    async def recall(self, request_id: RequestId, owner: str, timeout_s: float) -> Recalled | None:
        """Return what the engine remembers of a request; None if it cannot tell."""
        if not self._recalls:
            return None
        try:
            return await self._control.recall(request_id, owner, timeout_s)
        except MigrationError:
            return None

    async def migrate_out(self, move: MigrationOrder) -> None:
        """Order the llumlet to migrate a request. Raises OSError if the order cannot be sent."""
        target = move.destination.identity
        if target is None or not target.control_port:
            raise OSError(f"{move.destination.id} has no control port")
        try:
            await self._control.migrate_out(
                move.migration_id,
                Peer(target.instance_id, target.control_host, target.control_port),
                move.request_id,
                move.max_context_tokens,
                move.reason,
            )
        except MigrationError as error:
            raise OSError(str(error)) from error

    async def drain(self, on: bool) -> None:
        """Order the llumlet to refuse new requests and send queued ones back. Raises OSError."""
        try:
            await self._control.drain(on)
        except MigrationError as error:
            raise OSError(str(error)) from error

    async def close(self) -> None:
        """Close the connection."""
        await self._control.close()

    def _flows(self, now_s: float) -> bool:
        """Whether a stream has brought something more recently than the last report."""
        return now_s - self._flowed_at_s() < self._silence.limit_s(now_s)

    def _runs(self, load: InstanceLoad) -> bool:
        """Whether steps are to be expected: a hung engine does not even see what it is sent."""
        running = sum(load.running) + load.unclassed_running
        return bool(running or (self._instance.fitness.hung and self._local_count()))

    def _on_report(self, report: Report) -> None:
        now_s = time.monotonic()
        self._silence.heard(now_s)
        self._instance.take_load(report.load.classed(self._default_class), self._now_s())
        if isinstance(report, StepReport):
            motion = self._standstill.observe(
                report.steps,
                running=self._runs(report.load),
                now_s=now_s,
                prefill_tokens=report.load.prefill_backlog_tokens,
            )
            self._watcher.engine_seen(self._instance, motion)
        self._watcher.reported(self._instance, [RequestId(i) for i in report.new_request_ids])


def control_config(config: FleetConfig) -> MigrationConfig:
    """Return the settings of control links. Raises ValueError if files are missing."""
    return MigrationConfig(
        tls_ca_file=config.control_tls_ca_file,
        tls_cert_file=config.control_tls_cert_file,
        tls_key_file=config.control_tls_key_file,
    )
