"""How quick the dashboard tab is: first paint, and from one step to the next.

python -m tests.benchmarks.dashboard [--json FILE]

Needs chromium and playwright. Prints medians; the JSON keeps every figure and the load average,
without which none of them means anything.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import sync_playwright

from ..conftest import ROOT
from ..tensorboard_plugin_hfc.conftest import Tab, tensorboard_server
from ..tensorboard_plugin_hfc.runs import write_run

REPEATS = 5
# From a key to the moment after the frame that shows the new step.
STEPS = """async (count) => {
  const times = [];
  for (let k = 0; k < count; k++) {
    const begin = performance.now();
    document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft', bubbles: true }));
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    times.push(performance.now() - begin);
  }
  const ours = performance.getEntriesByName('hfc-step').map((one) => one.duration);
  return { frame: times, script: ours };
}"""
# From a key in Kernels to the picture of that step, fetched from the server.
FETCHED = """async (key) => {
  const begin = performance.now();
  document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
  const canvas = document.querySelector('[data-plot="kernels"] canvas');
  while (canvas.getAttribute('aria-label').includes('loading')) {
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  return performance.now() - begin;
}"""
# 20 keys, one every 30 ms as a keyboard repeats, until the picture of the last has come.
BURST = """async (count) => {
  const begin = performance.now();
  for (let k = 0; k < count; k++) {
    document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft', bubbles: true }));
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  const canvas = document.querySelector('[data-plot="kernels"] canvas');
  while (canvas.getAttribute('aria-label').includes('loading')) {
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  return performance.now() - begin;
}"""
PAINTED = "() => performance.getEntriesByName('hfc-painted')[0].startTime"


def environment(folder: Path) -> dict[str, str]:
    """TensorBoard with this checkout's plugin."""
    info = folder / "hfc_probe-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hfc_probe\nVersion: 0\n")
    entry = "[tensorboard_plugins]\nhfc = tensorboard_plugin_hfc.loader:HfcLoader\n"
    (info / "entry_points.txt").write_text(entry)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "plugins")])}


def measure(browser, address: str, state: str) -> tuple[list[float], Tab]:
    """Milliseconds from the frame's first byte to its first picture, in fresh pages."""
    painted, tab = [], None
    for _ in range(REPEATS):
        if tab is not None:
            tab.context.close()
        tab = Tab(browser).open(address, state)
        painted.append(tab.run(PAINTED))
    return painted, tab


def long_runs(browser, env: dict[str, str], log_dir: Path) -> dict[str, object]:
    """Two runs of 1,000 steps: a step, 20 key presses at once, and the server's peak memory."""
    with tensorboard_server(env, log_dir) as address:
        tab = Tab(browser).open(address, "p.hfc.view=kernels")
        for _ in range(300):
            if "1000" in tab.find(".stepper output").inner_text():
                break
            tab.page.wait_for_timeout(500)
            tab.open(address, "p.hfc.view=kernels")
        places = [p for p in Path("/proc").iterdir() if _serves(p, log_dir)]
        before = _peak(places)
        steps = [tab.run(FETCHED, "ArrowLeft") for _ in range(20)]
        asked = []
        tab.page.on("request", lambda one: asked.append(one.url))
        burst = tab.run(BURST, 20)
        assert tab.wrong == []
        tab.context.close()
        return {
            "step_ms": steps,
            "20_keys_ms": burst,
            "20_keys_requests": len(asked),
            "server_mb": {"opened": before, "peak": _peak(places)},
        }


def _serves(place: Path, log_dir: Path) -> bool:
    """Whether a process is TensorBoard on that folder, or the data server that it starts."""
    try:
        words = (place / "cmdline").read_text().split("\0")
    except OSError:
        return False
    return str(log_dir) in words or f"--logdir={log_dir}" in words


def _peak(places: list[Path]) -> dict[str, int]:
    """Largest resident megabytes so far of each process."""
    found = {}
    for place in places:
        lines = (place / "status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("VmHWM"))
        found[(place / "comm").read_text().strip()] = round(int(line.split()[1]) / 1024)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, dict[str, object]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        four, sixty = folder / "four", folder / "sixty"
        for number in range(4):
            write_run(four / f"run{number}", 100, size=64, uses_hfc=bool(number % 2))
        write_run(sixty / "run00", 300, size=16, uses_hfc=True, parts=("curves", "heatmap"))
        for number in range(1, 60):
            shutil.copytree(sixty / "run00", sixty / f"run{number:02d}")
        play = stack.enter_context(sync_playwright())
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = play.chromium.launch(executable_path=chromium, args=flags)
        env = environment(folder)
        for name, log_dir in (("4 runs × 100 steps, 64×64", four), ("60 runs × 300 steps", sixty)):
            with tensorboard_server(env, log_dir) as address:
                for view, state in (
                    ("curves", "p.hfc.view=curves&p.hfc.mode=radius"),
                    ("heatmap", "p.hfc.view=heatmap"),
                    ("kernels", "p.hfc.view=kernels"),
                ):
                    first = "p.hfc.view=curves" if view == "curves" else state
                    painted, tab = measure(browser, address, first)
                    one = {"painted_ms": painted}
                    if view == "curves":
                        tab.open(address, state)
                    if view == "kernels" and log_dir == sixty:
                        tab.context.close()
                        continue  # no kernels in these
                    if view == "kernels":
                        tab.find("[data-whole]").wait_for(state="attached")
                    steps = tab.run(STEPS, 40)
                    one |= {"step_frame_ms": steps["frame"], "step_script_ms": steps["script"]}
                    results[f"{name}: {view}"] = one
                    assert tab.wrong == []
                    tab.context.close()
        thousand = folder / "thousand"
        write_run(thousand / "one", 1000, uses_hfc=True, parts=("kernels",), per_epoch=1)
        shutil.copytree(thousand / "one", thousand / "two")
        long = long_runs(browser, env, thousand)
        browser.close()
    print(f"{'':42}{'first paint':>14}{'step, to frame':>16}{'step, script':>14}")
    for name, one in results.items():
        middle = [f"{statistics.median(values):.0f} ms" for values in one.values()]
        print(f"{name:42}{middle[0]:>14}{middle[1]:>16}{middle[2]:>14}")
    print(
        f"2 runs × 1,000 steps of kernels: {statistics.median(long['step_ms']):.0f} ms a step, "
        f"20 keys {long['20_keys_ms']:.0f} ms and {long['20_keys_requests']} requests, "
        f"megabytes at most {long['server_mb']['peak']}"
    )
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load average {load:.1f}, {platform.machine()}")
    if options.json:
        kept = {"load_average": load, "cores": os.cpu_count(), "results": results, "long": long}
        options.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
