"""What pyproject.toml cannot say: the commands ship inside the package, see mtad_jax/__main__.py.

In a checkout they are folders beside it; packages called `experiments` or `configs` in a user's
site-packages would stand in the way of others.
"""

from setuptools import find_packages, setup

INSIDE = "mtad_jax._commands"
FOLDERS = ("checkpoints_convert", "configs", "experiments")

commands = find_packages(include=[f"{name}{rest}" for name in FOLDERS for rest in ("", ".*")])
setup(
    packages=find_packages(include=["mtad_jax", "mtad_jax.*"])
    + [f"{INSIDE}.{name}" for name in commands],
    package_dir={f"{INSIDE}.{name}": name.replace(".", "/") for name in commands},
)
