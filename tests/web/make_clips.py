#!/usr/bin/python3
"""Draws the little clips that fake_server.py hands out: coloured shapes on coloured grounds, as the demo model would.

Run by hand when the clips should change (needs Pillow and ffmpeg); the results in clips/ are kept in git, so that the
page's tests need neither.
SPDX-License-Identifier: Apache-2.0
"""
import math
import pathlib
import subprocess

from PIL import Image, ImageDraw, ImageFilter

HERE = pathlib.Path(__file__).parent / "clips"
FRAMES, FPS, SCALE = 64, 32, 4
SCENES = [  # name, size, ground, shape, colour, motion
    ("blue", (192, 128), ("#1d3f8f", "#2f66c8"), "circle", "#e2463c", "left"),
    ("green", (192, 128), ("#14532d", "#2e8b57"), "triangle", "#f4c430", "turn"),
    ("white", (192, 128), ("#d9d4c7", "#f5f1e6"), "square", "#2f62c9", "up"),
    ("purple", (192, 128), ("#3b1a5a", "#6d3aa0"), "circle", "#f08a24", "grow"),
    ("black", (192, 128), ("#101114", "#2a2d33"), "square", "#38b26c", "right"),
    ("tall", (128, 192), ("#7a2e1d", "#c8643c"), "triangle", "#f5f1e6", "up"),
]


def draw(size, ground, shape, colour, motion, t):
    w, h = size[0] * SCALE, size[1] * SCALE
    image = Image.new("RGB", (w, h))
    ramp = ImageDraw.Draw(image)
    a, b = (tuple(int(c[i:i + 2], 16) for i in (1, 3, 5)) for c in ground)
    for y in range(h):
        ramp.line([(0, y), (w, y)], fill=tuple(int(p + (q - p) * y / h) for p, q in zip(a, b)))
    x, y, r, turn = w / 2, h / 2, min(w, h) * 0.24, 0.0
    wave = math.sin(2 * math.pi * t)
    if motion == "left":
        x -= wave * w * 0.26
    elif motion == "right":
        x += wave * w * 0.26
    elif motion == "up":
        y -= wave * h * 0.22
    elif motion == "grow":
        r *= 1 + 0.5 * wave
    else:
        turn = 2 * math.pi * t
    n = {"circle": 64, "triangle": 3, "square": 4}[shape]
    start = {"circle": 0, "triangle": -math.pi / 2, "square": math.pi / 4}[shape]
    angles = [start + turn + 2 * math.pi * i / n for i in range(n)]
    points = [(x + r * math.cos(a), y + r * math.sin(a)) for a in angles]
    ramp.polygon(points, fill=colour)
    return image.filter(ImageFilter.GaussianBlur(1)).resize(size, Image.LANCZOS)


def main():
    HERE.mkdir(exist_ok=True)
    for name, size, *scene in SCENES:
        frames = [draw(size, *scene, i / FRAMES) for i in range(FRAMES)]
        frames[FRAMES // 5].save(HERE / f"{name}.webp", quality=80)
        small = [f.resize((size[0] // 2, size[1] // 2)) for f in frames[::4]]
        sheet = Image.new("RGB", (small[0].width * 4, small[0].height * 4))
        for i, f in enumerate(small):
            sheet.paste(f, (i % 4 * f.width, i // 4 * f.height))
        sheet.save(HERE / f"{name}-sheet.webp", quality=70)
        subprocess.run(["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s",
                        f"{size[0]}x{size[1]}", "-r", str(FPS), "-i", "-", "-c:v", "libx264", "-crf", "26", "-pix_fmt",
                        "yuv420p", "-movflags", "+faststart", HERE / f"{name}.mp4"],
                       input=b"".join(f.tobytes() for f in frames), check=True)
        # What a latent preview looks like while a job runs: a few coarse, noisy-looking pictures of the same scene.
        for i, blur in enumerate((9, 5, 2)):
            f = frames[FRAMES // 5].filter(ImageFilter.GaussianBlur(blur))
            f.resize((size[0] // 4, size[1] // 4)).save(HERE / f"{name}-preview-{i}.webp", quality=60)


if __name__ == "__main__":
    main()
