"""The connections of a client for asyncio, and one attempt of a call on one of them."""

from __future__ import annotations

import asyncio
from itertools import cycle
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from drawdown import _rpcs
from drawdown._channel import CLOSED_IN_FLIGHT
from drawdown._status import to_exception

if TYPE_CHECKING:
    from drawdown._channel import Settings
    from drawdown._rpcs import Rpc

Request = TypeVar("Request", bound=Message)
Result = TypeVar("Result")


class Connections:
    """Channels to the target, not connected yet; calls take turns on them.

    Args:
        settings: Of the client.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.channels = [_open_channel(settings) for _ in range(settings.connections)]
        self._turns = cycle(
            [{rpc.path: channel.unary_unary(rpc.path, None, None) for rpc in _rpcs.ALL} for channel in self.channels]
        )
        self._is_closed = False

    async def call(self, rpc: Rpc[Request, Result], request: Request, timeout_s: float) -> Result:
        """What an RPC answers.

        Raises:
            DrawdownError: It failed, or its time is over.
            RuntimeError: It was closed meanwhile.
        """
        try:
            data = await next(self._turns)[rpc.path](
                request.SerializeToString(), timeout=timeout_s, metadata=self._settings.metadata
            )
        except grpc.RpcError as error:
            raise to_exception(error) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._is_closed and task is not None and not task.cancelling():
                # gRPC cancels its own calls when a channel closes; the caller's task was not cancelled by anybody.
                raise RuntimeError(CLOSED_IN_FLIGHT) from None
            raise
        return rpc.read(data)

    async def close(self) -> None:
        """Calls in flight fail."""
        self._is_closed = True
        for channel in self.channels:
            await channel.close(None)


def _open_channel(settings: Settings) -> grpc.aio.Channel:
    if settings.credentials is None:
        return grpc.aio.insecure_channel(settings.target, options=settings.channel_options)
    return grpc.aio.secure_channel(settings.target, settings.credentials, options=settings.channel_options)
