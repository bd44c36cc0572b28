"""A file as LIBERO's own ``scripts/create_dataset.py`` writes it, from an episode of the real simulation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.suites.libero.suite import LiberoSuite
from vlarl.types import EpisodeSpec

TASK = "put_the_bowl_on_the_plate"
INSTRUCTION = "put the bowl on the plate"
SIDE = 128
CUT = 5  # steps that the script leaves out at the beginning
CONTROLLER = {"type": "OSC_POSE", "control_delta": True, "input_max": 1, "input_min": -1, "kp": 150}


def write_official_file(path: Path, *, num_steps: int | None = None) -> dict[str, np.ndarray]:
    """One demonstration of task 8 of libero_goal by the scripted expert, to success unless ``num_steps`` ends it.

    Fixtures stand where the fourth reset from seed 0 puts them. Returns what policies see before every stored action:
    ``images`` (T, 128, 128, 3), and the ``actions`` (T, 7).
    """
    suite = LiberoSuite(
        LiberoSpec(
            name="libero_goal",
            tasks=[TASK],
            image_size=SIDE,
            renderer="osmesa",
            init_states="official",
            fixtures="official_sequence",
            render_quality="fast",
        )
    )
    simulation = suite.simulation(0)
    simulation.begin(EpisodeSpec(task=0, split="train", init=3, seed=0))
    rows = _play(suite, simulation, num_steps)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        _describe(data)
        demo = data.create_group("demo_0")
        for name, values in rows["demo"].items():
            demo[name] = values
        for name, values in rows["obs"].items():
            demo[f"obs/{name}"] = values
        demo.attrs["num_samples"] = len(rows["demo"]["actions"])
        demo.attrs["init_state"] = rows["demo"]["states"][0]
        stage = simulation.episode.stage
        stage.place(simulation.episode._start)
        demo.attrs["model_file"] = stage._env.sim.model.get_xml()
        data.attrs["num_demos"], data.attrs["total"] = 1, len(rows["demo"]["actions"])
    simulation.close()
    return rows["seen"]


def _play(suite: LiberoSuite, simulation: Any, num_steps: int | None) -> dict[str, dict[str, np.ndarray]]:
    """Rows as the script keeps them: states before each action, observations after it, the first five left out."""
    expert = suite.expert(simulation)
    states, actions, seen, observed = [], [], [], []
    done = False
    while not done and (num_steps is None or len(actions) < num_steps + CUT):
        states.append(simulation.low_dimensional()["states"])
        seen.append(_image(simulation))
        actions.append(expert.act().astype(np.float64))
        done = simulation.advance(actions[-1]).terminated
        observed.append({**simulation.low_dimensional(), "agentview_rgb": _image(simulation)[::-1, ::-1]})
    last = np.zeros(len(actions) - CUT, np.uint8)
    last[-1] = 1  # the script takes every demonstration for a success
    names = ("agentview_rgb", "ee_ori", "ee_pos", "ee_states", "gripper_states", "joint_states")
    obs = {name: np.stack([row[name] for row in observed[CUT:]]) for name in names}
    return {
        "demo": {
            "actions": np.stack(actions[CUT:]),
            "states": np.stack(states[CUT:]),
            "robot_states": np.zeros((len(last), 9)),
            "rewards": last,
            "dones": last,
        },
        "obs": {**obs, "eye_in_hand_rgb": np.zeros_like(obs["agentview_rgb"])},
        "seen": {"images": np.stack(seen[CUT:]), "actions": np.stack(actions[CUT:])},
    }


def _image(simulation: Any) -> np.ndarray:
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    simulation.render_into(image)
    return image


def _describe(data: h5py.Group) -> None:
    former = "chiliocosm/bddl_files/libero_goal/put_the_bowl_on_the_plate.bddl"
    data.attrs["env_args"] = json.dumps(
        {
            "type": 1,
            "env_name": "Libero_Tabletop_Manipulation",
            "problem_name": "libero_tabletop_manipulation",
            "bddl_file": former,
            "env_kwargs": {
                "robots": ["Panda"],
                "controller_configs": CONTROLLER,
                "bddl_file_name": former,
                "control_freq": 20,
                "camera_heights": SIDE,
                "camera_widths": SIDE,
            },
        }
    )
    data.attrs["env_name"] = "Libero_Tabletop_Manipulation"
    data.attrs["problem_info"] = json.dumps(
        {
            "problem_name": "libero_tabletop_manipulation",
            "domain_name": "robosuite",
            "language_instruction": INSTRUCTION,
        }
    )
    data.attrs["macros_image_convention"] = "opengl"
    data.attrs["bddl_file_name"] = f"libero/libero/bddl_files/libero_goal/{TASK}.bddl"
    data.attrs["tag"] = "libero-v1"
