"""What others ask of a workflow, checked before it hears of it.

The SDK drops a signal whose payload is of a wrong type. But it hands over JSON's null for a value of any type, and too
few or too many values; a handler that fails over them fails its workflow task, again and again, and the workflow is
stuck for good: ``temporal workflow signal --name set_pause_on_error`` with the input forgotten was enough.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_args

from temporalio import workflow
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    HandleSignalInput,
    HandleUpdateInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)


class Checked(Interceptor):
    """A signal that fits no handler is dropped with a line in the log; the sender of such an update is told."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _Checking


class _Checking(WorkflowInboundInterceptor):
    async def handle_signal(self, input: HandleSignalInput) -> None:
        wrong = _wrong(workflow.get_signal_handler(input.signal), input.args)
        if wrong is None:
            await super().handle_signal(input)
        else:
            workflow.logger.warning(f"the signal {input.signal} is dropped: {wrong}")

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        # No update here takes null. One with a wrong number of values fails as it is called.
        if None in input.args:
            raise ApplicationError(f"{input.update}: a value is missing")
        try:
            return await super().handle_update_handler(input)
        except TypeError as error:
            raise ApplicationError(f"{input.update}: {error}") from None


def _wrong(handler: Callable[..., Any] | None, args: Sequence[Any]) -> str | None:
    if handler is None:
        return None
    wanted = list(inspect.signature(handler).parameters.values())
    if len(args) != len(wanted):
        return f"it takes {len(wanted)} values ({', '.join(p.name for p in wanted) or 'none'}), and got {len(args)}"
    for value, parameter in zip(args, wanted, strict=True):
        if value is None and type(None) not in get_args(parameter.annotation):
            return f"{parameter.name} is null"
    return None
