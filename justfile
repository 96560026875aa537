# Commands of everyday work; they expect the environment of CONTRIBUTING.md in .venv.

bin := ".venv/bin/"

# Tests; arguments go to pytest, such as `just test -m slow`.
test *arguments:
    {{bin}}pytest {{arguments}}

# Style, types, and who may import whom.
lint:
    {{bin}}ruff check
    {{bin}}ruff format --check
    {{bin}}lint-imports
    {{bin}}mypy

# The documentation, strictly and offline, into docs/_build/html.
docs:
    {{bin}}python -m sphinx -W --keep-going -b html docs docs/_build/html

# The main job, far too short to be good: does everything still fit together?
toy:
    {{bin}}dimo run --teacher maskgit --divergence jeffrey --beta 0.2 --steps 20 --eval.samples 200 --eval.steps "[4, 1]"
