"""An error of a device ends its worker process: after it, the process can neither use the device nor meet the others.

The caller receives a DeviceFaultError, which says what failed and on which node. Shortly afterwards the process ends,
so that it is replaced like one that died, and other calls to it raise RayActorError.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeVar
from uuid import uuid4

import ray
import torch
from ray.exceptions import RayActorError, RayError
from torch.distributed import DistError

FaultKind = Literal["device", "communication", "out_of_memory"]
"""A device that failed; processes that lost or never found each other; a device whose memory is full."""

EXIT_DELAY_S = 1.0
"""Seconds from the error to the end of the process, in which the error reaches its caller."""

_DEVICE_ERRORS: tuple[type[Exception], ...] = (
    (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()  # before torch 2.8: a RuntimeError
)
_DEVICE_TEXTS = ("CUDA error", "cuDNN error", "HIP error")
_COMMUNICATION_TEXTS = ("NCCL", "gloo/transport")

AnyClass = TypeVar("AnyClass", bound=type)


@dataclass(frozen=True)
class DeviceFault:
    """What failed, in which role, and where."""

    kind: FaultKind
    role: str
    """The role of the process: rollout, learner, reward, …"""
    node: str
    """Ray's id of the node."""
    host: str
    """The address of the node."""
    cause: str
    """The first line of the error."""
    id: str = field(default_factory=lambda: uuid4().hex)
    """Tells faults apart: several calls to a process that ends raise the same one."""

    def __str__(self) -> str:
        return f"{self.role} on node {self.host}: {self.cause}"


class DeviceFaultError(RuntimeError):
    """A worker's device failed, or its memory is full. The worker ends and must be replaced."""

    def __init__(self, fault: DeviceFault) -> None:
        super().__init__(fault)
        self.fault = fault

    def __str__(self) -> str:
        return str(self.fault)


class RanksNeverMetError(DistError):
    """The ranks of a learner could not form their process group."""


def fault_kind(error: BaseException) -> FaultKind | None:
    """The kind of device fault that an error, or what caused it, stands for. None: it is another error.

    An error of another process, which Ray raises for its result, is no fault of this one. A DeviceFaultError has been
    handled already.
    """
    if isinstance(error, (RayError, DeviceFaultError)):
        return None
    text = str(error) if isinstance(error, RuntimeError) else ""
    is_device = isinstance(error, _DEVICE_ERRORS) or any(mark in text for mark in _DEVICE_TEXTS)
    if isinstance(error, torch.OutOfMemoryError) or (is_device and "out of memory" in text):
        return "out_of_memory"
    if is_device:
        return "device"
    if isinstance(error, DistError) or any(mark in text for mark in _COMMUNICATION_TEXTS):
        return "communication"
    return fault_kind(error.__cause__) if error.__cause__ else None


def ends_on_device_fault(role: str, *, survives: tuple[FaultKind, ...] = ()) -> Callable[[AnyClass], AnyClass]:
    """Class decorator of an actor: a device fault in a public method is logged, becomes DeviceFaultError, and ends it.

    After the kinds of `survives` the process continues: the caller alone must know of them. Outside of an actor the
    methods raise what they always raise.
    """

    def decorate(actor_class: AnyClass) -> AnyClass:
        for name, method in list(vars(actor_class).items()):
            if inspect.isfunction(method) and not name.startswith("_"):
                setattr(actor_class, name, _guarded(method, role, survives))
        return actor_class

    return decorate


def _guarded(method: Callable[..., Any], role: str, survives: tuple[FaultKind, ...]) -> Callable[..., Any]:
    """The method, with its device faults handled."""
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            _refuse_after_fault()
            try:
                return await method(*args, **kwargs)
            except Exception as error:
                _raise_fault(error, role, survives)

        return call_async

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        _refuse_after_fault()
        try:
            return method(*args, **kwargs)
        except Exception as error:
            _raise_fault(error, role, survives)

    return call


async def root_fault(calls: Sequence[asyncio.Future[Any]], patience_s: float = 5.0) -> DeviceFault | None:
    """The fault that explains why calls to several ranks failed. None if no device is the reason.

    When one rank fails, the others lose it in their collectives and fail too. So this waits a while for the calls that
    have not returned. A rank that died without a word explains lost communication.
    """
    await asyncio.wait(calls, timeout=patience_s)
    for call in calls:
        call.add_done_callback(_consume)  # nobody awaits it any more
    errors = [call.exception() for call in calls if call.done() and not call.cancelled()]
    faults = [error.fault for error in errors if isinstance(error, DeviceFaultError)]
    roots = [fault for fault in faults if fault.kind != "communication"]
    if not roots and any(isinstance(error, RayActorError) for error in errors):
        return None
    return next(iter(roots or faults), None)


def _consume(call: asyncio.Future[Any]) -> None:
    """Marks the exception of a call as seen."""
    if not call.cancelled():
        call.exception()


class _State:
    """The first fault of this process, after which it ends."""

    fault: DeviceFault | None = None
    lock = threading.Lock()


def _refuse_after_fault() -> None:
    """Raises DeviceFaultError while the process ends."""
    if _State.fault:
        raise DeviceFaultError(_State.fault)


def _raise_fault(error: Exception, role: str, survives: tuple[FaultKind, ...]) -> NoReturn:
    """Raises `error` itself, or DeviceFaultError if it is a fault; then the process ends soon."""
    kind = fault_kind(error)
    if kind is None or not _inside_actor():
        raise error
    cause = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.300}"
    node, host = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
    fault = DeviceFault(kind, role, node, host, cause)
    with _State.lock:
        first = _State.fault is None
        if first and kind not in survives:
            _State.fault = fault
            timer = threading.Timer(EXIT_DELAY_S, os._exit, (1,))  # no clean-up: it could wait for the device
            timer.daemon = True
            timer.start()
    if first:
        logging.getLogger(__name__).error("device fault of %s", fault, exc_info=error)
    raise DeviceFaultError(_State.fault or fault) from error


def _inside_actor() -> bool:
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
