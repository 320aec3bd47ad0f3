"""Counts verdicts: clips in, the table of the model's README out. numpy only."""
import numpy as np

from . import judge

SEGMENT = 81                         # second segments are frames 80..160: the border frame belongs to both


def split(frames, segment=SEGMENT):
    """The clip and, when there is one, its continuation."""
    return [frames[:segment]] + ([frames[segment - 1:]] if len(frames) >= 2 * segment - 1 else [])


def judge_clip(job):
    """Verdicts of one (frames, scene), one per segment; a plain function so that pools can send it."""
    frames, scene = job
    return [judge.judge(part, scene) for part in split(frames)]


PROMISE = {"colour": 0.95, "shape": 0.80, "motion": 0.90}      # per segment


def promised(results):
    """Whether every segment reaches the promised shares."""
    for k in range(max(len(verdicts) for _, _, verdicts in results)):
        of_segment = [vs[k] for _, _, vs in results if len(vs) > k]
        for part, share in PROMISE.items():
            if sum(getattr(v, part) for v in of_segment) < share * len(of_segment):
                return False
    return True


def table(results):
    """Rows of shares over [(prompt, scene, verdicts)]: one line per segment."""
    lines = ["| segment | clips | colour | shape | motion | all three |", "| --- | --- | --- | --- | --- | --- |"]
    for k in range(max(len(verdicts) for _, _, verdicts in results)):
        marks = np.array([[v.colour, v.shape, v.motion] for _, _, vs in results if len(vs) > k for v in vs[k:k + 1]])
        shares = [*(100 * marks.mean(0)), 100 * marks.all(1).mean()]
        name = "first (frames 0-80)" if k == 0 else "second (frames 81-160)"
        lines.append(f"| {name} | {len(marks)} | " + " | ".join(f"{share:.0f} %" for share in shares) + " |")
    return "\n".join(lines)


def complaints(results):
    """What was judged wrong, one line each."""
    for prompt, scene, verdicts in results:
        for k, v in enumerate(verdicts):
            if not (v.colour and v.shape and v.motion):
                wrong = [n for n in ("colour", "shape", "motion") if not getattr(v, n)]
                yield f"segment {k + 1} wrong {'+'.join(wrong)}: '{prompt}' wants {tuple(scene)} saw {v.seen}"
