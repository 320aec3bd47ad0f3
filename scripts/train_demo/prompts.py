"""Captions: a grammar that says one scene in thousands of ways, and a reader that gets it back.

Some combinations of colour, shape, ground and motion and some sentence forms never occur in
training: `held_out_list` draws the prompts of the published table from those alone.
Plain Python, seeded by the caller.
"""
import random
import re
import zlib
from collections import namedtuple

from .world import (COLOUR_WORDS, COLOURS, MOTIONS, ROUND, SHAPE_WORDS, SHAPES, SIZE_WORDS, SIZES, SPEED_WORDS,
                    SPEEDS)

Scene = namedtuple("Scene", "colour shape ground motion size speed")

MOVE = [("moves", "moving"), ("slides", "sliding"), ("drifts", "drifting"), ("glides", "gliding"),
        ("travels", "travelling"), ("floats", "floating"), ("goes", "going"), ("flies", "flying")]
SIDES = {
    "left": ["left", "to the left", "leftwards", "leftward", "towards the left", "from right to left",
             "from the right to the left", "to the left side"],
    "right": ["right", "to the right", "rightwards", "rightward", "towards the right", "from left to right",
              "from the left to the right", "to the right side"],
    "up": ["up", "upwards", "upward", "to the top", "towards the top", "from bottom to top",
           "from the bottom to the top"],
    "down": ["down", "downwards", "downward", "to the bottom", "towards the bottom", "from top to bottom",
             "from the top to the bottom"],
}
OWN = {                              # motions with verbs of their own
    "up": [("rises", "rising"), ("climbs", "climbing")],
    "down": [("falls", "falling"), ("sinks", "sinking"), ("drops", "dropping")],
    "grow": [("grows", "growing"), ("gets bigger", "getting bigger"), ("gets larger", "getting larger"),
             ("expands", "expanding"), ("becomes bigger", "becoming bigger"), ("swells", "swelling")],
    "shrink": [("shrinks", "shrinking"), ("gets smaller", "getting smaller"), ("becomes smaller", "becoming smaller"),
               ("contracts", "contracting")],
    "turn": [(f + tail, p + tail) for f, p in (("turns", "turning"), ("rotates", "rotating"), ("spins", "spinning"))
             for tail in ("", " clockwise", " around")],
    "still": [("stands still", "standing still"), ("stays still", "staying still"), ("does not move", "not moving"),
              ("stays in place", "staying in place"), ("is still", "standing still"), ("rests", "resting")],
}
GROUND_NOUNS = ["background", "background", "background", "backdrop", "ground", "wall", "screen"]
GROUND_PREPOSITIONS = ["on", "on", "over", "against", "across", "in front of"]
PLAIN = ["", "", "", "plain ", "flat ", "bright ", "solid ", "simple "]
LEADS = ["a video of", "an animation of", "a clip of", "we see", "there is", "show me", "a scene with", "a cartoon of",
         "a simple video of", "a smooth animation of", "please draw", "imagine"]
FORMS = [
    "{a_obj} {does} {ground}", "{a_obj} {does} {ground}", "{ground}, {a_obj} {does}", "{ground} {a_obj} {does}",
    "{a_obj} {doing} {ground}", "{noun}, {a_obj} {doing}", "{obj}, {doing}, {noun}", "{lead} {a_obj} {doing} {ground}",
    "{a_obj} {ground} {does}", "the {obj} {does}. the background is {g}", "{obj} on {g}, {doing}",
    "{a_obj} that {does} {ground}", "the background is {g} and {a_obj} {does}", "{a_obj} {ground}. it {does}",
    "{lead} {a_obj} {ground}, {doing}", "{noun}, {obj}, {doing}", "{obj} {doing}, {noun}",
]
HELD_OUT_FORMS = [
    "{noun}. {a_obj}. it {does}", "{lead} {a_obj} that {does} {ground}", "{doing} {ground}, {a_obj}",
    "{ground} there is {a_obj} that {does}", "{a_obj} {does} and the background is {g}", "{obj}. {noun}. {doing}",
]


def is_held_out(scene):
    """One combination in ten is never shown in training, whatever its size and speed."""
    key = " ".join((scene.colour, scene.shape, scene.ground, scene.motion))
    return zlib.crc32(key.encode()) % 10 == 0


def draw_scene(rng, held_out=False, plain=False):
    """A random scene of the wanted half of the split; `plain` leaves size and speed normal."""
    while True:
        motion = rng.choice(list(MOTIONS))
        sizes, speeds = (["normal"], ["normal"]) if plain else (list(SIZES) + ["normal"], list(SPEEDS) + ["normal"])
        size = "normal" if motion in ("grow", "shrink") else rng.choice(sizes)
        speed = "normal" if motion == "still" else rng.choice(speeds)
        scene = Scene(rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(list(COLOURS)), motion, size, speed)
        if scene.colour == scene.ground or (scene.shape in ROUND and motion.startswith("turn")):
            continue
        if is_held_out(scene) == held_out:
            return scene


def _article(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


def _verbs(rng, scene):
    """Finite and participle form with direction and speed: ('moves slowly left', 'moving slowly left')."""
    adverb = rng.choice(SPEED_WORDS[scene.speed])
    own = OWN.get(scene.motion, [])
    if own and (scene.motion not in SIDES or rng.random() < 0.35):
        pair, tail = rng.choice(own), ""
    else:
        pair, tail = rng.choice(MOVE), " " + rng.choice(SIDES[scene.motion])
    if not adverb:
        return tuple(verb + tail for verb in pair)
    if tail and rng.random() < 0.5:
        return tuple(f"{verb} {adverb}{tail}" for verb in pair)
    if rng.random() < 0.25:
        return tuple(f"{adverb} {verb}{tail}" for verb in pair)
    return tuple(f"{verb}{tail} {adverb}" for verb in pair)


def caption(rng, scene, held_out=False):
    """One of very many ways to say the scene."""
    colour, ground = rng.choice(COLOUR_WORDS[scene.colour]), rng.choice(COLOUR_WORDS[scene.ground])
    size = rng.choice(SIZE_WORDS[scene.size])
    obj = " ".join(word for word in (size, colour, rng.choice(SHAPE_WORDS[scene.shape])) if word)
    plain, noun = rng.choice(PLAIN), rng.choice(GROUND_NOUNS)
    preposition = rng.choice(GROUND_PREPOSITIONS)
    behind = f"{preposition} {ground}" if rng.random() < 0.2 else f"{preposition} {_article(f'{plain}{ground} {noun}')}"
    does, doing = _verbs(rng, scene)
    a_obj = "the " + obj if rng.random() < 0.15 else _article(obj)
    noun = f"{plain}{ground} {noun}"
    if scene.motion == "still" and rng.random() < 0.25 and not held_out:
        text = rng.choice([f"{a_obj} {behind}", f"{obj}, {noun}", f"{rng.choice(LEADS)} {a_obj} {behind}",
                           f"{obj} {behind}", f"{noun}, {a_obj}"])
    else:
        form = rng.choice(HELD_OUT_FORMS if held_out else FORMS)
        text = form.format(a_obj=a_obj, obj=obj, does=does, doing=doing, ground=behind, noun=noun, g=ground,
                           lead=rng.choice(LEADS))
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    return text + ("." if rng.random() < 0.3 else "")


def held_out_list(count, seed):
    """[(prompt, scene)]: unseen combinations, every second one also in an unseen sentence form."""
    rng = random.Random(seed)
    return [(caption(rng, scene, held_out=i % 2 == 1), scene)
            for i, scene in enumerate(draw_scene(rng, held_out=True, plain=i % 4 != 3) for i in range(count))]


def vocabulary():
    """Every word the grammar can produce, sorted."""
    rng, words = random.Random(0), set()
    for i in range(30000):
        words.update(re.findall(r"[a-z]+", caption(rng, draw_scene(rng), held_out=i % 2 == 1).lower()))
    return sorted(words)


# ---- reading a prompt back ------------------------------------------------------------------

_COLOUR_OF = {word: name for name, words in COLOUR_WORDS.items() for word in words}
_SHAPE_OF = {word: name for name, words in SHAPE_WORDS.items() for word in words}
_SIDE_OF = {"left": "left", "leftwards": "left", "leftward": "left", "right": "right", "rightwards": "right",
            "rightward": "right", "up": "up", "upwards": "up", "upward": "up", "top": "up", "upper": "up",
            "down": "down", "downwards": "down", "downward": "down", "bottom": "down", "lower": "down"}
_VERB_OF = {form.split()[0]: motion for motion, pairs in OWN.items() if motion not in ("grow", "shrink", "still")
            for pair in pairs for form in pair}
_VERB_OF.update({word: "grow" for word in "grows growing bigger larger expands expanding swells swelling".split()})
_VERB_OF.update({word: "shrink" for word in "shrinks shrinking smaller contracts contracting".split()})


def _find_ground(words):
    """Index of the colour word that names the background, or None."""
    for i, word in enumerate(words):
        if word in _COLOUR_OF:
            if words[i + 1:i + 2] and words[i + 1] in GROUND_NOUNS or words[max(i - 2, 0):i] == ["background", "is"]:
                return i
    for i, word in enumerate(words):
        before = words[max(i - 3, 0):i]
        if word in _COLOUR_OF and not (words[i + 1:i + 2] and words[i + 1] in _SHAPE_OF) and \
                any(w in ("on", "over", "against", "across", "of") for w in before):
            return i
    return None


def read(prompt):
    """The Scene a prompt asks for; a part it does not name is None (motion: 'still')."""
    text = re.sub(r"from (the )?(left|right|top|bottom) to", "to", prompt.lower())
    words = re.findall(r"[a-z]+", text)
    at = _find_ground(words)
    colour = next((_COLOUR_OF[w] for i, w in enumerate(words) if w in _COLOUR_OF and i != at), None)
    ground = _COLOUR_OF[words[at]] if at is not None else None
    shape = next((_SHAPE_OF[w] for w in words if w in _SHAPE_OF), None)
    motion = next((_VERB_OF[w] for w in words if w in _VERB_OF), None)
    if motion is None:
        sides = {_SIDE_OF[w] for w in words if w in _SIDE_OF}
        motion = "-".join(s for s in ("up", "down", "left", "right") if s in sides) or "still"
    size = next((name for name, ws in SIZE_WORDS.items() for w in ws if w and w in words), "normal")
    speed = next((name for name, ws in SPEED_WORDS.items() for w in ws if w and w in words), "normal")
    return Scene(colour, shape, ground, motion, size, speed)
