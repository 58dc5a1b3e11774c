"""Packages of both trees, what they need, and where they plug in."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# Each folder under plugins/ is one importable package that knows a host.
plugins = find_packages("plugins")

extras = {
    "attribution": ["captum>=0.7"],
    # The tab draws by itself: to look at logs, this is all it needs.
    "dashboard": ["tensorboard>=2.21,<3"],
    "datasets": ["datasets>=2.19"],
    "detection": ["pycocotools>=2.0.7"],
    "docs": ["furo>=2024.8.6", "ipykernel>=6", "myst-nb>=1.2", "sphinx>=8.1"],
    # What detectron2 itself needs; it is not on PyPI, see its installation page.
    "detectron2": [
        "cloudpickle",
        "fvcore>=0.1.5",
        "hydra-core>=1.1",
        "iopath>=0.1.9",
        "omegaconf>=2.1",
        "pycocotools>=2.0.7",
        "tabulate",
        "termcolor",
        "yacs>=0.1.8",
    ],
    "fastai": ["fastai>=2.7.18"],
    "ignite": ["pytorch-ignite>=0.5"],
    "lightning": ["lightning>=2.4"],
    "mmengine": ["mmengine>=0.10.5"],
    "onnx": ["onnxruntime>=1.17"],
    "papers": ["scipy>=1.11"],
    "parquet": ["pyarrow>=14"],
    "timm": ["timm>=1.0"],
    "transformers": ["accelerate>=1.0", "transformers>=4.45"],
    "ultralytics": ["ultralytics>=8.3.180"],
    "test": [
        "axe-playwright-python>=0.1.8",  # brings axe-core 4.x, 0.2 MB
        "datasets>=2.19",  # 176 MB with the pyarrow that "parquet" takes
        "foolbox>=3.3",
        "hypothesis>=6.100",
        "lvis>=0.5.3",
        "mmengine>=0.10.5",  # 15 s, 194 MB, most of it OpenCV; fastai (50 s, 382 MB) is left out
        "mypy>=1.15",
        "onnx>=1.16",  # makes a model file for a test; 9 MB
        "playwright>=1.45",
        "pytest>=8",
        "pytest-xdist>=3.5",
        "tensorboardX>=2.6",  # 1 MB; wandb (100 MB) and mlflow-skinny (117 MB) are left out
        "setuptools>=77",  # a test builds the wheel
        "ruff>=0.9",
        "scipy>=1.11",  # an independent reference
        "timm>=1.0",
        "torchmetrics>=1.2",
        "types-tabulate",
        "types-tqdm",
        "ultralytics>=8.3.180",  # 12 s, 194 MB
    ],
}
# detectron2 itself cannot be had from PyPI, so "all" leaves its needs out, and large hosts.
others = (
    "datasets",
    "detectron2",
    "docs",
    "fastai",
    "mmengine",
    "papers",
    "parquet",
    "test",
    "ultralytics",
)
extras["all"] = sorted({n for name in extras if name not in others for n in extras[name]})

version: dict[str, str] = {}
exec((ROOT / "hfc_probe" / "version.py").read_text(encoding="utf-8"), version)

setup(
    name="hfc_probe",
    version=version["__version__"],
    description="See which image frequencies a vision model relies on, while it trains",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The hfc_probe authors",
    keywords="frequency, Fourier, robustness, vision, interpretability, PyTorch, TensorBoard",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["hfc_probe", "hfc_probe.*"]) + plugins,
    package_dir={name: "plugins/" + name.replace(".", "/") for name in plugins},
    package_data={
        "hfc_probe": ["py.typed", "cli/*.j2", "cli/*.csv"],
        **{name: ["py.typed"] for name in plugins},
        "tensorboard_plugin_hfc": ["py.typed", "static/*", "static/*/*"],
    },
    install_requires=[
        "click>=8.1",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "pyyaml>=6.0.1",
        "safetensors>=0.4",
        "tabulate>=0.9",
        "tensorboard>=2.21,<3",
        "torch>=2.4",
        "torchvision>=0.19",
        "tqdm>=4.66",
    ],
    extras_require=extras,
    entry_points={
        "console_scripts": ["hfc-probe = hfc_probe.cli:main"],
        "hfc_probe.detection": ["detectron2 = hfc_probe_detectron2.command:audit"],
        "tensorboard_plugins": ["hfc = tensorboard_plugin_hfc.loader:HfcLoader"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
