"""Installs osp_jax; `constraints.txt` holds the exact versions that were tested."""

from pathlib import Path

from setuptools import find_packages, setup

TEXT = ["tokenizers>=0.21"]
TENSORBOARD = ["tensorboardX>=2.6"]

setup(
    name="osp_jax",
    version="0.1.0",
    description="Make a trained image classifier forget a class, and report what is left of it.",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["osp_jax", "osp_jax.*", "experiments", "configs", "configs.*"]),
    package_data={"osp_jax": ["py.typed", "report/templates/*"]},
    entry_points={"console_scripts": ["osp-jax = experiments.__main__:main"]},
    install_requires=[
        "absl-py>=2.3",
        "array-record>=0.8.1",
        "flatbuffers>=24",  # jax.export serialises programs with it, and jax does not declare it
        "flax>=0.12.8,<0.13",
        "importlib_resources",  # TFDS 4.9.10 imports it and does not declare it
        "jax>=0.10,<0.13",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "ml_collections>=1.1",
        "ml_dtypes>=0.5",
        "msgpack>=1.0",
        "numpy>=2.0",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "pillow>=10",  # TFDS decodes images with it where there is no TensorFlow, and does not declare it
        "psutil>=5.9",
        "pydantic>=2.10,<3",
        "rich>=13",
        "safetensors>=0.5",
        "scikit-learn>=1.5",
        "tensorflow-datasets>=4.9.10,<5",
        "tensorstore>=0.1.74",
    ],
    extras_require={
        "test": [
            *TEXT,
            *TENSORBOARD,
            "grain>=0.2.18",
            "hypothesis>=6.100",
            "mypy>=1.18",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.8",
            "setuptools>=77",
        ],
        "docs": ["furo>=2025", "ipykernel>=6", "myst-nb>=1.3", "sphinx>=8", "sphinx-copybutton>=0.5"],
        "stream": ["grain>=0.2.18"],
        "text": TEXT,
        # torchax 0.0.13 needs an operation of torch that 2.13 no longer has.
        "torch": ["torch>=2.12,<2.13", "torchax==0.0.13"],
        "flower": ["flwr>=1.42,<2"],
        "tensorboard": TENSORBOARD,
        "onnx": ["jax2onnx>=0.13", "onnx>=1.16", "onnxruntime>=1.20"],
        "cuda": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
    },
)
