"""What the demo model can draw: colours, shapes, motions, and how fast things move.

Everything else (caption grammar, renderer, judge) reads this file, so the words, the pictures
and the marks cannot drift apart. Plain Python: no numpy, no torch.
"""
import math

# Colours are far apart on purpose, so that a person (and the judge) never has to hesitate.
COLOURS = {
    "red": (220, 32, 38), "orange": (250, 130, 18), "yellow": (248, 218, 40), "green": (36, 150, 62),
    "blue": (34, 70, 200), "purple": (120, 44, 160), "white": (245, 245, 245), "black": (22, 22, 24),
}
COLOUR_WORDS = {
    "red": ["red", "scarlet", "crimson"], "orange": ["orange"], "yellow": ["yellow", "golden"],
    "green": ["green"], "blue": ["blue"], "purple": ["purple", "violet"], "white": ["white"], "black": ["black"],
}
SHAPES = ["circle", "square", "triangle", "star", "heart"]
SHAPE_WORDS = {
    "circle": ["circle", "disc", "disk", "ball", "dot"], "square": ["square", "box", "block"],
    "triangle": ["triangle"], "star": ["star"], "heart": ["heart"],
}
ROUND = ("circle",)                 # turning these cannot be seen, so nobody is asked to draw it

MOTIONS = {                         # direction of travel: x to the right, y downwards
    "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1),
    "grow": None, "shrink": None, "turn": None, "still": None,
}
SIZES = {"small": 0.15, "normal": 0.19, "large": 0.22}      # radius as a share of the frame's height
SIZE_WORDS = {"small": ["small", "little", "tiny"], "large": ["large", "big", "huge"], "normal": [""]}
SPEEDS = {"slow": 0.6, "normal": 1.0, "fast": 1.3}
SPEED_WORDS = {"slow": ["slowly", "gently"], "fast": ["quickly", "fast", "rapidly"], "normal": [""]}

# Per 80 frames (one 81-frame clip to the next). A second clip must have somewhere to go.
TRAVEL_X, TRAVEL_Y = 0.30, 0.21     # share of the frame's width / height
GROWTH = 0.095                      # change of the radius, share of the frame's height
TURN = math.radians(120)            # clockwise
RADIUS_MIN, RADIUS_MAX = 0.06, 0.40
GRADIENT = 0.07                     # backgrounds are this much lighter at the top, darker at the bottom
