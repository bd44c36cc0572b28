"""Videos of evaluated episodes: replays the recorded actions, renders, captions, encodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlarl.errors import AssetError, DriftError
from vlarl.run.documents import read_json
from vlarl.run.files import TEMPORARY, disk_errors, write_json
from vlarl.suites.protocol import Simulation, Suite
from vlarl.types import EpisodeSpec, Task, Trial

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

INDEX = "videos.json"
MIN_SIZE = 256  # pixels; smaller frames are enlarged
_BAR = 48  # height of the caption in pixels; a multiple of 16, as encoders like it
_HOLD_SECONDS = 0.8  # the last frame stays long enough to be read
_COLOURS = {"": (110, 118, 129), "success": (63, 185, 80), "failure": (248, 81, 73)}


@dataclass(frozen=True, kw_only=True)
class Footage:
    """One replayed episode."""

    frames: np.ndarray  # (steps + 1, height, width, 3) uint8, the first one before any action
    success: bool
    length: int  # control steps until it ended, or all that were recorded


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A trial worth looking at, and why."""

    trial: Trial
    roles: tuple[str, ...]  # of first, best, worst


@dataclass(frozen=True, kw_only=True)
class Video:
    """A written video; one row of the folder's index."""

    file: str  # name within the folder
    task: str
    instruction: str
    init: int
    seed: int
    roles: tuple[str, ...]
    success: bool
    length: int  # control steps
    iteration: int | None
    note: str | None  # why it is not an mp4


def pick(trials: Sequence[Trial]) -> dict[int, list[Pick]]:
    """Per task: the first episode, the best (shortest success) and the worst (longest failure, else longest success).

    One trial may have several roles. Errored ones are left out: what ended them is not in their actions.
    """
    chosen: dict[int, list[Pick]] = {}
    for task in sorted({trial.spec.task for trial in trials}):
        sound = sorted((t for t in trials if t.spec.task == task and not t.errored), key=lambda t: t.spec)
        if not sound:
            continue
        successes, failures = [t for t in sound if t.success], [t for t in sound if not t.success]
        roles = {"first": sound[0], "worst": max(failures or successes, key=lambda t: t.length)}
        if successes:
            roles["best"] = min(successes, key=lambda t: t.length)
        by_spec: dict[EpisodeSpec, list[str]] = {}
        for role in ("first", "best", "worst"):
            if role in roles:
                by_spec.setdefault(roles[role].spec, []).append(role)
        found = {trial.spec: trial for trial in roles.values()}
        chosen[task] = [Pick(trial=found[spec], roles=tuple(named)) for spec, named in by_spec.items()]
    return chosen


def film(suite: Suite, spec: EpisodeSpec, actions: np.ndarray, size: int = MIN_SIZE) -> Footage:
    """Replay ``actions`` (T, 7) from the beginning of ``spec`` and film it, captions included.

    Frames are enlarged by a whole factor, without smoothing, to at least ``size`` pixels. Stops where the
    episode ends, which need not be where the recording did.
    """
    simulation = suite.simulation(spec.task)
    try:
        return _filmed(simulation, spec, actions, suite.conventions.image_size, size)
    finally:
        simulation.close()


def episode_frames(suite: Suite, spec: EpisodeSpec, actions: np.ndarray, size: int = MIN_SIZE) -> np.ndarray:
    """The frames of ``film``: (T + 1, height, width, 3) uint8."""
    return film(suite, spec, actions, size).frames


def write_video(path: Path, frames: np.ndarray, fps: float) -> tuple[Path, str | None]:
    """Encode ``frames`` (T, height, width, 3) uint8 as H.264 to ``path``, or as a gif where ffmpeg is missing.

    Returns the path written, whose suffix says which, and the reason for a gif. Sides must be even.
    """
    held = round(_HOLD_SECONDS * fps)
    shown = chain(frames, [frames[-1]] * held)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        reason = None if path.suffix == ".gif" else ffmpeg_missing()
        if path.suffix == ".gif" or reason is not None:
            path = path.with_suffix(".gif")
            encode = _encode_gif
        else:
            path = path.with_suffix(".mp4")
            encode = _encode_mp4
        temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
        try:
            encode(temporary, shown, frames.shape[2], frames.shape[1], fps)
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
    return path, reason


def ffmpeg_missing() -> str | None:
    """Why no mp4 can be encoded here, or None."""
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except ImportError:
        return "the package imageio-ffmpeg is not installed"
    except RuntimeError as error:
        return f"no ffmpeg: {str(error).splitlines()[0]}"
    return None


def write_videos(
    suite: Suite,
    trials: Sequence[Trial],
    folder: Path,
    *,
    iteration: int | None = None,
    size: int = MIN_SIZE,
    most: int = 3,
    seen: Callable[[Video, np.ndarray], None] = lambda video, frames: None,
) -> list[Video]:
    """Videos of the trials that ``pick`` chooses, ``most`` a task, and ``videos.json`` that lists them.

    ``seen`` is given each with its frames (T, height, width, 3), for whoever has another use for them.
    Raises DriftError where a replay does not end as its trial did.
    """
    tasks, fps = suite.tasks(), suite.conventions.control_hz
    written = []
    for index, picks in pick(trials).items():
        for chosen in picks[:most]:
            trial, task = chosen.trial, tasks[index]
            footage = film(suite, trial.spec, trial.actions, size)
            check_outcome(task, trial, footage)
            prefix = f"{iteration:06d}-" if iteration is not None else ""
            name = f"{prefix}{task.name}-{'-'.join(chosen.roles)}"
            path, reason = write_video(folder / f"{name}.mp4", footage.frames, fps)
            written.append(_row(path, task, chosen, iteration, reason))
            seen(written[-1], footage.frames)
    write_index(folder, written)
    return written


def write_index(folder: Path, videos: Sequence[Video]) -> None:
    """Add ``videos`` to the folder's index; rows of files that are written again are replaced."""
    new = {video.file: asdict(video) for video in videos}
    kept = {row["file"]: row for row in read_index(folder)}
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / INDEX, list({**kept, **new}.values()))


def read_index(folder: Path) -> list[dict[str, Any]]:
    """Rows of ``videos.json``; none when it is missing. AssetError (R320) when it is damaged."""
    path = folder / INDEX
    if not path.is_file():
        return []
    try:
        rows = read_json(path)
        wanted = {field.name for field in fields(Video)}
        if not isinstance(rows, list) or not all(isinstance(row, dict) and wanted <= row.keys() for row in rows):
            raise ValueError("it is not a list of videos")
    except (OSError, ValueError) as error:
        raise AssetError(
            f"{path} cannot be read: {error}",
            code="R320",
            place=str(path),
            hint="delete it; the videos beside it stay",
        ) from error
    return rows


def check_outcome(task: Task, trial: Trial, footage: Footage) -> None:
    """DriftError (D610) unless the replay ended like the recording, at the same step."""
    if footage.success == trial.success and footage.length == trial.length:
        return
    recorded, found = (
        f"{'success' if success else 'failure'} after {length} steps"
        for success, length in ((trial.success, trial.length), (footage.success, footage.length))
    )
    raise DriftError(
        f"`{task.name}` {trial.spec.split} init {trial.spec.init}: recorded was {recorded}, the replay gave {found}",
        code="D610",
        place=f"{task.name}:{trial.spec.init}",
        hint="the simulator or its version differs from the recording's: compare `vlarl doctor` with manifest.json",
    )


def _filmed(simulation: Simulation, spec: EpisodeSpec, actions: np.ndarray, rendered: int, size: int) -> Footage:
    factor = -(-size // rendered)
    image = np.empty((rendered, rendered, 3), np.uint8)
    task, total = simulation.task, len(actions)
    simulation.begin(spec)
    simulation.render_into(image)
    frames = [_captioned(image, factor, task.instruction, 0, total, "")]
    success = done = False
    for step, action in enumerate(actions, start=1):
        outcome = simulation.advance(action)
        simulation.render_into(image)
        success, done = outcome.terminated, outcome.terminated or outcome.truncated
        verdict = ("success" if success else "failure") if done else ""
        frames.append(_captioned(image, factor, task.instruction, step, total, verdict))
        if done:
            break
    return Footage(frames=np.stack(frames), success=success, length=len(frames) - 1)


def _captioned(image: np.ndarray, factor: int, instruction: str, step: int, total: int, verdict: str) -> np.ndarray:
    """``image`` enlarged, over a bar with the instruction, the step and how it ended."""
    from PIL import Image, ImageDraw

    large = image.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = large.shape[:2]
    canvas = Image.new("RGB", (width, height + _BAR + height % 2), (24, 27, 31))
    canvas.paste(Image.fromarray(large), (0, 0))
    draw = ImageDraw.Draw(canvas)
    _fitted(draw, instruction, (8, height + 6), width - 16, 14)
    counter = f"step {step} / {total}"
    draw.text((8, height + 27), counter, fill=(158, 167, 179), font=_font(12))
    if verdict:
        shown = verdict.upper()
        draw.text(
            (width - 8 - draw.textlength(shown, _font(12)), height + 27), shown, fill=_COLOURS[verdict], font=_font(12)
        )
    done = round(width * step / max(1, total))
    draw.rectangle((0, height, done, height + 2), fill=_COLOURS[verdict])
    return np.asarray(canvas)


def _fitted(draw: ImageDraw, text: str, at: tuple[int, int], width: int, size: int) -> None:
    """Draw ``text`` in the largest size that fits, down to 9 pixels, then cut it."""
    while size > 9 and draw.textlength(text, _font(size)) > width:
        size -= 1
    while draw.textlength(text, _font(size)) > width:
        text = text.removesuffix("…")[:-1] + "…"
    draw.text(at, text, fill=(235, 238, 242), font=_font(size))


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _encode_mp4(path: Path, frames: Any, width: int, height: int, fps: float) -> None:
    import imageio_ffmpeg

    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=fps,
        codec="libx264",
        pix_fmt_in="rgb24",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        quality=None,
        # One thread gives the same bytes on every machine; fast start lets a browser play before it has all.
        output_params=["-crf", "23", "-preset", "medium", "-threads", "1", "-movflags", "+faststart", "-f", "mp4"],
        ffmpeg_log_level="error",
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()


def _encode_gif(path: Path, frames: Any, width: int, height: int, fps: float) -> None:
    from PIL import Image

    # Halved frames and rate: a gif of all of them would be many times the size of the mp4.
    step = max(1, round(fps / 10))
    images = [Image.fromarray(frame).quantize(128) for frame in list(frames)[::step]]
    with path.open("wb") as stream:
        images[0].save(
            stream, format="GIF", save_all=True, append_images=images[1:], duration=round(1000 * step / fps), loop=0
        )


def _row(path: Path, task: Task, chosen: Pick, iteration: int | None, reason: str | None) -> Video:
    trial = chosen.trial
    return Video(
        file=path.name,
        task=task.name,
        instruction=task.instruction,
        init=trial.spec.init,
        seed=trial.spec.seed,
        roles=chosen.roles,
        success=trial.success,
        length=trial.length,
        iteration=iteration,
        note=reason,
    )
