"""The oldest series that setup.py allows, as constraints for pip: ``python .ci/minimum.py``.

The tools of development (extras test and docs) are left at their newest.
"""

import re
import runpy
from pathlib import Path
from unittest import mock

with mock.patch("setuptools.setup") as setup:
    runpy.run_path(str(Path(__file__).parents[1] / "setup.py"))
given = setup.call_args.kwargs
needs = [*given["install_requires"], *given["extras_require"]["all"]]
for name, version in sorted(set(re.findall(r"([\w-]+)>=([\d.]+)", "\n".join(needs)))):
    print(f"{name}=={version}.*")
