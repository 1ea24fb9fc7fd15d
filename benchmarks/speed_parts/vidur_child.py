"""Run in Vidur's own environment: its schedulers and event loop, with step times given to it.

Vidur takes step times from a profile it downloads, which its package does not contain. Here they
are the linear costs that our simulator has in the race; a dozen look-ups per step become one sum,
which is to its advantage. Its metrics, plots and traces are off.
"""

import json
import sys
import time
from typing import Any

import pandas as pd  # type: ignore[import-untyped,unused-ignore]
from vidur import config as vidur_config  # type: ignore[import-not-found]
from vidur._native.entities import ExecutionTime  # type: ignore[import-not-found]
from vidur.entities import Request  # type: ignore[import-not-found]
from vidur.execution_time_predictor import ExecutionTimePredictorRegistry  # type: ignore[import-not-found]
from vidur.simulator import Simulator  # type: ignore[import-not-found]
from vidur.types import ExecutionTimePredictorType  # type: ignore[import-not-found]


class LinearPredictor:
    """Step times from linear costs, in place of a forest trained on a profile."""

    costs: dict[str, int]

    def __init__(self, **_: Any) -> None:
        pass

    def get_execution_time(self, batch: Any, _: int) -> Any:
        """See Vidur's BaseExecutionTimePredictor."""
        costs, decodes, context, prompt, squares = self.costs, 0, 0, 0, 0
        for tokens, end in zip(batch.num_q_tokens, batch.num_kv_tokens, strict=True):
            if tokens == 1:
                decodes += 1
                context += end
            else:
                prompt += tokens
                squares += end * end - (end - tokens) * (end - tokens)
        base = costs["decode_base_ns"]
        if prompt:
            filling = costs["prefill_base_ns"] + costs["prefill_per_token_ns"] * prompt
            filling += costs["prefill_quadratic_ps"] * squares // 1000
            base = max(base, filling + costs["prefill_per_sequence_ns"] * decodes)
        context_ns = costs["decode_per_context_ns"] * context
        step_ns = base + context_ns + costs["decode_per_sequence_ns"] * decodes
        # One layer, all of whose time is in its first operation, in ms.
        return ExecutionTime(1, step_ns / 1e6, *[0.0] * 13)


class Given:
    """Requests of a file, in place of a generator."""

    def __init__(self, path: str) -> None:
        self.rows = pd.read_csv(path)

    def requests(self) -> list[Any]:
        """Make Vidur's own requests of them."""
        columns = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
        rows = zip(*(self.rows[name].tolist() for name in columns), strict=True)
        return [Request(*row) for row in rows]


def main() -> None:
    """Simulate; the arguments are one JSON object."""
    given = json.loads(sys.argv[1])
    LinearPredictor.costs = given["costs"]
    kind = ExecutionTimePredictorType.RANDOM_FORREST
    ExecutionTimePredictorRegistry.unregister(kind)
    ExecutionTimePredictorRegistry.register(kind, LinearPredictor)
    replica = vidur_config.ReplicaConfig(
        model_name="meta-llama/Llama-2-7b-hf", num_pipeline_stages=1, tensor_parallel_size=1
    )
    config = vidur_config.SimulationConfig(
        log_level="warning",
        cluster_config=vidur_config.ClusterConfig(
            num_replicas=given["instances"],
            replica_config=replica,
            cache_config=vidur_config.CacheConfig(
                block_size=given["block_tokens"], num_blocks=given["blocks"]
            ),
            replica_scheduler_config=vidur_config.SarathiSchedulerConfig(
                batch_size_cap=given["max_num_seqs"], chunk_size=given["token_budget"]
            ),
        ),
        request_generator_config=vidur_config.SyntheticRequestGeneratorConfig(num_requests=1),
        metrics_config=vidur_config.MetricsConfig(
            write_metrics=False,
            enable_chrome_trace=False,
            store_plots=False,
            output_dir=given["folder"],
        ),
    )
    simulator = Simulator(config)
    requests = Given(given["requests"]).requests()
    simulator._event_queue.clear()
    began_s = time.process_time()
    from vidur.events import RequestArrivalEvent  # type: ignore[import-not-found]

    for request in requests:
        simulator._add_event(RequestArrivalEvent(request.arrived_at, request))
    simulator.run()
    print(
        json.dumps(
            {
                "simulation_s": time.process_time() - began_s,
                "finished": sum(request.completed for request in requests),
                "restarts": sum(request.num_restarts for request in requests),
                "mean_e2e_s": sum(r.completed_at - r.arrived_at for r in requests) / len(requests),
            }
        )
    )


if __name__ == "__main__":
    main()
