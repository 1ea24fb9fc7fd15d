"""The prose of docs/paper.md; `text` fills in what comes from runs.

What is said about causes was written by hand after looking at the runs, and has to be looked at
again when they change.
"""

TITLE = """
# The paper's experiments, simulated

Written by `benchmarks/paper.py --docs docs`; every figure in the tables comes from its runs. The
paper is *Llumnix: Dynamic Scheduling for Large Language Model Serving* (OSDI'24). Its text was
not at hand. What is quoted of it are the points of its drawings, read from the vector graphics of
the artifact (to 1 or 2 %), the artifact's own files of claims, and its scripts. What rests on
notes of others is marked *second-hand*. The paper's runs are single ones.
"""

SUMMARY = """
## In short

Of {claims} claims held against the simulation, {yes} agree in direction, {no} contradict, and
{unsure} are not certain (the 95 % interval over {seeds} workloads holds 1). Of those that agree,
{like} are of the paper's size (within a factor of 1.5, or the interval holds it), {smaller} are
smaller and {larger} larger.

- **Downtime** of live migration comes out as measured: {live} ms at 256 to 8k tokens, where the
  paper has {live_paper} ms. At 8k tokens blocking copy takes {blocking} and recompute {recompute}
  times as long (the paper: 65 and 77).
- **Llumnix beats the load-aware policy** on decode tails, preemption loss and, near the knee of
  the load, on queueing. Decode tails, end-to-end latency and preemption loss improve by about
  what the paper says. Queueing does not: certain improvements are up to {ttft_mean} (mean TTFT)
  and {ttft_p99} (P99), where the paper has 7.7 and 14.8.
- **Round-robin is worse than the paper says**, by an order of magnitude.
- **Priorities by headroom do harm here**: urgent requests decode more slowly than without any
  priorities, and so does everybody else. What helps urgent requests is the order of classes in
  the queues, and confining them to a few instances, as the artifact seems to. All contradictions
  but one (S-S, where the paper has no gain) are about priorities.
- **Late binding**, this project's default and not in the paper, does better than the paper's own
  rules past the knee: P99 TTFT of {late_over} s against {llumnix_over} s (M-M at 10.5/s), and it
  all but halves P99 TPOT. Just below the knee it can cost: {late_under} s against {llumnix_under}
  s on S-L at 4.6/s, P99 TTFT.
"""

SETTINGS = """
## What was run

16 instances of LLaMA-7B on an A10 (preset `llama-7b-a10`: 13,616 tokens of KV memory each),
{requests} requests a run, {seeds} workloads each (seeds 1 to {seeds}), the same ones for every
policy. As the artifact sets them: batches of up to 256 requests, 12,800 tokens a step, migration
below 48 steps of freeness (160 for M-M and S-L). Decode steps are 2 % longer while KV is copied
(figure 10 shows 1.5 to 3.2 %), and copies go at 2.55 GB/s, the speed of the paper's blocking copy
at 8k tokens; the line itself has 8 GB/s.

| policy | what it is |
|---|---|
| round-robin | in turn; no migration |
| load-aware | to the most memory neither used nor asked for (INFaaS++); no migration |
| Llumnix | the paper's: to the freest instance, where requests queue; migration |
| late binding | this project's default: requests wait at the frontend; migration |

Latencies count from the arrival. Ratios are taken workload by workload and averaged on a
logarithmic scale; behind them stand 95 % intervals (Student's t). TPOT is the mean time of a
request's tokens after its first.

Three things differ from the paper's set-up, and all matter below:

- **The engine.** The preset was fitted to figure 10, batches of 1 to 32 requests without a server
  around them. It follows vLLM V1: prompts are computed beside decodes. The paper's vLLM 0.1.7
  computed them in steps of their own, and did more in Python between steps.
- **So the knee lies elsewhere.** At most of the paper's rates the fleet simulated is not even
  busy. Each trace therefore runs at the paper's rate and at some higher ones, and a claim is also
  judged *at matched load*: at that of the rates at which the *load-aware* policy comes closest to
  the paper's figure for it.
- **Lengths of ShareGPT** are drawn from the percentiles of the paper's table, as the data set is
  not at hand.
"""

SERVING = """
## Serving

![Latency by trace, rate and policy](paper/serving.{suffix})

Points are means over the workloads; bars, here and below, reach from the lowest workload to the
highest.

The points of figure 11 whose values are known, load-aware → Llumnix (geometric means over the
workloads, whose quotient is the ratio). Direction and size are judged at matched load.
"""

MOST = """
The paper's "up to", over all its traces and rates, beside the largest improvement found here
(over all rates above; those that are certain go first). A largest value flatters both sides.
"""

SLOWER = """
### Would a slower engine bring the paper's figures?

The paper's own rates once more, with every step 10 ms longer than the preset says. Nothing else
differs.
"""

ABLATION = """
### Dispatch, or migration?

At our knee: the load-aware policy, freeness dispatch alone, and freeness dispatch with migration.
"""

LOSSES = """
## Preemption

*Preemption loss* is what a request waits from the loss of its blocks to its next token, averaged
over all requests. The paper has Llumnix at -70 % against the load-aware policy; over all traces
together, at the paper's rates, it is {cut} here.

![Preemption loss and fragmented memory](paper/losses.{suffix})
"""

FRAGMENTATION = """
## Fragmentation

Memory counts as fragmented if it is free and asked for, and yet of no use: of the requests at the
head of an instance's queue that this instance has no room for (with late binding: the first 16 at
the frontend), those that would fit if all free memory lay in one place, the smallest first. The
share is averaged over the time in which requests arrive. This is our reading of the paper's
measure, whose exact definition and trace are not known to us.
"""

DOWNTIME = """
## Downtime of a move

As in figure 10: two instances; the source has a batch of 8k tokens, the destination ten requests
of 256. One request is moved, at eleven offsets between the steps of the two. Downtime is the
client's pause less the stream's usual interval (decision 0005).

![Downtime by context length](paper/downtime.{suffix})
"""

PRIORITIES = """
## Priorities

As in figure 13: S-S, 10 % of the requests urgent, Gamma arrivals; ratios of *Llumnix-base* (no
classes at all) to Llumnix, whose headroom is 12,016 of 13,616 tokens. At the paper's 26/s the
fleet simulated has no queues, so there is a second rate, 52/s, at which the paper's waits appear.

![Urgent and normal requests by burstiness](paper/priorities.{suffix})
"""

ORDER_ALONE = """
What the order of classes does alone, with the headroom set to 0 (ratios of Llumnix-base to it):
"""

CONFINED = """
With headroom as in the paper, but urgent requests sent to the first four instances only:
"""

WHY = """
## Why ours differs

**Queueing improves less than in the paper.** In part this is where the load stands. Below the
knee nobody queues, far past it everybody does, and only between the two is there anything to
gain: at 10.5/s on M-M and at 11/s on ShareGPT-like little is left of it. A point of the paper is
one run at one such place, and runs differ: at matched load, single workloads of ours give ratios
of {mm} (TTFT P99 on M-M) and {ll} (L-L), where the paper has 13 and 15. A slower engine brings
the knee to the paper's rates, and M-M then gains {mm_slower}; but it brings no ratio of the
paper's for certain. What is left of the difference is not established. Candidates are prompts
computed in steps of their own, during which no token comes out; the artifact's load, which counts
a whole queue where Algorithm 1 counts its head; and its moving request after request until a pair
is within the thresholds, where ours orders one a source and round, and none that would make the
destination less free than the source.

**S-S gains here past its knee, and not in the paper.** At 36/s the paper's fleet is past its knee
(72 and 75 s for both policies); ours is so from some 60/s on. There 10,000 requests arrive within
three minutes, less than a request of 6,144 tokens takes alone, so the fleet never reaches a
steady state. Whether that is why is not established.

**Round-robin is worse.** The largest ratios are at the paper's rates, where Llumnix does not
queue here ({rr_below}) and round-robin does: it fills some instances with long requests whatever
the others hold. At our knee the ratio is {rr_knee} (TTFT P99, M-M at 9.8/s), which is nearer to
the paper's 34.

**Preemption loss agrees at the paper's rates, not past the knee.** Migration can only go where
there is room. Past the knee there is none.

**Fragmentation falls less.** Llumnix leaves {fragmented} of the load-aware policy's fragmented
memory on M-M at 9.8/s, where the paper is quoted with a tenth; late binding leaves
{fragmented_late}. At the paper's rate of 7.8/s it is {fragmented_below}. How the paper measures
it, and at which load, is not known to us; more is not established.

**Priorities.** The headroom makes every instance with an urgent request look full to everybody.
At 26/s and 10 % some 14 urgent requests are under way at any time, on 16 instances. So nearly the
whole fleet looks full, what room there is goes unused, and newcomers, urgent ones among them, are
sent to the few instances that have no urgent request yet, until these are truly full. With the
headroom at 0 nothing of this happens, and the order of classes in the queues gives urgent
requests what there is to give as soon as anybody queues (last table but one). The artifact names
four instances for urgent requests in its code (`high_priority_instance_ids=[0,1,2,3]`). Confined
to four, they do gain (last table): at 26/s end to end and per token, by a tenth and for certain,
at a cost to normal requests of 5 to 8 %, where the paper has a fifth to a half and 4.5 %. So this
is what turns the sign. At 52/s it costs normal requests nearly twice their time. Why the size is
smaller is not established; without queues, at 26/s, there is no wait to be spared.

**Downtime** is up to {downtime_off} ms above the paper's. On average a request waits half a step
of the destination's; what ran at the paper's destination is not known. Recompute and decode steps
agree because the preset was fitted to them, and blocking copy at 8k tokens because its bandwidth
was taken from there; live downtime, and blocking copy at other lengths, were not fitted to
anything.

**End-to-end P99 of 100 to 340 s**, which the paper has everywhere, is no sign of overload: 6,144
output tokens take 220 s on an idle instance. On M-M at 7.8/s, where nobody queues, it is {e2e} s
here.
"""

EVERYTHING = """
## All figures of serving

Means over the workloads, ± half the 95 % interval.
"""
