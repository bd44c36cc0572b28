"""What a run writes for TensorBoard; tags mirror the recipe's sections (``ppo/approx_kl``, ``eval/SUITE/success``)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from vlarl.run.figures import Encoded


class TensorBoard:
    """Writes one event file into ``folder``; with None everything it is told is dropped.

    ``purge_step``: on resume, TensorBoard forgets what a run had written from that step on. torch is
    imported here and not before.
    """

    def __init__(self, folder: Path | None, purge_step: int | None = None) -> None:
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(log_dir=str(folder), purge_step=purge_step)

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    def add_scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers at ``step``; nested mappings give tags joined by ``/``. None and NaN leave a gap."""
        if self._writer is not None:
            for tag, value in flatten(values):
                self._writer.add_scalar(tag, value, step)

    def add_hparams(self, step: int, values: Mapping[str, float | str | bool], metrics: Sequence[str]) -> None:
        """A row of the HPARAMS tab: ``values``, and the newest values of the scalars called ``metrics``.

        Of a folder TensorBoard reads the first row only, so one more on resume is not another run. How the run
        ended is left open: it is not known when this is written.
        """
        if self._writer is not None:
            for summary in _hparams(values, metrics):
                self._writer.file_writer.add_summary(summary, step)

    def add_code(self, step: int, tag: str, text: str) -> None:
        """``text`` verbatim: indented, as Markdown's fences could be ended by what is inside."""
        if self._writer is not None:
            self._writer.add_text(tag, textwrap.indent(text, "    "), step)

    def add_image(self, step: int, tag: str, image: Encoded) -> None:
        """A PNG or an animated GIF, as it is."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        rgb = 3
        shown = Summary.Image(height=image.height, width=image.width, colorspace=rgb, encoded_image_string=image.data)
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=shown)]), step)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(tag, number) for every finite number in nested mappings, in their order."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{prefix}{name}", float(value)


def _hparams(values: Mapping[str, float | str | bool], metrics: Sequence[str]) -> Iterator[Any]:
    """Columns and row as Summary protos.

    Not by SummaryWriter.add_hparams, which makes a folder of its own, nor by torch's ``hparams``, which makes numbers
    of booleans.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    columns, start = api_pb2.Experiment(), SessionStartInfo()
    for name, value in values.items():
        kind, data_type = _kind(value)
        columns.hparam_infos.add(name=name, type=getattr(api_pb2, data_type))
        setattr(start.hparams[name], kind, value)
    for tag in metrics:
        columns.metric_infos.add(name=api_pb2.MetricName(tag=tag))
    for tag, content in (
        (metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=columns)),
        (metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)),
    ):
        described = metadata.create_summary_metadata(content)
        yield Summary(value=[Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)])


def _kind(value: float | str | bool) -> tuple[str, str]:
    """Field of a protobuf value, and type of a column."""
    if isinstance(value, bool):
        return "bool_value", "DATA_TYPE_BOOL"
    if isinstance(value, str):
        return "string_value", "DATA_TYPE_STRING"
    return "number_value", "DATA_TYPE_FLOAT64"
