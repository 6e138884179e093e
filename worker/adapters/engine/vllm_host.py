"""The one module that imports vLLM: an AsyncLLM as the backend of an `EngineHost`.

Token ids go in and come out; vLLM's own tokenizer is there for grammars only. What is used of it has the same names in
0.25.1 and 0.32.0, the two versions that are tested.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from array import array
from collections.abc import Sequence
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

from vllm import SamplingParams
from vllm import __version__ as vllm_version
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from worker.adapters.engine import causes
from worker.adapters.engine.checks import Resolved, resolve
from worker.adapters.engine.host import BackendDied, BadRequest, EngineHost, Raw, Report
from worker.adapters.engine.options import EngineOptions
from worker.adapters.engine.port import EngineFacts, Request
from worker.adapters.engine.shapes import kv_bytes_per_token
from worker.errors import ModelUnavailable, SettingsError

CLOSE_SECONDS = 10.0


class VllmEngine(EngineHost):
    """An engine in the care of this process."""

    def __init__(self, options: EngineOptions, **host: Any) -> None:
        """`host`: passed on to `EngineHost`. Blocks for the start: seconds for a tiny model, minutes for a real one.
        SettingsError for a model or options that vLLM refuses; ModelUnavailable when its processes did not come up."""

        async def start() -> VllmBackend:
            backend = await VllmBackend.start(options)
            self._config = backend.config
            return backend

        super().__init__(start, gpus=options.tensor_parallel, **host)

    def resolved(self, tokenizer_version: int) -> Resolved:
        """What the engine made of its model and its options."""
        return resolve(self._config, kv_tokens=self.facts.kv_tokens, tokenizer_version=tokenizer_version)

    def bare(self, requests: Sequence[Request], *, concurrency: int) -> tuple[float, list[Raw]]:
        """Benchmarks: these requests straight on vLLM, without this service's part. Seconds for all, and each."""

        async def all_of_them() -> tuple[float, list[Raw]]:
            room, started = asyncio.Semaphore(concurrency), time.monotonic()

            async def one(number: int, request: Request) -> Raw:
                async with room:
                    return await self._backend.run(f"bare-{started}-{number}", request)

            done = await asyncio.gather(*(one(number, request) for number, request in enumerate(requests)))
            return time.monotonic() - started, done

        return asyncio.run_coroutine_threadsafe(all_of_them(), self._loop).result()


def _arguments(options: EngineOptions) -> AsyncEngineArgs:
    own: dict[str, Any] = {
        "model": str(options.model),
        "tokenizer_mode": "mistral",
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "kv_cache_dtype": options.kv_cache_dtype,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "kv_cache_memory_bytes": options.kv_cache_memory_bytes,
        "kv_offloading_size": options.kv_offloading_gib,
        "tensor_parallel_size": options.tensor_parallel,
        "enforce_eager": options.enforce_eager,
        "block_size": options.block_size,
        "enable_prefix_caching": True,
        "trust_remote_code": False,
        "enable_log_requests": False,
        "disable_log_stats": False,  # its figures are ours to tell, not for its own log
    }
    mistral = (options.model / "params.json").is_file()
    own |= {"config_format": "mistral" if mistral else "hf"}
    own |= {"load_format": "dummy" if options.dummy_weights else ("mistral" if mistral else "auto")}
    if taken := own.keys() & options.extra.keys():
        raise SettingsError(f"DEVSTRAL_FIX_ENGINE: extra may not hold {', '.join(sorted(taken))}")
    return AsyncEngineArgs(**{k: v for k, v in own.items() if v is not None}, **options.extra)


class _Reporter(StatLoggerBase):
    """vLLM's figures, as it reports them after each of its steps."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        report = self._report
        report.steps += 1
        if iteration_stats is not None:
            report.prompt_tokens += iteration_stats.num_prompt_tokens
            report.completion_tokens += iteration_stats.num_generation_tokens
        if scheduler_stats is not None:
            report.running = scheduler_stats.num_running_reqs
            report.waiting = scheduler_stats.num_waiting_reqs
            report.kv_used = scheduler_stats.kv_cache_usage

    def log_engine_initialized(self) -> None:
        """Nothing to tell."""


class VllmBackend:
    """See `worker.adapters.engine.host.Backend`."""

    def __init__(self, engine: AsyncLLM, report: Report, facts: EngineFacts, children: Sequence[BaseProcess]) -> None:
        """`children`: the processes that end with this engine, and with no other."""
        self._engine = engine
        self.config = engine.vllm_config
        self._children = children
        self.report = report
        self.facts = facts

    @classmethod
    async def start(cls, options: EngineOptions) -> VllmBackend:
        """SettingsError for what vLLM says of the settings. ModelUnavailable for what may pass: memory that another
        process still holds, a card that does not answer, and whatever has no reason."""
        started, report = time.monotonic(), Report()
        others = set(active_children())
        arguments = _arguments(options)
        told = f"vLLM does not start {options.model.name}"
        try:
            config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
        except Exception as error:  # whatever it raises, it says that this model does not start with these options
            raise SettingsError(f"{told}: {causes.words(error)}") from error
        with causes.heard() as written:
            try:
                engine = AsyncLLM.from_vllm_config(config, stat_loggers=[lambda *_args, **_kwargs: _Reporter(report)])
            except Exception as error:
                cause = causes.first(written) or causes.words(error)
                wrong = ModelUnavailable if causes.may_pass(cause) else SettingsError
                raise wrong(f"{told}: {cause} (its own log has more)") from error
        config = engine.vllm_config
        cache = config.cache_config
        facts = EngineFacts(
            engine=f"vllm {vllm_version}",
            architecture=", ".join(config.model_config.architectures),
            kv_tokens=(cache.num_gpu_blocks or 0) * cache.block_size,
            block_size=cache.block_size,
            max_model_len=config.model_config.max_model_len,
            max_num_seqs=config.scheduler_config.max_num_seqs,
            start_seconds=time.monotonic() - started,
            gpus=options.tensor_parallel,
            host_kv_tokens=_host_tokens(options, config),
        )
        return cls(engine, report, facts, [child for child in active_children() if child not in others])

    async def run(self, name: str, request: Request) -> Raw:
        parameters = SamplingParams(
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            min_tokens=request.max_tokens if request.exactly else 0,
            ignore_eos=request.exactly,
            stop_token_ids=[] if request.exactly else list(request.stop),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=None if request.grammar is None else StructuredOutputsParams(grammar=request.grammar),
        )
        prompt = TokensPrompt(prompt_token_ids=request.as_list())
        final = None
        try:
            async for output in self._engine.generate(prompt, parameters, name):
                final = output
        except EngineDeadError as error:
            raise BackendDied(str(error)) from error
        except (ValueError, VLLMValidationError) as error:
            raise BadRequest(str(error)) from error
        if final is None:
            raise BackendDied("a call ended without an answer")
        answer = final.outputs[0]
        if answer.finish_reason == "error":
            raise BadRequest("the engine could not go on with this call")
        return Raw(
            ids=array("i", answer.token_ids),
            finish=answer.finish_reason,
            prompt=len(request.ids),
            cached=final.num_cached_tokens or 0,
            **_times(final.metrics),
        )

    async def abort(self, name: str) -> None:
        await self._engine.abort(name)

    @property
    def dead(self) -> bool:
        return bool(self._engine.errored)

    def close(self) -> None:
        try:
            self._engine.shutdown()
        finally:
            for child in self._children:
                child.join(CLOSE_SECONDS)
                if child.is_alive() and child.pid is not None:
                    os.kill(child.pid, signal.SIGKILL)  # also one that is stopped
                    child.join()


def naming_seconds(ids: Sequence[int], *, block_size: int, algorithm: str = "sha256") -> float:
    """Benchmarks: CPU time that vLLM takes, with each call, to name the blocks of a prompt for its prefix cache."""
    from vllm.utils.hashing import get_hash_fn_by_name  # noqa: PLC0415 - of no use but here
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash  # noqa: PLC0415
    from vllm.v1.request import Request as VllmRequest  # noqa: PLC0415

    function = get_hash_fn_by_name(algorithm)
    init_none_hash(function)
    named, parameters = get_request_block_hasher(block_size, function), SamplingParams(max_tokens=1)
    started = time.thread_time()
    VllmRequest("named", list(ids), parameters, None, block_hasher=named)
    return time.thread_time() - started


def _host_tokens(options: EngineOptions, config: Any) -> int:
    """What the host's tier holds; keys and values over all layers, in the cache's own type."""
    if not options.kv_offloading_gib:
        return 0
    model = config.model_config
    token = kv_bytes_per_token(
        layers=model.get_num_layers(config.parallel_config),
        kv_heads=model.get_total_num_kv_heads(),
        head_dim=model.get_head_size(),
        fp8=str(config.cache_config.cache_dtype).startswith("fp8"),
    )
    return int(options.kv_offloading_gib * 2**30 / token)


def _times(metrics: Any) -> dict[str, float]:
    """Seconds, of the engine's own monotonic stamps; 0 for what a call did not reach."""
    if metrics is None or not metrics.scheduled_ts:
        return {"queued": 0.0, "first": 0.0, "decode": 0.0}
    return {
        "queued": metrics.scheduled_ts - metrics.queued_ts,
        "first": metrics.first_token_latency,
        "decode": metrics.last_token_ts - metrics.first_token_ts if metrics.first_token_ts else 0.0,
    }
