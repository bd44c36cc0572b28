"""The scenes' geometry and their MJCF.

Axes as LIBERO's table scenes: +x from the robot's side towards the camera, +y to the right of the
image, +z up; metres. Things whose place an init state decides are mocap bodies (no degree of freedom)
or free bodies, so that one compiled model serves every episode.
"""

from __future__ import annotations

from dataclasses import dataclass

CONTROL_HZ = 20.0
PHYSICS_STEP = 0.005  # seconds
STEPS_PER_CONTROL = 10

STEP_REACH = 0.03  # metres of gripper motion asked for by |action| = 1 in one control step
GRIPPER_LOW = (-0.17, -0.21, 0.012)  # tool point limits
GRIPPER_HIGH = (0.17, 0.21, 0.24)
GRIPPER_HOME = (-0.06, 0.0, 0.16)
FINGER_OPEN = 0.045  # half of the clear width between the fingers

CUBE_HALF = 0.022
CUBE_COLOURS = {"red": "0.95 0.08 0.08", "green": "0.1 0.85 0.15", "blue": "0.15 0.35 1"}
ZONE_HALF_WIDTH = 0.045  # along y
PLATE_HALF = 0.045
PLATE_TOP = 0.008
CABINET_HALF = (0.045, 0.06, 0.024)
DRAWER_TRAVEL = 0.11
HANDLE_REACH = 0.104  # from the cabinet's middle to the handle's bar, drawer shut
HANDLE_GAP = 0.03  # from the bar back to the middle of the gap behind it
BUTTON_TRAVEL = 0.012
BUTTON_TOP = 0.04


@dataclass(frozen=True)
class Scene:
    """What stands on the table."""

    name: str
    cubes: tuple[str, ...]
    fixtures: tuple[str, ...]


# Who may touch whom: cubes touch everything, fingers touch cubes and fixtures, nothing else collides.
_OBJECT = 'contype="1" conaffinity="5"'
_FINGER = 'contype="1" conaffinity="0"'
_FIXTURE = 'contype="0" conaffinity="1"'
_TABLE = 'contype="4" conaffinity="0"'
_VISUAL = 'contype="0" conaffinity="0"'

_HEADER = f"""
<mujoco model="tabletop">
  <option timestep="{PHYSICS_STEP}" iterations="20" ls_iterations="10" tolerance="1e-6" cone="pyramidal"/>
  <size memory="4M"/>
  <visual>
    <global offwidth="{{size}}" offheight="{{size}}"/>
    <quality shadowsize="0" offsamples="0" numslices="12" numstacks="6"/>
    <headlight ambient="0.45 0.45 0.45" diffuse="0.55 0.55 0.55" specular="0 0 0"/>
    <map znear="0.05" zfar="20"/>
  </visual>
  <default>
    <geom condim="3" friction="1 0.005 0.0001" solref="0.01 1"/>
  </default>
"""

_GRIPPER = f"""
    <body name="carriage" gravcomp="1">
      <inertial pos="0 0 0.3" mass="0.02" diaginertia="1e-5 1e-5 1e-5"/>
      <joint name="x" type="slide" axis="1 0 0" damping="22"/>
      <joint name="y" type="slide" axis="0 1 0" damping="22"/>
      <geom type="cylinder" size="0.016 0.0005" pos="0 0 0.0015" rgba="1 1 1 1" {_VISUAL} mass="0"/>
      <body name="hand" gravcomp="1">
        <inertial pos="0 0 0.06" mass="0.08" diaginertia="1e-5 1e-5 1e-5"/>
        <joint name="z" type="slide" axis="0 0 1" damping="20"/>
        <geom name="palm" type="box" size="0.014 0.055 0.009" pos="0 0 0.055" rgba="0.75 0.75 0.78 1" {_FINGER}/>
        <geom type="box" size="0.012 0.012 0.06" pos="0 0 0.12" rgba="0.55 0.55 0.6 1" {_VISUAL}/>
        <body name="left_finger" gravcomp="1">
          <inertial pos="0 0 0.02" mass="0.02" diaginertia="1e-5 1e-5 1e-5"/>
          <joint name="left" type="slide" axis="0 -1 0" damping="5"/>
          <geom type="box" size="0.013 0.006 0.029" pos="0 -0.006 0.019" rgba="1 1 1 1" friction="1.5" {_FINGER}/>
        </body>
        <body name="right_finger" gravcomp="1">
          <inertial pos="0 0 0.02" mass="0.02" diaginertia="1e-5 1e-5 1e-5"/>
          <joint name="right" type="slide" axis="0 1 0" damping="5"/>
          <geom type="box" size="0.013 0.006 0.029" pos="0 0.006 0.019" rgba="1 1 1 1" friction="1.5" {_FINGER}/>
        </body>
      </body>
    </body>
"""

_ACTUATORS = """
  <actuator>
    <position joint="x" kp="900"/>
    <position joint="y" kp="900"/>
    <position joint="z" kp="900"/>
    <position joint="left" kp="350"/>
    <position joint="right" kp="350"/>
  </actuator>
"""

_WORLD = f"""
    <camera name="agentview" pos="0.48 0 0.62" xyaxes="0 1 0 -0.76 0 0.65" fovy="35"/>
    <geom name="table" type="plane" size="0.6 0.6 0.1" rgba="0.13 0.13 0.15 1" {_TABLE}/>
"""

_ZONE = f"""
    <body name="zone" mocap="true">
      <geom type="box" size="0.16 {ZONE_HALF_WIDTH} 0.0005" rgba="0.55 0.2 0.75 1" {_VISUAL}/>
    </body>
"""

_PLATE = f"""
    <body name="plate" mocap="true">
      <geom type="box" size="{PLATE_HALF} {PLATE_HALF} {PLATE_TOP / 2}" pos="0 0 {PLATE_TOP / 2}"
            rgba="0.95 0.85 0.2 1" {_FIXTURE}/>
    </body>
"""

_CABINET = f"""
    <body name="cabinet" mocap="true">
      <geom type="box" size="{CABINET_HALF[0]} {CABINET_HALF[1]} {CABINET_HALF[2]}" pos="0 0 {CABINET_HALF[2]}"
            rgba="0.5 0.32 0.18 1" {_FIXTURE}/>
      <body name="drawer">
        <inertial pos="0.045 0 0.02" mass="0.2" diaginertia="1e-3 1e-3 1e-3"/>
        <joint name="drawer" type="slide" axis="1 0 0" damping="8" limited="true" range="0 {DRAWER_TRAVEL}"/>
        <geom type="box" size="0.005 0.055 0.02" pos="0.05 0 0.022" rgba="0.75 0.55 0.35 1" {_FIXTURE}/>
        <geom type="box" size="0.045 0.05 0.004" pos="0 0 0.012" rgba="0.95 0.8 0.6 1" {_VISUAL}/>
        <geom name="handle" type="box" size="0.007 0.042 0.014" pos="{HANDLE_REACH} 0 0.026"
              rgba="1 0.6 0.1 1" {_FIXTURE}/>
        <geom type="box" size="0.025 0.005 0.006" pos="0.079 0.037 0.026" rgba="1 0.6 0.1 1" {_VISUAL}/>
        <geom type="box" size="0.025 0.005 0.006" pos="0.079 -0.037 0.026" rgba="1 0.6 0.1 1" {_VISUAL}/>
      </body>
    </body>
"""

_BUTTON = f"""
    <body name="button" mocap="true">
      <geom type="cylinder" size="0.036 0.01" pos="0 0 0.01" rgba="0.8 0.8 0.8 1" {_VISUAL}/>
      <body name="cap" gravcomp="1">
        <inertial pos="0 0 0.03" mass="0.02" diaginertia="1e-5 1e-5 1e-5"/>
        <joint name="button" type="slide" axis="0 0 -1" damping="4" stiffness="400" limited="true"
               range="0 {BUTTON_TRAVEL}"/>
        <geom type="cylinder" size="0.028 0.014" pos="0 0 {BUTTON_TOP - 0.014}" rgba="0.1 0.9 0.9 1" {_VISUAL}/>
        <geom type="box" size="0.024 0.024 0.014" pos="0 0 {BUTTON_TOP - 0.014}" group="3" {_FIXTURE}/>
      </body>
    </body>
"""

_FIXTURES = {"zone": _ZONE, "plate": _PLATE, "cabinet": _CABINET, "button": _BUTTON}


def _cube(colour: str) -> str:
    return f"""
    <body name="{colour}">
      <freejoint name="{colour}"/>
      <geom type="box" size="{CUBE_HALF} {CUBE_HALF} {CUBE_HALF}" mass="0.04"
            rgba="{CUBE_COLOURS[colour]} 1" {_OBJECT}/>
    </body>
"""


def scene_xml(scene: Scene, image_size: int) -> str:
    """MJCF of ``scene``; joints in the order x, y, z, left, right, then cubes, drawer, button."""
    world = _WORLD + _GRIPPER + "".join(_cube(colour) for colour in scene.cubes)
    world += "".join(_FIXTURES[name] for name in scene.fixtures)
    header = _HEADER.format(size=image_size)
    return f"{header}  <worldbody>{world}  </worldbody>{_ACTUATORS}</mujoco>\n"
