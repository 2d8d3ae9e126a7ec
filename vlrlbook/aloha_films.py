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

# The background never moves. A whole picture now and then, and differences between, take 17 KB a film of 15
# frames and three cameras; LeRobot's own 2 and 30 take 29 KB.
WHOLE_EVERY = 16 # frames
QUALITY = 32 # AV1's: lower is better and larger
SMALLEST = 32 # pixels a side: smaller pictures do not show the cube
MOST_FILMS = 1_000_003 # of one seed

TASK = "hand the red cube from the right arm to the left arm"
# The simulator's own rewards: 0 nothing, 1 the right finger touches the cube, 2 and it is off the table,
# 3 the left finger touches it, 4 and it is off the table.
REWARDS = 5

# The simulator's cameras in the order of `data.aloha_cameras`: right wrist, left wrist, from above.
CAMERAS = ("right_wrist", "left_wrist", "top")
# The camera above shows 78 degrees, of which the table fills half. At 96 pixels the cube would be 4 wide.
TOP_DEGREES = 58.0

CONTROL_STEPS_A_SECOND = 50 # gym_aloha.constants.DT
MOMENT_STEPS = 25 # control steps between two frames of a film: two frames a second
FIRST_STEP = 125 # of a film: before it the arms only swing out, and every label would be 0
# Contacts come and go from step to step while a finger holds the cube. So the label of a moment is the
# commonest reward of this many steps around it.
LABEL_STEPS = 7

# Places in metres, in the simulator's world: x to the right, y away from the viewer, z up.
RIGHT_START = np.array([0.31718881, 0.49999888, 0.29525084])
LEFT_START = np.array([-0.31718881, 0.5, 0.29525084])
MEETING_PLACE = np.array([0.0, 0.5, 0.25])
CUBE_HEIGHT = 0.02 # of its middle, when it lies on the table
FURTHER_LEFT = np.array([-0.12, 0, -0.02]) # of the meeting place, where the left gripper waits
TAKING = np.array([0.02, 0, -0.02]) # of the meeting place, where the left gripper closes
ABOVE = np.array([0, 0, 0.08]) # where a gripper waits before it goes down
GRASP = np.array([0, 0, -0.015]) # where it closes, measured from the middle of the cube
PRESSED = np.array([0, 0, -0.005]) # where closed fingers press on it, measured from its middle
OPEN, CLOSED = 1.0, 0.0
TOUCHING = 0.16 # the fingers touch the cube and mostly do not lift it

# The body's 23 joint positions: 8 of each arm (6 joints, 2 fingers), then the cube's place and rotation.
CUBE_PLACE, CUBE_ROTATION = slice(16, 19), slice(19, 23)
JOINTS = 14 # of both arms, a gripper counting as one
ACTION = 16 # of both grippers: place 3, rotation 4, opening 1


# Where the grippers shall go

def turned(
    axis: tuple, # of length 1
    degrees: float, # counter-clockwise, seen against the axis
) -> np.ndarray: # [4], w x y z
    "A rotation as a quaternion"
    half = np.radians(degrees) / 2
    return np.concatenate([[np.cos(half)], np.sin(half) * np.array(axis, float)])


LEVEL = np.array([1.0, 0, 0, 0])
RIGHT_DOWN = turned((0, 1, 0), -60) # the right gripper tilted to pick from the table
LEFT_DOWN = turned((0, 1, 0), 60)
ON_ITS_SIDE = turned((1, 0, 0), 90) # the left gripper, so that its fingers fit between the right one's


@dataclass
class Waypoint:
    "What a gripper shall be at a control step"
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
        "Add a waypoint"
        last = self.points[-1]
        # Only a new place trembles: a gripper that stays does not drift off the cube.
        if place is not None:
            place = place + self.rng.normal(0, self.tremble, 3)
        took = max(1, round(steps * self.rng.uniform(0.9, 1.1)))
        self.points.append(Waypoint(
            last.step + took,
            last.place if place is None else place,
            last.rotation if rotation is None else rotation,
            last.opening if opening is None else opening))
        return self

    def wait_until(self,
        step: int, # nothing is added where it lies in the past
    ): # self
        "Stay as it is"
        last = self.points[-1]
        if step > last.step:
            self.points.append(Waypoint(step, last.place, last.rotation, last.opening))
        return self

    def pick(self,
        cube: np.ndarray, # [3] where it is believed to be
        rotation: np.ndarray, # of the tilted gripper
        closed: float = CLOSED, # how far it closes
    ): # self
        "Open above the cube, go down, close; about 170 steps, because the arm lags behind its target"
        self.move(90, cube + ABOVE, rotation, OPEN)
        self.move(40, cube + GRASP)
        return self.move(40, opening=closed)

    def target(self,
        step: int, # control step
    ) -> np.ndarray: # [8] place, rotation, opening
        "Where the gripper shall be"
        for before, after in zip(self.points, self.points[1:]):
            if step <= after.step:
                share = (step - before.step) / (after.step - before.step)
                return _numbers(before) * (1 - share) + _numbers(after) * share
        return _numbers(self.points[-1])


def _numbers(point):
    "A waypoint as the 8 numbers of an action"
    # the order that the simulator takes: where, turned how, how far open
    return np.concatenate([point.place, point.rotation, [point.opening]])


# Plans: what a film is about. Each writes the scripts of both arms for a cube that lies at `cube`.

def _hand_over(cube, left, right, rng):
    "The task itself: 0, 1, 2, then 4"
    right.pick(cube, RIGHT_DOWN)
    _meet(left, right, rng)


def _linger_then_hand_over(cube, left, right, rng):
    "The right gripper holds the cube on the table for a while"
    # Touched and not lifted: many moments of the rare reward 1.
    right.pick(cube, RIGHT_DOWN, closed=TOUCHING)
    right.move(rng.integers(80, 200))
    right.move(20, opening=CLOSED)
    _meet(left, right, rng)


def _second_try(cube, left, right, rng):
    "A miss, then the task itself"
    off = _beside(rng)
    right.pick(cube + off, RIGHT_DOWN)
    right.move(20, opening=OPEN)
    # High enough that the open fingers do not push the cube away: the arm lags behind its target.
    right.move(60, cube + off + 2 * ABOVE)
    right.move(60, cube + 2 * ABOVE)
    right.move(60, cube + GRASP)
    right.move(40, opening=CLOSED)
    _meet(left, right, rng)


def _miss(cube, left, right, rng):
    "The right gripper closes beside the cube and lifts nothing"
    right.pick(cube + _beside(rng), RIGHT_DOWN)
    right.move(60, MEETING_PLACE)
    right.move(60)


def _squeeze(cube, left, right, rng):
    "The right gripper closes on the cube, lets it go and leaves"
    _squeeze_with(right, RIGHT_DOWN, RIGHT_START, cube, rng, least=60)


def _squeeze_with(arm, pointing_down, start, cube, rng, least):
    "A gripper closes on the cube for `least` to 199 control steps, lets it go and returns to its start"
    # The time is drawn here and not before: the arm draws its tremble from the same generator.
    arm.pick(cube, pointing_down, closed=TOUCHING)
    arm.move(rng.integers(least, 200))
    arm.move(30, opening=OPEN)
    arm.move(60, start)


def _press(cube, left, right, rng):
    "The right gripper, closed, presses on the cube from above"
    _press_with(right, RIGHT_DOWN, RIGHT_START, cube, rng)


def _press_with(arm, pointing_down, start, cube, rng):
    "A closed gripper presses on the cube for 80 to 199 control steps and returns to its start"
    arm.move(90, cube + ABOVE, pointing_down)
    arm.move(50, cube + PRESSED)
    arm.move(rng.integers(80, 200))
    arm.move(60, start)


def _drop(cube, left, right, rng):
    "Lifted, and dropped on the way"
    right.pick(cube, RIGHT_DOWN)
    right.move(60, MEETING_PLACE)
    right.move(rng.integers(10, 120))
    right.move(10, opening=OPEN)
    right.move(70)


def _drop_at_the_meeting(cube, left, right, rng):
    "The right gripper opens before the left one has closed"
    right.pick(cube, RIGHT_DOWN)
    right.move(50, MEETING_PLACE)
    left.move(100, MEETING_PLACE + FURTHER_LEFT, ON_ITS_SIDE, OPEN)
    left.wait_until(right.last_step + 30)
    right.move(rng.integers(20, 70))
    right.move(10, opening=OPEN)
    right.move(60, MEETING_PLACE - FURTHER_LEFT)
    left.move(60, MEETING_PLACE + TAKING)
    left.move(30, opening=CLOSED)


def _over_the_table(cube, left, right, rng):
    "The right arm carries the cube to the middle and sets it down; the left arm takes it from there"
    middle = np.array([0.02, 0.5, CUBE_HEIGHT])
    right.pick(cube, RIGHT_DOWN)
    right.move(50, MEETING_PLACE + [0.05, 0, -0.1])
    right.move(60, middle + [0, 0, 0.005])
    right.move(30)
    right.move(20, opening=OPEN)
    right.move(40, middle + [0.1, 0, 0.12])
    # The left arm swings out while the right one leaves.
    left.wait_until(right.last_step - 60)
    left.pick(middle, LEFT_DOWN)
    left.move(rng.integers(5, 90))
    left.move(50, MEETING_PLACE)
    left.move(40)


def _left_takes(cube, left, right, rng):
    "The left arm takes the cube from the table: 3, then 4"
    left.pick(cube, LEFT_DOWN)
    left.move(rng.integers(5, 90))
    left.move(60, MEETING_PLACE)
    left.move(100)


def _left_squeezes(cube, left, right, rng):
    "The left gripper closes on the cube on the table, lets it go and leaves"
    _squeeze_with(left, LEFT_DOWN, LEFT_START, cube, rng, least=80)


def _left_presses(cube, left, right, rng):
    "The left gripper, closed, presses on the cube from above"
    _press_with(left, LEFT_DOWN, LEFT_START, cube, rng)


def _left_drops(cube, left, right, rng):
    "The left arm lifts the cube and drops it"
    left.pick(cube, LEFT_DOWN)
    left.move(rng.integers(20, 100))
    left.move(60, MEETING_PLACE)
    left.move(rng.integers(20, 90))
    left.move(10, opening=OPEN)
    left.move(50)


def _meet(left, right, rng):
    "The right gripper brings the cube to the meeting place, the left one takes it and goes away with it"
    right.move(50, MEETING_PLACE)
    left.move(100, MEETING_PLACE + FURTHER_LEFT, ON_ITS_SIDE, OPEN)
    # The right arm lags behind its script: the left one comes when the cube hangs still.
    left.wait_until(right.last_step + int(rng.integers(20, 60)))
    left.move(40, MEETING_PLACE + TAKING)
    left.move(20)
    left.move(30, opening=CLOSED)
    # Both hold the cube for a moment: opened earlier, the right gripper would drop it.
    right.wait_until(left.last_step + 15)
    right.move(20, opening=OPEN)
    right.move(40, MEETING_PLACE - FURTHER_LEFT)
    left.wait_until(right.last_step)
    left.move(50, MEETING_PLACE + FURTHER_LEFT)
    left.move(60)


def _beside(rng):
    "How far a gripper is off that misses: 5 to 7 cm to a side, too far for a finger to touch the cube"
    return np.array([0, rng.choice([-1, 1]) * rng.uniform(0.05, 0.07), 0])


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
    "MuJoCo with both arms and the cube, moved by its grippers' places"
    def __init__(self,
        size: int = 96, # pixels a side of the pictures
    ):
        # dm_control chooses its renderer when it is first imported. Without a screen only EGL or OSMesa draw.
        if not os.environ.get("DISPLAY"):
            os.environ.setdefault("MUJOCO_GL", "egl")
        try:
            from dm_control import mujoco
            from dm_control.rl import control
            from gym_aloha.constants import ASSETS_DIR, DT
            from gym_aloha.tasks.sim_end_effector import TransferCubeEndEffectorTask
        except ImportError as error:
            told = 'the simulator is not installed: pip install "vlrlbook[films]"'
            raise ImportError(f"{told} ({error})") from error
        self.size = size
        world = str(Path(ASSETS_DIR) / "bimanual_viperx_end_effector_transfer_cube.xml")
        task = TransferCubeEndEffectorTask(random=0)
        # TransferCubeEndEffectorTask.get_observation, read in gym-aloha 0.1.5, draws three pictures of
        # 480 × 640 at each control step. We draw our own, and only at the moments that are kept. If it were
        # renamed, films would take fifty times as long and be the same.
        task.get_observation = _no_observation
        # A film ends when its scripts do, so the environment's own limit must never be reached.
        forever = float("inf")
        physics = mujoco.Physics.from_xml_path(world)
        self.environment = control.Environment(physics, task, forever, control_timestep=DT)
        self.task = task

    @property
    def physics(self): return self.environment.physics

    def start(self,
        cube: np.ndarray, # [3] where it lies
    ):
        "Arms at rest, the cube where it is wanted"
        self.environment.reset()
        physics = self.physics
        physics.data.qpos[CUBE_PLACE] = cube
        physics.data.qpos[CUBE_ROTATION] = LEVEL
        # Red crosses mark where the grippers shall go. A robot's camera sees no such thing.
        physics.model.site_rgba[:, 3] = 0
        physics.model.cam_fovy[physics.model.name2id("top", "camera")] = TOP_DEGREES

    def step(self,
        action: np.ndarray, # [16] left gripper's place, rotation, opening, then the right one's
    ) -> int: # 0 to 4
        "One control step of a fiftieth of a second, and its reward"
        return int(self.environment.step(action).reward)

    def views(self) -> list: # an array [size, size, 3] of bytes for each camera
        "What the three cameras see"
        # Shadows take five sixths of the drawing time, and the software renderer of a machine without a GPU
        # draws them with ragged edges.
        look = dict(height=self.size, width=self.size, render_flag_overrides={"shadow": False})
        return [self.physics.render(camera_id=camera, **look) for camera in CAMERAS]

    def joints(self) -> np.ndarray: # [14] float32
        "Joint positions of both arms, as gym-aloha gives them"
        return self.task.get_qpos(self.physics).astype(np.float32)


def _no_observation(physics):
    "In place of the task's own observation"
    return {}


def moment_labels(
    rewards: list, # of every control step
    steps: list, # of the moments
) -> list: # a reward for each moment
    "The commonest reward around each moment, the higher one of equals"
    labels = []
    for step in steps:
        around = rewards[max(0, step - LABEL_STEPS // 2):step + LABEL_STEPS // 2 + 1]
        counts = np.bincount(around, minlength=REWARDS)
        # The higher of two equals: a contact that is lost for some steps is still a contact.
        labels.append(int(np.flatnonzero(counts == counts.max())[-1]))
    return labels


def record_film(
    simulator: Simulator, # used again for the next film
    plan: str, # a key of `plans`
    seed: int, # of the cube's place and the noise
) -> list: # a dict per moment: views, joints, action [16], reward
    "One film from its script"
    rng = np.random.default_rng(seed)
    low, high = (CUBE_OF_LEFT if plan in LEFT_PLANS else CUBE_OF_RIGHT).T
    cube = np.array([*rng.uniform(low, high), CUBE_HEIGHT])
    # One generator for the cube and all noise, in a fixed order: the seed alone gives the film again.
    left, right = Script(LEFT_START, rng), Script(RIGHT_START, rng)
    plans[plan](cube, left, right, rng)
    simulator.start(cube)
    moments, steps, rewards = [], [], []
    for step in range(max(left.last_step, right.last_step)):
        action = np.concatenate([left.target(step), right.target(step)])
        rewards.append(simulator.step(action))
        if step >= FIRST_STEP and step % MOMENT_STEPS == 0:
            steps.append(step)
            seen = dict(views=simulator.views(), joints=simulator.joints())
            moments.append(seen | dict(action=action.astype(np.float32)))
    for moment, reward in zip(moments, moment_labels(rewards, steps)):
        moment["reward"] = reward
    return moments


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
    "Films of the simulator in LeRobot's format, laid out as `lerobot/realworld_aloha_success_bhc` is"
    try:
        from lerobot.configs.video import RGBEncoderConfig
        from lerobot.datasets.lerobot_dataset import LeRobotDataset
    except ImportError as error:
        raise ImportError(without_lerobot("films of the simulator", error)) from error
    if films < 1 or size < SMALLEST:
        wanted = f"at least 1 film, and {SMALLEST} pixels a side"
        raise SettingsError(f"films = {films}, size = {size}: expected {wanted}")
    root, turns = Path(root), _turns(only)
    simulator, started, kept = Simulator(size), time.time(), []
    name = f"local/{root.name}"
    # LeRobot makes its folder itself and refuses one that is there: hence a part of the hidden folder.
    with new_folder(root, existing="none", manifest=False, part="set") as aside:
        made = LeRobotDataset.create(
            name, fps=CONTROL_STEPS_A_SECOND // MOMENT_STEPS, features=_columns(size, videos),
            root=aside / "set", robot_type="aloha", use_videos=videos, video_backend="pyav",
            rgb_encoder=RGBEncoderConfig(g=WHOLE_EVERY, crf=QUALITY) if videos else None)
        for film in range(films):
            plan = turns[film % len(turns)]
            # Films of different seeds are different ones, however many there are.
            moments = record_film(simulator, plan, seed=seed * MOST_FILMS + film)
            rewards = _add_film(made, moments)
            kept.append(dict(plan=plan, rewards=rewards))
            if say:
                say(f"{film + 1}/{films} {plan:<22} {rewards}  {time.time() - started:.0f} s")
        made.finalize()
        _describe(aside / "set", dict(seed=seed, size=size, films=kept))
    return LeRobotDataset(name, root=root, video_backend="pyav")


def _add_film(data, moments):
    "One film into the data set; returns its rewards as a text of digits"
    for moment in moments:
        data.add_frame(_row(moment))
    data.save_episode() # an episode is LeRobot's word for a film
    return "".join(str(moment["reward"]) for moment in moments)


def _describe(folder, about):
    "films.json: how each film was made, and with which versions"
    versions = {}
    for library in ("gym-aloha", "mujoco", "lerobot"):
        versions[library] = importlib.metadata.version(library)
    write_json(folder / "films.json", about | dict(versions=versions))


def _turns(only):
    "The order of the plans; a name that is none is refused with the nearest one"
    if not only:
        return TURNS
    wanted = [name.strip() for name in only.split(",")]
    for name in wanted:
        if name not in plans:
            raise SettingsError(f"only = {name!r}{nearest(name, list(plans))}")
    return wanted


def _columns(size, videos):
    "What LeRobot must know of each column"
    kind, axes = "video" if videos else "image", ["height", "width", "channels"]
    camera = dict(dtype=kind, shape=(size, size, 3), names=axes)
    columns: dict = {name: dict(camera) for name in aloha_cameras}
    columns["observation.state"] = dict(dtype="float32", shape=(JOINTS,), names=None)
    columns["action"] = dict(dtype="float32", shape=(ACTION,), names=None)
    columns["reward_bins"] = dict(dtype="float32", shape=(REWARDS,), names=None)
    return columns


def _row(moment):
    "A moment as a row of the data set; its label one-hot, as the real set has it"
    row = dict(zip(aloha_cameras, moment["views"]))
    row["observation.state"], row["action"] = moment["joints"], moment["action"]
    row["reward_bins"] = np.eye(REWARDS, dtype=np.float32)[moment["reward"]]
    return row | dict(task=TASK)
