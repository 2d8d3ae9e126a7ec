"""Films of the ALOHA simulator as a LeRobot data set: two arms, a red cube, a reward of 0 to 4 from contacts.

The simulator is `gym-aloha` (the extra `films`, with MuJoCo). Nothing is learnt here: scripted waypoints
with noise move the grippers, so that films reach every reward, fail in several ways, and sometimes recover.
The waypoints follow those of ACT's scripted policy (github.com/tonyzhaozh/act, MIT): approach from above,
close, lift to the meeting place, hand over.

`vlrlbook aloha-films` is the command. Written by hand, not exported from a notebook."""
import importlib.metadata
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .data import aloha_cameras, without_lerobot
from .folders import new_folder, write_json
from .settings import SettingsError, nearest

__all__ = ["TASK", "Waypoint", "Script", "plans", "Simulator", "moment_labels", "record_film", "make_films"]

# How videos are encoded. The background never moves, so most frames are kept as differences to the one
# before. A film of 15 frames and three cameras takes 17 KB with these two numbers, and 29 KB with LeRobot's
# own, 2 and 30.
WHOLE_EVERY = 16 # frames from one that is kept as a whole picture to the next
QUALITY = 32 # AV1's crf: lower is better, and makes larger files
SMALLEST = 32 # pixels a side: smaller pictures do not show the cube
# Film f of a data set with seed s is drawn from the seed s · SEED_STRIDE + f. So two data sets with different
# seeds have no film in common, as long as neither has more films than this.
SEED_STRIDE = 1_000_003

TASK = "hand the red cube from the right arm to the left arm"
# How many rewards the simulator has. 0: nothing; 1: the right finger touches the cube; 2: it does, and the
# cube is off the table; 3: the left finger touches the cube; 4: it does, and the cube is off the table.
REWARDS = 5

# The simulator's cameras in the order of `data.aloha_cameras`: right wrist, left wrist, from above.
CAMERAS = ("right_wrist", "left_wrist", "top")
# Angle of view of the camera above. gym-aloha's own 78 degrees show twice the width of the table, and at 96
# pixels the cube would be 4 pixels wide.
TOP_DEGREES = 58.0

CONTROL_STEPS_A_SECOND = 50 # gym_aloha.constants.DT
MOMENT_STEPS = 25 # control steps between two frames of a film: two frames a second
FIRST_STEP = 125 # of a film: before it the arms only swing out, and every label would be 0
# While a finger holds the cube, the simulator loses the contact for single steps. So the label of a moment is
# the commonest reward of this many steps around it.
LABEL_STEPS = 7

# Places in metres, in the simulator's world: x to the right, y away from the viewer, z up.
RIGHT_START = np.array([0.31718881, 0.49999888, 0.29525084])
LEFT_START = np.array([-0.31718881, 0.5, 0.29525084])
MEETING_PLACE = np.array([0.0, 0.5, 0.25])
CUBE_HEIGHT = 0.02 # of its middle, when it lies on the table
# Offsets, in metres: added to the meeting place
FURTHER_LEFT = np.array([-0.12, 0, -0.02]) # where the left gripper waits
TAKING = np.array([0.02, 0, -0.02]) # where the left gripper closes
# and added to the middle of the cube.
ABOVE = np.array([0, 0, 0.08]) # where a gripper waits before it goes down
GRASP = np.array([0, 0, -0.015]) # where a gripper closes
PRESSED = np.array([0, 0, -0.005]) # where closed fingers press on the cube
# How far a gripper is open.
OPEN, CLOSED = 1.0, 0.0
TOUCHING = 0.16 # the fingers touch the cube, and mostly are too loose to lift it

# Where the cube's numbers stand among MuJoCo's 23 joint positions: 8 of each arm (6 joints, 2 fingers) come
# first, then the cube's place and its rotation.
CUBE_PLACE, CUBE_ROTATION = slice(16, 19), slice(19, 23)
JOINTS = 14 # of both arms, a gripper counting as one
ACTION = 16 # of both grippers: place 3, rotation 4, opening 1


# Where the grippers shall go

def turned(
    axis: tuple, # of length 1
    degrees: float, # counter-clockwise, seen against the axis
) -> np.ndarray: # [4], w x y z
    "The quaternion of a rotation around an axis"
    half_angle = np.radians(degrees) / 2
    return np.concatenate([[np.cos(half_angle)], np.sin(half_angle) * np.array(axis, float)])


LEVEL = np.array([1.0, 0, 0, 0]) # not turned
RIGHT_DOWN = turned((0, 1, 0), -60) # the right gripper tilted to pick from the table
LEFT_DOWN = turned((0, 1, 0), 60)
ON_ITS_SIDE = turned((1, 0, 0), 90) # the left gripper, so that its fingers fit between the right one's


@dataclass
class Waypoint:
    "Where a gripper shall be at a control step, how it is turned and how far it is open"
    step: int # control steps since the film began
    place: np.ndarray # [3] metres
    rotation: np.ndarray # [4] quaternion
    opening: float # 0 closed to 1 open


class Script:
    "The waypoints of one gripper, written one after another; between two of them it moves evenly"
    def __init__(self,
        start: np.ndarray, # [3] metres, where it is at step 0
        rng: np.random.Generator, # of the noise
        tremble: float = 0.004, # standard deviation of a waypoint's place, metres
    ):
        self.points = [Waypoint(0, start, LEVEL, CLOSED)] # by step, the earliest first
        self.rng, self.tremble = rng, tremble

    @property
    def last_step(self) -> int: return self.points[-1].step

    def move(self,
        steps: int, # how long the way takes, give or take a tenth
        place: np.ndarray = None, # None: stay there
        rotation: np.ndarray = None, # None: as it is
        opening: float = None, # None: as it is
    ): # self
        "Add a waypoint: from the last one the gripper takes about `steps` control steps to it"
        last = self.points[-1]
        # Noise (`tremble`: its standard deviation, metres) is added to a new place only: a gripper that
        # stays shall not drift off the cube.
        if place is not None:
            place = place + self.rng.normal(0, self.tremble, 3)
        duration = max(1, round(steps * self.rng.uniform(0.9, 1.1)))
        self.points.append(Waypoint(
            last.step + duration,
            last.place if place is None else place,
            last.rotation if rotation is None else rotation,
            last.opening if opening is None else opening))
        return self

    def stay(self,
        steps: int, # how long, give or take a tenth
    ): # self
        "Add a waypoint that is equal to the last one: the gripper stays as it is for about `steps` steps"
        return self.move(steps)

    def wait_until(self,
        step: int, # control step; nothing is added if it lies before the last waypoint
    ): # self
        "Add a waypoint at `step` that is equal to the last one, so that the gripper stays as it is"
        last = self.points[-1]
        if step > last.step:
            self.points.append(Waypoint(step, last.place, last.rotation, last.opening))
        return self

    def pick(self,
        cube: np.ndarray, # [3] metres, middle of the cube; a place beside it for a miss
        rotation: np.ndarray, # [4] quaternion that tilts the gripper towards the table
        closed: float = CLOSED, # opening at the end: with TOUCHING the fingers only touch the cube
    ): # self
        """Add three waypoints: open above the cube, go down, close.

        They take about 170 steps, because the arm lags behind its target."""
        # What is not given to `move` stays as it was at the last waypoint.
        self.move(steps=90, place=cube + ABOVE, rotation=rotation, opening=OPEN)
        self.move(steps=40, place=cube + GRASP)
        return self.move(steps=40, opening=closed)

    def target(self,
        step: int, # control step
    ) -> np.ndarray: # [8] place, rotation, opening
        """Where the gripper shall be at a control step, as the simulator's action takes it.

        Between two waypoints it is interpolated linearly; after the last one the gripper stays there."""
        for before, after in zip(self.points, self.points[1:]):
            if step <= after.step:
                share = (step - before.step) / (after.step - before.step) # 0 at `before`, 1 at `after`
                return _as_action(before) * (1 - share) + _as_action(after) * share
        return _as_action(self.points[-1])


def _as_action(
    waypoint, # `Waypoint`: place [3], rotation [4], opening
):
    "The 8 numbers of an action for one gripper, in the simulator's order: place, rotation, opening"
    return np.concatenate([waypoint.place, waypoint.rotation, [waypoint.opening]])


# Plans: what a film is about. Each fills `left` and `right`, the `Script`s of both arms, for a cube that lies
# at `cube` ([3] metres), and draws its noise from `rng`. Numbers of steps are control steps, 50 a second.

def _hand_over(
    cube, # [3] metres, where the middle of the cube lies on the table
    left: Script, # gets the waypoints of the left gripper; their steps are fiftieths of a second
    right: Script, # gets those of the right gripper
    rng, # `np.random.Generator`, source of all noise
):
    "Plan of a film: the right arm picks the cube and hands it over; the rewards are 0, 1, 2, then 4"
    right.pick(cube, rotation=RIGHT_DOWN)
    _meet(left, right, rng) # the left gripper takes the cube from the right one


def _linger_then_hand_over(
    cube, # [3] metres, where the middle of the cube lies on the table
    left: Script, # gets the waypoints of the left gripper; their steps are fiftieths of a second
    right: Script, # gets those of the right gripper
    rng, # `np.random.Generator`, source of all noise
):
    "Plan of a film: the right gripper touches the cube on the table for a while, then hands it over"
    # A cube that is touched and not lifted has the reward 1, which is rare in other plans.
    right.pick(cube, rotation=RIGHT_DOWN, closed=TOUCHING)
    right.stay(rng.integers(80, 200))
    right.move(steps=20, opening=CLOSED)
    _meet(left, right, rng) # the left gripper takes the cube from the right one


def _second_try(
    cube, # [3] metres, where the middle of the cube lies on the table
    left: Script, # gets the waypoints of the left gripper; their steps are fiftieths of a second
    right: Script, # gets those of the right gripper
    rng, # `np.random.Generator`, source of all noise
):
    "Plan of a film: the right gripper misses the cube, then picks it and hands it to the left one"
    offset = _offset_of_a_miss(rng) # [3] metres
    right.pick(cube + offset, rotation=RIGHT_DOWN) # goes down beside the cube, and closes there
    right.move(steps=20, opening=OPEN)
    # Up and over to the cube, at twice the usual height. The arm lags behind its target: at the usual height
    # its open fingers would push the cube away.
    right.move(steps=60, place=cube + offset + 2 * ABOVE)
    right.move(steps=60, place=cube + 2 * ABOVE)
    right.move(steps=60, place=cube + GRASP)
    right.move(steps=40, opening=CLOSED)
    _meet(left, right, rng) # the left gripper takes the cube from the right one


def _miss(
    cube, # [3] metres, where the middle of the cube lies on the table
    left: Script, # gets the waypoints of the left gripper; their steps are fiftieths of a second
    right: Script, # gets those of the right gripper
    rng, # `np.random.Generator`, source of all noise
):
    "Plan of a film: the right gripper closes beside the cube and lifts nothing"
    # What is not given to `move` stays as it was, so the closed gripper goes to the meeting place.
    right.pick(cube + _offset_of_a_miss(rng), rotation=RIGHT_DOWN)
    right.move(steps=60, place=MEETING_PLACE)
    right.stay(60)


def _squeeze(
    cube, # [3] metres, where the middle of the cube lies on the table
    left: Script, # unused: the left gripper stays where it is; every plan is called with both
    right: Script, # gets the waypoints of the right gripper; their steps are fiftieths of a second
    rng, # `np.random.Generator`, source of all noise
):
    "Plan of a film: the right gripper holds the cube on the table for 60 steps or more, and leaves"
    _squeeze_with(right, RIGHT_DOWN, RIGHT_START, cube, rng, shortest=60)


def _squeeze_with(
    arm, # `Script` of one gripper
    pointing_down, # [4] quaternion that turns this gripper towards the table
    start, # [3] metres, where the gripper begins and ends
    cube, # [3] metres
    rng, # source of all noise
    shortest, # fewest control steps for which the gripper stays closed
):
    "A gripper closes on the cube for `shortest` to 199 control steps, lets it go and returns to its start"
    # `pick` draws from the same generator. If the time were drawn before it, a seed would give another film.
    arm.pick(cube, rotation=pointing_down, closed=TOUCHING) # touches it, too loose to lift it
    arm.stay(rng.integers(shortest, 200))
    arm.move(steps=30, opening=OPEN)
    arm.move(steps=60, place=start)


def _press(
    cube, # [3] metres, where the middle of the cube lies on the table
    left: Script, # gets the waypoints of the left gripper; their steps are fiftieths of a second
    right: Script, # gets those of the right gripper
    rng, # `np.random.Generator`, source of all noise
):
    "Plan of a film: the right gripper, closed, presses on the cube from above"
    _press_with(right, RIGHT_DOWN, RIGHT_START, cube, rng)


def _press_with(
    arm, # `Script` of one gripper
    pointing_down, # [4] quaternion that turns this gripper towards the table
    start, # [3] metres, where the gripper begins and ends
    cube, # [3] metres
    rng, # source of all noise
):
    "A closed gripper presses on the cube for 80 to 199 control steps and returns to its start"
    # A film begins with closed grippers, so it need not be closed. ABOVE: 8 cm above the middle of the cube.
    arm.move(steps=90, place=cube + ABOVE, rotation=pointing_down)
    arm.move(steps=50, place=cube + PRESSED) # half a centimetre below its middle
    arm.stay(rng.integers(80, 200))
    arm.move(steps=60, place=start)


def _drop(
    cube, # [3] metres, where the middle of the cube lies on the table
    left: Script, # gets the waypoints of the left gripper; their steps are fiftieths of a second
    right: Script, # gets those of the right gripper
    rng, # `np.random.Generator`, source of all noise
):
    "Plan of a film: the right arm lifts the cube and drops it on the way to the left one"
    right.pick(cube, rotation=RIGHT_DOWN)
    right.move(steps=60, place=MEETING_PLACE)
    right.stay(rng.integers(10, 120)) # holds the cube for so many control steps
    right.move(steps=10, opening=OPEN)
    right.stay(70) # so that the film shows the cube on the table again


def _drop_at_the_meeting(
    cube, # [3] metres, where the middle of the cube lies on the table
    left: Script, # gets the waypoints of the left gripper; their steps are fiftieths of a second
    right: Script, # gets those of the right gripper
    rng, # `np.random.Generator`, source of all noise
):
    "Plan of a film: the right gripper opens before the left one has closed, and the cube falls"
    right.pick(cube, rotation=RIGHT_DOWN)
    right.move(steps=50, place=MEETING_PLACE)
    # The left gripper waits beside the meeting place, open, until 30 steps after the right one has come.
    left.move(steps=100, place=MEETING_PLACE + FURTHER_LEFT, rotation=ON_ITS_SIDE, opening=OPEN)
    left.wait_until(right.last_step + 30)
    # The right gripper opens within about 80 steps. The left one begins to close after about 30 + 60.
    right.stay(rng.integers(20, 70)) # holds the cube for so many control steps
    right.move(steps=10, opening=OPEN)
    right.move(steps=60, place=MEETING_PLACE - FURTHER_LEFT) # 12 cm away to the right
    # The left gripper closes where the cube hung.
    left.move(steps=60, place=MEETING_PLACE + TAKING) # its fingers would be around the cube
    left.move(steps=30, opening=CLOSED)


def _over_the_table(
    cube, # [3] metres, where the middle of the cube lies on the table
    left: Script, # gets the waypoints of the left gripper; their steps are fiftieths of a second
    right: Script, # gets those of the right gripper
    rng, # `np.random.Generator`, source of all noise
):
    "Plan of a film: the right arm sets the cube down in the middle, and the left arm takes it from there"
    middle = np.array([0.02, 0.5, CUBE_HEIGHT])
    right.pick(cube, rotation=RIGHT_DOWN)
    _set_down(right, middle)
    # The left arm swings out while the right one opens and leaves, which takes about 20 + 40 steps.
    left.wait_until(right.last_step - (20 + 40))
    left.pick(middle, rotation=LEFT_DOWN)
    # Holds the cube on the table, for moments of reward 3: the left finger touches it, it is not lifted yet.
    left.stay(rng.integers(5, 90))
    left.move(steps=50, place=MEETING_PLACE)
    left.stay(40)


def _set_down(
    right, # `Script` of the right gripper, which holds the cube
    middle, # [3] metres, where the middle of the cube shall lie
):
    "The right gripper carries the cube to a place on the table, lets it go there and leaves"
    right.move(steps=50, place=MEETING_PLACE + [0.05, 0, -0.1]) # through the air, on the way
    right.move(steps=60, place=middle + [0, 0, 0.005]) # half a centimetre above where it will lie
    right.stay(30) # because the arm lags behind its target
    right.move(steps=20, opening=OPEN)
    right.move(steps=40, place=middle + [0.1, 0, 0.12]) # up and away to the right


def _left_takes(
    cube, # [3] metres, where the middle of the cube lies on the table
    left: Script, # gets the waypoints of the left gripper; their steps are fiftieths of a second
    right: Script, # gets those of the right gripper
    rng, # `np.random.Generator`, source of all noise
):
    "Plan of a film: the left arm takes the cube from the table; the rewards are 0, 3, then 4"
    left.pick(cube, rotation=LEFT_DOWN)
    # Holds the cube on the table, for moments of reward 3: the left finger touches it, it is not lifted yet.
    left.stay(rng.integers(5, 90))
    left.move(steps=60, place=MEETING_PLACE)
    left.stay(100) # two seconds more of reward 4


def _left_squeezes(
    cube, # [3] metres, where the middle of the cube lies on the table
    left: Script, # gets the waypoints of the left gripper; their steps are fiftieths of a second
    right: Script, # gets those of the right gripper
    rng, # `np.random.Generator`, source of all noise
):
    "Plan of a film: the left gripper holds the cube on the table for 80 to 199 control steps, and leaves"
    _squeeze_with(left, LEFT_DOWN, LEFT_START, cube, rng, shortest=80)


def _left_presses(
    cube, # [3] metres, where the middle of the cube lies on the table
    left: Script, # gets the waypoints of the left gripper; their steps are fiftieths of a second
    right: Script, # gets those of the right gripper
    rng, # `np.random.Generator`, source of all noise
):
    "Plan of a film: the left gripper, closed, presses on the cube from above"
    _press_with(left, LEFT_DOWN, LEFT_START, cube, rng)


def _left_drops(
    cube, # [3] metres, where the middle of the cube lies on the table
    left: Script, # gets the waypoints of the left gripper; their steps are fiftieths of a second
    right: Script, # gets those of the right gripper
    rng, # `np.random.Generator`, source of all noise
):
    "Plan of a film: the left arm lifts the cube and drops it"
    left.pick(cube, rotation=LEFT_DOWN)
    # Holds the cube on the table, for moments of reward 3: the left finger touches it, it is not lifted yet.
    left.stay(rng.integers(20, 100))
    left.move(steps=60, place=MEETING_PLACE)
    left.stay(rng.integers(20, 90)) # holds the cube for so many control steps
    left.move(steps=10, opening=OPEN)
    left.stay(50)


def _meet(
    left, # `Script` of the left gripper, which has no cube yet
    right, # `Script` of the right gripper, which holds the cube
    rng, # source of all noise
):
    "The right gripper brings the cube to the meeting place, the left one takes it and goes away with it"
    right.move(steps=50, place=MEETING_PLACE) # between the arms, 25 cm above the table
    # Meanwhile the left gripper goes to a place beside it and opens.
    left.move(steps=100, place=MEETING_PLACE + FURTHER_LEFT, rotation=ON_ITS_SIDE, opening=OPEN)
    # The right arm lags behind its script, so the left one waits until the cube hangs still.
    left.wait_until(right.last_step + int(rng.integers(20, 60)))
    left.move(steps=40, place=MEETING_PLACE + TAKING) # where its fingers are around the cube
    left.stay(20) # because this arm lags behind its script, too
    left.move(steps=30, opening=CLOSED)
    _let_go_and_part(left, right)


def _let_go_and_part(
    left, # `Script` of the left gripper
    right, # `Script` of the right gripper; both hold the cube at the meeting place
):
    "The right gripper lets the cube go, then both leave to their sides, the left one with the cube"
    # Both hold the cube for a moment: if the right gripper opened earlier, the cube would fall.
    right.wait_until(left.last_step + 15)
    right.move(steps=20, opening=OPEN)
    right.move(steps=40, place=MEETING_PLACE - FURTHER_LEFT) # 12 cm away to the right
    left.wait_until(right.last_step) # until the right gripper is out of the way
    left.move(steps=50, place=MEETING_PLACE + FURTHER_LEFT)
    left.stay(60)


def _offset_of_a_miss(rng):
    "A random offset [3] in metres from the cube: 5 to 7 cm in y, so that no finger touches the cube"
    side = rng.choice([-1, 1]) # towards the viewer, or away
    return np.array([0, side * rng.uniform(0.05, 0.07), 0])


plans = {
    "hand_over": _hand_over,
    "linger_then_hand_over": _linger_then_hand_over,
    "second_try": _second_try,
    "miss": _miss,
    "squeeze": _squeeze,
    "press": _press,
    "drop": _drop,
    "drop_at_the_meeting": _drop_at_the_meeting,
    "over_the_table": _over_the_table,
    "left_takes": _left_takes,
    "left_squeezes": _left_squeezes,
    "left_presses": _left_presses,
    "left_drops": _left_drops,
}
# In these the cube lies where the left arm reaches it.
LEFT_PLANS = ["left_takes", "left_squeezes", "left_presses", "left_drops"]

# The plans take turns in this order: those that are rich in the rare rewards 1 and 3 come twice.
TURNS = [
    "hand_over", "squeeze", "left_takes", "press", "linger_then_hand_over", "left_squeezes", "miss",
    "second_try", "over_the_table", "left_squeezes", "hand_over", "drop", "left_drops", "squeeze",
    "left_presses", "drop_at_the_meeting"]

# Where the cube may lie, [x from, x to] and [y from, y to]: each arm reaches its own half and a little more.
CUBE_OF_RIGHT = np.array([[0.02, 0.18], [0.42, 0.58]])
CUBE_OF_LEFT = np.array([[-0.08, 0.1], [0.42, 0.58]])


# The simulator

class Simulator:
    "MuJoCo with both arms and the cube; an action says where the two grippers shall be"
    def __init__(self,
        size: int = 96, # pixels a side of the pictures
    ):
        _choose_renderer() # before dm_control is imported
        try:
            from dm_control import mujoco
            from dm_control.rl import control
            from gym_aloha.constants import ASSETS_DIR, DT
            from gym_aloha.tasks.sim_end_effector import TransferCubeEndEffectorTask
        except ImportError as error:
            problem = 'the simulator is not installed: pip install "vlrlbook[films]"'
            raise ImportError(f"{problem} ({error})") from error

        self.size = size
        self.task = TransferCubeEndEffectorTask(random=0)
        # The task's own method (gym-aloha 0.1.5) renders three pictures of 480 × 640 at each control step:
        # films would take fifty times as long. `views` renders only the moments that are kept.
        self.task.get_observation = _no_observation
        world_file = str(Path(ASSETS_DIR) / "bimanual_viperx_end_effector_transfer_cube.xml")
        physics = mujoco.Physics.from_xml_path(world_file)
        # A film ends when its scripts do, so the environment's own limit must never be reached.
        no_limit = float("inf")
        self.environment = control.Environment(physics, self.task, time_limit=no_limit, control_timestep=DT)

    @property
    def physics(self): return self.environment.physics # the state of MuJoCo's world

    def start(self,
        cube: np.ndarray, # [3] where it lies
    ):
        "Begin a film: put the arms into their resting position, and the cube where it is wanted"
        self.environment.reset()
        physics = self.physics
        physics.data.qpos[CUBE_PLACE] = cube # qpos: all joint positions
        physics.data.qpos[CUBE_ROTATION] = LEVEL
        # The simulator draws red crosses where the grippers shall go, which no real camera would see. Their
        # opacity is set to 0.
        physics.model.site_rgba[:, 3] = 0
        # the angle of view, in degrees
        physics.model.cam_fovy[physics.model.name2id("top", "camera")] = TOP_DEGREES

    def step(self,
        action: np.ndarray, # [16] left gripper's place, rotation, opening, then the right one's
    ) -> int: # 0 to 4
        "Move the grippers for one control step, a fiftieth of a second, and return its reward"
        return int(self.environment.step(action).reward)

    def views(self) -> list: # an array [size, size, 3] of bytes for each camera
        "Pictures of the three cameras at this moment"
        # Without shadows: they take five sixths of the rendering time, and the software renderer of a machine
        # without a GPU draws them with ragged edges.
        options = dict(height=self.size, width=self.size, render_flag_overrides={"shadow": False})
        return [self.physics.render(camera_id=camera, **options) for camera in CAMERAS]

    def joints(self) -> np.ndarray: # [14] float32
        "Joint positions of both arms, as gym-aloha gives them"
        return self.task.get_qpos(self.physics).astype(np.float32)


def _choose_renderer():
    "Let dm_control, which chooses when it is first imported, render without a screen if there is none"
    if not os.environ.get("DISPLAY"): # no screen
        # setdefault: what a user has chosen stays
        os.environ.setdefault("MUJOCO_GL", "egl") # OSMesa would work, too


def _no_observation(
    physics, # the simulator's state, which the method that this replaces takes
):
    "An empty observation, in place of the task's own method, which would render pictures at every step"
    return {}


def moment_labels(
    rewards: list, # of every control step
    steps: list, # of the moments
) -> list: # a reward for each moment
    """The label of each moment: the commonest reward of the LABEL_STEPS control steps around it.

    Single steps would not do, because the simulator loses contacts for a step or two."""
    labels = []
    half = LABEL_STEPS // 2
    for step in steps:
        around = rewards[max(0, step - half):step + half + 1]
        counts = np.bincount(around, minlength=REWARDS) # how often each reward is among them
        commonest = np.flatnonzero(counts == counts.max())
        # The highest of equally common ones: a contact that is lost for some steps is still a contact.
        labels.append(int(commonest[-1]))
    return labels


def record_film(
    simulator: Simulator, # used again for the next film
    plan: str, # a key of `plans`
    seed: int, # of the cube's place and the noise
) -> list: # a dict per moment: views, joints, action [16], reward
    "Record one film: write the scripts of both arms as the plan says, then let the simulator follow them"
    # The cube's place and all noise come from one generator, in a fixed order, so that the seed alone gives
    # the same film again.
    rng = np.random.default_rng(seed)
    cube = _place_of_cube(plan, rng)
    left, right = Script(LEFT_START, rng), Script(RIGHT_START, rng)
    plans[plan](cube, left, right, rng) # adds the waypoints of this plan to both scripts
    simulator.start(cube)
    return _follow(simulator, left, right)


def _follow(
    simulator, # `Simulator`, at the beginning of a film
    left, # `Script` of the left gripper
    right, # `Script` of the right gripper
):
    "Follow both scripts to their ends; returns the frames: dicts of views, joints, action [16] and reward"
    moments, moment_steps = [], [] # the frames of the film, and the control step of each
    rewards = [] # of every control step
    for step in range(max(left.last_step, right.last_step)):
        action = np.concatenate([left.target(step), right.target(step)])
        rewards.append(simulator.step(action)) # 0 to 4
        if _is_frame(step):
            moment_steps.append(step)
            moments.append(_observed(simulator, action))
    # A frame's reward is the commonest one of the steps around it, so it is known only now.
    for moment, reward in zip(moments, moment_labels(rewards, moment_steps)):
        moment["reward"] = reward
    return moments


def _is_frame(step):
    "True if a control step becomes a frame: each MOMENT_STEPS-th, but not before the arms have swung out"
    # from step 125 on each 25th, so two frames a second
    return step >= FIRST_STEP and step % MOMENT_STEPS == 0


def _place_of_cube(
    plan, # a key of `plans`
    rng, # source of chance
):
    "A random place [3] in metres for the cube on the table, where the arm that takes it reaches it"
    # The smallest (x, y) and the largest; in plans of LEFT_PLANS the left arm takes the cube.
    low, high = (CUBE_OF_LEFT if plan in LEFT_PLANS else CUBE_OF_RIGHT).T
    return np.array([*rng.uniform(low, high), CUBE_HEIGHT])


def _observed(
    simulator, # `Simulator`
    action, # [16], which it has just carried out
):
    "The frame of this moment without its reward: a dict of views, joints and action"
    return dict(views=simulator.views(), joints=simulator.joints(), action=action.astype(np.float32))


# The data set

def make_films(
    root: str | Path, # new folder
    films: int = 120, # the plans take turns
    seed: int = 0, # same seed, same films
    size: int = 96, # pixels a side
    videos: bool = False, # store films (about a tenth of the size, lossy) instead of pictures
    only: str = None, # names of plans with commas between; None takes all
    say=None, # gets a line of text after each film; None: silent
): # LeRobotDataset
    """Record films of the simulator as a new data set in LeRobot's format.

    Its columns are those of the real data set `lerobot/realworld_aloha_success_bhc`."""
    LeRobotDataset, _ = _lerobot_classes()
    _check_numbers(films, size)
    root, turns = Path(root), _turns(only) # names of plans, in the order in which films take them
    simulator, started = Simulator(size), time.time()
    descriptions = [] # of each film: its plan and its rewards
    name = f"local/{root.name}"
    # LeRobot refuses a folder that exists. So it makes a new one, "set", inside the hidden folder, and
    # `new_folder` renames that part to `root` at the end.
    with new_folder(root, existing="none", manifest=False, part="set") as hidden_folder:
        data = _new_data_set(name, hidden_folder / "set", size, videos)
        for film in range(films):
            plan = turns[film % len(turns)]
            # SEED_STRIDE: so large that two seeds have no film in common
            moments = record_film(simulator, plan, seed=seed * SEED_STRIDE + film) # a dict for each frame
            rewards = _add_film(data, moments) # a digit for each moment, such as "001122"
            descriptions.append(dict(plan=plan, rewards=rewards))
            if say:
                say(f"{film + 1}/{films} {plan:<22} {rewards}  {time.time() - started:.0f} s")
        data.finalize()
        _describe(hidden_folder / "set", dict(seed=seed, size=size, films=descriptions)) # films.json
    return LeRobotDataset(name, root=root, video_backend="pyav")


def _check_numbers(
    films, # how many
    size, # pixels a side of the pictures
):
    "Raise a SettingsError for less than one film, or for pictures too small to show the cube"
    # SMALLEST: 32 pixels a side
    if films < 1 or size < SMALLEST:
        wanted = f"at least 1 film, and {SMALLEST} pixels a side"
        raise SettingsError(f"films = {films}, size = {size}: expected {wanted}")


def _lerobot_classes():
    "LeRobotDataset and RGBEncoderConfig; an ImportError that says what to install if there is no LeRobot"
    try:
        from lerobot.configs.video import RGBEncoderConfig
        from lerobot.datasets.lerobot_dataset import LeRobotDataset
    except ImportError as error:
        raise ImportError(without_lerobot("films of the simulator", error)) from error
    return LeRobotDataset, RGBEncoderConfig


def _new_data_set(
    name, # such as local/my_films
    folder, # LeRobot makes it
    size, # pixels a side of the pictures
    videos, # True: pictures are stored as videos
):
    "An empty `LeRobotDataset` for films of the simulator"
    LeRobotDataset, RGBEncoderConfig = _lerobot_classes()
    # fps: a second has 50 control steps, and a frame is kept every 25 of them. features: names, types and
    # shapes of the columns. g: frames from one whole picture to the next; crf: quality of AV1.
    return LeRobotDataset.create(
        name, fps=CONTROL_STEPS_A_SECOND // MOMENT_STEPS, features=_columns(size, videos),
        root=folder, robot_type="aloha", use_videos=videos, video_backend="pyav",
        rgb_encoder=RGBEncoderConfig(g=WHOLE_EVERY, crf=QUALITY) if videos else None)


def _add_film(
    data, # LeRobotDataset
    moments, # from `record_film`: a dict for each frame
):
    "Add one film to a LeRobot data set; returns its rewards as digits, one for each moment"
    for moment in moments:
        data.add_frame(_row(moment)) # a dict of all columns, with the task in words
    data.save_episode() # an episode is LeRobot's word for a film
    return "".join(str(moment["reward"]) for moment in moments)


def _describe(
    folder, # of the data set
    about, # dict of seed, size and films (a dict of plan and rewards for each)
):
    "Write films.json: how each film was made, and by which versions of the libraries"
    versions = {}
    for library in ("gym-aloha", "mujoco", "lerobot"):
        versions[library] = importlib.metadata.version(library)
    write_json(folder / "films.json", about | dict(versions=versions))


def _turns(
    only, # names of plans with commas between, such as "miss, drop"; None or empty: all
):
    """Names of plans, which the films of a data set take in turns: those in `only`, else TURNS.

    TURNS has all of them, some twice. SettingsError for a name that is no key of `plans`."""
    if not only:
        return TURNS
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in plans:
            # nearest: ": did you mean …?", or a list of all names
            raise SettingsError(f"only = {name!r}{nearest(name, list(plans))}")
    return names


def _columns(
    size, # pixels a side of the pictures
    videos, # True: pictures are stored as videos
):
    "The columns of the data set as {name: dtype, shape and names}, as LeRobot wants them described"
    dtype, axes = "video" if videos else "image", ["height", "width", "channels"]
    # joints: 14 numbers; an action: 16; the reward: a vector of 5, one for each reward from 0 to 4
    camera = dict(dtype=dtype, shape=(size, size, 3), names=axes)
    columns: dict = {name: dict(camera) for name in aloha_cameras}
    columns["observation.state"] = dict(dtype="float32", shape=(JOINTS,), names=None)
    columns["action"] = dict(dtype="float32", shape=(ACTION,), names=None)
    columns["reward_bins"] = dict(dtype="float32", shape=(REWARDS,), names=None) # one-hot
    return columns


def _row(
    moment, # from `record_film`: {views, joints, action, reward}
):
    """A moment as a row of the data set, a dict of all its columns.

    The reward becomes a one-hot vector, because the real data set has such labels."""
    row = dict(zip(aloha_cameras, moment["views"])) # `views` has the cameras in this order, too
    row["observation.state"], row["action"] = moment["joints"], moment["action"]
    one_hot_vectors = np.eye(REWARDS, dtype=np.float32) # row r belongs to the reward r
    row["reward_bins"] = one_hot_vectors[moment["reward"]]
    return row | dict(task=TASK)
