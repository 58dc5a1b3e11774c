"""Servers and a browser: the real ones, since what is tested is what a user sees."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..conftest import ROOT
from .runs import write_run

START_SECONDS = 60


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """An environment in which TensorBoard finds the plugin's entry point: this checkout's."""
    found = tmp_path_factory.mktemp("entry") / "hfc_probe-0.dist-info"
    found.mkdir()
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: hfc_probe\nVersion: 0\n")
    entry = "[tensorboard_plugins]\nhfc = tensorboard_plugin_hfc.loader:HfcLoader\n"
    (found / "entry_points.txt").write_text(entry)
    places = [str(ROOT / "plugins"), str(ROOT)]
    installed = importlib.metadata.entry_points(group="tensorboard_plugins")
    if not any(one.name == "hfc" for one in installed):
        places.insert(0, str(found.parent))
    return os.environ | {"PYTHONPATH": os.pathsep.join(places)}


@contextmanager
def tensorboard_server(environment, log_dir, *flags):
    """A TensorBoard; yields its address, without a slash at the end."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir), "--port", "0"]
    command += ["--reload_interval", "1", *flags]
    # Its own file, not a pipe: nobody reads a pipe once the address is known.
    log = Path(log_dir).parent / f"tensorboard-{time.monotonic_ns()}.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process,
    ):
        try:
            found, deadline = None, time.monotonic() + START_SECONDS
            while not found and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
                found = re.search(r"at (http://\S+?)/? \(", log.read_text())
            assert found, f"TensorBoard did not start: {log.read_text()}"
            yield found[1].replace("[::1]", "localhost")
        finally:
            process.terminate()
            process.wait(20)


EPOCHS = 12


@pytest.fixture(scope="session")
def logs(tmp_path_factory) -> Path:
    """Two runs of 12 epochs; ``rough`` uses HFC from epoch 3 on, ``smooth`` does not."""
    path = tmp_path_factory.mktemp("runs")
    write_run(path / "rough", EPOCHS, uses_hfc=True)
    write_run(path / "smooth", EPOCHS, uses_hfc=False)
    return path


@pytest.fixture(scope="session")
def server(environment, logs):
    with tensorboard_server(environment, logs) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright import sync_api
    except ImportError:
        sync_api = None
    if chromium is None or sync_api is None:
        missing = "playwright" if sync_api is None else "the system's chromium"
        if os.environ.get("HFC_PROBE_REQUIRE_CHROMIUM"):
            pytest.fail(f"HFC_PROBE_REQUIRE_CHROMIUM is set, and {missing} is missing")
        pytest.skip(f"needs {missing} (pip install playwright; apt-get install chromium)")
    quiet = "--no-first-run --disable-background-networking --disable-component-update"
    flags = f"--no-sandbox --disable-gpu --disable-quic --disable-sync {quiet}".split()
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


VIEWPORT = {"width": 1400, "height": 1000}


class Tab:
    """A browser page with our tab in it; keeps a list of everything that went wrong.

    It is TensorBoard's page, or without ``framed`` only what TensorBoard shows in its frame,
    which loads in a tenth of the time.
    """

    def __init__(self, browser, context=None, framed=True, **settings) -> None:
        self.framed = framed
        # A context that is used again has TensorBoard's megabytes of scripts in its cache.
        self.context = context or browser.new_context(viewport=VIEWPORT, **settings)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.wrong: list[str] = []
        # Runs in TensorBoard's page and in our frame: a violation is an error of ours.
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', (event) => "
            "console.error('policy violation: ' + event.violatedDirective + event.blockedURI));"
        )
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"page error: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._response)
        self.page.on("dialog", self._dialog)

    def _console(self, message) -> None:
        # A missing file is told by its response: TensorBoard's own favicon is not our affair.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.wrong.append(f"console: {message.text}")

    def _failed(self, request) -> None:
        # A request that is under way when the page is left is cut off, and that is all right.
        if "hfc" in request.url and request.failure != "net::ERR_ABORTED":
            self.wrong.append(f"failed: {request.url} {request.failure}")

    def _response(self, response) -> None:
        if "hfc" in response.url and response.status >= 400:
            self.wrong.append(f"{response.status}: {response.url}")

    def _dialog(self, dialog) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, address: str, state: str = "") -> Tab:
        self.page.goto("about:blank")  # so that only a fragment's change loads anew, too
        entry = "" if self.framed else "data/plugin_entry.html?name=hfc"
        self.page.goto(f"{address}/{entry}#hfc{'&' + state if state else ''}")
        self.ready()
        return self

    @property
    def frame(self):
        if not self.framed:
            return self.page
        return self.page.frame_locator('iframe[src*="name=hfc"]')

    def find(self, selector: str, **settings):
        return self.frame.locator(selector, **settings)

    def ready(self, view: str = "") -> None:
        wanted = f'body[data-ready="{view}"]' if view else "body[data-ready]"
        self.find(wanted).wait_for(state="attached")

    def run(self, script: str, argument=None):
        """JavaScript inside our frame."""
        return self.find("body").evaluate(f"(_, argument) => ({script})(argument)", argument)

    def plot(self, name: str):
        return self.find(f'[data-plot="{name}"]')

    def text(self) -> str:
        return self.find("body").inner_text()

    def press(self, key: str) -> None:
        self.find("main").focus()
        self.page.keyboard.press(key)


@pytest.fixture(scope="session")
def window(browser):
    context = browser.new_context(viewport=VIEWPORT)
    yield context
    context.close()


@pytest.fixture
def tab(browser, window):
    yield from _opened(browser, window, framed=False)


@pytest.fixture
def framed(browser, window):
    """The tab inside TensorBoard, for what the two have to do with each other."""
    yield from _opened(browser, window, framed=True)


def _opened(browser, window, framed):
    one = Tab(browser, window, framed)
    yield one
    one.page.close()
    assert one.wrong == []
