"""The judge of the demo model: it must know a right clip when it sees one, and a wrong one too.

Frames are drawn here with plain inequalities, not with the project's renderer, so that judge and
training data cannot agree on the same mistake.
"""
import json
import math
import pathlib
import random
import subprocess
import sys

import pytest

np = pytest.importorskip("numpy")

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from train_demo import judge, prompts, score, video, world  # noqa: E402

WIDTH, HEIGHT = 192, 128
RED, BLUE, YELLOW, GREEN = ((220, 32, 38), (34, 70, 200), (248, 218, 40), (36, 150, 62))


def inside(shape, x, y):
    """Unit shapes, y downwards, written down anew."""
    if shape == "circle":
        return x * x + y * y < 1
    if shape == "square":
        return (abs(x) < 0.88) & (abs(y) < 0.88)
    if shape == "triangle":
        return (y < 0.64) & (y > 1.732 * abs(x) - 1.28)
    raise AssertionError(shape)


def clip(shape="circle", colour=RED, ground=BLUE, start=(0.8, 0.5), travel=(0.0, 0.0), radius=22.0, growth=0.0,
         turn=0.0, frames=81, noise=0):
    """Frames of one shape; travel in shares of the frame, growth in pixels, turn in degrees, over the clip."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT * 2, :WIDTH * 2] / 2.0 + 0.25        # four samples per pixel: soft edges
    out = []
    for f in range(frames):
        part = f / max(frames - 1, 1)
        a, r = math.radians(turn * part), radius + growth * part
        u, v = x - (start[0] + travel[0] * part) * WIDTH, y - (start[1] + travel[1] * part) * HEIGHT
        mask = inside(shape, (u * math.cos(a) + v * math.sin(a)) / r, (v * math.cos(a) - u * math.sin(a)) / r)
        cover = mask.reshape(HEIGHT, 2, WIDTH, 2).mean((1, 3))[..., None]
        image = np.array(ground) * (1 - cover) + np.array(colour) * cover
        out.append(np.clip(image + rng.normal(0, noise, image.shape), 0, 255) if noise else image)
    return np.array(out).round().astype(np.uint8)


def scene(prompt):
    return prompts.read(prompt)


def verdict(frames, prompt):
    v = judge.judge(frames, scene(prompt))
    return v.colour, v.shape, v.motion


LEFT = {"travel": (-0.32, 0)}


@pytest.mark.parametrize("shape", ["circle", "square", "triangle"])
def test_a_right_clip_is_right(shape):
    assert verdict(clip(shape, **LEFT), f"a red {shape} moves left over a blue background") == (True, True, True)


def test_noise_of_a_codec_does_not_matter():
    assert verdict(clip("square", noise=6, **LEFT), "a red square drifts leftwards on blue") == (True, True, True)


@pytest.mark.parametrize("prompt, wrong", [
    ("a blue circle moves left over a red background", (False, True, True)),          # colours swapped
    ("a red circle moves left over a black background", (False, True, True)),
    ("an orange circle moves left over a blue background", (False, True, True)),
    ("a red square moves left over a blue background", (True, False, True)),
    ("a red heart moves left over a blue background", (True, False, True)),
    ("a red circle moves right over a blue background", (True, True, False)),
    ("a red circle moves up over a blue background", (True, True, False)),
    ("a red circle moves up and to the left over a blue background", (True, True, False)),
    ("a red circle stands still over a blue background", (True, True, False)),
    ("a red circle grows over a blue background", (True, True, False)),
])
def test_a_wrong_clip_is_wrong_in_that_part_alone(prompt, wrong):
    assert verdict(clip(**LEFT), prompt) == wrong


@pytest.mark.parametrize("motion, change", [
    ("right", {"start": (0.2, 0.5), "travel": (0.32, 0)}), ("up", {"start": (0.5, 0.8), "travel": (0, -0.25)}),
    ("down", {"start": (0.5, 0.2), "travel": (0, 0.25)}),
    ("diagonal", {"start": (0.2, 0.2), "travel": (0.32, 0.25)}), ("still", {"start": (0.5, 0.5)}),
    ("grow", {"start": (0.5, 0.5), "growth": 13}), ("shrink", {"start": (0.5, 0.5), "radius": 36, "growth": -13}),
    ("turn", {"start": (0.5, 0.5), "turn": 120}), ("turns back", {"start": (0.5, 0.5), "turn": -120}),
])
def test_every_motion_has_its_name(motion, change):
    assert judge.describe(clip("square", **change), turned="turn" in motion)["motion"] == motion


@pytest.mark.parametrize("change, name", [
    ({"travel": (-0.08, 0)}, "hardly"),                                   # a quarter of the distance is not a motion
    ({"start": (0.7, 0.5), "travel": (-0.32, 0), "growth": 14}, "mixed"),
])
def test_half_a_motion_has_none(change, name):
    assert judge.describe(clip(**change))["motion"] == name


def test_an_object_that_hops_about_does_not_move():
    frames = clip(**LEFT)
    frames[40:44] = clip(start=(0.2, 0.2))[:4]
    assert judge.describe(frames)["motion"] == "jumps"


def test_a_flickering_object_is_not_there():
    frames = clip(**LEFT)
    frames[::8] = BLUE
    assert judge.judge(frames, scene("a red circle moves left over a blue background")).seen["shape"] == "?"


def test_nothing_and_mud_are_no_object():
    assert judge.describe(np.full((81, HEIGHT, WIDTH, 3), 90, np.uint8))["shape"] == "?"
    mud = clip("square", colour=(128, 110, 70), ground=(96, 96, 90), **LEFT)
    seen = judge.describe(mud)
    assert seen["colour"] == "?" or seen["shape"] == "?"


def both(a, b):
    """Red where either clip is red."""
    return np.where((a[..., :1].astype(int) > b[..., :1]), a, b)


def test_a_blob_is_no_shape():
    blob = both(clip("circle", start=(0.46, 0.4), radius=14), clip("circle", start=(0.55, 0.55), radius=18))
    assert judge.describe(blob)["shape"] == "?"


def test_two_objects_are_one_too_many():
    two = both(clip("circle", start=(0.3, 0.3), radius=18), clip("circle", start=(0.7, 0.6), radius=22))
    assert judge.describe(two)["shape"] == "?"


def test_second_segments_are_judged_on_their_own():
    first, second = clip(**LEFT), clip(start=(0.48, 0.5), travel=(0, 0))
    whole = np.concatenate([first, second[1:]])
    verdicts = score.judge_clip((whole, scene("a red circle moves left over a blue background")))
    assert [v.motion for v in verdicts] == [True, False]


def test_every_prompt_of_the_grammar_reads_back():
    rng = random.Random(4)
    for i in range(3000):
        wanted = prompts.draw_scene(rng, held_out=i % 2 == 0)
        text = prompts.caption(rng, wanted, held_out=i % 3 == 0)
        assert prompts.read(text) == wanted, text


def test_held_out_prompts_are_never_drawn_for_training():
    rng = random.Random(5)
    held = {s[:4] for _, s in prompts.held_out_list(200, 1)}
    assert not held & {prompts.draw_scene(rng)[:4] for _ in range(5000)}


def test_colours_are_told_apart():
    for name, rgb in world.COLOURS.items():
        assert judge.colour_name(rgb) == name
        for d in (-12, 12):                                      # a shade off is still the colour
            assert judge.colour_name(np.clip(np.array(rgb) + d, 0, 255)) == name


def run(*args):
    return subprocess.run([sys.executable, str(ROOT / "scripts" / "check-demo"), *map(str, args)],
                          capture_output=True, text=True)


@pytest.mark.skipif(subprocess.run(["which", "ffmpeg"], capture_output=True).returncode != 0, reason="no ffmpeg")
def test_the_command_judges_a_file(tmp_path):
    path = tmp_path / "a.mp4"
    video.write(str(path), clip("triangle", YELLOW, GREEN, **LEFT))
    right = run(path, "--prompt", "a yellow triangle slides to the left on green")
    assert right.returncode == 0, right.stdout + right.stderr
    wrong = run(path, "--prompt", "a yellow star slides to the left on green")
    assert wrong.returncode == 1 and "shape   WRONG" in wrong.stdout
    assert run(path, "--prompt", "a star", "--from-frame", 80).returncode == 2       # one frame is no clip


@pytest.mark.skipif(subprocess.run(["which", "ffmpeg"], capture_output=True).returncode != 0, reason="no ffmpeg")
def test_the_command_judges_a_folder(tmp_path):
    listing = tmp_path / "list.jsonl"
    listing.write_text(run("--list-prompts", 2, "--seed", 3).stdout)
    assert [json.loads(line)["id"] for line in listing.read_text().splitlines()] == ["000", "001"]
    video.write(str(tmp_path / "000.mp4"), clip(**LEFT))
    table = run("--folder", tmp_path, "--list", listing)         # 001.mp4 is missing: counted as wrong
    assert table.returncode == 1 and "| first (frames 0-80) | 2 |" in table.stdout and "001.mp4" in table.stderr


def test_a_file_of_32_frames_per_second_is_thinned():
    assert len(judge.thin(np.zeros((162, 8, 8, 3), np.uint8), 32.0)) == 81
    assert len(judge.thin(np.zeros((81, 8, 8, 3), np.uint8), 16.0)) == 81
