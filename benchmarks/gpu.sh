#!/usr/bin/env bash
# All that this project does on a CUDA device, in at most 9 minutes: tests/gpu, then the benchmarks of a step.
#
#     bash benchmarks/gpu.sh OUT                              # on a machine with a GPU
#     bash benchmarks/gpu.sh OUT --device cpu --size tiny     # a rehearsal
#
# Writes OUT/results.json and OUT/results.md, anew after each part, and a log for each; goes on after a part that
# fails or runs out of time. Needs a Python from 3.11 on (PYTHON names it) and libraries: from a folder `wheels` in the
# tree or beside it, else from the network, else those that this Python has, such as a torch that came with the
# machine. Further options: `python benchmarks/gpu_report.py --help`.
set -uo pipefail
[ $# -ge 1 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
shift
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "gpu.sh needs Python 3.11 or newer; $python is $("$python" -V 2>&1). Name another one in PYTHON." >&2
  exit 2
}
began=$SECONDS
if "$python" benchmarks/gpu_report.py --lacks > "$out/lacks.txt"; then
  used=$python # all libraries are there
else
  place=$(mktemp -d)
  trap 'rm -rf "$place"' EXIT
  "$python" -m venv --system-site-packages "$place" || "$python" -m venv --without-pip --system-site-packages "$place"
  used=$place/bin/python
  # A Python that is in a virtual environment itself hands on that one's libraries in this way alone.
  paths='import sysconfig; print(sysconfig.get_path("purelib"))'
  "$python" -c "$paths" > "$("$used" -c "$paths")/of_that_python.pth"
  for wheels in wheels ../wheels; do [ -d "$wheels" ] && break; done
  wanted=$("$used" benchmarks/gpu_report.py --wanted)
  {
    [ -d "$wheels" ] && xargs timeout 90 "$used" -m pip install -q --no-index --find-links "$wheels" <<< "$wanted" ||
      xargs timeout 150 "$used" -m pip install -q --retries 0 --timeout 5 <<< "$wanted"
  } > "$out/install.log" 2>&1 || {
    # Not all can be had: one after the other what the wheels have.
    [ -d "$wheels" ] && xargs -n 1 timeout 60 "$used" -m pip install -q --no-index --find-links "$wheels" \
      <<< "$wanted" >> "$out/install.log" 2>&1
  }
  "$used" benchmarks/gpu_report.py --lacks > "$out/lacks.txt"
fi
"$used" benchmarks/gpu_report.py "$out" --spent $((SECONDS - began)) "$@"
