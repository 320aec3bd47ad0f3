"""Adds up the test cases of one `meson test` run and prints "N passed, N failed".

Reads meson's testlog.json (one JSON object a line). cmocka and pytest programs say in their output how many cases they
ran; any other program is one case. Exits 1 when anything failed, or when nothing ran at all.
SPDX-License-Identifier: Apache-2.0
"""
import json
import re
import sys


def cases(test):
    text = (test.get("stdout") or "") + (test.get("stderr") or "")
    passed = sum(map(int, re.findall(r"\[  PASSED  \] (\d+) test", text)))
    failed = sum(map(int, re.findall(r"\[  FAILED  \] (\d+) test", text)))
    for line in re.findall(r"^=+ (.*) in [\d.]+s.*=+$|^(\d+ (?:passed|failed).*) in [\d.]+s", text, re.M):
        summary = line[0] or line[1]
        passed += sum(map(int, re.findall(r"(\d+) passed", summary)))
        failed += sum(map(int, re.findall(r"(\d+) (?:failed|error)", summary)))
    good = test["result"] in ("OK", "EXPECTEDFAIL")
    if test["result"] == "SKIP":
        return passed, failed, 1
    if good:
        return max(passed, 1), failed, 0
    return passed, max(failed, 1), 0


def main():
    log, status = sys.argv[1], int(sys.argv[2])
    with open(log, encoding="utf-8") as lines:
        results = [cases(json.loads(line)) for line in lines if line.strip()]
    passed, failed, skipped = (sum(column) for column in zip(*results)) if results else (0, 0, 0)
    if status != 0 and failed == 0:
        failed = 1
    tail = f", {skipped} skipped" if skipped else ""
    print(f"{passed} passed, {failed} failed{tail}")
    return 1 if failed or not passed else 0


sys.exit(main())
