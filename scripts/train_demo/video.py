"""Frames in and out through the ffmpeg command line, and PNG sheets. numpy only."""
import json
import struct
import subprocess
import zlib

import numpy as np


def read(path):
    """(frames [F, H, W, 3] uint8, frames per second) of a video file."""
    probe = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries",
                            "stream=width,height,r_frame_rate", "-of", "json", path],
                           check=True, capture_output=True).stdout
    stream = json.loads(probe)["streams"][0]
    over, under = (int(v) for v in stream["r_frame_rate"].split("/"))
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-vsync",
                          "passthrough", "-"], check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, stream["height"], stream["width"], 3), over / under


def write(path, frames, fps=16):
    """An mp4 that every player opens."""
    height, width = frames.shape[1:3]
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
                    "-r", str(fps), "-i", "-", "-c:v", "libx264", "-crf", "16", "-pix_fmt", "yuv420p", path],
                   input=np.ascontiguousarray(frames).tobytes(), check=True)


def write_png(path, image):
    """image [H, W, 3] uint8."""
    height, width = image.shape[:2]

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    rows = b"".join(b"\0" + image[y].tobytes() for y in range(height))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                   + chunk(b"IDAT", zlib.compress(rows, 6)) + chunk(b"IEND", b""))


def sheet(clips, columns=9):
    """One row per clip, evenly spaced frames from first to last."""
    rows = []
    for frames in clips:
        pick = np.linspace(0, len(frames) - 1, columns).round().astype(int)
        rows.append(np.concatenate([np.pad(frames[i], ((1, 1), (1, 1), (0, 0)), constant_values=128) for i in pick], 1))
    return np.concatenate(rows, 0)
