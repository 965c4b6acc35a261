#!/usr/bin/env bash
# Prints the directory with a real etcd, kube-apiserver and kubectl. Uses those
# on PATH if they are of the versions that tools/kube and tools/etcd name (the
# patch version may differ), else builds them once, with nothing but Go, into
# .cache/ of this repository. What it does goes to stderr, the path to stdout.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
version_in() { sed -n "s|.*$2 v\([0-9.]*\).*|\1|p" "$root/tools/$1/go.mod" | head -n 1; }
kube=$(version_in kube k8s.io/kubernetes)
etcd=$(version_in etcd go.etcd.io/etcd/server/v3)
cache=${PILOT_CACHE:-$root/.cache}
mkdir -p "$cache"
home=$(cd "$cache" && pwd)/kube-$kube-etcd-$etcd

say() { echo "kube: $*" >&2; }
die() { say "$*"; exit 1; }

# suits FILE ARGS VERSION says whether what FILE prints names VERSION, but for its patch.
suits() { "$1" $2 2>/dev/null | grep -q "[ v]${3%.*}\.[0-9]"; }

if onpath=$(command -v kube-apiserver); then
  onpath=$(dirname "$onpath")
  if suits "$onpath/kube-apiserver" --version "$kube" && suits "$onpath/kubectl" "version --client" "$kube" && suits "$onpath/etcd" --version "$etcd"; then
    say "using $onpath, found on PATH"
    echo "$onpath"
    exit 0
  fi
  say "$onpath, on PATH, has no kube-apiserver and kubectl ${kube%.*} with etcd ${etcd%.*} beside them: not used"
fi
# A finished build has this name by one rename, an interrupted one never has.
if [ -x "$home/kube-apiserver" ]; then
  echo "$home"
  exit 0
fi

command -v go >/dev/null || die "no go on PATH to build kube-apiserver with; install Go and run this again"
exec 9>"$home.lock"
flock 9 2>/dev/null || true # where there is flock, a second run waits for the first
if [ -x "$home/kube-apiserver" ]; then
  echo "$home"
  exit 0
fi

say "building etcd $etcd, kube-apiserver and kubectl $kube into ${home#"$root"/}: once, about 9 minutes on 2 cores, some 500 MB of Go modules"
rm -rf "$home" "$home".new.*
new=$home.new.$$
trap 'rm -rf "$new"' EXIT
mkdir "$new"
started=$SECONDS
# Go leaves the version to whoever builds; without it the server calls itself v0.0.0.
component=k8s.io/component-base/version
IFS=. read -r major minor _ <<<"$kube"
(cd "$root/tools/etcd" && go build -trimpath -ldflags "-s -w" -o "$new/etcd" go.etcd.io/etcd/server/v3) >&2 ||
  die "could not build etcd $etcd (see above)"
say "etcd is built, after $((SECONDS - started)) s; the API server takes longer"
(cd "$root/tools/kube" && go build -trimpath \
  -ldflags "-s -w -X $component.gitVersion=v$kube -X $component.gitMajor=$major -X $component.gitMinor=$minor" \
  -o "$new/" k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kubectl) >&2 ||
  die "could not build kube-apiserver and kubectl $kube (see above)"
for program in "etcd --version" "kube-apiserver --version" "kubectl version --client"; do
  "$new"/$program >/dev/null || die "the built ${program%% *} does not run on this machine"
done
mv "$new" "$home"
say "built, after $((SECONDS - started)) s"
echo "$home"
